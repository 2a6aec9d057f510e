//! Accepts clients' connections, and reads and answers the requests of each connection, one after the other.
//! This folder decides nothing about a call.

pub(crate) mod accept;
pub(crate) mod client_conn;
pub(crate) mod pending_bytes;
pub(crate) mod pace;
pub(crate) mod share;
pub(crate) mod request_pool;
pub(crate) mod serve;
pub(crate) mod http_function;
pub(crate) mod dispatch;
pub(crate) mod sending;
