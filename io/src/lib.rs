//! The io threads, which act for clients and pods: bytes, sockets, HTTP. An io thread decides about the
//! deadlines and records that it owns; the scheduler decides about slots. This crate uses neither tokio nor
//! Kubernetes. The process calls `start`.
//!
//! The folders are layers, listed from the highest to the lowest. A folder uses only itself and lower
//! folders.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests act in place of clients, pods and clocks"
    )
)]

mod shard;
mod server;
mod api;
mod forward;
mod invoke;
mod links;
mod state;
mod http;
mod runtime;

pub use http::json;
pub use shard::start;
