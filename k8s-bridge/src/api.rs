//! The access to the API server: the client, requests with deadlines and retries, watches, and the Lease.
//! These modules do not interpret a function or a pod.

pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod lease;
pub(crate) mod lenient;
pub(crate) mod watch;
