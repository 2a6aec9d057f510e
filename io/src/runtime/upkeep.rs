//! Decides when an io thread cleans up, which is some time after its last work. `shard::upkeep` cleans up.

use std::cell::Cell;
use std::rc::Rc;

use nanofaas_core::time::{Nanos, Uptime};

use crate::runtime::due::Due;
use crate::runtime::timers::{Alarm, Alarms};

/// How long the thread waits between two checks for something to clean up.
pub(crate) const POLL_EVERY: Nanos = Nanos::from_s(1);
/// A thread that has had no work for this long returns its free memory to the system. The allocator alone
/// would keep the memory, because it acts only when it is called, and an idle thread does not call it.
const REST: Nanos = Nanos::from_s(2);

pub(crate) struct Upkeep {
    alarm: Alarm,
    due: Cell<Due>,
    /// When the thread last worked; none if its memory was returned since then.
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

    /// Notes work after which something has to be cleaned up.
    #[inline]
    pub(crate) fn worked(&self, now: Uptime) {
        self.worked_at.set(Some(now));
        self.plan(now + POLL_EVERY);
    }

    /// Returns whether the upkeep is due. If so, the upkeep becomes due again only after it is planned again.
    pub(crate) fn take_due(&self, now: Uptime) -> bool {
        let is_due = self.due.get().has_come(now);
        if is_due {
            self.due.set(Due::NEVER);
        }
        is_due
    }

    /// Returns whether the thread has been without work for `REST`. Returns true at most once after each
    /// period of work.
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
