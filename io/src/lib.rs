//! The io threads, which act for clients and pods: bytes, sockets, HTTP. An io thread decides only what no
//! other thread can (deadlines, records), and leaves slots to the scheduler. This crate knows no tokio and no
//! Kubernetes. The process calls `start`.
//!
//! Folders are layers, the highest first: a folder uses itself and those below it.

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
mod invoke;
mod links;
mod state;
mod http;
mod runtime;

pub use http::json;
pub use shard::start;
