//! The phase of the process's shutdown, as an io thread knows it. It ends nothing by itself.

/// How far the shutdown of the process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ShutdownPhase {
    Serving,
    /// No new calls are taken.
    Draining,
    /// The calls that are left end as `SHUTDOWN`.
    Stopping,
}
