//! The answer to `:invoke`, for a plain call and for a stored one: its envelope or its raw output, and the
//! headers that contain the execution's id and times. `response` chooses the status code of an error.

use std::sync::Arc;

use nanofaas_core::call::Times;
use nanofaas_core::id::{ExecutionId, ID_LEN};
use nanofaas_core::outcome::ExecutionError;
use nanofaas_core::time::Nanos;

use crate::http::json::write_string;
use crate::http::output::{Form, Output};
use crate::http::response::{Heading, Response, end, length, number, outcome_status, start};
use crate::http::shown::{Rendering, Shown};
use crate::state::executions::Status;

/// The content of the answer to an `:invoke`.
pub(crate) struct Invocation<'a> {
    pub(crate) id: ExecutionId,
    pub(crate) status: Status,
    pub(crate) result: Result<&'a Output, &'a ExecutionError>,
    /// True if the waiter's own deadline has passed while the execution goes on.
    pub(crate) waiter_timed_out: bool,
    pub(crate) trace_id: Option<&'a [u8]>,
    pub(crate) times: Times,
    pub(crate) total: Nanos,
    pub(crate) replay: bool,
}

/// The text of an execution's id. It is made one time for both the header and the envelope.
type Id = [u8; ID_LEN];

#[inline(always)]
fn millis<const N: usize>(out: &mut Vec<u8>, name: &[u8; N], time: Nanos) {
    let us = time.as_us();
    out.extend_from_slice(name);
    let ms = us / 1000;
    if ms < 10 {
        out.push(b'0' + ms as u8);
    } else {
        number(out, ms);
    }
    let digit = |of: u64| b'0' + (of % 10) as u8;
    out.extend_from_slice(&[b'.', digit(us / 100), digit(us / 10), digit(us)]);
}

/// Appends the end of the line before, and then the line of `Server-Timing`.
#[inline(always)]
pub(crate) fn server_timing(out: &mut Vec<u8>, times: &Times, total: Nanos) {
    out.extend_from_slice(b"\r\nServer-Timing: ");
    millis(out, b"queue;dur=", times.queue);
    if !times.start.is_zero() {
        millis(out, b", start;dur=", times.start);
    }
    millis(out, b", dispatch;dur=", times.dispatch);
    millis(out, b", function;dur=", times.function);
    millis(out, b", total;dur=", total);
    out.extend_from_slice(b"\r\n");
}

