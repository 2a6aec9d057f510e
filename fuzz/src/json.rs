//! Checks the JSON reader (`nanofaas_io::json`). It must accept what serde_json accepts and refuse what
//! serde_json refuses, unless one of serde_json's own limits decides. In an envelope it must find what
//! serde_json finds.

use std::ops::Range;

use nanofaas_io::json::{DEPTH_MAX, check, envelope, write_text};

use crate::naive_json;
use crate::rng::Rng;

/// Returns whether serde_json accepts the bytes as one value. Returns `None` if serde_json's own limits (127
/// levels, the range of floats) decide.
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

pub(crate) fn json(_: &mut Rng, bytes: &[u8]) -> bool {
    let ours = check(bytes, DEPTH_MAX);
    if let Err(fault) = ours {
        assert!(fault.at as usize <= bytes.len());
    }
    if let Some(theirs) = serde_takes(bytes) {
        assert_eq!(ours.is_ok(), theirs, "{ours:?}");
    }
    ours.is_ok()
}

pub(crate) fn envelopes(_: &mut Rng, bytes: &[u8]) -> bool {
    let ours = envelope(bytes);
    match serde_takes(bytes) {
        Some(true) => {}
        Some(false) => {
            assert!(ours.is_err(), "{ours:?}");
            return false;
        }
        None => return false,
    }
    let theirs = naive_json::envelope(bytes);
    let ours = ours.map(|found| {
        (
            of(bytes, found.input),
            found.metadata.map(|at| of(bytes, at)),
        )
    });
    match (&ours, &theirs) {
        (Ok(ours), Some(theirs)) => {
            assert_eq!(ours, theirs);
            reads_back(ours.0, ours.1);
        }
        (Err(_), None) => {}
        _ => panic!("ours {ours:?}, theirs {theirs:?}"),
    }
    theirs.is_some()
}

fn of(bytes: &[u8], range: Range<u32>) -> &[u8] {
    &bytes[range.start as usize..range.end as usize]
}

/// Checks that the parts are the same in an envelope that is written anew.
fn reads_back(input: &[u8], metadata: Option<&[u8]>) {
    let metadata_or_null = metadata.unwrap_or(b"null");
    let written = [
        b"{\"metadata\":",
        metadata_or_null,
        b",\"input\":",
        input,
        b"}",
    ]
    .concat();
    let found = envelope(&written).expect("sound parts make a sound envelope");
    assert_eq!(of(&written, found.input), input);
    assert_eq!(found.metadata.map(|at| of(&written, at)), metadata);
}

/// Checks that a text is written as a JSON string that reads back as the same text.
pub(crate) fn text(_: &mut Rng, bytes: &[u8]) -> bool {
    let mut out = Vec::new();
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
}
