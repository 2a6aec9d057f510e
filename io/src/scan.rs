//! Finds the first byte of a kind, eight bytes at a time in one word.
//!
//! Plain arithmetic, so it needs no intrinsics and nothing unsafe, and answers sooner than vector
//! compares do on the short pieces that heads and JSON are made of. Called by `head` and `json`,
//! whose inner loops it is.

const ONES: u64 = u64::MAX / 0xff;
const HIGHS: u64 = ONES << 7;

/// Tells for eight bytes at once which of them end a search: bit 7 of a byte is set for the first
/// that does; what the bytes after it show means nothing.
pub(crate) trait Stop: Copy {
    fn in_word(self, word: u64) -> u64;
}

impl<F: Fn(u64) -> u64 + Copy> Stop for F {
    #[inline(always)]
    fn in_word(self, word: u64) -> u64 {
        self(word) & HIGHS
    }
}

/// Bytes below `limit`, which is at most 0x80.
#[inline(always)]
pub(crate) fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(ONES * u64::from(limit)) & !word
}

/// Bytes equal to `byte`.
#[inline(always)]
pub(crate) fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ (ONES * u64::from(byte)), 1)
}

/// The offset at or after `from` of the first byte that `stop` tells; `bytes.len()` when there is
/// none.
#[inline(always)]
pub(crate) fn first(bytes: &[u8], from: usize, stop: impl Stop) -> usize {
    let mut at = from;
    while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let stops = stop.in_word(u64::from_le_bytes(*word));
        // A branch, so that the next word is loaded before this one's verdict is in.
        if stops != 0 {
            return at + stops.trailing_zeros() as usize / 8;
        }
        at += size_of::<u64>();
        // What is long goes four words at a time, as far as there is nothing in any of them.
        while let Some(block) = bytes.get(at..).and_then(<[u8]>::first_chunk::<32>) {
            let mut stops = 0;
            for word in block.chunks_exact(8) {
                stops |= stop.in_word(u64::from_le_bytes(word.try_into().expect("eight bytes")));
            }
            if stops != 0 {
                break;
            }
            at += block.len();
        }
    }
    while at < bytes.len() && stop.in_word(u64::from(bytes[at])) & 0x80 == 0 {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_stop_at_every_place_and_length() {
        for length in 0..40 {
            for place in 0..=length {
                let mut bytes = vec![b'a'; length];
                for byte in bytes.iter_mut().skip(place) {
                    *byte = b'!';
                }
                for from in 0..=length {
                    let found = first(&bytes, from, |word| equal(word, b'!'));
                    assert_eq!(found, place.max(from), "length {length} from {from}");
                }
            }
        }
    }

    #[test]
    fn stops_on_exactly_the_bytes_asked_for_whatever_stands_around_them() {
        let stop = |word| below(word, 0x20) | equal(word, b'"') | equal(word, 0x7f);
        for byte in 0..=255u8 {
            let stops = byte < 0x20 || byte == b'"' || byte == 0x7f;
            for around in [b' ', b'!', 0x7e, 0x80, 0xff] {
                for place in 0..8 {
                    let mut bytes = [around; 11];
                    bytes[place] = byte;
                    let expected = if stops { place } else { bytes.len() };
                    assert_eq!(first(&bytes, 0, stop), expected, "{byte} among {around}");
                    assert_eq!(
                        first(&bytes[..=place], place, stop),
                        expected.min(place + 1)
                    );
                }
            }
        }
    }
}
