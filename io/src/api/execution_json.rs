//! Writes an execution's state as JSON. It decides nothing.

use std::io::Write;
use std::sync::Arc;

use nanofaas_core::time::{Nanos, Uptime};

use crate::http::json::write_string;
use crate::http::output::{Form, Output};
use crate::http::response::Response;
use crate::http::shown::{Rendering, Shown};
use crate::runtime::Runtime;
use crate::state::executions::ExecutionRecord;

/// Returns a time in the form of RFC 3339, in UTC and with milliseconds.
pub(crate) fn timestamp(thread: &Runtime, at: Uptime) -> String {
    let wall_ns = i128::from(thread.since_epoch(at).as_ns());
    let time = jiff::Timestamp::from_nanosecond(wall_ns).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{time:.3}")
}

fn time_or_null(out: &mut Vec<u8>, thread: &Runtime, name: &str, at: Option<Uptime>) {
    let _ = match at {
        Some(at) => write!(out, ",\"{name}\":\"{}\"", timestamp(thread, at)),
        None => write!(out, ",\"{name}\":null"),
    };
}

/// Makes the answer with an execution's status (`ExecutionStatus` in `openapi.yaml`).
pub(crate) fn execution(
    thread: &Runtime,
    record: &ExecutionRecord,
    output: Option<&Arc<Output>>,
) -> Response {
    let mut before = until_output(thread, record);
    let Some(output) = output else {
        before.extend_from_slice(b"null");
        before.extend_from_slice(&after_output(record, false));
        return Response::json(before);
    };
    let (rendering, close) = begin_output(&mut before, output);
    Response::shown(Shown {
        before,
        output: output.clone(),
        rendering,
        after: [close, &after_output(record, true)].concat(),
    })
}

fn until_output(thread: &Runtime, record: &ExecutionRecord) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let _ = write!(out, "{{\"executionId\":\"{}\",\"function\":", record.id);
    write_string(&mut out, record.entry.function.name());
    let _ = write!(
        out,
        ",\"status\":\"{}\",\"attempt\":{}",
        record.status.as_str(),
        record.attempt
    );
    time_or_null(&mut out, thread, "enqueuedAt", Some(record.enqueued_at));
    time_or_null(&mut out, thread, "startedAt", record.started_at);
    time_or_null(&mut out, thread, "finishedAt", record.finished_at);
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
    out
}

fn after_output(record: &ExecutionRecord, kept: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let _ = write!(out, ",\"outputKept\":{kept},\"error\":");
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

/// Writes the phases of a pod's start as `[{"name","atMs"}]`; `atMs` counts milliseconds since the start was
/// ordered.
pub(crate) fn write_phases(out: &mut Vec<u8>, phases: &[(&'static str, Nanos)]) {
    out.push(b'[');
    for (at, (name, after)) in phases.iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        let (ms, us) = (after.as_ms(), after.as_us() % 1000);
        let _ = write!(out, "{comma}{{\"name\":\"{name}\",\"atMs\":{ms}.{us:03}}}");
    }
    out.push(b']');
}

/// Appends the bytes that directly precede an output, such as a quote. Returns how the output is rendered,
/// and the bytes that directly follow the output.
fn begin_output(out: &mut Vec<u8>, output: &Output) -> (Rendering, &'static [u8]) {
    match output.form {
        Form::Json => (Rendering::AsIs, b""),
        Form::Text => {
            out.push(b'"');
            (Rendering::Escaped, b"\"")
        }
        Form::Raw => {
            let content_type = String::from_utf8_lossy(output.raw_content_type());
            out.extend_from_slice(b"{\"contentType\":");
            write_string(out, &content_type);
            if let Some(content_encoding) = output.content_encoding() {
                out.extend_from_slice(b",\"contentEncoding\":");
                write_string(out, &String::from_utf8_lossy(content_encoding));
            }
            out.extend_from_slice(b",\"base64\":\"");
            (Rendering::Base64, b"\"}")
        }
    }
}
