//! The properties that readers of bytes from outside must have for every input. A reader does not panic, and
//! it ends. Most readers also meet some of these rules: the outcome does not depend on how the bytes are
//! split, it equals that of a second, slow reader, and an accepted input reads back as the same after it is
//! written anew.
//!
//! Each property is checked with the inputs that a fuzzer kept (`corpus/`, by `tests/kept.rs`), with random
//! inputs (`tests/random`), and by the fuzzer (`./ci fuzz`).

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

/// A function that panics if the property does not hold. It returns whether the reader accepted the input.
pub type Property = fn(&mut Rng, &[u8]) -> bool;

/// The properties, each with the name of its target, which is also the name of the target's folder in
/// `corpus/`.
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

pub fn property(target: &str) -> Property {
    let found = PROPERTIES.iter().find(|(name, _)| *name == target);
    found.unwrap_or_else(|| panic!("no target {target}")).1
}

/// Checks the property of a target for one input. The random choices depend on the bytes only, so
/// that a failure can be repeated.
pub fn check(target: &str, bytes: &[u8]) {
    let sum = bytes.iter().fold(bytes.len() as u64, |sum, byte| {
        sum.rotate_left(5) ^ u64::from(*byte)
    });
    property(target)(&mut Rng::new(sum), bytes);
}
