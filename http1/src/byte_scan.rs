//! Finds the first byte that is in a given set: eight bytes at a time in one word, and in long pieces many
//! bytes at once.
//!
//! The code is plain arithmetic, so it needs neither intrinsics nor unsafe code. On the short
//! pieces of heads and JSON this arithmetic is faster than vector compares; for long pieces the
//! compiler, or memchr, uses vectors. The search is the inner loop of `head`, `fast_path`,
//! `request`, `response_head`, and the JSON reader of `io`.

const ONES: u64 = u64::MAX / 0xff;
const HIGHS: u64 = ONES << 7;

/// A set of bytes that end a search.
pub trait ByteSet {
    /// Searches eight bytes at once, the lowest byte first. In the result, bit 7 of the first byte
    /// that is in the set is 1, and bit 7 of every byte before it is 0. All other bits have no
    /// meaning.
    fn find_in_word(word: u64) -> u64;

    /// Returns whether one byte is in the set. An implementation must have no branch, so that the compiler
    /// can check many bytes at once.
    fn contains(byte: u8) -> bool;

    /// Returns how many bytes at the start of `bytes` are not in the set. The result may be too
    /// small, but not too large. `first` calls `skip` for the rest of a long piece.
    #[inline(always)]
    fn skip(bytes: &[u8]) -> usize {
        let (blocks, _) = bytes.as_chunks::<32>();
        let stops = |block: &[u8; 32]| {
            block
                .iter()
                .fold(0, |any, byte| any | u8::from(Self::contains(*byte)))
        };
        32 * blocks
            .iter()
            .position(|block| stops(block) != 0)
            .unwrap_or(blocks.len())
    }
}

/// The size, in bytes, of the parts in which memchr searches a long text. A large part makes the
/// search fast. A small part limits how far memchr searches past a control character, at which the
/// result ends.
const WINDOW: usize = 256;

/// Control characters, including the tab.
pub struct Control;

impl ByteSet for Control {
    #[inline(always)]
    fn find_in_word(word: u64) -> u64 {
        below(word, b' ') | equal(word, 0x7f)
    }

    #[inline(always)]
    fn contains(byte: u8) -> bool {
        (byte < b' ') | (byte == 0x7f)
    }
}

/// The bytes that end a word: the space and control characters.
pub struct WordEnd;

impl ByteSet for WordEnd {
    #[inline(always)]
    fn find_in_word(word: u64) -> u64 {
        below(word, b'!') | equal(word, 0x7f)
    }

    #[inline(always)]
    fn contains(byte: u8) -> bool {
        (byte < b'!') | (byte == 0x7f)
    }
}

/// The bytes at which a JSON string cannot simply be skipped: its end, an escape, a control
/// character.
pub struct JsonRunEnd;

impl ByteSet for JsonRunEnd {
    #[inline(always)]
    fn find_in_word(word: u64) -> u64 {
        equal(word, b'"') | equal(word, b'\\') | below(word, b' ')
    }

    #[inline(always)]
    fn contains(byte: u8) -> bool {
        (byte == b'"') | (byte == b'\\') | (byte < b' ')
    }

    /// Uses memchr, which uses the widest vectors that the machine has.
    fn skip(bytes: &[u8]) -> usize {
        let mut at = 0;
        for window in bytes.chunks(WINDOW) {
            let end = memchr::memchr2(b'"', b'\\', window).unwrap_or(window.len());
            // memchr cannot search for a range of bytes. The lowest byte before the match therefore shows
            // whether a control character comes before the match.
            let lowest = window[..end]
                .iter()
                .fold(u8::MAX, |lowest, byte| lowest.min(*byte));
            if lowest < b' ' {
                break;
            }
            at += end;
            if end < window.len() {
                break;
            }
        }
        at
    }
}

/// Bytes that a request's target must not hold, although httparse accepts them: `#`, and bytes that are not
/// ASCII.
pub struct Foreign;

impl ByteSet for Foreign {
    #[inline(always)]
    fn find_in_word(word: u64) -> u64 {
        // Bit 7 is 1 in exactly the bytes that are not ASCII, so the word itself marks them.
        equal(word, b'#') | word
    }

