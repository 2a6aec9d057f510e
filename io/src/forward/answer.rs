//! Writes the head of a pod's answer for the client, and makes the platform's own answers to requests of
//! `/fn/`.

use nanofaas_core::call::Times;
use nanofaas_core::id::ExecutionId;
use nanofaas_core::outcome::ExecutionError;
use nanofaas_core::time::Nanos;
use nanofaas_http1::forward::{NamedHeaders, is_for_client, reason_of};
use nanofaas_http1::head::header_lines;
use nanofaas_http1::response_head::ResponseHead;

use crate::forward::request::{SWITCH, VIA};
use crate::http::error::HttpError;
use crate::http::response::{
    EXECUTION_ID, Heading, Response, Wire, end, error_response, failure_response, number,
};
use crate::invoke::incoming::Incoming;
use crate::invoke::invocation::server_timing;

/// The spare bytes of a buffer for the header lines that are added to an answer.
pub(crate) const ADDED_ROOM: usize = 512;
/// The header that marks an answer of the platform itself; its value is the code of the error.
const ERROR: &str = "X-Nanofaas-Error";

/// Appends the head of an interim answer (1xx).
pub(crate) fn write_interim(out: &mut Vec<u8>, head: &ResponseHead, bytes: &[u8]) {
    let bytes = &bytes[..head.len];
    status_line(out, head, bytes);
    kept_lines(out, bytes, false);
    out.extend_from_slice(b"\r\n");
}

/// What follows the head of an answer to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerFraming {
    /// A body whose length the pod's headers declare, or a body that ends with the connection.
    AsSent,
    Chunks,
    /// The bytes of another protocol.
    Switch,
}

/// The data that the platform adds to an answer as header lines.
pub(crate) struct Added<'a> {
    pub(crate) id: ExecutionId,
    pub(crate) request: &'a Incoming,
    pub(crate) times: Times,
    /// The time from the request's arrival to the head of the answer.
    pub(crate) total: Nanos,
}

impl Added<'_> {
    /// Appends the head of the pod's answer, as the client gets it.
    pub(crate) fn write_head(
        &self,
        out: &mut Vec<u8>,
        head: &ResponseHead,
        bytes: &[u8],
        framing: AnswerFraming,
        heading: &Heading,
    ) {
        let in_chunks = framing == AnswerFraming::Chunks;
        let bytes = &bytes[..head.len];
        status_line(out, head, bytes);
        // The pod's `Content-Length` is kept, even in an answer without a body, that is, an answer to HEAD or
        // a 304. Answers in chunks, 1xx and 204 must not have this header.
        let keeps_length = !in_chunks && head.status != 204 && head.status >= 200;
        let found = kept_lines(out, bytes, keeps_length);
        if !found.date {
            out.extend_from_slice(heading.date());
        }
        out.extend_from_slice(b"Via: ");
        out.extend_from_slice(VIA);
        out.extend_from_slice(b"\r\nX-Execution-Id: ");
        out.extend_from_slice(&self.id.text());
        if let Some(trace_id) = self.request.trace_id()
            && !found.trace_id
        {
            out.extend_from_slice(b"\r\nX-Trace-Id: ");
            out.extend_from_slice(trace_id);
        }
        server_timing(out, &self.times, self.total);
        if in_chunks {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        if framing == AnswerFraming::Switch {
            out.extend_from_slice(SWITCH.strip_prefix(b"\r\n").unwrap_or(SWITCH));
            out.extend_from_slice(b"\r\n\r\n");
        } else {
            end(out, heading.wire);
        }
    }

    /// Makes the answer to a call that failed before the head of an answer was sent to the client.
    pub(crate) fn failure(&self, failure: &ExecutionError) -> Response {
        let mut response = platform(failure_response(failure));
        let mut lines = Vec::new();
        server_timing(&mut lines, &self.times, self.total);
        // `server_timing` first writes the CRLF of the previous line, but the lines in `headers` have their
        // CRLF already.
        response
            .headers()
            .extend_from_slice(lines.strip_prefix(b"\r\n").unwrap_or(&lines));
        if let Some(trace_id) = self.request.trace_id() {
            response = response.with("X-Trace-Id", trace_id);
        }
        response.with(EXECUTION_ID, &self.id.text())
    }
}

/// Makes the platform's answer that reports `error`.
pub(crate) fn refusal(error: &HttpError) -> Response {
    platform(error_response(error))
}

/// Marks an answer as the platform's own, so that the client can distinguish it from an answer of the
/// function.
fn platform(response: Response) -> Response {
    let code = response.code().to_owned();
    response
        .with("Cache-Control", b"no-store")
        .with(ERROR, code.as_bytes())
}

fn status_line(out: &mut Vec<u8>, head: &ResponseHead, bytes: &[u8]) {
    out.extend_from_slice(b"HTTP/1.1 ");
    number(out, u64::from(head.status));
    out.push(b' ');
    out.extend_from_slice(reason_of(bytes));
    out.extend_from_slice(b"\r\n");
}

/// Which of the headers that the platform would add are in the pod's answer already.
#[derive(Default)]
struct SentByPod {
    date: bool,
    trace_id: bool,
}

/// Appends the pod's header lines that go to the client.
fn kept_lines(out: &mut Vec<u8>, bytes: &[u8], keeps_length: bool) -> SentByPod {
    // An answer whose `Connection` names a header that every hop needs was refused before.
    let named = NamedHeaders::of(bytes).unwrap_or_default();
    let mut found = SentByPod::default();
    for (name, value) in header_lines(bytes) {
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        if !is_for_client(name)
            || named.contain(bytes, name)
            || (!keeps_length && is(b"content-length"))
        {
            continue;
        }
        found.date |= is(b"date");
        found.trace_id |= is(b"x-trace-id");
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
    found
}

/// Returns `wire`, without keep-alive if the client's connection has to end.
pub(crate) const fn wire_of(wire: Wire, keeps_connection: bool) -> Wire {
    Wire {
        keep_alive: wire.keep_alive && keeps_connection,
        ..wire
    }
}
