//! Determines where a message ends and whether its connection stays open, from `Content-Length`,
//! `Transfer-Encoding` and `Connection` together (RFC 9112 §6 and §9.3).
//!
//! A message whose length two parsers could read differently is refused, because the second parser
//! could take a part of it for another message. Examples are a message with both `Content-Length`
//! and `Transfer-Encoding`, two lengths, a list of lengths, a coding after `chunked`, and a coding
//! in HTTP/1.0. This module reads no body. `request` and `response_head` call it.

use crate::error::ParseError;
use crate::header_value;

/// The length of a message's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No header announces a body.
    None,
    /// `Content-Length`, in bytes.
    Length(u64),
    Chunked,
}

/// Collects the headers that determine where the message ends and whether the connection stays
/// open.
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
            // `chunked` is kept across lines, because several `Transfer-Encoding` lines form one
            // list.
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
            // RFC 9112 §6.3 would allow this parser to use the coding. But a proxy in front of it
            // may use the length, and then take a part of the body for the next message.
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
