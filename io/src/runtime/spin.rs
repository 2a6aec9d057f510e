//! Until when a thread spins, for `--io-spin-us`. It polls nothing; the spinning task of `shard` does.

use std::cell::{Cell, RefCell};
use std::task::Waker;

use nanofaas_core::time::Uptime;

/// Until when a thread spins.
#[derive(Default)]
pub(crate) struct Spin {
    pub(crate) until: Cell<Uptime>,
    pub(crate) spinning: Cell<bool>,
    /// The waker of the spinning task, for the time in which it does not spin.
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