impl Invocation<'_> {
    /// Appends the headers that an answer has after a success and after a failure.
    fn headers(&self, out: &mut Vec<u8>, id: &Id) {
        out.extend_from_slice(b"X-Execution-Id: ");
        out.extend_from_slice(id);
        if let Some(trace_id) = self.trace_id {
            out.extend_from_slice(b"\r\nX-Trace-Id: ");
            out.extend_from_slice(trace_id);
        }
        server_timing(out, &self.times, self.total);
        if self.replay {
            out.extend_from_slice(b"Idempotent-Replay: true\r\n");
        }
    }

    /// Appends the part of the answer before `output`, which is too large to be copied. Returns how the
    /// output is rendered, and the part after the output.
    pub(crate) fn write_before(
        &self,
        output: &Output,
        out: &mut Vec<u8>,
        heading: &Heading,
    ) -> (Rendering, &'static [u8]) {
        let id = &self.id.text();
        let bytes = output.bytes();
        if output.form == Form::Raw {
            self.raw_head(out, id, output, heading);
            return (Rendering::AsIs, b"");
        }
        let rendering = rendering(output.form);
        let (before, after) = around(output.form);
        let fixed = BEFORE_ID.len() + id.len() + before.len() + after.len();
        self.json_head(out, id, fixed + rendering.len(bytes), heading);
        for part in [BEFORE_ID, id, before] {
            out.extend_from_slice(part);
        }
        (rendering, after)
    }

    /// Appends the whole answer. `scratch` holds a body whose length is known only after it is written.
    pub(crate) fn write(&self, out: &mut Vec<u8>, scratch: &mut Vec<u8>, heading: &Heading) {
        let id = &self.id.text();
        match self.result {
            Ok(output) if output.form == Form::Raw => self.raw(out, id, output, heading),
            Ok(output) if output.form == Form::Json => self.json(out, id, output.bytes(), heading),
            Ok(output) => {
                scratch.clear();
                let text = std::str::from_utf8(output.bytes()).expect("it was checked");
                write_string(scratch, text);
                self.json(out, id, scratch, heading);
            }
            Err(failure) => self.failure((out, scratch), id, failure, heading),
        }
    }

    fn raw_head(&self, out: &mut Vec<u8>, id: &Id, output: &Output, heading: &Heading) {
        start(out, 200, heading);
        out.extend_from_slice(b"Content-Type: ");
        out.extend_from_slice(output.raw_content_type());
        length(out, output.bytes().len());
        if let Some(content_encoding) = output.content_encoding() {
            out.extend_from_slice(b"Content-Encoding: ");
            out.extend_from_slice(content_encoding);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"X-Execution-Status: success\r\n");
        self.headers(out, id);
        end(out, heading.wire);
    }

    fn json_head(&self, out: &mut Vec<u8>, id: &Id, body: usize, heading: &Heading) {
        start(out, 200, heading);
        out.extend_from_slice(b"Content-Type: application/json");
        length(out, body);
        self.headers(out, id);
        end(out, heading.wire);
    }

    fn raw(&self, out: &mut Vec<u8>, id: &Id, output: &Output, heading: &Heading) {
        self.raw_head(out, id, output, heading);
        if !heading.wire.head_only {
            out.extend_from_slice(output.bytes());
        }
    }

    fn json(&self, out: &mut Vec<u8>, id: &Id, output: &[u8], heading: &Heading) {
        let (before, after) = around(Form::Json);
        let fixed = BEFORE_ID.len() + id.len() + before.len() + after.len();
        self.json_head(out, id, fixed + output.len(), heading);
        if !heading.wire.head_only {
            for part in [BEFORE_ID, id, before, output, after] {
                out.extend_from_slice(part);
            }
        }
    }

    fn failure(
        &self,
        (out, scratch): (&mut Vec<u8>, &mut Vec<u8>),
        id: &Id,
        failure: &ExecutionError,
        heading: &Heading,
    ) {
        self.failure_body(scratch, id, failure);
        start(out, outcome_status(failure), heading);
        out.extend_from_slice(b"Content-Type: application/json");
        length(out, scratch.len());
        self.headers(out, id);
        if let Some(retry_after) = retry_after(failure) {
            out.extend_from_slice(b"Retry-After: ");
            out.extend_from_slice(retry_after.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        end(out, heading.wire);
        if !heading.wire.head_only {
            out.extend_from_slice(scratch);
        }
    }

    fn failure_body(&self, scratch: &mut Vec<u8>, id: &Id, failure: &ExecutionError) {
        scratch.clear();
        scratch.extend_from_slice(BEFORE_ID);
        scratch.extend_from_slice(id);
        scratch.extend_from_slice(b"\",\"status\":\"");
        scratch.extend_from_slice(self.status.as_str().as_bytes());
        scratch.extend_from_slice(b"\",\"output\":null,\"error\":{\"code\":");
        write_string(scratch, failure.code());
        scratch.extend_from_slice(b",\"message\":");
        if self.waiter_timed_out {
            let message = "the execution has not ended yet; ask its status for the result";
            write_string(scratch, message);
        } else {
            write_string(scratch, &failure.message());
        }
        scratch.extend_from_slice(b"}}");
    }

    /// Makes the answer of a stored execution whose output is `output`. The answer shares the output, because
    /// another io thread may send it.
    pub(crate) fn response(&self, output: Option<&Arc<Output>>) -> Response {
        let id = &self.id.text();
        let mut response = match (self.result, output) {
            (Ok(_), Some(output)) if output.form == Form::Raw => {
                Response::output(output).with("X-Execution-Status", b"success")
            }
            (Ok(_), Some(output)) => {
                let (before, after) = around(output.form);
                Response::shown(Shown {
                    before: [BEFORE_ID, id, before].concat(),
                    output: output.clone(),
                    rendering: rendering(output.form),
                    after: after.to_vec(),
                })
            }
            (Ok(_), None) => unreachable!("a success that is kept has its output"),
            (Err(failure), _) => {
                let mut body = Vec::new();
                self.failure_body(&mut body, id, failure);
                let response = Response::new(outcome_status(failure), body);
                match retry_after(failure) {
                    Some(retry_after) => response.with("Retry-After", retry_after.as_bytes()),
                    None => response,
                }
            }
        };
        self.headers(response.headers(), id);
        response
    }
}

/// Returns the `Retry-After` that a function sent when it refused the call with a 429.
fn retry_after(failure: &ExecutionError) -> Option<&str> {
    match failure {
        ExecutionError::Handler(reported) => reported.retry_after.as_deref(),
        _ => None,
    }
}

const BEFORE_ID: &[u8] = b"{\"executionId\":\"";

/// Returns the parts of the envelope before and after its output.
const fn around(form: Form) -> (&'static [u8], &'static [u8]) {
    match form {
        Form::Json | Form::Raw => (
            b"\",\"status\":\"success\",\"output\":",
            b",\"error\":null}",
        ),
        Form::Text => (
            b"\",\"status\":\"success\",\"output\":\"",
            b"\",\"error\":null}",
        ),
    }
}

const fn rendering(form: Form) -> Rendering {
    match form {
        Form::Json | Form::Raw => Rendering::AsIs,
        Form::Text => Rendering::Escaped,
    }
}
