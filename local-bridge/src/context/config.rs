//! Defines the settings of the bridge, and the reasons why the bridge cannot be opened.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The settings of the bridge.
pub struct LocalConfig {
    /// `http://host:port` under which pods reach `/v1/internal`.
    pub callback_base: String,
    /// The longest time from a pod's start to its readiness.
    pub start_timeout: Duration,
    /// How long processes may take to end after SIGTERM when the control plane stops. The others are killed
    /// after that.
    pub stop_grace: Duration,
    /// The command that runs `guard_main`.
    pub guard: Vec<OsString>,
    /// The parent of the private directory. If it is none, `run_dir::base` chooses the parent.
    pub run_base: Option<PathBuf>,
    /// The zero point of the control plane's clock.
    pub origin: Instant,
}

/// Why the bridge could not be opened; the message is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum LocalOpenError {
    #[error("cannot make a private directory for sockets in {}: {why}", base.display())]
    RunDir { base: PathBuf, why: io::Error },
    #[error("cannot start the guard of function processes ({program}): {why}")]
    Guard { program: String, why: io::Error },
    #[error("cannot become the reaper of orphaned processes: {0}; Linux 3.4 is needed")]
    Reaper(io::Error),
}
