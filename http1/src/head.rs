//! What a request's head and a pod's answer have in common: where the head ends, which bytes may
//! stand in it, how long the body after it is, whether the connection stays open.
//!
//! It refuses whatever two parsers could read differently, and its verdict depends on the bytes
//! alone, never on how they were split. It opens no socket and keeps no bytes: places in a head are
//! offsets. Called by `request` and `response_head`; `chunked` shares the errors.

use std::num::NonZeroU16;

use crate::byte_scan;
use crate::header_value;

/// A longer head is refused, the empty line at its end included.
pub const HEAD_MAX: usize = 16 * 1024;
/// More header lines are refused.
pub const HEADERS_MAX: usize = 100;
/// A longer request or status line (without its CRLF) is refused.
pub const START_LINE_MAX: usize = 8 * 1024;

// Every place in a head fits a span.
const _: () = assert!(HEAD_MAX <= u16::MAX as usize && START_LINE_MAX < HEAD_MAX);

/// Why a peer's bytes are refused. After any of these the connection cannot be read further: where
/// the next message starts is not known. `reply` alone knows the status of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("{0}")]
    Malformed(&'static str),
    #[error("the head is over 16 KiB or has over 100 headers: send fewer or shorter headers")]
    HeadTooLarge,
    #[error("the request line is over 8 KiB: put data into the body, not into the URL")]
    TargetTooLong,
    #[error("only HTTP/1.1 and HTTP/1.0 are spoken here: send the request as HTTP/1.1")]
    VersionUnsupported,
    #[error("the only transfer coding taken is chunked: send the body without another coding")]
    CodingUnsupported,
    #[error("the only expectation that can be met is 100-continue: send no other Expect")]
    ExpectationFailed,
    #[error("the body is over its limit: send less")]
    BodyTooLarge,
}

/// A piece of a head: offsets from the head's first byte, so it stays right when the buffer moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u16,
    // Nothing of interest ends at byte 0, which lets an absent span cost no more than a span.
    end: NonZeroU16,
}

const _: () = assert!(size_of::<Option<Span>>() == 4);

impl Span {
    /// `piece` must be a part of `head`, as a parser hands it out.
    pub fn of_piece(head: &[u8], piece: &[u8]) -> Self {
        let start = piece.as_ptr().addr() - head.as_ptr().addr();
        Self::new(start, start + piece.len())
    }

    pub fn new(start: usize, end: usize) -> Self {
        assert!(start <= end && end <= HEAD_MAX);
        let end = NonZeroU16::new(end as u16).expect("a piece of a head ends after byte 0");
        Self {
            start: start as u16,
            end,
        }
    }

    /// The bytes meant; `bytes` starts where the head starts.
    #[inline]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[usize::from(self.start)..usize::from(self.end.get())]
    }

    pub fn start(self) -> usize {
        usize::from(self.start)
    }

    pub fn end(self) -> usize {
        usize::from(self.end.get())
    }

    pub fn is_empty(self) -> bool {
        self.start == self.end.get()
    }
}

/// How far a head has been searched for its end. One a head: begin the next with `default()`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadScan {
    /// Bytes before this one need no second look.
    at: u32,
    /// Where the line that `at` stands in began.
    line: u32,
    /// Lines seen, blank ones before the first not counted.
    lines: u16,
    /// An empty line came before the first.
    blank: bool,
}

impl HeadScan {
    /// The head's length once `bytes` holds it whole. Checks the line discipline that httparse
    /// leaves open: CRLF alone ends a line, no line begins with white space, no control bytes.
    /// One empty line before the first is passed over where `blank_first` (RFC 9112 §2.2).
    pub(crate) fn end(
        &mut self,
        bytes: &[u8],
        blank_first: bool,
    ) -> Result<Option<usize>, ParseError> {
        // Bytes past the limit are never looked at, or the verdict would depend on how many came.
        let seen = &bytes[..bytes.len().min(HEAD_MAX)];
        let mut at = self.at as usize;
        loop {
            let line = self.line as usize;
            if at == line && matches!(seen.get(at), Some(b' ' | b'\t')) {
                return Err(ParseError::Malformed(
                    "a header line begins with white space: send each header on one line",
                ));
            }
            at = byte_scan::first::<byte_scan::Control>(seen, at);
            if seen.get(at) == Some(&b'\t') {
                at += 1;
                continue;
            }
            if self.lines == 0 && at - line > START_LINE_MAX {
                return Err(ParseError::TargetTooLong);
            }
            match (seen.get(at), seen.get(at + 1)) {
                (Some(b'\r'), Some(b'\n')) if at > line => {
                    self.lines += 1;
                    if usize::from(self.lines) > HEADERS_MAX + 1 {
                        return Err(ParseError::HeadTooLarge);
                    }
                }
                (Some(b'\r'), Some(b'\n')) if self.lines > 0 => return Ok(Some(at + 2)),
                (Some(b'\r'), Some(b'\n')) if blank_first && !self.blank => self.blank = true,
                (Some(b'\r'), Some(b'\n')) => {
                    return Err(ParseError::Malformed(
                        "empty lines before the message: begin with its first line",
                    ));
                }
                (None, _) | (Some(b'\r'), None) if seen.len() == HEAD_MAX => {
                    return Err(ParseError::HeadTooLarge);
                }
                (None, _) | (Some(b'\r'), None) => {
                    self.at = at as u32;
                    return Ok(None);
                }
                (Some(b'\r'), Some(_)) => {
                    return Err(ParseError::Malformed(
                        "a CR without LF in the head: end lines in CRLF",
                    ));
                }
                (Some(b'\n'), _) => {
                    return Err(ParseError::Malformed(
                        "a LF without CR in the head: end lines in CRLF",
                    ));
                }
                (Some(_), _) => {
                    return Err(ParseError::Malformed(
                        "a control character in the head: send text (is this TLS to a plain port?)",
                    ));
                }
            }
            at += 2;
            self.line = at as u32;
        }
    }
}

