//! What acts for clients and pods, once per io thread: bytes, sockets, HTTP. In the order in which a
//! call meets the files. It decides what only its owner can (deadlines, records) and leaves slots
//! to the scheduler; it knows no tokio and no Kubernetes. The process calls `start`.

pub mod start;
mod thread;

mod accept;
mod client;
mod conn;
mod pending;
mod api;
mod rooms;
pub mod request;
mod route;
mod invoke;
mod kept;
mod call;
mod seat;
mod inbox;
mod pod;
mod pod_answer;
mod connection;
mod pods;
mod job;
mod local;
mod reply;

mod incoming;
mod output;
pub mod answer;
pub mod head;
mod lines;
pub mod field;
mod host;
mod media_type;
pub mod chunked;
pub mod json;
mod scan;

mod function_api;
mod execution_api;
mod executions;
mod store;
mod follow;
mod idempotency;
mod status;
mod problem;
mod token;

mod calls;
mod clock;
mod alarm;
mod ticker;
mod spin;
mod share;
mod watchdog;
mod buffers;
mod runtime;
mod peer;
mod replies;
mod waiters;

#[cfg(test)]
mod fleet;
