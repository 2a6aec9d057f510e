//! The API server: the client, requests with deadlines and retries, watches, and the Lease.
//! It knows no function and no pod of this platform.

pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod lease;
pub(crate) mod lenient;
pub(crate) mod watch;
