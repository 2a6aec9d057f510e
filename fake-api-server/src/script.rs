//! A test's script makes the API server fail. Each fault of the script is for a number of requests of one
//! kind. The server asks the script for a fault before it answers a request.

use std::time::Duration;

use serde_json::Value;

use crate::store::{ApiRefusal, refusal};

/// Selects requests. A field that is `None` matches all requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Which {
    pub verb: Option<&'static str>,
    /// The resource, with the subresource if there is one, for instance `functions/status`.
    pub resource: Option<&'static str>,
}

impl Which {
    pub(crate) fn matches(self, verb: &str, resource: &str) -> bool {
        self.verb.is_none_or(|wanted| wanted == verb)
            && self.resource.is_none_or(|wanted| wanted == resource)
    }
}

pub const fn any() -> Which {
    Which {
        verb: None,
        resource: None,
    }
}

pub const fn of(verb: &'static str, resource: &'static str) -> Which {
    Which {
        verb: Some(verb),
        resource: Some(resource),
    }
}

/// What the server does in place of its usual answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The request is not carried out, and gets this answer.
    Answer {
        refusal: ApiRefusal,
        retry_after_s: Option<u32>,
    },
    /// The request is carried out, but the answer is this error status.
    DoneAnswer(u16),
    /// The request is not carried out, and the connection is closed.
    Close,
    /// The request is carried out, and the connection is closed in the middle of the answer.
    CutAnswer,
    /// The request is carried out, and the connection is closed without an answer.
    LoseAnswer,
    /// The request is not carried out and never answered.
    Hang,
    /// The request is carried out and answered after a delay.
    Late(Duration),
    /// The request is carried out after a delay and never answered.
    DoneLate(Duration),
    /// The watch ends as soon as it has begun.
    EndAtOnce,
    /// The watch sends an ERROR event, which says that the version of the watch is too old.
    ExpireByEvent,
    /// The watch begins and never sends an event.
    Mute,
    /// The connection of the watch closes in the middle of its first line.
    CutLine,
}

pub fn answer(code: u16) -> Fault {
    let reason = match code {
        403 => "Forbidden",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    Fault::Answer {
        refusal: refusal(code, reason, "as scripted"),
        retry_after_s: None,
    }
}

pub fn refuse(code: u16, reason: &str, message: &str) -> Fault {
    Fault::Answer {
        refusal: refusal(code, reason, message),
        retry_after_s: None,
    }
}

pub fn too_many(retry_after_s: u32) -> Fault {
    Fault::Answer {
        refusal: (429, "Too many requests, please try again later.".into()),
        retry_after_s: Some(retry_after_s),
    }
}

/// The message with which the quota plugin refuses a pod.
pub const QUOTA: &str = "exceeded quota: small, requested: pods=1, used: pods=2";

/// The faults that a test asked for, each with the number of requests that still get it.
#[derive(Default)]
pub(crate) struct FaultScript {
    faults: Vec<(Which, usize, Fault)>,
}

impl FaultScript {
    pub(crate) fn add(&mut self, which: Which, times: usize, fault: Fault) {
        self.faults.push((which, times, fault));
    }

    pub(crate) fn clear(&mut self) {
        self.faults.clear();
    }

    /// Takes the fault for a request from the script, if there is one.
    pub(crate) fn next(&mut self, verb: &str, resource: &str) -> Option<Fault> {
        let mut faults = self.faults.iter_mut();
        let found = faults.find(|(which, times, _)| *times > 0 && which.matches(verb, resource))?;
        found.1 -= 1;
        Some(found.2.clone())
    }
}

#[derive(Clone, Debug)]
pub struct Asked {
    pub at: tokio::time::Instant,
    pub verb: &'static str,
    pub group: String,
    pub resource: String,
    pub name: String,
    pub query: String,
    pub body: Value,
}
