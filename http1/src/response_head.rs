//! Parses the head of a pod's answer, as strictly as a client's request.
//!
//! Like `request`, this module returns offsets and keeps no bytes. `io`, the runtime's client and the
//! watchdog call it. For `io` an error means that the pod sent an invalid answer, so `io` drops the
//! connection, and the call ends as `BAD_OUTPUT`.

use std::mem::MaybeUninit;

use crate::byte_scan;
use crate::error::ParseError;
use crate::fast_path;
use crate::framing::{Framing, FramingHeaders};
use crate::head::{HEADERS_MAX, HeadScan, START_LINE_MAX, Span};
use crate::header_value;

/// The offset after `HTTP/1.1 200`.
const STATUS_END: usize = 12;

/// Where an answer's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseBody {
    /// Answers with 1xx, 204 and 304 have no body.
    None,
    /// `Content-Length`, in bytes.
    Length(u64),
    Chunked,
    /// No length was sent, so the body ends when the pod closes the connection.
    UntilClose,
}

/// The head of a pod's answer. Spans are offsets from the head's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The head's length in bytes, with its empty line.
    pub len: usize,
    /// 100 to 599. An answer with a status below 200 is an interim one: another answer follows
    /// directly after this head.
    pub status: u16,
    pub body: ResponseBody,
    /// Whether an answer with 1xx or 204 announced a body, although such an answer cannot have one
    /// (RFC 9112 §6.3). `body` is then `None`.
    pub has_forbidden_body: bool,
    /// Whether the connection can carry another request after the body has been read.
    pub keep_alive: bool,
    /// `Keep-Alive: timeout=`: for how many seconds the pod keeps an idle connection.
    pub keep_alive_s: Option<u32>,
    pub content_type: Option<Span>,
    /// `Content-Encoding`, unless it is empty or `identity`.
    pub content_encoding: Option<Span>,
    pub retry_after: Option<Span>,
    /// Whether there is an `X-Cold-Start: true`.
    pub cold_start: bool,
    /// `X-Init-Duration-Ms`, in milliseconds; none if the value is not a whole number of at most 32
    /// bits.
    pub init_duration_ms: Option<u32>,
    /// The first `X-Execution-Id`: the call that this answer belongs to.
    pub execution_id: Option<Span>,
    /// Whether there is more than one `X-Execution-Id`. Their values may differ.
    pub has_several_ids: bool,
    /// Whether there is an `X-Not-Started: true`: the pod did not begin the call.
    pub not_started: bool,
    /// Whether the version and `Connection` keep the connection open. Unlike `keep_alive`, this is
    /// also true for a body that ends only when the connection closes. It is false after a
    /// forbidden body.
    pub persistent: bool,
}

/// Parses the head at the start of `bytes`. Returns none if the head is not complete yet; call the
/// function again with the same `scan` when more bytes have come, so that the search continues
/// where it ended. The answer after an interim answer needs a new `scan`.
pub fn parse_response(
    bytes: &[u8],
    scan: &mut HeadScan,
) -> Result<Option<ResponseHead>, ParseError> {
    // After an incomplete head only the slow path is used, because the fast path would read all
    // bytes again.
    if *scan == HeadScan::default()
        && let Some(head) = parse_fast(bytes)
    {
        return Ok(Some(head));
    }
    parse_slow(bytes, scan, false)
}

/// Parses the head of the answer to a request that asked for another protocol. Unlike `parse_response`, it
/// accepts a 101, after which the connection belongs to that protocol.
pub fn parse_upgrade_response(
    bytes: &[u8],
    scan: &mut HeadScan,
) -> Result<Option<ResponseHead>, ParseError> {
    parse_slow(bytes, scan, true)
}

/// Parses a complete head with nothing unusual in it. Returns none for every other head.
fn parse_fast(bytes: &[u8]) -> Option<ResponseHead> {
    let status = match bytes.strip_prefix(b"HTTP/1.1 ")? {
        [a @ b'1'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', b' ', ..] => [a, b, c],
        _ => return None,
    };
    let status = status
        .into_iter()
        .fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
    let end = byte_scan::first::<byte_scan::Control>(bytes, STATUS_END);
    if end > START_LINE_MAX || bytes.get(end..end + 2)? != b"\r\n" {
        return None;
    }
    let mut head = ResponseHead::new(status);
    let mut framing_headers = FramingHeaders::default();
    let end = fast_path::headers(bytes, end + 2, |name, value| {
        head.take(bytes, name, value, &mut framing_headers).ok()
    })?;
    head.finish(end, 1, &framing_headers, false).ok()?;
    Some(head)
}

/// Parses any head: first the line discipline, then httparse, then the headers that have a meaning
/// here.
fn parse_slow(
    bytes: &[u8],
    scan: &mut HeadScan,
    may_switch: bool,
) -> Result<Option<ResponseHead>, ParseError> {
    // `scan` reports a first line over its limit as a target that is too long. An answer has no
    // target, so an error about the status line replaces it.
    let end = scan.end(bytes, false).map_err(|error| match error {
        ParseError::TargetTooLong => ParseError::Malformed("the status line is over 8 KiB"),
        error => error,
    })?;
    let Some(end) = end else {
        return Ok(None);
    };
    let bytes = &bytes[..end];
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        bytes,
        &mut headers,
    );
    let version = bytes.split(|&byte| byte == b' ').next().unwrap_or_default();
    // The line discipline and httparse must find the same end, because a difference could hide a
    // second message.
    match parsed.map_err(|error| ParseError::of_httparse(error, version))? {
        httparse::Status::Complete(length) if length == end => {}
        _ => return Err(ParseError::Malformed("the answer's head has no sound end")),
    }
    let (Some(status @ 100..=599), Some(minor)) = (response.code, response.version) else {
        return Err(ParseError::Malformed(
            "the answer's status must be from 100 to 599",
        ));
    };
    let mut head = ResponseHead::new(status);
    let mut framing_headers = FramingHeaders::default();
    for header in response.headers.iter() {
        head.take(
            bytes,
            header.name.as_bytes(),
            header.value,
            &mut framing_headers,
        )?;
    }
    head.finish(end, minor, &framing_headers, may_switch)?;
    Ok(Some(head))
}

