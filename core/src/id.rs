//! Makes and parses the ids of executions, and makes the names of pods and Jobs and the tokens of pods. An id
//! consists of lower-case letters and digits. It spells the number of the io thread that owns the execution,
//! the place of the execution's record on that thread, and 128 random bits. The random bits are an argument.

use crate::shard::ShardId;

/// The number of characters of an id: 2 for the thread, 3 for the place, 26 for the 128 random bits.
pub const ID_LEN: usize = 31;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The name of an execution in the API: 31 characters of Crockford's base 32, in lower case.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExecutionId {
    random: u128,
    shard: ShardId,
    place: u16,
}

impl ExecutionId {
    /// Makes an id. `random` must be unguessable, the number of `shard` below 1024, and `place` below 32,768.
    pub const fn new(random: u128, shard: ShardId, place: u16) -> Self {
        assert!(shard.number() < 1 << 10 && place < 1 << 15);
        Self {
            random,
            shard,
            place,
        }
    }

    /// Returns the io thread that owns the execution. A client may invent an id, so this io thread may not
    /// exist.
    pub const fn shard(self) -> ShardId {
        self.shard
    }

    /// Returns the place of the record on its io thread. The record itself may be gone.
    pub const fn place(self) -> u16 {
        self.place
    }

    /// Returns the random bits, which identify the execution on its io thread.
    pub const fn random(self) -> u128 {
        self.random
    }

    /// Returns the id as text.
    pub fn text(self) -> [u8; ID_LEN] {
        let mut text = [0; ID_LEN];
        spell(
            &mut text[..5],
            u64::from(self.shard.number()) << 15 | u64::from(self.place),
        );
        // `spell` gets the bits in words of 64 bits, which one instruction can shift. Twelve letters take 60
        // bits.
        const LETTERS: u128 = (1 << 60) - 1;
        spell(&mut text[5..7], (self.random >> 120) as u64);
        spell(&mut text[7..19], (self.random >> 60 & LETTERS) as u64);
        spell(&mut text[19..], (self.random & LETTERS) as u64);
        text
    }

    /// Returns the id that `text` spells; none if `text` is not a valid id.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != ID_LEN {
            return None;
        }
        let value = |place: u8| ALPHABET.iter().position(|letter| *letter == place);
        let number = |letters: &[u8]| {
            letters.iter().try_fold(0u128, |bits, letter| {
                Some(bits << 5 | value(*letter)? as u128)
            })
        };
        let shard = ShardId::new(u16::try_from(number(&text[..2])?).ok()?);
        let place = u16::try_from(number(&text[2..5])?).ok()?;
        // 26 letters have 130 bits, so only the lowest three bits of the first letter may be set.
        value(text[5]).filter(|first| *first < 8)?;
        Some(Self {
            random: number(&text[5..])?,
            shard,
            place,
        })
    }
}

#[inline(always)]
fn spell(letters: &mut [u8], mut bits: u64) {
    for letter in letters.iter_mut().rev() {
        *letter = ALPHABET[(bits & 31) as usize];
        bits >>= 5;
    }
}

impl std::fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.text()
            .iter()
            .try_for_each(|letter| write!(f, "{}", char::from(*letter)))
    }
}

impl std::fmt::Debug for ExecutionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Makes the name of a pod or a Job: `fn-<function>-` and `N` random letters. A pod's name has 5, a Job's
/// more.
pub fn pod_name<const N: usize>(function: &str, random: [u8; N]) -> String {
    let letters = random.map(|byte| char::from(ALPHABET[usize::from(byte & 31)]));
    format!("fn-{function}-{}", letters.iter().collect::<String>())
}

/// Makes the token by which a pod proves that a report is its own: 128 unguessable bits as 32 hexadecimal
/// digits.
pub fn pod_token(random: u128) -> String {
    format!("{random:032x}")
}

/// Returns whether two tokens are equal. The time of the comparison does not depend on where the tokens
/// differ, and so reveals no part of a token.
pub fn is_same_token(ours: &str, theirs: &str) -> bool {
    let pairs = ours.bytes().zip(theirs.bytes());
    let differing = pairs.fold(0, |all, (a, b)| all | (a ^ b));
    ours.len() == theirs.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_named_after_its_function() {
        assert_eq!(pod_name("f", [0, 1, 31, 32, 255]), "fn-f-01z0z");
    }

    #[test]
    fn tokens_are_compared_whole() {
        let token = pod_token(7);
        assert_eq!(token.len(), 32);
        assert!(is_same_token(&token, &pod_token(7)));
        for other in ["", &token[1..], &pod_token(8), &format!("{token}0")] {
            assert!(!is_same_token(&token, other));
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for random in [0, 1, u128::MAX, 0x0123_4567_89AB_CDEF_0011_2233_4455_6677] {
            for number in [0, 1, 31, 32, 1023] {
                for place in [0, 1, 31, 32, 4095, 32_767] {
                    let id = ExecutionId::new(random, ShardId::new(number), place);
                    assert_eq!(ExecutionId::parse(&id.text()), Some(id));
                    let fine = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
                    assert!(id.text().iter().all(fine));
                }
            }
        }
    }

    #[test]
    fn nothing_else_is_an_id() {
        let text = ExecutionId::new(7, ShardId::new(1), 2).text();
        for bad in [
            &b""[..],
            b"x",
            &text[1..],
            b"0100000000000000000000000000U00",
            &[b'z'; ID_LEN],
        ] {
            assert_eq!(ExecutionId::parse(bad), None);
        }
    }
}
