//! The API server: the client, requests with deadlines and retries, watches, and the Lease.
//! It knows nothing of functions and pods.

pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod lease;
pub(crate) mod lenient;
pub(crate) mod watch;
