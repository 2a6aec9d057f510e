//! Random and mutated bytes at what reads JSON: nothing panics, nothing hangs, and the outcome is
//! serde_json's.
//!
//! `NANOFAAS_FUZZ_INPUTS` sets the inputs of each property (1,000,000 where optimised, else
//! 50,000). A failure prints `SEED=…` and the bytes; `NANOFAAS_SEED` replays that input alone.

#![allow(
    clippy::disallowed_methods,
    reason = "tests act in place of clients, pods and clocks"
)]

mod json {
    pub(crate) mod inputs;
    pub(crate) mod naive;
}

// The generator of the parsers' tests.
#[path = "../../http1/tests/wire/rng.rs"]
mod rng;

use json::{inputs, naive};
use nanofaas_io::json::{DEPTH_MAX, check, envelope, write_text};
use rng::for_each_input;

/// Whether serde_json takes the bytes as one value; none where its own limits (128 levels less
/// one, numbers that a float can hold) decide.
fn serde_takes(bytes: &[u8]) -> Option<bool> {
    match serde_json::from_slice::<serde_json::Value>(bytes) {
        Ok(_) => Some(true),
        Err(error) => {
            let text = error.to_string();
            let limit = text.contains("recursion limit") || text.contains("number out of range");
            (!limit).then_some(false)
        }
    }
}

#[test]
fn json_is_taken_exactly_where_serde_takes_it() {
    for_each_input("json", inputs::json, |_, bytes| {
        let ours = check(bytes, DEPTH_MAX);
        if let Err(fault) = ours {
            assert!(fault.at as usize <= bytes.len());
        }
        if let Some(theirs) = serde_takes(bytes) {
            assert_eq!(ours.is_ok(), theirs, "{ours:?}");
        }
        ours.is_ok()
    });
}

#[test]
fn envelopes_hold_what_serde_finds_in_them() {
    for_each_input("envelopes", inputs::envelopes, |_, bytes| {
        let ours = envelope(bytes);
        match serde_takes(bytes) {
            Some(true) => {}
            Some(false) => {
                assert!(ours.is_err(), "{ours:?}");
                return false;
            }
            None => return false,
        }
        let theirs = naive::envelope(bytes);
        let piece = |range: std::ops::Range<u32>| &bytes[range.start as usize..range.end as usize];
        let ours = ours.map(|found| (piece(found.input), found.metadata.map(piece)));
        match (&ours, &theirs) {
            (Ok(ours), Some(theirs)) => assert_eq!(ours, theirs),
            (Err(_), None) => {}
            _ => panic!("ours {ours:?}, theirs {theirs:?}"),
        }
        theirs.is_some()
    });
}

#[test]
fn text_becomes_a_string_that_reads_back() {
    let mut out = Vec::new();
    for_each_input("text", inputs::texts, |_, bytes| {
        out.clear();
        match (write_text(&mut out, bytes), str::from_utf8(bytes)) {
            (Ok(()), Ok(text)) => {
                assert_eq!(check(&out, 1), Ok(()));
                assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
            }
            (Err(fault), Err(error)) => {
                assert_eq!(fault.at as usize, error.valid_up_to());
                assert!(out.is_empty());
            }
            (ours, theirs) => panic!("ours {ours:?}, theirs {theirs:?}"),
        }
        !out.is_empty()
    });
}
