//! Serves `/fn/{name}/…`, at which a function is an HTTP server (`docs/contract.md`, "HTTP functions"). Such
//! a call has the same life as a call of `:invoke`, but the bodies of its request and its answer are passed
//! on piece by piece.

pub(crate) mod admit;
pub(crate) mod client;
pub(crate) mod request;
pub(crate) mod answer;
pub(crate) mod chunks;
pub(crate) mod upload;
pub(crate) mod download;
pub(crate) mod forwarding;
pub(crate) mod exchange;
mod ending;
mod tunnel;
pub(crate) mod serve;
