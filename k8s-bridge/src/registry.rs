//! The functions of the cluster: changes are written there and followed from there, and each
//! function's status and Events are kept. It starts no pod.

pub(crate) mod events;
pub(crate) mod functions;
pub(crate) mod object;
pub(crate) mod ready;
pub(crate) mod starts;
pub(crate) mod status;
