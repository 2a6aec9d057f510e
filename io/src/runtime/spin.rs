//! Records until when an io thread spins (`--io-spin-us`). The task that spins is in `shard::spin`.

use std::cell::{Cell, RefCell};
use std::task::Waker;

use nanofaas_core::time::Uptime;

/// Until when a thread spins.
#[derive(Default)]
pub(crate) struct Spin {
    pub(crate) until: Cell<Uptime>,
    pub(crate) spinning: Cell<bool>,
    /// The waker of the spinning task, by which `prolong` starts the task's next period of spinning.
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
