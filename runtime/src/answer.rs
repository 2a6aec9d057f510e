//! Writes the heads of answers into a buffer, which `connection` and `forward` send.

use crate::output::JSON;

/// The header by which an answer names its call. The platform compares its value with the id of its
/// call, and so detects an answer that belongs to another call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Echo {
    ExecutionId,
    /// The answer to an HTTP call (`X-Nanofaas-Call: http`), in which the function may use
    /// `X-Execution-Id` itself.
    HttpAnswer,
}

impl Echo {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ExecutionId => "X-Execution-Id",
            Self::HttpAnswer => "X-Nanofaas-Answer",
        }
    }

    pub(crate) fn put(self, out: &mut Vec<u8>, id: &[u8]) {
        put(out, &[self.name(), ": "]);
        out.extend_from_slice(id);
        put(out, &["\r\n"]);
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Extra<'a> {
    pub(crate) content_type: &'a str,
    pub(crate) close: bool,
    /// The duration of the initialisation, in ms. Only the first answer of a pod contains this time, together
    /// with `X-Cold-Start`.
    pub(crate) init_ms: Option<u64>,
    pub(crate) not_started: bool,
    pub(crate) allow: Option<&'a str>,
    pub(crate) echo: Echo,
}

impl Extra<'_> {
    pub(crate) const JSON: Extra<'static> = Extra {
        content_type: JSON,
        close: false,
        init_ms: None,
        not_started: false,
        allow: None,
        echo: Echo::ExecutionId,
    };
}

/// Appends a head for a body of `length` bytes. `id` is the request's `X-Execution-Id`, or empty if
/// the request has none.
pub(crate) fn put_head(
    out: &mut Vec<u8>,
    status: u16,
    length: usize,
    id: &[u8],
    extra: &Extra<'_>,
) {
    let mut number = itoa::Buffer::new();
    put(out, &["HTTP/1.1 ", number.format(status), " "]);
    put(
        out,
        &[reason(status), "\r\nContent-Type: ", extra.content_type],
    );
    put(
        out,
        &["\r\nContent-Length: ", number.format(length), "\r\n"],
    );
    if !id.is_empty() {
        extra.echo.put(out, id);
    }
    if let Some(init_ms) = extra.init_ms {
        put(out, &["X-Cold-Start: true\r\nX-Init-Duration-Ms: "]);
        put(out, &[number.format(init_ms), "\r\n"]);
    }
    if extra.not_started {
        put(out, &["X-Not-Started: true\r\n"]);
    }
    if let Some(allow) = extra.allow {
        put(out, &["Allow: ", allow, "\r\n"]);
    }
    if extra.close {
        put(out, &["Connection: close\r\n"]);
    }
    put(out, &["\r\n"]);
}

/// Appends the pieces. `write!` would take four times as long.
fn put(out: &mut Vec<u8>, pieces: &[&str]) {
    for piece in pieces {
        out.extend_from_slice(piece.as_bytes());
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Internal Server Error",
    }
}
