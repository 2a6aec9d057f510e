//! Serves one call, from its admission to the bytes of its answer. `core/src/call.rs` decides what happens in
//! the life of a call; this folder executes its decisions.

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
