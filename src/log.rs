//! Log lines on stderr: one JSON object a line, or text for people. Writers never wait: lines go
//! through a bounded queue, and what finds it full is dropped and counted.
//! It never logs by itself. `serve` sets it up once.

use std::fmt;
use std::io::{self, Write as _};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{LogForm, LogLevel};

/// Lines that wait for stderr: a second of a very talkative process.
const LINES_MAX: usize = 16_384;

/// Writes what waits when it is dropped.
pub(crate) struct Log {
    _worker: WorkerGuard,
    pub(crate) dropped: ErrorCounter,
}

/// Sends every event of the process to stderr from now on.
pub(crate) fn start(form: LogForm, level: LogLevel) -> Log {
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
    // Of libraries only what is wrong; kube's client calls every try that failed an error, and the
    // bridge says by itself what comes of them. `function` is what functions print.
    let filter = format!("warn,kube_client=off,nanofaas={level},function={level}");
    let filter = EnvFilter::new(filter);
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    match form {
        LogForm::Json => subscriber.event_format(Json).init(),
        LogForm::Text => subscriber.event_format(Text).init(),
    }
    Log {
        _worker: worker,
        dropped,
    }
}

/// One line past the queue, for a process that is about to end.
pub(crate) fn at_once(form: LogForm, level: &str, message: &str) {
    let line = match form {
        LogForm::Json => {
            let fields = [
                ("timestamp", &*now()),
                ("level", level),
                ("message", message),
            ];
            let fields = fields.map(|(name, value)| (name.to_owned(), value.into()));
            Value::Object(fields.into_iter().collect()).to_string()
        }
        LogForm::Text => format!("{} {level:5} {}", of_day(&now()), plain(message)),
    };
    // A failed write is ignored, because without stderr there is no place to report it.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

fn now() -> String {
    let mut text = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

/// The time of day of an RFC 3339 time, to the second.
fn of_day(time: &str) -> &str {
    time.get(11..19).unwrap_or(time)
}

/// The fields of one event.
#[derive(Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

impl Fields {
    fn of(event: &Event<'_>) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        fields
    }

    fn put(&mut self, field: &Field, value: Value) {
        // An empty value is left out: for instance the trace id of a call without one.
        if value.as_str().is_some_and(str::is_empty) {
            return;
        }
        match field.name() {
            "message" => self.message = text_of(&value),
            "members" => self.put_members(&text_of(&value)),
            // An event must not replace the line's own members.
            name @ ("timestamp" | "level") => {
                self.rest.insert(format!("{name}_"), value);
            }
            name => {
                self.rest.insert(name.to_owned(), value);
            }
        }
    }

    /// Adds the members of an object that a function wrote. They never replace the event's own
    /// members.
    fn put_members(&mut self, object: &str) {
        let members: Map<String, Value> = serde_json::from_str(object).unwrap_or_default();
        for (name, value) in members {
            if !matches!(&*name, "timestamp" | "level" | "message") && !value.is_null() {
                self.rest.entry(name).or_insert(value);
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

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

/// `{"timestamp","level","message", fields}`.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
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
        let fields = Fields::of(event);
        let level = event.metadata().level().as_str();
        write!(out, r#"{{"timestamp":"{}","level":"{level}""#, now())?;
        write!(out, r#","message":{}"#, Value::from(fields.message))?;
        for (name, value) in fields.rest {
            write!(out, ",{}:{value}", Value::from(name))?;
        }
        out.write_str("}\n")
    }
}

/// `12:00:00 LEVEL message name=value`.
struct Text;

impl<S, N> FormatEvent<S, N> for Text
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
        let fields = Fields::of(event);
        let now = now();
        let level = event.metadata().level().as_str();
        write!(out, "{} {level:5} {}", of_day(&now), plain(&fields.message))?;
        for (name, value) in fields.rest {
            write!(out, " {name}={}", plain(&text_of(&value)))?;
        }
        out.write_char('\n')
    }
}

/// Replaces control characters, because the text may come from a function and a terminal would
/// obey them.
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
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Kept {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    fn said(form: LogForm, say: impl FnOnce()) -> String {
        let kept = Kept::default();
        let subscriber = tracing_subscriber::fmt().with_writer(kept.clone());
        match form {
            LogForm::Json => {
                tracing::subscriber::with_default(subscriber.event_format(Json).finish(), say);
            }
            LogForm::Text => {
                tracing::subscriber::with_default(subscriber.event_format(Text).finish(), say);
            }
        }
        let bytes = kept.0.lock().expect("no panic").clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn what_a_function_says_of_its_line_stands_beside_the_message() {
        let members =
            r#"{"executionId":"e","level":1,"function":"g","traceback":"a\nb","none":null}"#;
        let say = || tracing::error!(function = "f", members, "raised");
        let line = said(LogForm::Json, say);
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
        let line = said(LogForm::Text, say);
        assert!(line.contains("raised executionId=e function=f"), "{line}");
    }

    #[test]
    fn a_json_line_is_one_object_with_its_fields_beside_the_message() {
        let line = said(LogForm::Json, || {
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
        let line = said(LogForm::Text, || {
            tracing::info!(function = "echo", "said \u{1b}[2J");
        });
        assert!(
            line.ends_with("INFO  said \u{fffd}[2J function=echo\n"),
            "{line:?}"
        );
        assert!(!line.contains('\u{1b}'));
    }
}
