//! These modules give access to the API server: a client, requests with deadlines and retries, watches, and
//! the Lease. They do not interpret a function or a pod.

pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod lease;
pub(crate) mod lenient;
pub(crate) mod watch;
