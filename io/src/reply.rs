//! Bytes out: the only file that writes status codes. It maps problems and outcomes to the wire and
//! reads nothing. `client` sends what it writes.

use std::borrow::Cow;
use std::io::Write;

use nanofaas_core::admission::Refusal;
use nanofaas_core::id::{ExecutionId, ID_LEN};
use nanofaas_core::metrics::RejectReason;
use nanofaas_core::outcome::Failure;

use crate::executions::Status;
use crate::head::Fault;
use crate::json::write_string;
use crate::output::{Form, Output};
use crate::problem::Problem;
use nanofaas_core::call::Times;

/// A whole answer to a request that is not on the warm path.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    status: u16,
    content_type: Cow<'static, [u8]>,
    /// Whole header lines, each with its CRLF.
    headers: Vec<u8>,
    body: Vec<u8>,
    close: bool,
}

const JSON: Cow<'static, [u8]> = Cow::Borrowed(b"application/json");

const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}

/// Bytes that invite the rest of a request.
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

impl Response {
    fn new(status: u16, body: Vec<u8>) -> Self {
        Self {
            status,
            content_type: JSON,
            headers: Vec::new(),
            body,
            close: false,
        }
    }

    /// 200 with a JSON body.
    pub(crate) fn json(body: Vec<u8>) -> Self {
        Self::new(200, body)
    }

    pub(crate) fn created(body: Vec<u8>) -> Self {
        Self::new(201, body)
    }

    pub(crate) fn accepted(body: Vec<u8>) -> Self {
        Self::new(202, body)
    }

    pub(crate) fn no_content() -> Self {
        Self::new(204, Vec::new())
    }

    /// 200 with bytes of any type.
    pub(crate) fn bytes(content_type: Cow<'static, [u8]>, body: Vec<u8>) -> Self {
        Self {
            content_type,
            ..Self::new(200, body)
        }
    }

    /// Adds a header line.
    pub(crate) fn with(mut self, name: &str, value: &[u8]) -> Self {
        self.headers.extend_from_slice(name.as_bytes());
        self.headers.extend_from_slice(b": ");
        self.headers.extend_from_slice(value);
        self.headers.extend_from_slice(b"\r\n");
        self
    }

    /// The connection ends with this answer.
    pub(crate) const fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    pub(crate) const fn closes(&self) -> bool {
        self.close
    }

    /// Appends the answer; without its body for HEAD.
    pub(crate) fn write(&self, out: &mut Vec<u8>, wire: Wire) {
        start(out, self.status);
        if self.status != 204 {
            out.extend_from_slice(b"Content-Type: ");
            out.extend_from_slice(&self.content_type);
            length(out, self.body.len());
        }
        out.extend_from_slice(&self.headers);
        end(
            out,
            Wire {
                keep_alive: wire.keep_alive && !self.close,
                ..wire
            },
        );
        if !wire.head_only {
            out.extend_from_slice(&self.body);
        }
    }
}

/// How the client wants its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire {
    pub(crate) keep_alive: bool,
    /// HTTP/1.0 has to be told that the connection stays.
    pub(crate) old: bool,
    pub(crate) head_only: bool,
}

fn start(out: &mut Vec<u8>, status: u16) {
    if status == 200 {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    } else {
        let _ = write!(out, "HTTP/1.1 {status} {}\r\n", reason(status));
    }
}

fn length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(b"\r\nContent-Length: ");
    number(out, length as u64);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number; the formatting machinery takes several times as long.
