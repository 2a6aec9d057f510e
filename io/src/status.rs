//! An execution's state as JSON. It writes bytes and decides nothing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::io::Write;

use crate::executions::Record;
use crate::json::write_string;
use crate::output::{Form, Output};
use crate::thread::Thread;

/// RFC 3339 in UTC, with milliseconds.
pub(crate) fn timestamp(thread: &Thread, at_ns: u64) -> String {
    let wall_ns = i128::from(thread.wall_ns(at_ns));
    let time = jiff::Timestamp::from_nanosecond(wall_ns).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{time:.3}")
}

fn time_or_null(out: &mut Vec<u8>, thread: &Thread, name: &str, at_ns: Option<u64>) {
    let _ = match at_ns {
        Some(at_ns) => write!(out, ",\"{name}\":\"{}\"", timestamp(thread, at_ns)),
        None => write!(out, ",\"{name}\":null"),
    };
}

/// The `ExecutionStatus` of the contract.
pub(crate) fn execution(thread: &Thread, record: &Record, output: Option<&Output>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let _ = write!(out, "{{\"executionId\":\"{}\",\"function\":", record.id);
    write_string(&mut out, record.known.function.name());
    let _ = write!(
        out,
        ",\"status\":\"{}\",\"attempt\":{}",
        record.status.as_str(),
        record.attempt
    );
    time_or_null(&mut out, thread, "enqueuedAt", Some(record.enqueued_ns));
    time_or_null(&mut out, thread, "startedAt", record.started_ns);
    time_or_null(&mut out, thread, "finishedAt", record.finished_ns);
    let _ = write!(
        out,
        ",\"coldStart\":{},\"initDurationMs\":",
        record.cold_start
    );
    let _ = match record.init_ms {
        Some(ms) => write!(out, "{ms}"),
        None => write!(out, "null"),
    };
    out.extend_from_slice(b",\"startPhases\":");
    match &record.start {
        Some(phases) => write_phases(&mut out, phases),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"output\":");
    match output {
        None => out.extend_from_slice(b"null"),
        Some(output) => write_output(&mut out, output),
    }
    let _ = write!(out, ",\"outputKept\":{},\"error\":", output.is_some());
    match &record.failure {
        None => out.extend_from_slice(b"null"),
        Some(failure) => {
            out.extend_from_slice(b"{\"code\":");
            write_string(&mut out, failure.code());
            out.extend_from_slice(b",\"message\":");
            write_string(&mut out, &failure.message());
            out.push(b'}');
        }
    }
    out.push(b'}');
    out
}

/// `[{"name","atMs"}]`, in milliseconds since the start was wanted.
pub(crate) fn write_phases(out: &mut Vec<u8>, phases: &[(&'static str, u64)]) {
    out.push(b'[');
    for (at, (name, ns)) in phases.iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        let (ms, us) = (ns / 1_000_000, ns / 1000 % 1000);
        let _ = write!(out, "{comma}{{\"name\":\"{name}\",\"atMs\":{ms}.{us:03}}}");
    }
    out.push(b']');
}

fn write_output(out: &mut Vec<u8>, output: &Output) {
    match output.form {
        Form::Json => out.extend_from_slice(output.bytes()),
        Form::Text => {
            let text = std::str::from_utf8(output.bytes()).expect("it was checked");
            write_string(out, text);
        }
        Form::Raw => {
            let content_type = String::from_utf8_lossy(output.raw_content_type());
            out.extend_from_slice(b"{\"contentType\":");
            write_string(out, &content_type);
            out.extend_from_slice(b",\"base64\":\"");
            out.extend_from_slice(STANDARD.encode(output.bytes()).as_bytes());
            out.extend_from_slice(b"\"}");
        }
    }
}
