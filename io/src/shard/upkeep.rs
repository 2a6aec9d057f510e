//! What an io thread tidies once it has worked: connections to pods that rest for too long, executions past
//! their time, memory that is free. `ticker` calls it when it is due. Where nothing is left to tidy, nothing
//! is due, and the thread sleeps until something comes.

use std::cell::Cell;
use std::rc::Rc;

use nanofaas_core::time::{Nanos, Uptime};

use crate::runtime::due::Due;
use crate::runtime::timers::{Alarm, Alarms};
use crate::shard::thread::Thread;

/// How soon what was used is looked at.
const LOOK: Nanos = Nanos::from_s(1);
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

    fn plan(&self, at: Uptime) {
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
        self.plan(now + LOOK);
    }
}

/// Tidies, if that is due.
pub(crate) fn run(thread: &Thread, now: Uptime) {
    let upkeep = &thread.upkeep;
    if !upkeep.due.get().has_come(now) {
        return;
    }
    upkeep.due.set(Due::NEVER);
    let are_idle = thread.pods.sweep(now);
    crate::invoke::stored::expire(thread, now);
    if are_idle || thread.executions.is_over_budget() {
        upkeep.plan(now + LOOK);
    }
    if let Some(expires_at) = thread.executions.next_expiry() {
        upkeep.plan(expires_at.max(now + LOOK));
    }
    if let Some(worked_at) = upkeep.worked_at.get() {
        let rested_at = worked_at + REST;
        if now >= rested_at {
            upkeep.worked_at.set(None);
            thread.account.give_back_spare();
            thread.buffers.clear();
            (thread.config.collect_memory)();
        } else {
            upkeep.plan(rested_at);
        }
    }
}
