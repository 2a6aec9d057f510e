//! Writes answers: maps errors and outcomes to status codes and bytes. `http1` chooses the status of
//! malformed HTTP. `invocation` writes the answer to a call that was served, with the status from here if the
//! call failed. `serve` sends the bytes.

use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;

use nanofaas_core::admission::AdmissionError;
use nanofaas_core::metrics::RejectReason;
use nanofaas_core::outcome::ExecutionError;
use nanofaas_http1::error::ParseError;

use crate::http::error::HttpError;
use crate::http::json::write_string;
use crate::http::output::Output;
use crate::http::shown::{PIECE, Rendering, RestOfOutput, Shown};
use crate::runtime::Runtime;
use crate::runtime::buffers::{Buffers, SMALL};
use crate::runtime::date::DateLine;

/// The header that names an execution.
pub(crate) const EXECUTION_ID: &str = "X-Execution-Id";

/// A complete answer to a request that is not on the warm path.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    status: u16,
    /// The code of the error; empty if the answer is no error.
    code: Cow<'static, str>,
    content_type: Cow<'static, [u8]>,
    /// Complete header lines, each with its CRLF.
    headers: Vec<u8>,
    body: AnswerBody,
    close: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum AnswerBody {
    Bytes(Vec<u8>),
    /// A body that contains the output of a stored execution.
    Shown(Box<Shown>),
}

impl AnswerBody {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Shown(shown) => shown.len(),
        }
    }
}

impl From<Vec<u8>> for AnswerBody {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Shown> for AnswerBody {
    fn from(shown: Shown) -> Self {
        Self::Shown(Box::new(shown))
    }
}

/// The bytes that suffice for the head and the envelope around an output, if the client's trace id is short.
pub(crate) const HEAD_ROOM: usize = 640;

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
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => "Unknown",
    }
}

/// The interim answer that asks the client to send the body of its request.
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

impl Response {
    pub(crate) fn new(status: u16, body: impl Into<AnswerBody>) -> Self {
        Self {
            status,
            code: Cow::Borrowed(""),
            content_type: JSON,
            headers: Vec::new(),
            body: body.into(),
            close: false,
        }
    }

    pub(crate) fn json(body: Vec<u8>) -> Self {
        Self::new(200, body)
    }

    /// Makes a 200 with a JSON body around an output.
    pub(crate) fn shown(body: Shown) -> Self {
        Self::new(200, body)
    }

    /// Makes a 200 whose body is an output without an envelope.
    pub(crate) fn output(output: &Arc<Output>) -> Self {
        let content_type = Cow::Owned(output.raw_content_type().to_vec());
        let body = Shown {
            before: Vec::new(),
            output: output.clone(),
            rendering: Rendering::AsIs,
            after: Vec::new(),
        };
        let response = Self {
            content_type,
            ..Self::new(200, body)
        };
        response.encoded(output.content_encoding())
    }

    /// Adds the header that names the encoding of the body, if the body is encoded.
    pub(crate) fn encoded(self, content_encoding: Option<&[u8]>) -> Self {
        match content_encoding {
            Some(content_encoding) => self.with("Content-Encoding", content_encoding),
            None => self,
        }
    }

    pub(crate) fn created(body: Vec<u8>) -> Self {
        Self::new(201, body)
    }

    pub(crate) fn accepted(body: Vec<u8>) -> Self {
        Self::new(202, body)
    }

    pub(crate) const fn but_accepted(mut self) -> Self {
        self.status = 202;
        self
    }

    pub(crate) fn no_content() -> Self {
        Self::new(204, Vec::new())
    }

    /// Makes a 200 with bytes of any type.
    pub(crate) fn bytes(content_type: Cow<'static, [u8]>, body: Vec<u8>) -> Self {
        Self {
            content_type,
            ..Self::new(200, body)
        }
    }

    /// Sets the code of the error that this answer reports.
    fn of(mut self, code: Cow<'static, str>) -> Self {
        self.code = code;
        self
    }

    /// Returns the code of the error; empty if the answer is no error.
    pub(crate) fn code(&self) -> &str {
        &self.code
    }

    pub(crate) fn with(mut self, name: &str, value: &[u8]) -> Self {
        self.headers.extend_from_slice(name.as_bytes());
        self.headers.extend_from_slice(b": ");
        self.headers.extend_from_slice(value);
        self.headers.extend_from_slice(b"\r\n");
        self
    }

    /// Returns the id of the execution that the answer names in its header, if it names one.
    pub(crate) fn execution_id(&self) -> Option<Vec<u8>> {
        let mut lines = self.headers.split(|byte| *byte == b'\n');
        let value = lines.find_map(|line| line.strip_prefix(EXECUTION_ID.as_bytes()));
        let value = value?.strip_prefix(b": ")?;
        Some(value.trim_ascii().to_vec())
    }

