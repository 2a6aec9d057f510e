//! The canary is a part of every body. It names the function and the registration for which the body is
//! meant, the id of the call, and what the function's pods must do in each attempt of the call. `ledger`
//! checks the canary that a pod received, and `judge` checks the canary that the client got back. This module
//! judges nothing.

use serde_json::{Value, json};

use crate::book::Version;
use crate::plan::{Act, FUNCTIONS, name};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Canary {
    pub(crate) function: usize,
    /// The call's id. Two calls have the same id only if they have the same idempotency key.
    pub(crate) call: String,
    /// The earliest registration that may receive the body. With an idempotency key, any registration may
    /// receive it, because calls at different times send the same body.
    pub(crate) floor: Version,
    pub(crate) acts: Vec<Act>,
    pub(crate) pad: usize,
}

impl Canary {
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "function": name(self.function),
            "call": self.call,
            "life": self.floor.life,
            "revision": self.floor.revision,
            "acts": self.acts.iter().map(|act| act.as_str()).collect::<Vec<_>>(),
            "pad": "x".repeat(self.pad),
        })
    }

    pub(crate) fn parse(value: &Value) -> Option<Self> {
        let number = |field: &str| value[field].as_u64();
        let acts = value["acts"].as_array()?.iter();
        Some(Self {
            function: number_of(value["function"].as_str()?)?,
            call: value["call"].as_str()?.to_owned(),
            floor: Version {
                life: number("life")?,
                revision: number("revision")?,
            },
            acts: acts
                .map(|act| Act::parse(act.as_str()?))
                .collect::<Option<_>>()?,
            pad: value["pad"].as_str()?.len(),
        })
    }

    /// Returns what the pod does in this attempt. Attempts are counted from 1.
    pub(crate) fn act(&self, attempt: u32) -> Act {
        let last = self.acts.len() - 1;
        self.acts[last.min(attempt.saturating_sub(1) as usize)]
    }

    pub(crate) fn has(&self, any: &[Act]) -> bool {
        self.acts.iter().any(|act| any.contains(act))
    }
}

pub(crate) fn number_of(function: &str) -> Option<usize> {
    (0..FUNCTIONS).find(|number| name(*number) == function)
}

/// The registration that a pod belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) function: usize,
    pub(crate) version: Version,
}

impl Identity {
    /// Returns the text of this identity in an endpoint's path and in a process's environment.
    pub(crate) fn path(&self) -> String {
        let Version { life, revision } = self.version;
        format!("{}/{life}/{revision}", name(self.function))
    }

    pub(crate) fn parse(path: &str) -> Option<Self> {
        let mut parts = path.split('/');
        let function = number_of(parts.next()?)?;
        let life = parts.next()?.parse().ok()?;
        let revision = parts.next()?.parse().ok()?;
        let version = Version { life, revision };
        Some(Self { function, version })
    }
}

/// Returns the answer of a pod: its identity, the number of the attempt, and the canary as the pod received
/// it.
pub(crate) fn echo(identity: &Identity, attempt: u32, canary: &Value, large: bool) -> Value {
    let more = if large {
        "y".repeat(6000)
    } else {
        String::new()
    };
    json!({"by": identity.path(), "attempt": attempt, "echo": canary, "more": more})
}