/// How long a message's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Nothing was said of a body.
    None,
    /// Bytes.
    Length(u64),
    Chunked,
}

/// Gathers the headers that say where the message ends and what comes after it.
#[derive(Default)]
pub(crate) struct FramingHeaders {
    length: Option<u64>,
    coded: bool,
    chunked: bool,
    other_coding: bool,
    close: bool,
    keep_alive: bool,
}

impl FramingHeaders {
    pub(crate) fn content_length(&mut self, value: &[u8]) -> Result<(), ParseError> {
        if self.length.is_some() {
            return Err(ParseError::Malformed(
                "Content-Length is there twice: send it once",
            ));
        }
        let length = header_value::digits(value).ok_or(ParseError::Malformed(
            "Content-Length must be one whole number of bytes, digits only",
        ))?;
        self.length = Some(length);
        Ok(())
    }

    pub(crate) fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), ParseError> {
        self.coded = true;
        for coding in value.split(|&byte| byte == b',').map(header_value::trim) {
            if coding.is_empty() {
                return Err(ParseError::Malformed(
                    "an empty Transfer-Encoding: send `chunked` or none",
                ));
            }
            if self.chunked {
                return Err(ParseError::Malformed(
                    "chunked must be named once and last in Transfer-Encoding",
                ));
            }
            self.chunked = coding.eq_ignore_ascii_case(b"chunked");
            self.other_coding |= !self.chunked;
        }
        Ok(())
    }

    pub(crate) fn connection(&mut self, value: &[u8]) {
        for option in header_value::list(value) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    pub(crate) fn framing(&self, minor: u8) -> Result<Framing, ParseError> {
        match (self.coded, self.length) {
            (false, None) => Ok(Framing::None),
            (false, Some(length)) => Ok(Framing::Length(length)),
            (true, Some(_)) => Err(ParseError::Malformed(
                "both Content-Length and Transfer-Encoding: send one of them",
            )),
            (true, None) if minor == 0 => Err(ParseError::Malformed(
                "Transfer-Encoding in HTTP/1.0: send Content-Length",
            )),
            (true, None) if !self.chunked => Err(ParseError::Malformed(
                "chunked must be the last in Transfer-Encoding: the body has no end otherwise",
            )),
            (true, None) if self.other_coding => Err(ParseError::CodingUnsupported),
            (true, None) => Ok(Framing::Chunked),
        }
    }

    pub(crate) fn keep_alive(&self, minor: u8) -> bool {
        !self.close && (minor == 1 || self.keep_alive)
    }
}

/// The error of what httparse refuses after the line discipline held. What stands in `version`'s
/// place decides between a version that is not spoken here and something that is not HTTP.
pub(crate) fn error_of(error: httparse::Error, version: &[u8]) -> ParseError {
    use httparse::Error;
    match error {
        Error::Version if is_version(version) => ParseError::VersionUnsupported,
        Error::Version => ParseError::Malformed("the first line is not HTTP: send HTTP/1.1"),
        Error::HeaderName => ParseError::Malformed(
            "a header's name must be letters, digits and -, with the colon right after it",
        ),
        Error::HeaderValue => ParseError::Malformed("a header's value holds a control character"),
        Error::TooManyHeaders => ParseError::HeadTooLarge,
        Error::Token => ParseError::Malformed(
            "the request line must be METHOD /path HTTP/1.1, with single spaces",
        ),
        Error::Status => ParseError::Malformed("the status line must be HTTP/1.1 and a status"),
        Error::NewLine => ParseError::Malformed("the first line goes on after the HTTP version"),
    }
}

fn is_version(word: &[u8]) -> bool {
    match word.strip_prefix(b"HTTP/") {
        Some([major, b'.', minor]) => major.is_ascii_digit() && minor.is_ascii_digit(),
        _ => false,
    }
}
