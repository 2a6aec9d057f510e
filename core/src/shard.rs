//! The name of an io thread, as used in messages, ids and tables.

use std::fmt;

/// The number of one io thread. A count of threads, or any other number, has another type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ShardId(u16);

impl ShardId {
    #[inline]
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// The number as execution ids contain it.
    #[inline]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The thread's place in a list with one item for each io thread.
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
