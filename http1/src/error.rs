//! The errors that say why a peer's bytes are refused: one for heads and chunked bodies, and one for values.
//!
//! This module writes no answer: `status` returns the HTTP status of a `ParseError`, `Display`
//! gives the text of either error, and the caller writes the answer.

use std::error::Error;
use std::fmt;

/// Why a message cannot be read. After any of these errors the connection cannot be read further,
/// because the start of the next message is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// The bytes are not HTTP/1.1, or two parsers could read them differently.
    Malformed(&'static str),
    HeadTooLarge,
    TargetTooLong,
    VersionUnsupported,
    CodingUnsupported,
    ExpectationFailed,
    BodyTooLarge,
}

/// An invalid value. The text says which values are allowed. The connection stays usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueError(pub &'static str);

impl ParseError {
    /// Returns the status of the answer to the refused request.
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::BodyTooLarge => 413,
            Self::TargetTooLong => 414,
            Self::ExpectationFailed => 417,
            Self::HeadTooLarge => 431,
            // RFC 9112 §6.1 asks for this status.
            Self::CodingUnsupported => 501,
            Self::VersionUnsupported => 505,
        }
    }

    /// Returns the error for a head that passes the line discipline but that httparse refuses.
    /// `version` is the text at the position of the version. This text decides between an
    /// unsupported version and a message that is not HTTP.
    pub(crate) fn of_httparse(error: httparse::Error, version: &[u8]) -> Self {
        use httparse::Error;
        match error {
            Error::Version if is_version(version) => Self::VersionUnsupported,
            Error::Version => Self::Malformed("the first line is not HTTP: send HTTP/1.1"),
            Error::HeaderName => Self::Malformed(
                "a header's name must be letters, digits and -, with the colon right after it",
            ),
            Error::HeaderValue => Self::Malformed("a header's value holds a control character"),
            Error::TooManyHeaders => Self::HeadTooLarge,
            Error::Token => Self::Malformed(
                "the request line must be METHOD /path HTTP/1.1, with single spaces",
            ),
            Error::Status => Self::Malformed("the status line must be HTTP/1.1 and a status"),
            Error::NewLine => Self::Malformed("the first line goes on after the HTTP version"),
        }
    }
}

fn is_version(word: &[u8]) -> bool {
    match word.strip_prefix(b"HTTP/") {
        Some([major, b'.', minor]) => major.is_ascii_digit() && minor.is_ascii_digit(),
        _ => false,
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Malformed(why) => why,
            Self::HeadTooLarge => {
                "the head is over 16 KiB or has over 100 headers: send fewer or shorter headers"
            }
            Self::TargetTooLong => {
                "the request line is over 8 KiB: put data into the body, not into the URL"
            }
            Self::VersionUnsupported => {
                "only HTTP/1.1 and HTTP/1.0 are spoken here: send the request as HTTP/1.1"
            }
            Self::CodingUnsupported => {
                "the only transfer coding taken is chunked: send the body without another coding"
            }
            Self::ExpectationFailed => {
                "the only expectation that can be met is 100-continue: send no other Expect"
            }
            Self::BodyTooLarge => "the body is over its limit: send less",
        })
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0)
    }
}

impl Error for ParseError {}

impl Error for ValueError {}
