//! Checks the reader of the messages between control plane and guard (`local-bridge/src/guard/wire.rs`). The
//! messages must not depend on how the bytes are split, and each message must read back as it was written.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::rng::Rng;

#[allow(dead_code, reason = "what a message says is for plane and guard")]
#[path = "../../local-bridge/src/guard/wire.rs"]
mod wire;

use wire::{FromGuard, Lines, ToGuard, line};

pub(crate) fn guard(rng: &mut Rng, bytes: &[u8]) -> bool {
    let to = reads_the_same::<ToGuard>(rng, bytes);
    let from = reads_the_same::<FromGuard>(rng, bytes);
    to || from
}

/// Reads one input whole and in pieces, and checks that the messages are the same each time and read back as
/// they were written. Returns whether the input's first line is a message.
fn reads_the_same<T: Serialize + DeserializeOwned>(rng: &mut Rng, bytes: &[u8]) -> bool {
    let whole = messages::<T>([bytes].into_iter());
    let each = messages::<T>(bytes.chunks(1));
    assert_eq!(whole, each, "byte by byte differs");
    let (first, rest) = bytes.split_at(rng.below(bytes.len() + 1));
    assert_eq!(
        whole,
        messages::<T>([first, rest].into_iter()),
        "split differs"
    );
    let sound: Vec<u8> = whole.iter().flatten().flatten().copied().collect();
    let again = messages::<T>([&*sound].into_iter());
    assert!(
        again.iter().all(Result::is_ok),
        "a message does not read back"
    );
    let again: Vec<u8> = again.iter().flatten().flatten().copied().collect();
    assert_eq!(again, sound);
    whole.first().is_some_and(Result::is_ok)
}

/// Returns the messages of an input, each written anew. If a line is not a message, its error is the last
/// result.
fn messages<'b, T: Serialize + DeserializeOwned>(
    pieces: impl Iterator<Item = &'b [u8]>,
) -> Vec<Result<Vec<u8>, String>> {
    let (mut lines, mut found) = (Lines::default(), Vec::new());
    for piece in pieces {
        lines.push(piece);
        while let Some(message) = lines.pop::<T>() {
            let message = message.map(|message| line(&message).expect("it came as a line"));
            let is_end = message.is_err();
            found.push(message);
            if is_end {
                return found;
            }
        }
    }
    found
}
