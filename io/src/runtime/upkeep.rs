//! When an io thread tidies: a while after its last work. It tidies nothing; the upkeep of `shard` does.

use std::cell::Cell;
use std::rc::Rc;

use nanofaas_core::time::{Nanos, Uptime};

use crate::runtime::due::Due;
use crate::runtime::timers::{Alarm, Alarms};

/// How soon what was used is checked.
pub(crate) const POLL_EVERY: Nanos = Nanos::from_s(1);
/// Memory is given back when the thread has been without work for so long.
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

    /// Something was used just now that is to be tidied later.
    #[inline]
    pub(crate) fn worked(&self, now: Uptime) {
        self.worked_at.set(Some(now));
        self.plan(now + POLL_EVERY);
    }

    /// Whether it is due, which it is not again before it is planned again.
    pub(crate) fn take_due(&self, now: Uptime) -> bool {
        let is_due = self.due.get().has_come(now);
        if is_due {
            self.due.set(Due::NEVER);
        }
        is_due
    }

    /// Whether the thread rests for so long that its memory is to be given back, once.
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
