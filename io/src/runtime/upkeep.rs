//! When an io thread cleans up: a while after its last work. It cleans up nothing itself; `shard::upkeep` does.

use std::cell::Cell;
use std::rc::Rc;

use nanofaas_core::time::{Nanos, Uptime};

use crate::runtime::due::Due;
use crate::runtime::timers::{Alarm, Alarms};

/// The pause between two checks for something to clean up.
pub(crate) const POLL_EVERY: Nanos = Nanos::from_s(1);
/// A thread without work for this long gives its free memory back. The allocator does not do that by itself,
/// because an idle thread does not call it.
const REST: Nanos = Nanos::from_s(2);

pub(crate) struct Upkeep {
    alarm: Alarm,
    due: Cell<Due>,
    /// The last work, if memory was not given back since.
    worked_at: Cell<Option<Uptime>>,
}

impl Upkeep {
    pub(crate) fn new(alarms: &Rc<Alarms>) -> Self {
        Self {
            alarm: alarms.alarm(),
            due: Cell::new(Due::NEVER),
            worked_at: Cell::new(None),
        }
    }

    pub(crate) fn plan(&self, at: Uptime) {
        let due = Due::at(at);
        if due < self.due.get() {
            self.due.set(due);
            self.alarm.set(at);
        }
    }

    /// Notes work after which something is to be cleaned up.
    #[inline]
    pub(crate) fn worked(&self, now: Uptime) {
        self.worked_at.set(Some(now));
        self.plan(now + POLL_EVERY);
    }

    /// Whether the upkeep is due. It is then not due again before it is planned again.
    pub(crate) fn take_due(&self, now: Uptime) -> bool {
        let is_due = self.due.get().has_come(now);
        if is_due {
            self.due.set(Due::NEVER);
        }
        is_due
    }

    /// Whether the thread has been without work for `REST`; true only once after each period of work.
    pub(crate) fn take_rest(&self, now: Uptime) -> bool {
        let Some(worked_at) = self.worked_at.get() else {
            return false;
        };
        let rested_at = worked_at + REST;
        let is_rested = now >= rested_at;
        if is_rested {
            self.worked_at.set(None);
        } else {
            self.plan(rested_at);
        }
        is_rested
    }
}
