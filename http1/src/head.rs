//! The common parts of requests' and answers' heads: their limits, the search for their end, the
//! bytes that they may hold, and their header lines.
//!
//! The outcome depends on the bytes alone, not on how they were split. This module keeps no bytes; positions
//! in a head are offsets. `request` and `response_head` call it; other crates use `header_lines` and `Span`.

use std::num::NonZeroU16;

use crate::byte_scan;
use crate::error::ParseError;
use crate::header_value;

/// The limit of a head in bytes, with the empty line at its end.
pub const HEAD_MAX: usize = 16 * 1024;
/// The limit of the number of header lines.
pub const HEADERS_MAX: usize = 100;
/// The limit of the request line or status line in bytes, without its CRLF.
pub const START_LINE_MAX: usize = 8 * 1024;

// A span stores offsets in 16 bits.
const _: () = assert!(HEAD_MAX <= u16::MAX as usize && START_LINE_MAX < HEAD_MAX);

/// A part of a head: offsets from the head's first byte, so that the span stays valid when the
/// buffer moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u16,
    // No span ends at byte 0, so `NonZeroU16` makes an `Option<Span>` as small as a span.
    end: NonZeroU16,
}

const _: () = assert!(size_of::<Option<Span>>() == 4);

impl Span {
    /// Returns the span of `piece`, which must be a part of `head`.
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

    /// Returns the bytes of the span. `bytes` must start where the head starts.
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

/// How far a head has been searched for its end. Use `default()` for the next head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadScan {
    /// The bytes before this offset have been checked.
    at: u32,
    /// The offset at which the line that contains `at` begins.
    line: u32,
    /// The number of complete lines, without an empty line before the first.
    lines: u16,
    /// Whether an empty line came before the first line.
    blank: bool,
}

impl HeadScan {
    /// Returns the head's length, or none if `bytes` does not yet hold the whole head. Checks the
    /// line discipline, which httparse does not check: only CRLF ends a line, no line begins with
    /// white space, and no line holds a control character other than the tab. With `blank_first`,
    /// one empty line before the first line is skipped (RFC 9112 §2.2).
    pub(crate) fn end(
        &mut self,
        bytes: &[u8],
        blank_first: bool,
    ) -> Result<Option<usize>, ParseError> {
        // Bytes after the limit are ignored, because the outcome must not depend on how many have
        // arrived.
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
            // The tab is the only control character that may be in a line.
            if seen.get(at) == Some(&b'\t') {
                at += 1;
                continue;
            }
            // This check comes before the match, so that a first line that is too long is refused even if its
            // end has not arrived. The outcome must not depend on how the bytes were split.
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
                // A CR at the end of the bytes is checked again when the next byte has arrived.
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

/// Returns the name and the value of each header line, without the white space around the value. Lines
/// without a colon are skipped. `head` may also be a head that was refused; its lines are then returned
/// unchecked.
pub fn header_lines(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    // An empty line may come before the first line of a request (RFC 9112 §2.2).
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
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
        assert_eq!(
            of("\r\nGET /a:b HTTP/1.1\r\nC: d\r\n\r\n"),
            [(&b"C"[..], &b"d"[..])]
        );
        // Of a refused head, only the lines with a colon are returned.
        assert_eq!(of("\nA : b\rc\n\n x:"), [(&b"A "[..], &b"b\rc"[..])]);
    }
}
