//! What the heads of requests and answers have in common: their limits, where a head ends, which
//! bytes may stand in it, its header lines.
//!
//! The verdict depends on the bytes alone, never on how they were split. It keeps no bytes: places
//! in a head are offsets. Called by `request` and `response_head`.

use std::num::NonZeroU16;

use crate::byte_scan;
use crate::error::ParseError;
use crate::header_value;

/// A longer head is refused, the empty line at its end included.
pub const HEAD_MAX: usize = 16 * 1024;
/// More header lines are refused.
pub const HEADERS_MAX: usize = 100;
/// A longer request or status line (without its CRLF) is refused.
pub const START_LINE_MAX: usize = 8 * 1024;

// Every place in a head fits a span.
const _: () = assert!(HEAD_MAX <= u16::MAX as usize && START_LINE_MAX < HEAD_MAX);

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
            // Before the match below: a line that is too long is refused before its end came, so that
            // the verdict is the same when the rest comes later.
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
                // The CR is looked at again with the byte after it.
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

/// The header lines of a head that was parsed, each as its name and its value without the white
/// space around it. Of bytes that were refused it gives what can be told apart, unchecked.
pub fn header_lines(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut start = 0;
    let lines = memchr::memchr_iter(b'\n', head).map(move |end| {
        let line = &head[start..end];
        start = end + 1;
        line
    });
    lines.skip(1).filter_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        let value = &line[colon + 1..];
        let value = value.strip_suffix(b"\r").unwrap_or(value);
        Some((&line[..colon], header_value::trim(value)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_head_are_told_apart() {
        let of =
            |head: &'static str| -> Vec<(&[u8], &[u8])> { header_lines(head.as_bytes()).collect() };
        assert_eq!(
            of("GET / HTTP/1.1\r\nA: b \r\nC:\td:e\r\nF:\r\n\r\n"),
            [
                (&b"A"[..], &b"b"[..]),
                (&b"C"[..], &b"d:e"[..]),
                (&b"F"[..], &b""[..])
            ]
        );
        assert_eq!(of("a: b\r\n\r\n"), []);
        // Refused before: what is left of it.
        assert_eq!(of("\nA : b\rc\n\n x:"), [(&b"A "[..], &b"b\rc"[..])]);
    }
}
