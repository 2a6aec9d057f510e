//! What must hold of every input of each reader of bytes from outside: nothing panics, nothing hangs, the
//! outcome is the same however the bytes are split, it agrees with a second, slow reader, and what
//! is taken reads back as the same when it is written anew.
//!
//! A property is asked in three ways: of random inputs (`tests/random`), of the inputs that a
//! fuzzer found worth keeping (`corpus/`, by `tests/kept.rs`), and by the fuzzer (`./ci fuzz`).

mod rng;
mod connection;
mod naive;
mod naive_response;
mod http;
mod naive_json;
mod json;
mod function_file;
mod guard;

pub use rng::Rng;

/// Panics where it does not hold. Whether the input was taken.
pub type Property = fn(&mut Rng, &[u8]) -> bool;

/// By the name of the target, and of its folder in `corpus/`.
pub const PROPERTIES: [(&str, Property); 9] = [
    ("request", http::request),
    ("response", http::response),
    ("chunked", http::chunked),
    ("values", http::values),
    ("json", json::json),
    ("envelope", json::envelopes),
    ("text", json::text),
    ("function_file", function_file::function_file),
    ("guard", guard::guard),
];

/// The property of a target.
pub fn property(target: &str) -> Property {
    let found = PROPERTIES.iter().find(|(name, _)| *name == target);
    found.unwrap_or_else(|| panic!("no target {target}")).1
}

/// Asks the property of a target of one input. What it does by chance is the same for the same bytes.
pub fn check(target: &str, bytes: &[u8]) {
    let sum = bytes.iter().fold(bytes.len() as u64, |sum, byte| {
        sum.rotate_left(5) ^ u64::from(*byte)
    });
    property(target)(&mut Rng::new(sum), bytes);
}
