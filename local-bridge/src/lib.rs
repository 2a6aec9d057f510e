//! Processes in place of pods, on one machine without a cluster. WARM functions are kept processes
//! on Unix sockets or on ports of loopback, a JOB is one process per call.
//! It never decides how many pods there are (the scheduler does) and never touches a call's bytes.
//! The process has a `LocalBridge` on the bridge's thread, and `guard_main` as `nanofaas guard`.

mod bridge;
mod pod;
mod job;

mod program;
mod process;
mod output;
mod line;
mod health;
mod listener;
mod ports;
mod oom;

mod link;
mod wire;
mod guard;
mod descent;
mod run_dir;

pub use bridge::{LocalBridge, LocalConfig, OpenError};
pub use guard::guard_main;