    /// Returns the header lines, so that the caller can add more.
    pub(crate) const fn headers(&mut self) -> &mut Vec<u8> {
        &mut self.headers
    }

    /// Lets the server close the connection after this answer.
    pub(crate) const fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    pub(crate) const fn closes(&self) -> bool {
        self.close
    }

    /// Returns the bytes of memory that the answer holds while it is sent. Returns 0 if a small buffer is
    /// enough.
    pub(crate) fn held_bytes(&self) -> usize {
        let body = match &self.body {
            AnswerBody::Bytes(bytes) => bytes.len(),
            AnswerBody::Shown(shown) => shown.len().min(PIECE),
        };
        let len = self.headers.len() + body;
        if len + HEAD_ROOM <= SMALL {
            0
        } else {
            Buffers::size_for(len + HEAD_ROOM)
        }
    }

    /// Appends the answer, without the body if the request is a HEAD. If the body contains a large output,
    /// appends only the bytes before the output, and returns the rest of the body.
    pub(crate) fn write(self, out: &mut Vec<u8>, heading: &Heading) -> Option<RestOfOutput> {
        let (body_len, wire) = (self.body.len(), heading.wire);
        start(out, self.status, heading);
        if self.status != 204 {
            out.extend_from_slice(b"Content-Type: ");
            out.extend_from_slice(&self.content_type);
            length(out, body_len);
        }
        out.extend_from_slice(&self.headers);
        end(
            out,
            Wire {
                keep_alive: wire.keep_alive && !self.close,
                ..wire
            },
        );
        match self.body {
            _ if wire.head_only => None,
            AnswerBody::Bytes(bytes) => {
                out.extend_from_slice(&bytes);
                None
            }
            AnswerBody::Shown(shown) => shown.write(body_len, out),
        }
    }
}

/// The properties of a request that determine the form of its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire {
    pub(crate) keep_alive: bool,
    /// Whether the client uses HTTP/1.0. Such a client needs a header that says that the connection stays
    /// open.
    pub(crate) old: bool,
    pub(crate) head_only: bool,
}

/// The data from which `start` and `end` write the head of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heading {
    pub(crate) wire: Wire,
    date: DateLine,
}

impl Heading {
    /// Makes the heading of an answer that is written now.
    #[inline]
    pub(crate) fn of(thread: &Runtime, wire: Wire) -> Self {
        let date = thread.date_line();
        Self { wire, date }
    }

    pub(crate) const fn date(&self) -> &DateLine {
        &self.date
    }
}

pub(crate) fn start(out: &mut Vec<u8>, status: u16, heading: &Heading) {
    if status == 200 {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    } else {
        let _ = write!(out, "HTTP/1.1 {status} {}\r\n", reason(status));
    }
    out.extend_from_slice(&heading.date);
}

pub(crate) fn length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(b"\r\nContent-Length: ");
    number(out, length as u64);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in decimal digits. `write!` would take several times as long.
pub(crate) fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

