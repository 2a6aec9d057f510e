//! One call, from its admission to the bytes of its answer. What the life of a call decides is in
//! `core/call.rs`; this does it.

pub(crate) mod admit;
pub(crate) mod request;
pub(crate) mod charges;
pub(crate) mod incoming;
pub(crate) mod outgoing;
pub(crate) mod stored;
pub(crate) mod join;
pub(crate) mod call;
pub(crate) mod drive;
pub(crate) mod attempt;
pub(crate) mod to_pod;
pub(crate) mod pod_answer;
pub(crate) mod pod_error;
pub(crate) mod to_job;
pub(crate) mod to_local;
pub(crate) mod invocation;
