//! Prints answers. Tables and single lines show U+FFFD in place of control characters, which a terminal would
//! obey. An output with control characters goes unchanged to a file or a pipe, but not to a terminal. JSON is
//! printed unchanged.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Map, Value};

use super::error::CliError;

/// Replaces control characters, which a terminal would obey, except newlines and tabs.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    if text.chars().any(steers) {
        Cow::Owned(
            text.chars()
                .map(|c| if steers(c) { '\u{fffd}' } else { c })
                .collect(),
        )
    } else {
        Cow::Borrowed(text)
    }
}

fn steers(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
}

pub(super) fn line(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", plain(text))?;
    Ok(out.flush()?)
}

pub(super) fn json(body: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(body)?;
    if !body.is_empty() && !body.ends_with(b"\n") {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// Writes a function's output: unchanged to a file or a pipe, and to a terminal only if it is text.
pub(super) fn output(bytes: &[u8], content_type: &str) -> Result<(), CliError> {
    let out = io::stdout();
    let terminal = out.is_terminal();
    if terminal && !is_text(bytes) {
        let len = bytes.len();
        let kind = plain(content_type);
        return Err(CliError::Usage(format!(
            "the output is {len} bytes of {kind} and not for a terminal: \
             redirect it to a file with > FILE"
        )));
    }
    let mut out = out.lock();
    out.write_all(bytes)?;
    // JSON, and text on a terminal, ends with a newline. Other bytes stay unchanged.
    let is_line = terminal || content_type.starts_with("application/json");
    if is_line && !bytes.ends_with(b"\n") {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

fn is_text(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_ok_and(|text| !text.chars().any(|c| steers(c) && c != '\r'))
}

pub(super) fn rows(head: &[&str], rows: Vec<Vec<String>>) -> Result<(), CliError> {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    if !head.is_empty() {
        table.set_header(head);
    }
    table.add_rows(rows.into_iter().map(|row| row.into_iter().map(one_line)));
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    line(&lines.join("\n"))
}

fn one_line(text: String) -> String {
    plain(&text).replace(['\n', '\t'], " ")
}

/// Prints the fields of an object, one on each line; a field of an inner object is named by its path. The
/// fields in `first` come first. Null and empty fields are left out.
pub(super) fn fields(object: &Map<String, Value>, first: &[&str]) -> Result<(), CliError> {
    let mut shown = Vec::new();
    let others = object
        .keys()
        .map(String::as_str)
        .filter(|name| !first.contains(name));
    for name in first.iter().copied().chain(others) {
        flatten(name, object.get(name).unwrap_or(&Value::Null), &mut shown);
    }
    rows(&[], shown)
}

fn flatten(path: &str, value: &Value, shown: &mut Vec<Vec<String>>) {
    match value {
        Value::Null => {}
        Value::Object(fields) if path != "output" => {
            for (name, value) in fields {
                flatten(&format!("{path}.{name}"), value, shown);
            }
        }
        Value::Array(items) if items.is_empty() => {}
        other => shown.push(vec![path.to_owned(), cell(other)]),
    }
}

pub(super) fn cell(value: &Value) -> String {
    const CELL_LEN_MAX: usize = 200;
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            let words: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            words.join(" ")
        }
        other => other.to_string(),
    };
    if text.chars().count() <= CELL_LEN_MAX {
        return text;
    }
    let short: String = text.chars().take(CELL_LEN_MAX).collect();
    format!("{short}… ({} bytes)", text.len())
}

/// Returns the `Server-Timing` header as a readable text.
pub(super) fn timing(header: Option<&str>) -> String {
    let mut total = None;
    let mut parts = Vec::new();
    for metric in header.unwrap_or_default().split(',') {
        let mut params = metric.split(';').map(str::trim);
        let name = params.next().unwrap_or_default();
        let duration = params.find_map(|param| param.strip_prefix("dur=")?.parse::<f64>().ok());
        match duration {
            Some(duration) if name == "total" => total = Some(duration),
            Some(duration) => parts.push(format!("{name} {duration:.3}")),
            None => {}
        }
    }
    match (total, parts.is_empty()) {
        (Some(total), true) => format!("{total:.3} ms"),
        (Some(total), false) => format!("{total:.3} ms ({})", parts.join(", ")),
        (None, _) => parts.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn timings_in_words() {
        let header = "queue;dur=0.012, start;dur=3.100, function;dur=1.5, total;dur=4.700";
        let expected = "4.700 ms (queue 0.012, start 3.100, function 1.500)";
        assert_eq!(timing(Some(header)), expected);
        assert_eq!(timing(Some("total;dur=4")), "4.000 ms");
        assert_eq!(timing(Some("x, y;desc=1, ;dur=z")), "");
        assert_eq!(timing(None), "");
    }

    #[test]
    fn a_terminal_gets_no_control_characters() {
        assert_eq!(
            plain("a\x1b[2Jb\u{9b}c\nd\te"),
            "a\u{fffd}[2Jb\u{fffd}c\nd\te"
        );
        assert!(is_text("häuser\r\n\t".as_bytes()) && is_text(b""));
        assert!(!is_text(b"\x89PNG") && !is_text(b"a\x1bb") && !is_text(b"a\0b"));
    }

    #[test]
    fn objects_become_rows() {
        let value = json!({"b": {"c": 1, "d": null}, "a": ["x", "y"], "e": [], "output": {"k": 1}});
        let mut shown = Vec::new();
        for (name, value) in value.as_object().expect("an object") {
            flatten(name, value, &mut shown);
        }
        assert_eq!(shown, [["a", "x y"], ["b.c", "1"], ["output", "{\"k\":1}"]]);
        assert_eq!(
            cell(&json!("x".repeat(300))),
            format!("{}… (300 bytes)", "x".repeat(200))
        );
    }
}
