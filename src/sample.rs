//! How to call a function that was just loaded, as a line for a shell.
//! It never calls anything. `serve` prints the lines for people.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

/// Where a function's file has a sample of its input, as JSON.
const ANNOTATION: &str = "nanofaas.io/sample";

/// The `curl` line that invokes a function.
pub(crate) fn curl(listen: SocketAddr, name: &str, input: &Value) -> String {
    let body = json!({ "input": input }).to_string();
    format!(
        "curl -s http://{listen}/v1/functions/{name}:invoke -H 'content-type: application/json' \
         -d {}",
        quoted(&body)
    )
}

/// One word of a shell, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The samples in a function file, by function; nothing where it cannot be read or has none.
pub(crate) fn of_file(path: &Path) -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    of_text(&text)
}

fn of_text(text: &str) -> BTreeMap<String, Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap_or_default();
    let sample = |document: &Value| {
        let metadata = document.get("metadata")?;
        let name = metadata.get("name")?.as_str()?;
        let sample = metadata.get("annotations")?.get(ANNOTATION)?.as_str()?;
        // A sample that is no JSON is its own text.
        let input = serde_json::from_str(sample).unwrap_or_else(|_| sample.into());
        Some((name.to_owned(), input))
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
"#;

    #[test]
    fn samples_are_read_from_annotations() {
        let samples = of_text(FILE);
        let expected = [
            ("upper".to_owned(), json!("hello")),
            (
                "word-stats".to_owned(),
                json!({"text": "it's a cat", "topN": 2}),
            ),
        ];
        assert_eq!(samples, expected.into());
        assert!(of_text(": no yaml\n\t").is_empty());
        assert!(of_file(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn the_line_survives_a_shell() {
        let input = json!({"text": "it's $HOME `x` \"y\""});
        let listen = "127.0.0.1:8080".parse().expect("an address");
        let line = curl(listen, "word-stats", &input);
        let script = format!("curl() {{ printf '%s\\n' \"$@\"; }}; {line}");
        let said = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .expect("a shell");
        let said = String::from_utf8(said.stdout).expect("UTF-8");
        let words: Vec<&str> = said.lines().collect();
        assert_eq!(
            words[1],
            "http://127.0.0.1:8080/v1/functions/word-stats:invoke"
        );
        let body: Value = serde_json::from_str(words.last().expect("a body")).expect("JSON");
        assert_eq!(body, json!({ "input": input }));
    }
}
