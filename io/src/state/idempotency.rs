//! Idempotency keys: which execution holds which key. The hash of registration and key selects the io thread
//! that owns the key. This thread answers a claim of the key with run, join, mismatch or a refusal. A key is
//! released when its execution is dropped. `shards` sends claims to the owner, and answers the claims that
//! waited.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use nanofaas_core::id::ExecutionId;
use nanofaas_core::shard::ShardId;
use nanofaas_http1::media_type::normal_form;
use sha2::{Digest, Sha256};

use crate::http::error::HttpError;
use crate::state::executions::IdempotencyKey;

#[derive(Debug)]
pub(crate) enum Claim {
    /// The key was free and now belongs to the claimant, which has to report whether its call was admitted.
    Run {
        key: Box<IdempotencyKey>,
        id: ExecutionId,
    },
    /// This execution holds the key, and its call was admitted.
    Join(ExecutionId),
    /// The key is held for a request with another fingerprint.
    Mismatch,
    /// The call that had claimed the key was refused for this reason.
    Refused(Box<HttpError>),
}

/// A claim that waits until the first claimant is admitted or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) thread: ShardId,
    /// The token of the question, on that thread.
    pub(crate) token: u64,
}

struct HeldKey {
    id: ExecutionId,
    body: [u8; 32],
    state: KeyState,
}

enum KeyState {
    /// The claimant may run, and has not reported yet whether its call was admitted. Later claims wait here,
    /// because a refused call leaves no execution that they could join.
    Claimed(Vec<Asker>),
    Admitted,
}

/// The keys that this thread owns.
#[derive(Default)]
pub(crate) struct Keys(RefCell<HashMap<IdempotencyKey, HeldKey>>);

/// Returns which of the `threads` io threads owns a key.
pub(crate) fn owner(key: &IdempotencyKey, threads: u16) -> ShardId {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    ShardId::new((hasher.finish() % u64::from(threads)) as u16)
}

/// Returns a hash of what a repeat must have in common with the first request: the content type in its normal
/// form, the content encoding, and the body.
pub(crate) fn fingerprint(
    content_type: Option<&[u8]>,
    content_encoding: Option<&[u8]>,
    body: &[u8],
) -> [u8; 32] {
    let mut content_type = normal_form(content_type.unwrap_or_default());
    if let Some(content_encoding) = content_encoding {
        // No header value contains an LF, so the encoding cannot be taken for a part of the type.
        content_type.push(b'\n');
        content_type.extend(content_encoding.to_ascii_lowercase());
    }
    let mut sha = Sha256::new();
    sha.update((content_type.len() as u64).to_le_bytes());
    sha.update(&content_type);
    sha.update(body);
    sha.finalize().into()
}

impl Keys {
    /// Claims the key for `id` if it is free; if it is not, returns how it is held. Returns none if the claim
    /// has to wait, because the call that has the key was neither admitted nor refused yet.
    pub(crate) fn claim(
        &self,
        key: &IdempotencyKey,
        body: [u8; 32],
        id: ExecutionId,
    ) -> Option<Claim> {
        let mut keys = self.0.borrow_mut();
        let Some(held) = keys.get(key) else {
            let state = KeyState::Claimed(Vec::new());
            keys.insert(key.clone(), HeldKey { id, body, state });
            let key = Box::new(key.clone());
            return Some(Claim::Run { key, id });
        };
        match held.state {
            _ if held.body != body => Some(Claim::Mismatch),
            KeyState::Admitted => Some(Claim::Join(held.id)),
            KeyState::Claimed(_) => None,
        }
    }

    /// Adds a claim for which `claim` returned none to the claims that wait for the key.
    pub(crate) fn wait(&self, key: &IdempotencyKey, asker: Asker) {
        match self.0.borrow_mut().get_mut(key).map(|held| &mut held.state) {
            Some(KeyState::Claimed(waiting)) => waiting.push(asker),
            _ => unreachable!("a claim waits for one that is not decided"),
        }
    }

    /// Marks the claimant as admitted. Returns the claims that waited for the key and may now join the
    /// execution.
    pub(crate) fn admit(&self, key: &IdempotencyKey, id: ExecutionId) -> Vec<Asker> {
        let mut keys = self.0.borrow_mut();
        let Some(held) = keys.get_mut(key).filter(|held| held.id == id) else {
            return Vec::new();
        };
        match std::mem::replace(&mut held.state, KeyState::Admitted) {
            KeyState::Claimed(waiting) => waiting,
            KeyState::Admitted => Vec::new(),
        }
    }

    /// Releases the key, if `id` holds it. Returns the claims that waited for the key.
    pub(crate) fn release(&self, key: &IdempotencyKey, id: ExecutionId) -> Vec<Asker> {
        let mut keys = self.0.borrow_mut();
        if keys.get(key).is_none_or(|held| held.id != id) {
            return Vec::new();
        }
        match keys.remove(key).map(|held| held.state) {
            Some(KeyState::Claimed(waiting)) => waiting,
            Some(KeyState::Admitted) | None => Vec::new(),
        }
    }

    /// The bytes that a key takes in the table, besides its text. The entry counts twice, because the table
    /// may be half empty.
    pub(crate) const ENTRY_BYTES: usize = 2 * size_of::<(IdempotencyKey, HeldKey)>();
}
