//! Processes in place of pods, on one machine without a cluster. WARM functions are kept processes
//! on Unix sockets or on ports of loopback, a JOB is one process per call.
//! It never decides how many pods there are (the scheduler does) and never touches a call's bytes.
//! The process has a `LocalBridge` on the bridge's thread, and `guard_main` as `nanofaas guard`.

mod bridge;
mod job;
mod pod;
mod context;
mod process;
mod guard;

pub use bridge::LocalBridge;
pub use context::config::{LocalConfig, LocalOpenError};
pub use guard::guard_main;
