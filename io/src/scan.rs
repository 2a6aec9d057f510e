//! Finds the first byte of a kind, sixteen bytes at a time.
//!
//! Plain Rust in the one shape that compiles to vector compares on every target (a mask byte per
//! input byte, read back as one integer), so it needs no intrinsics and nothing unsafe. Called by
//! `head` and `json`, whose inner loops it is.

const BLOCK: usize = 16;

/// The place in the block of the first byte that `stop` holds for; 16 when there is none.
#[inline(always)]
pub(crate) fn first_in_block(block: &[u8; BLOCK], stop: impl Fn(u8) -> bool) -> usize {
    let mut mask = [0u8; BLOCK];
    for (mark, &byte) in mask.iter_mut().zip(block) {
        *mark = if stop(byte) { 0xff } else { 0 };
    }
    u128::from_le_bytes(mask).trailing_zeros() as usize / 8
}

/// The offset at or after `from` of the first byte that `stop` holds for; `bytes.len()` when there
/// is none.
#[inline(always)]
pub(crate) fn first(bytes: &[u8], from: usize, stop: impl Fn(u8) -> bool + Copy) -> usize {
    let mut at = from;
    while let Some(block) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let place = first_in_block(block, stop);
        at += place;
        if place < BLOCK {
            return at;
        }
    }
    while at < bytes.len() && !stop(bytes[at]) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_stop_at_every_place_and_length() {
        for length in 0..70 {
            for place in 0..=length {
                let mut bytes = vec![b'a'; length];
                for byte in bytes.iter_mut().skip(place) {
                    *byte = b'!';
                }
                for from in 0..=length {
                    let found = first(&bytes, from, |byte| byte == b'!');
                    assert_eq!(found, place.max(from), "length {length} from {from}");
                }
            }
        }
    }

    #[test]
    fn stops_on_exactly_the_bytes_asked_for() {
        for byte in 0..=255u8 {
            let block = [byte; BLOCK];
            let found = first_in_block(&block, |byte| byte < 0x20 || byte == b'"');
            assert_eq!(found == 0, byte < 0x20 || byte == b'"', "byte {byte}");
        }
    }
}
