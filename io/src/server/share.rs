//! What one connection may do before the others have their turn. A client that sends ahead has always more
//! to do and would keep the thread from all others: once its share is used up its task yields, and goes on
//! after the loop has looked at I/O. It counts, and yields nothing by itself; `serve` does.

use std::cell::Cell;

/// What is left of one connection's share.
#[derive(Default)]
pub(crate) struct Share {
    left: Cell<usize>,
}

impl Share {
    /// The task is polled: it has a share of `most`.
    pub(crate) fn renew(&self, most: usize) {
        self.left.set(most);
    }

    /// Uses some of it.
    pub(crate) fn take(&self, some: usize) {
        self.left.set(self.left.get().saturating_sub(some));
    }

    pub(crate) const fn is_used_up(&self) -> bool {
        self.left.get() == 0
    }
}
