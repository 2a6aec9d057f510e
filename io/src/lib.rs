//! What acts for clients and pods, once per io thread: bytes, sockets, HTTP. In the order in which a
//! call meets the files. It decides what only its owner can (deadlines, records) and leaves slots
//! to the scheduler; it knows no tokio and no Kubernetes. The process calls `start`.

pub mod start;
mod thread;

mod accept;
mod client;
mod conn;
mod descriptors;
mod pace;
mod patience;
mod pending;
mod api;
mod rooms;
mod route;
mod invoke;
mod charges;
mod outgoing;
mod sending;
mod kept;
mod call;
mod attempt;
mod seat;
mod inbox;
mod pod;
mod pod_answer;
mod pod_error;
mod connection;
mod pods;
mod job;
mod local;
mod reply;
mod invocation;
mod shown;

mod incoming;
mod output;
pub mod json;

mod function_api;
mod warnings;
mod execution_api;
mod executions;
mod store;
mod follow;
mod idempotency;
mod status;
mod problem;
mod token;

mod calls;
mod shard;
mod clock;
mod date;
mod alarm;
mod due;
mod ticker;
mod upkeep;
mod spin;
mod share;
mod watchdog;
mod buffers;
mod runtime;
mod peer;
mod readers;
mod replies;
mod waiters;

#[cfg(test)]
mod fleet;
