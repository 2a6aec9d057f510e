//! How much one connection may do before the others have their turn. A client that sends ahead always has more
//! work for the thread, and would keep the thread from all other clients. So the connection's task yields when
//! its share is used up, and continues after the loop has polled its I/O. This module only counts; `serve`
//! yields.

use std::cell::Cell;

/// What is left of one connection's share.
#[derive(Default)]
pub(crate) struct Share {
    left: Cell<usize>,
}

impl Share {
    /// Begins a poll of the task, with a share of `most`.
    pub(crate) fn renew(&self, most: usize) {
        self.left.set(most);
    }

    /// Uses `some` of the share.
    pub(crate) fn take(&self, some: usize) {
        self.left.set(self.left.get().saturating_sub(some));
    }

    pub(crate) const fn is_used_up(&self) -> bool {
        self.left.get() == 0
    }
}