pub(crate) fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn end(out: &mut Vec<u8>, wire: Wire) {
    if !wire.keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if wire.old {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

fn problem_body(code: &str, message: &str, details: &[String]) -> Vec<u8> {
    let mut body = b"{\"error\":".to_vec();
    write_string(&mut body, code);
    body.extend_from_slice(b",\"message\":");
    write_string(&mut body, message);
    if !details.is_empty() {
        body.extend_from_slice(b",\"details\":[");
        for (at, detail) in details.iter().enumerate() {
            if at > 0 {
                body.push(b',');
            }
            write_string(&mut body, detail);
        }
        body.push(b']');
    }
    body.push(b'}');
    body
}

fn simple(status: u16, code: &str, message: &str) -> Response {
    Response::new(status, problem_body(code, message, &[]))
}

fn http_fault(fault: Fault) -> Response {
    let (status, code) = match fault {
        Fault::Malformed(_) => (400, "BAD_REQUEST"),
        Fault::HeadTooLarge => (431, "HEAD_TOO_LARGE"),
        Fault::TargetTooLong => (414, "URI_TOO_LONG"),
        Fault::VersionUnsupported => (505, "HTTP_VERSION_NOT_SUPPORTED"),
        Fault::CodingUnsupported => (501, "CODING_NOT_SUPPORTED"),
        Fault::ExpectationFailed => (417, "EXPECTATION_FAILED"),
        Fault::BodyTooLarge => (413, "BODY_TOO_LARGE"),
    };
    simple(status, code, &fault.to_string())
}

fn refusal(refusal: Refusal) -> Response {
    let advice = match refusal.reason {
        RejectReason::Rate => "the control plane takes no more calls this second",
        RejectReason::Memory => "the calls in flight hold all the memory they may",
        RejectReason::Depth => "the function's queue is full",
        RejectReason::EstWait => "the call would wait past its deadline",
    };
    let seconds = refusal.retry_after_s;
    let message = format!("{advice}; call again in {seconds} s");
    simple(429, "TOO_MANY_REQUESTS", &message)
        .with("Retry-After", seconds.to_string().as_bytes())
        .with("X-Queue-Reject-Reason", refusal.reason.as_str().as_bytes())
}

/// The answer to a request that has a problem.
pub(crate) fn problem(problem: &Problem) -> Response {
    let response = match problem {
        Problem::Http(fault) => http_fault(*fault),
        Problem::BadRequest(why) => simple(400, "BAD_REQUEST", why),
        Problem::Invalid(details) => {
            let message = "the function's description has faults; see details";
            Response::new(400, problem_body("VALIDATION_ERROR", message, details))
        }
        Problem::UnsupportedMediaType => {
            let message = "send the description as application/json";
            simple(415, "UNSUPPORTED_MEDIA_TYPE", message)
        }
        Problem::LengthRequired => simple(
            411,
            "LENGTH_REQUIRED",
            "send a body with Content-Length or in chunks",
        ),
        Problem::BodyTooLarge { bytes_max } => {
            let message = format!("the body is over its limit of {bytes_max} bytes; send less");
            simple(413, "BODY_TOO_LARGE", &message)
        }
        Problem::TooSlow(what) => simple(408, "REQUEST_TIMEOUT", what),
        Problem::Forbidden(why) => simple(403, "FORBIDDEN", why),
        Problem::NoSuchPath => simple(
            404,
            "NOT_FOUND",
            "there is no such path; GET /openapi.yaml lists all",
        ),
        Problem::NoSuchFunction(name) => {
            let message = format!("there is no function {name:?}; register it first");
            simple(404, "FUNCTION_NOT_FOUND", &message)
        }
        Problem::NoSuchExecution => {
            let message = "there is no such execution, or it is no longer remembered";
            simple(404, "EXECUTION_NOT_FOUND", message)
        }
        Problem::MethodNotAllowed { allow } => {
            let message = format!("this path takes {allow}");
            simple(405, "METHOD_NOT_ALLOWED", &message).with("Allow", allow.as_bytes())
        }
        Problem::FunctionExists(name) => {
            let message = format!("there is a function {name:?} already; PUT replaces it");
            simple(409, "FUNCTION_EXISTS", &message)
        }
        Problem::KeyMismatch => {
            let message = "this Idempotency-Key was used with another body; use a new key";
            simple(422, "IDEMPOTENCY_MISMATCH", message)
        }
        Problem::NotEnded => {
            let message = "the execution has not ended; ask its status with ?waitMs first";
            simple(409, "NOT_TERMINAL", message)
        }
        Problem::Stale => simple(
            409,
            "STALE_ATTEMPT",
            "the attempt is over, or its execution has ended",
        ),
        Problem::NoOutput(why) => simple(410, "OUTPUT_NOT_KEPT", why),
        Problem::RegistryUnavailable(why) => {
            simple(503, "REGISTRY_UNAVAILABLE", why).with("Retry-After", b"1")
        }
        Problem::ShuttingDown => {
            let message = "the control plane is shutting down and takes no new calls; call again";
            simple(503, "SHUTTING_DOWN", message).with("Retry-After", b"1")
        }
        Problem::Busy => {
            let message = "a queue inside the control plane is full; call again";
            simple(503, "BUSY", message).with("Retry-After", b"1")
        }
        Problem::Refused(reason) => refusal(*reason),
    };
    if problem.spoils_connection() {
        response.closing()
    } else {
        response
    }
}

const fn outcome_status(failure: &Failure) -> u16 {
    match failure {
        Failure::Handler { .. } => 500,
        Failure::PodLost(_)
        | Failure::PodUnreachable(_)
        | Failure::BadOutput(_)
        | Failure::OutputTooLarge { .. } => 502,
        Failure::ColdStart(_) | Failure::Shutdown => 503,
        Failure::Timeout(_) => 408,
        Failure::Cancelled => 409,
        Failure::FunctionRemoved => 410,
    }
}

/// What an `:invoke` is answered with.
pub(crate) struct Invocation<'a> {
    pub(crate) id: ExecutionId,
    pub(crate) status: Status,
    pub(crate) result: Result<&'a Output, &'a Failure>,
    /// For a follower whose own deadline passed: the execution goes on.
    pub(crate) follower_timed_out: bool,
    pub(crate) trace_id: Option<&'a [u8]>,
    pub(crate) times: Times,
    pub(crate) total_ns: u64,
    pub(crate) replay: bool,
}

/// An execution's id as it is written; spelled once for all the places where it stands.
type Id = [u8; ID_LEN];

#[inline(always)]
fn millis<const N: usize>(out: &mut Vec<u8>, name: &[u8; N], ns: u64) {
    let us = ns / 1000;
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

impl Invocation<'_> {
    /// The headers of every answer to a call that got an id.
    fn headers(&self, out: &mut Vec<u8>, id: &Id) {
        out.extend_from_slice(b"X-Execution-Id: ");
        out.extend_from_slice(id);
        if let Some(trace_id) = self.trace_id {
            out.extend_from_slice(b"\r\nX-Trace-Id: ");
            out.extend_from_slice(trace_id);
        }
        out.extend_from_slice(b"\r\nServer-Timing: ");
        let times = &self.times;
        millis(out, b"queue;dur=", times.queue_ns);
        if times.start_ns > 0 {
            millis(out, b", start;dur=", times.start_ns);
        }
        millis(out, b", dispatch;dur=", times.dispatch_ns);
        millis(out, b", function;dur=", times.function_ns);
        millis(out, b", total;dur=", self.total_ns);
        out.extend_from_slice(b"\r\n");
        if self.replay {
            out.extend_from_slice(b"Idempotent-Replay: true\r\n");
        }
    }

    /// Appends the whole answer. `scratch` is for bodies whose length is not known before.
    pub(crate) fn write(&self, out: &mut Vec<u8>, scratch: &mut Vec<u8>, wire: Wire) {
        let id = &self.id.text();
        match self.result {
            Ok(output) if output.form == Form::Raw => self.raw(out, id, output, wire),
            Ok(output) if output.form == Form::Json => self.json(out, id, output.bytes(), wire),
            Ok(output) => {
                scratch.clear();
                let text = std::str::from_utf8(output.bytes()).expect("it was checked");
                write_string(scratch, text);
                self.json(out, id, scratch, wire);
            }
            Err(failure) => self.failure((out, scratch), id, failure, wire),
        }
    }

    fn raw(&self, out: &mut Vec<u8>, id: &Id, output: &Output, wire: Wire) {
        start(out, 200);
        out.extend_from_slice(b"Content-Type: ");
        out.extend_from_slice(output.raw_content_type());
        length(out, output.bytes().len());
        out.extend_from_slice(b"X-Execution-Status: success\r\n");
        self.headers(out, id);
        end(out, wire);
        if !wire.head_only {
            out.extend_from_slice(output.bytes());
        }
    }

    fn json(&self, out: &mut Vec<u8>, id: &Id, output: &[u8], wire: Wire) {
        const BEFORE_ID: &[u8] = b"{\"executionId\":\"";
        const BEFORE_OUTPUT: &[u8] = b"\",\"status\":\"success\",\"output\":";
        const AFTER: &[u8] = b",\"error\":null}";
        start(out, 200);
        out.extend_from_slice(b"Content-Type: application/json");
        let fixed = BEFORE_ID.len() + id.len() + BEFORE_OUTPUT.len() + AFTER.len();
        length(out, fixed + output.len());
        self.headers(out, id);
        end(out, wire);
        if !wire.head_only {
            for part in [BEFORE_ID, id, BEFORE_OUTPUT, output, AFTER] {
                out.extend_from_slice(part);
            }
        }
    }

    fn failure(
        &self,
        (out, scratch): (&mut Vec<u8>, &mut Vec<u8>),
        id: &Id,
        failure: &Failure,
        wire: Wire,
    ) {
        scratch.clear();
        scratch.extend_from_slice(b"{\"executionId\":\"");
        scratch.extend_from_slice(id);
        scratch.extend_from_slice(b"\",\"status\":\"");
        scratch.extend_from_slice(self.status.as_str().as_bytes());
        scratch.extend_from_slice(b"\",\"output\":null,\"error\":{\"code\":");
        write_string(scratch, failure.code());
        scratch.extend_from_slice(b",\"message\":");
        if self.follower_timed_out {
            let message = "the execution has not ended yet; ask its status for the result";
            write_string(scratch, message);
        } else {
            write_string(scratch, &failure.message());
        }
        scratch.extend_from_slice(b"}}");
        start(out, outcome_status(failure));
        out.extend_from_slice(b"Content-Type: application/json");
        length(out, scratch.len());
        self.headers(out, id);
        end(out, wire);
        if !wire.head_only {
            out.extend_from_slice(scratch);
        }
    }

    /// The answer on its way to another io thread.
    pub(crate) fn response(&self) -> Response {
        let mut headers = Vec::new();
        if matches!(self.result, Ok(output) if output.form == Form::Raw) {
            headers.extend_from_slice(b"X-Execution-Status: success\r\n");
        }
        self.headers(&mut headers, &self.id.text());
        let wire = Wire {
            keep_alive: true,
            old: false,
            head_only: false,
        };
        let (mut whole, mut scratch) = (Vec::new(), Vec::new());
        self.write(&mut whole, &mut scratch, wire);
        let split = whole
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .expect("a head")
            + 4;
        let content_type = match self.result {
            Ok(output) if output.form == Form::Raw => {
                Cow::Owned(output.raw_content_type().to_vec())
            }
            _ => JSON,
        };
        let status = self.result.map_or_else(outcome_status, |_| 200);
        Response {
            status,
            content_type,
            headers,
            body: whole.split_off(split),
            close: false,
        }
    }
}
