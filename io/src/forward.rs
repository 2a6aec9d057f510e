//! Serves `/fn/{name}/…`: a function as an HTTP server (`docs/contract.md`, "HTTP functions"). A call goes the way of
//! `:invoke`, but its bodies pass through as they come, and are never held whole.

pub(crate) mod admit;
pub(crate) mod client;
pub(crate) mod request;
pub(crate) mod answer;
pub(crate) mod chunks;
pub(crate) mod upload;
pub(crate) mod download;
pub(crate) mod exchange;
mod ending;
mod tunnel;
pub(crate) mod serve;
