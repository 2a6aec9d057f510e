//! Questions of io threads to one another about an execution, which belongs to one of them. It answers nothing;
//! `api::executions` and `join` do.

use nanofaas_core::memory::Loose;
use nanofaas_core::time::Uptime;

/// A question about an execution.
#[derive(Debug)]
pub(crate) enum About {
    OfClient(ClientQuestion),
    /// From a Job, which sends the token of its attempt.
    OfJob {
        token: Box<[u8]>,
        question: JobQuestion,
    },
}

/// A question of a client.
#[derive(Debug)]
pub(crate) enum ClientQuestion {
    /// Asks for the state, when it is final, or after so many milliseconds.
    Status {
        wait_ms: u64,
    },
    Output,
    Cancel,
}

/// A question of a Job, or its result.
#[derive(Debug)]
pub(crate) enum JobQuestion {
    /// The Job's result; none if its body was over the limit.
    Complete {
        content_type: Option<Box<[u8]>>,
        content_encoding: Option<Box<[u8]>>,
        body: Option<(Vec<u8>, Loose)>,
    },
    Input,
}

/// A repeat of a keyed call.
#[derive(Debug)]
pub(crate) struct JoinWaiter {
    pub(crate) trace_id: Option<Box<[u8]>>,
    /// When the repeat needs an answer.
    pub(crate) deadline: Uptime,
    /// When the repeat takes the state instead of waiting for the result, by its `Prefer: wait`.
    pub(crate) answer_by: Option<Uptime>,
    /// Whether the repeat is an `:enqueue`, or prefers to be one, so that it gets the state at once.
    pub(crate) enqueue: bool,
    pub(crate) arrived_at: Uptime,
}

/// Why a repeat got no answer from the call that it repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotJoined {
    /// The execution and its key are not stored any more.
    Gone,
    /// A queue inside the platform is full.
    Busy,
}
