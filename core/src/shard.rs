//! The name of an io thread among the others, wherever a message, an id or a table names one. It reaches none.

use std::fmt;

/// An io thread. What counts threads, or names something else by a number, is another type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ShardId(u16);

impl ShardId {
    #[inline]
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// As ids of executions spell it.
    #[inline]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Its place in what has one for each io thread.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "io-{}", self.0)
    }
}
