//! Writes the chunks of a chunked body (RFC 9112 §7.1). The size of a chunk is filled in after its data.

use crate::runtime::buffers::Buffers;

/// The number of hexadecimal digits of a chunk's size. Leading zeros are allowed, so `after` writes eight
/// zeros, and `end` replaces them by the size.
const SIZE: usize = 8;
const BEFORE: usize = SIZE + 2;
const LAST: &[u8] = b"0\r\n\r\n";

pub(crate) struct Chunks {
    out: Vec<u8>,
    /// The position in `out` at which the chunk begins.
    at: usize,
}

impl Chunks {
    /// Begins a chunk in a buffer with room for `data` bytes of data.
    pub(crate) fn begin(buffers: &Buffers, data: usize) -> Self {
        Self::after(buffers.take(data + BEFORE + 2 + LAST.len()))
    }

    /// Begins a chunk behind the bytes of `out`, which are sent before the chunk.
    pub(crate) fn after(mut out: Vec<u8>) -> Self {
        let at = out.len();
        out.extend_from_slice(b"00000000\r\n");
        Self { out, at }
    }

    /// Returns the buffer, to which the caller appends the chunk's data.
    pub(crate) const fn data(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Ends the chunk, and also the body if `is_last`. A chunk without data is left out, because the size 0
    /// ends the body.
    pub(crate) fn end(self, is_last: bool) -> Vec<u8> {
        let Self { mut out, at } = self;
        let size = out.len() - at - BEFORE;
        if size == 0 {
            out.truncate(at);
        } else {
            let mut left = size;
            for digit in out[at..at + SIZE].iter_mut().rev() {
                *digit = b"0123456789abcdef"[left % 16];
                left /= 16;
            }
            out.extend_from_slice(b"\r\n");
        }
        if is_last {
            out.extend_from_slice(LAST);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_framed_by_its_size() {
        let buffers = Buffers::default();
        let of = |data: &[u8], is_last| {
            let mut chunk = Chunks::after(b"before ".to_vec());
            chunk.data().extend_from_slice(data);
            chunk.end(is_last)
        };
        assert_eq!(of(b"", false), b"before ");
        assert_eq!(of(b"", true), b"before 0\r\n\r\n");
        assert_eq!(
            of(&[b'a'; 0x1f], false),
            [&b"before 0000001f\r\n"[..], &[b'a'; 0x1f], b"\r\n"].concat()
        );
        assert_eq!(of(b"a", true), b"before 00000001\r\na\r\n0\r\n\r\n");
        assert!(Chunks::begin(&buffers, 4).end(false).is_empty());
    }
}
