//! A call's request on its way in: what was let in, how it is served, and how its client is answered. It
//! admits nothing; `admit` does.

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

/// A call that was let in by its head.
pub(crate) struct AdmittedRequest {
    pub(crate) entry: Rc<FunctionEntry>,
    pub(crate) charge: Charge,
    /// Until it is granted.
    pub(crate) waiting: Option<WaitingBody>,
    pub(crate) arrived_at: Uptime,
    /// Of a sync call.
    pub(crate) deadline: Deadline,
    /// It came as `:enqueue`.
    pub(crate) enqueue: bool,
}

/// What the connection of a call offers to it.
pub(crate) trait Client {
    /// Told of the call's place while it may be ended by the client's leaving.
    fn serving(&self, place: Option<CallId>);
    /// Whether the client has left.
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
    /// It lives and dies with its client's wait: `plain_call`.
    Plain,
    /// It runs by itself, and its client waits for it: `stored::serve`.
    Stored { detached: bool },
}

impl InvocationMode {
    /// Whether the call goes on when its client leaves.
    pub(crate) const fn outlives_client(&self, incoming: &Incoming) -> bool {
        match self {
            Self::Plain => false,
            Self::Stored { detached } => *detached || incoming.head.idempotency_key.is_some(),
        }
    }
}
