//! The name of an io thread among the others. It reaches none; `shards` does.

use nanofaas_core::id::ExecutionId;

/// An io thread. What counts threads, or names something else by a number, is another type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShardId(u16);

impl ShardId {
    pub(crate) const fn new(number: u16) -> Self {
        Self(number)
    }

    /// The owner of an execution. An id that a client made up may name a thread that is not there.
    pub(crate) const fn of(id: ExecutionId) -> Self {
        Self(id.thread())
    }

    /// As ids and messages of other threads name it.
    pub(crate) const fn number(self) -> u16 {
        self.0
    }

    /// Its place in what has one for each io thread.
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

impl std::fmt::Display for ShardId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "io-{}", self.0)
    }
}
