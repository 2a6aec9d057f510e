//! Until when a thread spins, for `--io-spin-us`. It looks at nothing; the task of `shard` that spins does.

use std::cell::{Cell, RefCell};
use std::task::Waker;

use nanofaas_core::time::Uptime;

/// Until when a thread spins.
#[derive(Default)]
pub(crate) struct Spin {
    pub(crate) until: Cell<Uptime>,
    pub(crate) spinning: Cell<bool>,
    /// Of the task that spins, while it does not.
    pub(crate) waker: RefCell<Option<Waker>>,
}

impl Spin {
    pub(crate) fn prolong(&self, until: Uptime) {
        self.until.set(until);
        if !self.spinning.get()
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }
}