fn body_of(status: u16, framing: Framing) -> ResponseBody {
    match (status, framing) {
        (100..=199 | 204 | 304, _) => ResponseBody::None,
        (_, Framing::None) => ResponseBody::UntilClose,
        (_, Framing::Length(length)) => ResponseBody::Length(length),
        (_, Framing::Chunked) => ResponseBody::Chunked,
    }
}

impl ResponseHead {
    const fn new(status: u16) -> Self {
        Self {
            len: 0,
            status,
            body: ResponseBody::None,
            has_forbidden_body: false,
            keep_alive: false,
            keep_alive_s: None,
            content_type: None,
            content_encoding: None,
            retry_after: None,
            cold_start: false,
            init_duration_ms: None,
            execution_id: None,
            has_several_ids: false,
            not_started: false,
            persistent: false,
        }
    }

    /// Returns the same head as the answer to a HEAD request: no body follows, whatever the headers
    /// announce (RFC 9112 §6.3).
    #[must_use]
    pub fn to_head_request(mut self) -> Self {
        self.body = ResponseBody::None;
        self.keep_alive = self.persistent;
        self
    }

    /// Sets the fields that depend on several headers. `len` is the head's length.
    fn finish(
        &mut self,
        len: usize,
        minor: u8,
        framing_headers: &FramingHeaders,
        may_switch: bool,
    ) -> Result<(), ParseError> {
        if self.status == 101 && !may_switch {
            return Err(ParseError::Malformed(
                "the pod switched protocols, which nobody asked for",
            ));
        }
        self.len = len;
        let framing = framing_headers.framing(minor)?;
        self.body = body_of(self.status, framing);
        // A 304 may announce the length that a 200 would have (RFC 9110 §8.6).
        self.has_forbidden_body = self.body == ResponseBody::None
            && self.status != 304
            && !matches!(framing, Framing::None | Framing::Length(0));
        // The pod may send the forbidden body anyway, so the connection cannot be used again.
        self.persistent = framing_headers.keep_alive(minor) && !self.has_forbidden_body;
        self.keep_alive = self.persistent && self.body != ResponseBody::UntilClose;
        Ok(())
    }

    fn take(
        &mut self,
        bytes: &[u8],
        name: &[u8],
        value: &[u8],
        framing_headers: &mut FramingHeaders,
    ) -> Result<(), ParseError> {
        match (name.len(), name[0] | 0x20) {
            (10, b'c') if header_value::is_named(name, b"connection") => {
                framing_headers.connection(value)
            }
            (10, b'k') if header_value::is_named(name, b"keep-alive") => {
                self.keep_alive_s = header_value::parse_keep_alive(value).or(self.keep_alive_s);
            }
            (14, b'c') if header_value::is_named(name, b"content-length") => {
                framing_headers.content_length(value)?
            }
            (17, b't') if header_value::is_named(name, b"transfer-encoding") => {
                framing_headers.transfer_encoding(value)?
            }
            (12, b'c') if header_value::is_named(name, b"content-type") => {
                let span = Span::of_piece(bytes, value);
                if self.content_type.replace(span).is_some() {
                    return Err(ParseError::Malformed(
                        "Content-Type is there twice: send it once",
                    ));
                }
            }
            (16, b'c') if header_value::is_named(name, b"content-encoding") => {
                let span = Span::of_piece(bytes, value);
                if !header_value::is_identity(value)
                    && self.content_encoding.replace(span).is_some()
                {
                    return Err(ParseError::Malformed(
                        "Content-Encoding is there twice: send it once",
                    ));
                }
            }
            // The value is only passed on, so a second value is no error, and the first one is used.
            (11, b'r') if header_value::is_named(name, b"retry-after") => {
                self.retry_after
                    .get_or_insert_with(|| Span::of_piece(bytes, value));
            }
            (12, b'x') if header_value::is_named(name, b"x-cold-start") => {
                self.cold_start |= says_true(value)
            }
            (13, b'x') if header_value::is_named(name, b"x-not-started") => {
                self.not_started |= says_true(value)
            }
            (14, b'x') if header_value::is_named(name, b"x-execution-id") => {
                // Several ids are accepted here, because the watchdog removes the ids that its
                // program sent and adds its own.
                self.has_several_ids |= self.execution_id.is_some();
                self.execution_id
                    .get_or_insert_with(|| Span::of_piece(bytes, value));
            }
            (18, b'x') if header_value::is_named(name, b"x-init-duration-ms") => {
                self.init_duration_ms =
                    header_value::digits(value).and_then(|number| u32::try_from(number).ok());
            }
            _ => {}
        }
        Ok(())
    }
}

fn says_true(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"true")
}

#[cfg(test)]
mod tests;
