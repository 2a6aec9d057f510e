//! The phase of the process's shutdown, as an io thread knows it. Other modules act on the phase.

/// How far the shutdown of the process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ShutdownPhase {
    Serving,
    /// The thread takes no new calls.
    Draining,
    /// The calls that are left end with the code `SHUTDOWN`.
    Stopping,
}
