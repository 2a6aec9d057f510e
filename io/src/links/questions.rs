//! What io threads ask of one another: of an execution, which belongs to one of them. It answers nothing;
//! `api::executions` and `join` do.

use nanofaas_core::memory::Loose;
use nanofaas_core::time::Uptime;

/// What is asked.
#[derive(Debug)]
pub(crate) enum About {
    OfClient(ClientQuestion),
    /// By a Job, which shows the token of its attempt.
    OfJob {
        token: Box<[u8]>,
        question: JobQuestion,
    },
}

/// What a client asks.
#[derive(Debug)]
pub(crate) enum ClientQuestion {
    /// The state; when terminal, or after so many milliseconds.
    Status {
        wait_ms: u64,
    },
    Output,
    Cancel,
}

/// What a Job asks.
#[derive(Debug)]
pub(crate) enum JobQuestion {
    /// Its result; none where its body was over the limit.
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
    /// When the repeat takes the state instead of the result, if its `Prefer: wait` says so.
    pub(crate) answer_by: Option<Uptime>,
    /// The repeat is an `:enqueue`, or prefers to be: it wants the state at once.
    pub(crate) enqueue: bool,
    pub(crate) arrived_at: Uptime,
}

/// Why a repeat of a call got no answer of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotJoined {
    /// The execution is not kept any more, nor is its key.
    Gone,
    /// A queue inside the platform is full.
    Busy,
}
