//! A `ShardId` is the name of an io thread, as messages, ids and tables use it.

use std::fmt;

/// The number of one io thread. It has a type of its own, so that no other number is taken for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ShardId(u16);

impl ShardId {
    #[inline]
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// Returns the number that execution ids contain.
    #[inline]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Returns the thread's index in a list with one item for each io thread.
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
