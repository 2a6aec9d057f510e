//! Idempotency keys: which execution holds which key. A key belongs to the thread that
//! hash(function, key) names; one question there answers run, follow or mismatch. It keeps no
//! output; a key goes when its execution goes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use nanofaas_core::id::ExecutionId;
use sha2::{Digest, Sha256};

use crate::executions::Key;
use crate::media_type::normal_form;

/// What a claim of a key led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Nobody held it: the claimant's execution does now.
    Run,
    /// This execution holds it.
    Follow(ExecutionId),
    /// Held with another body.
    Mismatch,
}

struct Held {
    id: ExecutionId,
    body: [u8; 32],
}

/// The keys that this thread owns.
#[derive(Default)]
pub(crate) struct Keys(RefCell<HashMap<Key, Held>>);

/// The thread of `threads` that owns a key.
pub(crate) fn owner(key: &Key, threads: u16) -> u16 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    (hasher.finish() % u64::from(threads)) as u16
}

/// What a repeat has to have in common with the first: content type, however it is spelt, and body.
pub(crate) fn fingerprint(content_type: &[u8], body: &[u8]) -> [u8; 32] {
    let content_type = normal_form(content_type);
    let mut sha = Sha256::new();
    sha.update((content_type.len() as u64).to_le_bytes());
    sha.update(&content_type);
    sha.update(body);
    sha.finalize().into()
}

impl Keys {
    /// Takes the key for `id`, or says who has it.
    pub(crate) fn claim(&self, key: Key, body: [u8; 32], id: ExecutionId) -> Claim {
        let mut keys = self.0.borrow_mut();
        match keys.get(&key) {
            None => {
                keys.insert(key, Held { id, body });
                Claim::Run
            }
            Some(held) if held.body == body => Claim::Follow(held.id),
            Some(_) => Claim::Mismatch,
        }
    }

    /// Gives the key up, if `id` holds it.
    pub(crate) fn release(&self, key: &Key, id: ExecutionId) {
        let mut keys = self.0.borrow_mut();
        if keys.get(key).is_some_and(|held| held.id == id) {
            keys.remove(key);
        }
    }
}
