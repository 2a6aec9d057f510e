//! These tests check the guarantees for clients, pods and operators on the real process. They start the
//! process with flags, and use it by sockets and signals. No test looks into the memory of the process.
//!
//! `NANOFAAS_TEST_SCHEDULER` (inline, pinned), `NANOFAAS_TEST_IO_DRIVER` (auto, uring, epoll) and
//! `NANOFAAS_TEST_IO_THREADS` (2 by default with pinned) select the tested form; the guarantees are the same
//! in all forms. Tests depend on order, counts and states, not on time.

#![allow(
    clippy::disallowed_methods,
    reason = "tests act in place of clients, pods and clocks"
)]
#![allow(clippy::print_stdout, reason = "durations are reported, not gated on")]

mod handlers;
mod idle_job;
mod shortage;

mod routes;
mod paths;
mod outcomes;
mod foreign;
mod answers;
mod bodies;
mod refusals;
mod admission;
mod idempotency;
mod executions;
mod threads;
mod deadlines;
mod removal;
mod leaving;
mod memory;
mod outputs;
mod forward;
mod ahead;
mod spec;
mod pods;
mod deaths;
mod descriptors;
mod jobs;
mod results;
mod inputs;
mod programs;
mod settings;
mod simulate;
mod drivers;
mod unanswered;
mod operations;
mod idle;
mod robust;
mod original;
mod original_pods;
