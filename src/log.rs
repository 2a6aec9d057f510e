//! Writes the log to stderr: one JSON object on each line, or text for people. A thread that logs does not
//! wait, because its lines go through a bounded queue; lines that find the queue full are dropped and
//! counted. Only `at_once` writes directly. `serve` sets the log up.
//!
//! tracing-serde reads the fields of an event, and this module writes the JSON. The JSON form of
//! tracing-subscriber keeps empty fields, and cannot put the fields of a function's own log line next to the
//! message.

use std::fmt;
use std::io::{self, Write as _};

use serde::Serialize;
use serde_json::{Map, Value};
use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_serde::fields::AsMap as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{LogForm, LogLevel};

/// The largest number of lines that wait for stderr: about one second of a very busy log.
const LINES_MAX: usize = 16_384;

/// Writes the waiting lines when it is dropped.
pub(crate) struct LogHandle {
    _worker: WorkerGuard,
    pub(crate) dropped: ErrorCounter,
}

pub(crate) fn start(form: LogForm, level: LogLevel) -> LogHandle {
    let (writer, worker) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_MAX)
        .thread_name("log")
        .finish(io::stderr());
    let dropped = writer.error_counter();
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    };
    // Libraries log only warnings and errors. The lines of kube's client are off, because it logs every
    // failed request as an error, and the bridge reports failures itself. Events with the target `function`
    // are the lines that functions print.
    let filter = format!("warn,kube_client=off,nanofaas={level},function={level}");
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(writer)
        .event_format(form)
        .init();
    LogHandle {
        _worker: worker,
        dropped,
    }
}

/// Writes one line directly, because the process may end next.
pub(crate) fn at_once(form: LogForm, level: &str, message: &str) {
    let line = LogLine {
        timestamp: now(),
        level,
        message: message.to_owned(),
        fields: Map::new(),
    };
    // There is no other place to report the failure.
    let _ = writeln!(io::stderr().lock(), "{}", line.show(form));
}

fn now() -> String {
    let mut text = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

/// The fields that every line has. Other fields cannot replace them.
const OWN: [&str; 3] = ["timestamp", "level", "message"];

/// The fields are in the order of the JSON members.
#[derive(Serialize)]
struct LogLine<'a> {
    timestamp: String,
    level: &'a str,
    message: String,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

impl LogLine<'_> {
    fn of(event: &Event<'_>) -> Self {
        let fields = match serde_json::to_value(event.field_map()) {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        let mut line = LogLine {
            timestamp: now(),
            level: event.metadata().level().as_str(),
            message: String::new(),
            fields: Map::new(),
        };
        let mut members = String::new();
        for (name, value) in fields {
            match &*name {
                "message" => line.message = text_of(&value),
                "members" => members = text_of(&value),
                // Leave out an empty value: for example, a call may have no trace id.
                _ if value == "" => {}
                name if OWN.contains(&name) => {
                    line.fields.insert(format!("{name}_"), value);
                }
                _ => {
                    line.fields.insert(name, value);
                }
            }
        }
        line.add_members(&members);
        line
    }

    /// Adds the members of a JSON object that a function wrote. They never replace the event's own fields.
    fn add_members(&mut self, object: &str) {
        let members: Map<String, Value> = serde_json::from_str(object).unwrap_or_default();
        for (name, value) in members {
            if !OWN.contains(&&*name) && !value.is_null() {
                self.fields.entry(name).or_insert(value);
            }
        }
    }

    /// Returns `{"timestamp","level","message", fields}`, or `12:00:00 LEVEL message name=value`.
    fn show(&self, form: LogForm) -> String {
        match form {
            LogForm::Json => serde_json::to_string(self).unwrap_or_default(),
            LogForm::Text => {
                // The time of day in an RFC 3339 timestamp, to the second.
                let time = self.timestamp.get(11..19).unwrap_or(&self.timestamp);
                let mut text = format!("{time} {:5} {}", self.level, plain(&self.message));
                for (name, value) in &self.fields {
                    text += &format!(" {name}={}", plain(&text_of(value)));
                }
                text
            }
        }
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl<S, N> FormatEvent<S, N> for LogForm
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writeln!(out, "{}", LogLine::of(event).show(*self))
    }
}

/// Replaces control characters except newlines. A terminal would obey control characters that a function
/// wrote.
fn plain(text: &str) -> String {
    let shown = |c: char| {
        if c.is_control() && c != '\n' {
            '\u{fffd}'
        } else {
            c
        }
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::fmt::MakeWriter;

    #[derive(Clone, Default)]
    struct CapturedLog(Arc<Mutex<Vec<u8>>>);

    impl io::Write for CapturedLog {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for CapturedLog {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    fn logged(form: LogForm, say: impl FnOnce()) -> String {
        let kept = CapturedLog::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(kept.clone())
            .event_format(form);
        tracing::subscriber::with_default(subscriber.finish(), say);
        let bytes = kept.0.lock().expect("no panic").clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn a_functions_line_fields_stand_beside_the_message() {
        let members =
            r#"{"executionId":"e","level":1,"function":"g","traceback":"a\nb","none":null}"#;
        let say = || tracing::error!(function = "f", members, "raised");
        let line = logged(LogForm::Json, say);
        let line: Value = serde_json::from_str(&line).expect("one JSON object");
        assert_eq!(
            (&line["level"], &line["message"]),
            (&"ERROR".into(), &"raised".into())
        );
        assert_eq!(
            (&line["executionId"], &line["function"]),
            (&"e".into(), &"f".into())
        );
        assert_eq!(line["traceback"], "a\nb");
        assert_eq!((line.get("members"), line.get("none")), (None, None));
        let line = logged(LogForm::Text, say);
        assert!(line.contains("raised executionId=e function=f"), "{line}");
    }

    #[test]
    fn a_json_line_is_one_object() {
        let line = logged(LogForm::Json, || {
            tracing::warn!(
                executionId = "0abc",
                function = %"word-stats",
                attempt = 2,
                traceId = "",
                level = "mine",
                "a \"pod\"\nwas lost"
            );
        });
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(line.starts_with(r#"{"timestamp":""#), "{line}");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["message"], "a \"pod\"\nwas lost");
        assert_eq!(line["executionId"], "0abc");
        assert_eq!(line["function"], "word-stats");
        assert_eq!(line["attempt"], 2);
        assert_eq!(line["level_"], "mine");
        assert!(line.get("traceId").is_none(), "an empty field");
        let time = line["timestamp"].as_str().expect("a time");
        assert!(time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
    }

    #[test]
    fn a_text_line_cannot_steer_a_terminal() {
        let line = logged(LogForm::Text, || {
            tracing::info!(function = "echo", "said \u{1b}[2J");
        });
        assert!(
            line.ends_with("INFO  said \u{fffd}[2J function=echo\n"),
            "{line:?}"
        );
        assert!(!line.contains('\u{1b}'));
    }
}
