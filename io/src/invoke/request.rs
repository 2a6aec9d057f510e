//! A call's request before the call is queued: the admitted request, how the call is served, and how its
//! client is answered. This module admits nothing; `admit` does.

use std::rc::Rc;

use nanofaas_core::call::Deadline;
use nanofaas_core::memory::Charge;
use nanofaas_core::ticket::CallId;
use nanofaas_core::time::Uptime;

use crate::http::response::Wire;
use crate::invoke::charges::WaitingBody;
use crate::invoke::incoming::Incoming;
use crate::invoke::outgoing::Outgoing;
use crate::runtime::timers::Alarm;
use crate::state::functions::FunctionEntry;

/// A request that passed admission at its head.
pub(crate) struct AdmittedRequest {
    pub(crate) entry: Rc<FunctionEntry>,
    pub(crate) charge: Charge,
    /// Counts the call's large body among the waiting bodies of its function, until the call begins.
    pub(crate) waiting: Option<WaitingBody>,
    pub(crate) arrived_at: Uptime,
    /// The deadline of the request, if its call is sync.
    pub(crate) deadline: Deadline,
    pub(crate) enqueue: bool,
}

/// What a call needs of its client's connection.
pub(crate) trait Client {
    /// Sets the call that has to end if the client leaves; none if no call has to end.
    fn serving(&self, call_id: Option<CallId>);
    fn is_gone(&self) -> bool;
}

/// How the client is answered.
pub(crate) struct Answering<'a> {
    pub(crate) client: &'a dyn Client,
    pub(crate) alarm: &'a Alarm,
    pub(crate) wire: Wire,
    pub(crate) outgoing: &'a mut Outgoing,
}

/// How a call is served.
pub(crate) enum InvocationMode {
    /// The call ends when its client stops waiting; `plain_call` serves it.
    Plain,
    /// The call has a task of its own, and its client may wait for the call's end. `stored::serve` serves the
    /// call.
    Stored { detached: bool },
}

impl InvocationMode {
    /// Returns whether the call goes on when its client leaves.
    pub(crate) const fn outlives_client(&self, incoming: &Incoming) -> bool {
        match self {
            Self::Plain => false,
            Self::Stored { detached } => *detached || incoming.head.idempotency_key.is_some(),
        }
    }
}
