//! The fast path of parsing a head, which reads each byte once. It accepts only complete heads with
//! nothing unusual, and gives them the same result as the slow path would. For every other head it
//! returns no result, and `request` and `response_head` use the slow path: line discipline first,
//! then httparse.

use crate::byte_scan::{self, Control};
use crate::head::{HEAD_MAX, HEADERS_MAX};

/// Calls `take` with the name and the value of each header line; the first line begins at offset
/// `at`. Returns the offset after the empty line that ends the head. Returns none if a line is
/// unusual or `take` refuses it.
#[inline(always)]
pub(crate) fn headers<'b>(
    bytes: &'b [u8],
    at: usize,
    mut take: impl FnMut(&'b [u8], &'b [u8]) -> Option<()>,
) -> Option<usize> {
    // The slow path has the same limit, so the fast path accepts no head that the slow path
    // refuses.
    let seen = &bytes[..bytes.len().min(HEAD_MAX)];
    let mut at = at;
    // The loop has one round more than the limit of headers, because the empty line needs a round
    // too.
    for _ in 0..=HEADERS_MAX {
        if seen.get(at..at + 2)? == b"\r\n" {
            return Some(at + 2);
        }
        let colon = name_end(seen, at)?;
        // The tab is a control character too, so a value with a tab takes the slow path.
        let mut end = byte_scan::first::<Control>(seen, colon);
        if seen.get(end..end + 2)? != b"\r\n" {
            return None;
        }
        let next = end + 2;
        let mut start = colon + 1;
        // `seen[end]` is a CR, so this loop ends there at the latest.
        while seen[start] == b' ' {
            start += 1;
        }
        while end > start && seen[end - 1] == b' ' {
            end -= 1;
        }
        // An empty value takes the slow path too.
        if start == end {
            return None;
        }
        take(&seen[at..colon], &seen[start..end])?;
        at = next;
    }
    None
}

/// Returns the offset of the colon that ends the header's name at `at`; none if the name is empty
/// or not a token.
#[inline(always)]
fn name_end(seen: &[u8], at: usize) -> Option<usize> {
    let mut end = at;
    while IN_NAME[usize::from(*seen.get(end)?)] {
        end += 1;
    }
    (seen[end] == b':' && end > at).then_some(end)
}

/// The bytes that a token may hold (RFC 9110 §5.6.2).
static IN_NAME: [bool; 256] = {
    let (mut table, mut byte) = ([false; 256], 0);
    while byte < table.len() {
        table[byte] = matches!(
            byte as u8,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\''
                | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        );
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<(usize, Vec<(&str, &str)>)> {
        let mut lines = Vec::new();
        let as_text = |bytes| str::from_utf8(bytes).expect("text");
        let end = headers(text.as_bytes(), 0, |name, value| {
            lines.push((as_text(name), as_text(value)));
            Some(())
        });
        end.map(|end| (end, lines))
    }

    #[test]
    fn only_plain_heads_are_taken() {
        let plain = "a: b\r\nC-d:e f \r\nX:  y:z\r\n\r\nbody";
        let lines = vec![("a", "b"), ("C-d", "e f"), ("X", "y:z")];
        assert_eq!(of(plain), Some((plain.len() - 4, lines)));
        assert_eq!(of("\r\n"), Some((2, Vec::new())));
        for end in 0..plain.len() - 4 {
            assert_eq!(of(&plain[..end]), None, "{end} bytes");
        }
        for other in [
            "a\r\n\r\n",
            ": b\r\n\r\n",
            "a : b\r\n\r\n",
            "a:\r\n\r\n",
            "a:  \r\n\r\n",
            "a: b\n\r\n",
            "a: b\rc\r\n\r\n",
            "a: b\tc\r\n\r\n",
            "a: b\r\n c\r\n\r\n",
            "a: b\u{7f}\r\n\r\n",
        ] {
            assert_eq!(of(other), None, "{other:?}");
        }
        let most = "a: b\r\n".repeat(HEADERS_MAX);
        assert!(of(&format!("{most}\r\n")).is_some());
        assert_eq!(of(&format!("{most}a: b\r\n\r\n")), None);
    }
}