    #[inline(always)]
    fn contains(byte: u8) -> bool {
        (byte == b'#') | (byte >= 0x80)
    }
}

/// The bytes that end a target's path: the `?` of its query, and the bytes that a target must not hold.
pub struct PathEnd;

impl ByteSet for PathEnd {
    #[inline(always)]
    fn find_in_word(word: u64) -> u64 {
        equal(word, b'?') | Foreign::find_in_word(word)
    }

    #[inline(always)]
    fn contains(byte: u8) -> bool {
        (byte == b'?') | Foreign::contains(byte)
    }
}

/// Sets bit 7 of each byte below `limit`, which is at most 0x80. The subtraction for a match
/// borrows from the next higher byte, so only the first mark is sure to be right.
#[inline(always)]
fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(ONES * u64::from(limit)) & !word
}

/// Sets bit 7 of each byte that equals `byte`. As in `below`, only the first mark is sure to be
/// right.
#[inline(always)]
fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ (ONES * u64::from(byte)), 1)
}

/// Returns the offset of the first byte in the set, at or after `from`; `bytes.len()` if no byte is
/// in the set.
#[inline(always)]
pub fn first<S: ByteSet>(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    let long = from + 32;
    while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        // `from_le_bytes` makes the first byte the lowest of the word, so `trailing_zeros` finds
        // the first match.
        let stops = S::find_in_word(u64::from_le_bytes(*word)) & HIGHS;
        // This is a branch and not arithmetic, so that the CPU loads the next word before this
        // result is known.
        if stops != 0 {
            return at + stops.trailing_zeros() as usize / 8;
        }
        at += size_of::<u64>();
        // A piece counts as long if its first 32 bytes have no match.
        if at == long {
            at += S::skip(&bytes[at..]);
        }
    }
    while at < bytes.len() && !S::contains(bytes[at]) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds<S: ByteSet>() {
        let stop = (0..=255)
            .find(|byte| S::contains(*byte))
            .expect("a byte that ends");
        for length in (0..80).chain([WINDOW + 32, 2 * WINDOW + 40]) {
            for place in 0..=length {
                let mut bytes = vec![b'a'; length];
                for byte in bytes.iter_mut().skip(place) {
                    *byte = stop;
                }
                for from in (0..=length).step_by(1 + length / 80 * 7) {
                    let found = first::<S>(&bytes, from);
                    assert_eq!(found, place.max(from), "length {length} from {from}");
                }
            }
        }
    }

    #[test]
    fn the_first_stop_is_found_anywhere() {
        finds::<Control>();
        finds::<WordEnd>();
        finds::<JsonRunEnd>();
        finds::<Foreign>();
        finds::<PathEnd>();
    }

    fn stops_on<S: ByteSet>(meant: impl Fn(u8) -> bool) {
        for byte in 0..=255u8 {
            assert_eq!(S::contains(byte), meant(byte), "{byte}");
            for around in [b' ', b'!', 0x7e, 0x80, 0xff]
                .into_iter()
                .filter(|byte| !meant(*byte))
            {
                for place in 0..48 {
                    let mut bytes = [around; 51];
                    bytes[place] = byte;
                    let expected = if meant(byte) { place } else { bytes.len() };
                    assert_eq!(first::<S>(&bytes, 0), expected, "{byte} among {around}");
                    let end = first::<S>(&bytes[..=place], place);
                    assert_eq!(end, expected.min(place + 1));
                }
            }
        }
    }

    #[test]
    fn only_stop_bytes_stop_whatever_surrounds_them() {
        stops_on::<Control>(|byte| byte.is_ascii_control());
        stops_on::<WordEnd>(|byte| byte.is_ascii_control() || byte == b' ');
        stops_on::<JsonRunEnd>(|byte| byte < 0x20 || matches!(byte, b'"' | b'\\'));
        stops_on::<Foreign>(|byte| byte == b'#' || !byte.is_ascii());
        stops_on::<PathEnd>(|byte| matches!(byte, b'#' | b'?') || !byte.is_ascii());
    }
}
