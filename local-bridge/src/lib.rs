//! Runs processes in place of pods, on one machine without a cluster. Each pod of a WARM function is a
//! process that serves calls on a Unix socket or a loopback port. Each attempt of a call of a JOB function is
//! one process. The scheduler decides how many pods there are. The control plane has a `LocalBridge` on the
//! bridge's thread, and runs `guard_main` as `nanofaas guard`.

mod bridge;
mod job;
mod pod;
mod context;
mod process;
mod guard;

pub use bridge::LocalBridge;
pub use context::config::{LocalConfig, LocalOpenError};
pub use guard::guard_main;