pub(crate) fn end(out: &mut Vec<u8>, wire: Wire) {
    if !wire.keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if wire.old {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

fn error_body(code: &str, message: &str, details: &[String]) -> Vec<u8> {
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

fn simple(status: u16, code: impl Into<Cow<'static, str>>, message: &str) -> Response {
    let code = code.into();
    Response::new(status, error_body(&code, message, &[])).of(code)
}

fn parse_error(error: ParseError) -> Response {
    let code = match error {
        ParseError::Malformed(_) => "BAD_REQUEST",
        ParseError::HeadTooLarge => "HEAD_TOO_LARGE",
        ParseError::TargetTooLong => "URI_TOO_LONG",
        ParseError::VersionUnsupported => "HTTP_VERSION_NOT_SUPPORTED",
        ParseError::CodingUnsupported => "CODING_NOT_SUPPORTED",
        ParseError::ExpectationFailed => "EXPECTATION_FAILED",
        ParseError::BodyTooLarge => "BODY_TOO_LARGE",
    };
    simple(error.status(), code, &error.to_string())
}

fn refusal(refusal: AdmissionError) -> Response {
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

/// Returns the answer to a request that fails with `error`.
pub(crate) fn error_response(error: &HttpError) -> Response {
    let response = match error {
        HttpError::Http(error) => parse_error(*error),
        HttpError::BadRequest(why) => simple(400, "BAD_REQUEST", why),
        HttpError::Invalid(details) => {
            let message = "the function's description has faults; see details";
            Response::new(400, error_body("VALIDATION_ERROR", message, details))
        }
        HttpError::UnsupportedMediaType => {
            let message = "send the description as application/json";
            simple(415, "UNSUPPORTED_MEDIA_TYPE", message)
        }
        HttpError::Encoded => {
            let message = "a JSON body is read here, so it must not be encoded; send it without \
                           Content-Encoding";
            simple(415, "UNSUPPORTED_MEDIA_TYPE", message).with("Accept-Encoding", b"identity")
        }
        HttpError::LengthRequired => simple(
            411,
            "LENGTH_REQUIRED",
            "send a body with Content-Length or in chunks",
        ),
        HttpError::BodyTooLarge { bytes_max } => {
            let message = format!("the body is over its limit of {bytes_max} bytes; send less");
            simple(413, "BODY_TOO_LARGE", &message)
        }
        HttpError::TooSlow(what) => simple(408, "REQUEST_TIMEOUT", what),
        HttpError::Forbidden(why) => simple(403, "FORBIDDEN", why),
        HttpError::NoSuchPath => simple(
            404,
            "NOT_FOUND",
            "there is no such path; GET /openapi.yaml lists all",
        ),
        HttpError::NoSuchFunction(name) => {
            let message = format!("there is no function {name:?}; register it first");
            simple(404, "FUNCTION_NOT_FOUND", &message)
        }
        HttpError::NothingToRemove(name) => {
            let message = format!("there is no function {name:?} to remove");
            simple(404, "FUNCTION_NOT_FOUND", &message)
        }
        HttpError::NotWarm { name, mode } => {
            let message =
                format!("{name:?} is {mode} and keeps no pods; replicas are of WARM ones");
            simple(409, "NOT_WARM", &message)
        }
        HttpError::NotHttp(why) => simple(404, "NOT_HTTP", why),
        HttpError::NeverHttp { name, mode } => {
            let message = format!(
                "{name:?} is {mode}, which is not served at /fn/: make it WARM or POOL, or call :invoke"
            );
            simple(501, "NOT_HTTP", &message)
        }
        HttpError::CrossOrigin => {
            let message = "a page of another origin may only read here; name its origin in the function's \
                           allowedOrigins";
            simple(403, "CROSS_ORIGIN", message)
        }
        HttpError::Loop => {
            let message =
                "the request has passed this proxy 16 times; a function or a proxy sends it back";
            simple(508, "LOOP", message)
        }
        HttpError::NoSuchExecution => {
            let message = "there is no such execution, or it is no longer remembered";
            simple(404, "EXECUTION_NOT_FOUND", message)
        }
        HttpError::MethodNotAllowed { allow } => {
            let message = format!("this path takes {allow}");
            simple(405, "METHOD_NOT_ALLOWED", &message).with("Allow", allow.as_bytes())
        }
        HttpError::FunctionExists(name) => {
            let message = format!("there is a function {name:?} already; PUT replaces it");
            simple(409, "FUNCTION_EXISTS", &message)
        }
        HttpError::KeyMismatch => {
            let message = "this Idempotency-Key was used with another body; use a new key";
            simple(422, "IDEMPOTENCY_MISMATCH", message)
        }
        HttpError::NotEnded => {
            let message = "the execution has not ended; ask its status with ?waitMs first";
            simple(409, "NOT_TERMINAL", message)
        }
        HttpError::Stale => simple(
            409,
            "STALE_ATTEMPT",
            "the attempt is over, or its execution has ended",
        ),
        HttpError::NoOutput(why) => simple(410, "OUTPUT_NOT_KEPT", why),
        HttpError::RegistryUnavailable(why) => {
            simple(503, "REGISTRY_UNAVAILABLE", why).with("Retry-After", b"1")
        }
        HttpError::ShuttingDown => {
            let message = "the control plane is shutting down and takes no new calls; call again";
            simple(503, "SHUTTING_DOWN", message).with("Retry-After", b"1")
        }
        HttpError::NoMemory => {
            let message = "what is held for calls has reached --inflight-bytes; ask again";
            simple(503, "BUSY", message).with("Retry-After", b"1")
        }
        HttpError::Busy => {
            let message = "a queue inside the control plane is full; call again";
            simple(503, "BUSY", message).with("Retry-After", b"1")
        }
        HttpError::Refused(reason) => refusal(*reason),
    };
    if error.spoils_connection() {
        response.closing()
    } else {
        response
    }
}

/// Makes the answer to a call of `/fn/` that failed before the function began to answer.
pub(crate) fn failure_response(failure: &ExecutionError) -> Response {
    let status = match outcome_status(failure) {
        // The status 408 becomes 504, because clients may send a request again after 408, although the call
        // may have run.
        408 => 504,
        status => status,
    };
    simple(status, failure.code().to_owned(), &failure.message())
}

pub(crate) const fn outcome_status(failure: &ExecutionError) -> u16 {
    match failure {
        ExecutionError::Handler(_) => 500,
        ExecutionError::PodLost(_)
        | ExecutionError::PodUnreachable(_)
        | ExecutionError::BadOutput(_)
        | ExecutionError::OutputTooLarge(_) => 502,
        ExecutionError::ColdStart(_) | ExecutionError::Shutdown => 503,
        ExecutionError::Timeout { .. } | ExecutionError::StartTimeout(_) => 408,
        ExecutionError::Cancelled => 409,
        ExecutionError::FunctionRemoved => 410,
    }
}
