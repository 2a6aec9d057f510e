//! The questions that io threads ask each other about executions, each of which belongs to one io thread.
//! This module answers no question; `api::executions` and `join` do.

use nanofaas_core::memory::Loose;
use nanofaas_core::time::Uptime;

/// A question about an execution.
#[derive(Debug)]
pub(crate) enum About {
    OfClient(ClientQuestion),
    /// A Job asks, and sends the token of its attempt.
    OfJob {
        token: Box<[u8]>,
        question: JobQuestion,
    },
}

/// A question of a client.
#[derive(Debug)]
pub(crate) enum ClientQuestion {
    /// Asks for the state. The answer comes when the state is final, or after `wait_ms` milliseconds.
    Status {
        wait_ms: u64,
    },
    Output,
    Cancel,
}

/// A question of a Job, or a Job's result.
#[derive(Debug)]
pub(crate) enum JobQuestion {
    /// Delivers the Job's result. `body` is none if the body was longer than the limit.
    Complete {
        content_type: Option<Box<[u8]>>,
        content_encoding: Option<Box<[u8]>>,
        body: Option<(Vec<u8>, Loose)>,
    },
    Input,
}

/// A repeat of a keyed call, which waits for the result of the call that has the key.
#[derive(Debug)]
pub(crate) struct JoinWaiter {
    pub(crate) trace_id: Option<Box<[u8]>>,
    /// The repeat's own deadline, at which it needs an answer.
    pub(crate) deadline: Uptime,
    /// The end of the time that `Prefer: wait` sets. At this time the repeat gets the state, if there is no
    /// result yet.
    pub(crate) answer_by: Option<Uptime>,
    /// Whether the repeat is an `:enqueue`, or has `Prefer: respond-async`, so that it gets the state at
    /// once.
    pub(crate) enqueue: bool,
    pub(crate) arrived_at: Uptime,
}

/// Why a repeat got no answer from the call that it repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotJoined {
    /// The execution and its key are not stored any more.
    Gone,
    /// The question was refused, or got no answer in time.
    Busy,
}
