//! Writes the heads of answers. It never sends them. Called by `connection`.

use crate::output::JSON;

/// What an answer's head says besides its status and length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extra<'a> {
    pub(crate) content_type: &'a str,
    pub(crate) close: bool,
    /// `X-Cold-Start` with the initialisation's milliseconds.
    pub(crate) init_ms: Option<u64>,
    pub(crate) not_started: bool,
    pub(crate) allow: Option<&'a str>,
}

impl Extra<'_> {
    pub(crate) const JSON: Extra<'static> = Extra {
        content_type: JSON,
        close: false,
        init_ms: None,
        not_started: false,
        allow: None,
    };
}

/// Appends a head for a body of `length` bytes.
pub(crate) fn put_head(out: &mut Vec<u8>, status: u16, length: usize, extra: &Extra<'_>) {
    // Piece by piece: `write!` of the same takes four times as long.
    let mut number = itoa::Buffer::new();
    let mut put = |pieces: &[&str]| {
        for piece in pieces {
            out.extend_from_slice(piece.as_bytes());
        }
    };
    put(&["HTTP/1.1 ", number.format(status), " ", reason(status)]);
    put(&["\r\nContent-Type: ", extra.content_type]);
    put(&["\r\nContent-Length: ", number.format(length), "\r\n"]);
    if let Some(init_ms) = extra.init_ms {
        put(&["X-Cold-Start: true\r\nX-Init-Duration-Ms: "]);
        put(&[number.format(init_ms), "\r\n"]);
    }
    if extra.not_started {
        put(&["X-Not-Started: true\r\n"]);
    }
    if let Some(allow) = extra.allow {
        put(&["Allow: ", allow, "\r\n"]);
    }
    if extra.close {
        put(&["Connection: close\r\n"]);
    }
    put(&["\r\n"]);
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Internal Server Error",
    }
}
