//! Makes a shell line that calls a function that was just loaded. `serve` prints these lines.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

/// The annotation of a function file that has a sample input, as JSON.
const INPUT: &str = "nanofaas.io/sample";
/// The annotation with a file name for an output that is not suited for a terminal.
const OUTPUT: &str = "nanofaas.io/sample-output";

/// A sample input, and the file for the output.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SampleCall {
    input: Value,
    output: Option<String>,
}

impl Default for SampleCall {
    fn default() -> Self {
        Self {
            input: json!({}),
            output: None,
        }
    }
}

pub(crate) fn curl(listen: SocketAddr, name: &str, sample: &SampleCall) -> String {
    let body = json!({ "input": sample.input }).to_string();
    let output = sample.output.as_deref();
    let output = output.map_or_else(String::new, |file| format!(" -o {}", quoted(file)));
    format!(
        "curl -sS http://{listen}/v1/functions/{name}:invoke -H 'content-type: application/json' \
         -d {}{output}",
        quoted(&body)
    )
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Returns the samples in a function file, by function; none if the file cannot be read.
pub(crate) fn of_file(path: &Path) -> BTreeMap<String, SampleCall> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    of_text(&text)
}

fn of_text(text: &str) -> BTreeMap<String, SampleCall> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap_or_default();
    let sample = |document: &Value| {
        let metadata = document.get("metadata")?;
        let name = metadata.get("name")?.as_str()?;
        let annotations = metadata.get("annotations")?;
        let text = |annotation: &str| annotations.get(annotation)?.as_str();
        let sample = SampleCall {
            // A sample that is not JSON is taken as a string.
            input: text(INPUT).map_or_else(
                || json!({}),
                |input| serde_json::from_str(input).unwrap_or_else(|_| input.into()),
            ),
            output: text(OUTPUT).map(str::to_owned),
        };
        Some((name.to_owned(), sample))
    };
    documents.iter().filter_map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
apiVersion: nanofaas.io/v1
kind: Function
metadata:
  name: word-stats
  annotations:
    nanofaas.io/sample: '{"text": "it''s a cat", "topN": 2}'
spec: {}
---
metadata: {name: other}
---
metadata: {name: upper, annotations: {nanofaas.io/sample: hello}}
---
metadata: {name: image, annotations: {nanofaas.io/sample-output: a b.png}}
"#;

    #[test]
    fn samples_are_read_from_annotations() {
        let samples = of_text(FILE);
        let inputs: Vec<_> = samples
            .iter()
            .map(|(name, sample)| (&**name, &sample.input))
            .collect();
        let words = json!({"text": "it's a cat", "topN": 2});
        let expected = [
            ("image", &json!({})),
            ("upper", &json!("hello")),
            ("word-stats", &words),
        ];
        assert_eq!(inputs, expected);
        let listen = "127.0.0.1:8080".parse().expect("an address");
        assert!(curl(listen, "image", &samples["image"]).ends_with(" -o 'a b.png'"));
        assert!(of_text(": no yaml\n\t").is_empty());
        assert!(of_file(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn the_line_survives_a_shell() {
        let input = json!({"text": "it's $HOME `x` \"y\""});
        let listen = "127.0.0.1:8080".parse().expect("an address");
        let sample = SampleCall {
            input: input.clone(),
            output: None,
        };
        let line = curl(listen, "word-stats", &sample);
        let script = format!("curl() {{ printf '%s\\n' \"$@\"; }}; {line}");
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .expect("a shell");
        let output = String::from_utf8(output.stdout).expect("UTF-8");
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(
            lines[1],
            "http://127.0.0.1:8080/v1/functions/word-stats:invoke"
        );
        let body: Value = serde_json::from_str(lines.last().expect("a body")).expect("JSON");
        assert_eq!(body, json!({ "input": input }));
    }
}
