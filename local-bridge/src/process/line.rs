//! Reads a line that a function wrote. A line of one of our runtimes is a JSON object with a level, a message
//! and other members. `output` logs the result.

use std::borrow::Cow;

use serde_json::{Map, Value};
use tracing::Level;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RuntimeLine<'a> {
    pub(crate) level: Level,
    pub(crate) message: Cow<'a, str>,
    /// The other members of the object as JSON, also a level that is not known. Empty if the line is not an
    /// object with a message.
    pub(crate) members: String,
}

impl<'a> RuntimeLine<'a> {
    pub(crate) fn read(text: &'a str) -> Self {
        Self::read_object(text).unwrap_or_else(|| Self {
            level: Level::INFO,
            message: text.into(),
            members: String::new(),
        })
    }

    fn read_object(text: &str) -> Option<Self> {
        if !text.starts_with('{') {
            return None;
        }
        let mut members: Map<String, Value> = serde_json::from_str(text).ok()?;
        let Value::String(message) = members.remove("message")? else {
            return None;
        };
        let level = members.get("level").and_then(Value::as_str);
        let level = level.and_then(level_of);
        if level.is_some() {
            members.remove("level");
        }
        Some(Self {
            level: level.unwrap_or(Level::INFO),
            message: message.into(),
            members: Value::Object(members).to_string(),
        })
    }
}

/// Parses the name of a level as our runtimes, Python's `logging` and most other libraries write it.
fn level_of(name: &str) -> Option<Level> {
    Some(match name.to_ascii_lowercase().as_str() {
        "critical" | "fatal" | "error" => Level::ERROR,
        "warn" | "warning" => Level::WARN,
        "info" => Level::INFO,
        "debug" | "trace" => Level::DEBUG,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_objects_message_keeps_level_and_fields() {
        let text = r#"{"time":"t","level":"warning","message":"m","executionId":"e","attempt":2}"#;
        let line = RuntimeLine::read(text);
        assert_eq!((line.level, &*line.message), (Level::WARN, "m"));
        let members: Value = serde_json::from_str(&line.members).expect("JSON");
        let expected = serde_json::json!({"time": "t", "executionId": "e", "attempt": 2});
        assert_eq!(members, expected);
        let line = RuntimeLine::read(r#"{"level":"loud","message":"m"}"#);
        assert_eq!(line.level, Level::INFO);
        assert_eq!(line.members, r#"{"level":"loud"}"#);
    }

    #[test]
    fn any_other_line_is_its_own_message() {
        for text in ["plain", "{cut", r#"{"message":1}"#, "[1]", r#"{"a":1}"#, ""] {
            let line = RuntimeLine::read(text);
            assert_eq!((line.level, &*line.message), (Level::INFO, text));
            assert_eq!(line.members, "");
        }
    }
}
