//! Counts how much one connection may do before the other connections are polled. A client that sends ahead
//! may always have more work for the thread, and the thread would then serve no other client. A connection's
//! task therefore yields when its share is used up, and continues after the event loop has polled its I/O.
//! This module only counts; `serve` yields.

use std::cell::Cell;

#[derive(Default)]
pub(crate) struct Share {
    left: Cell<usize>,
}

impl Share {
    /// Sets the share to `most`, at the beginning of a poll of the connection's task.
    pub(crate) fn renew(&self, most: usize) {
        self.left.set(most);
    }

    pub(crate) fn take(&self, some: usize) {
        self.left.set(self.left.get().saturating_sub(some));
    }

    pub(crate) const fn is_used_up(&self) -> bool {
        self.left.get() == 0
    }
}
