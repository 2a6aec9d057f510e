//! What an io thread tidies once it has worked: connections to pods that rest for too long, executions past
//! their time, memory that is free. `ticker` calls it when it is due. Where nothing is left to tidy, nothing
//! is due, and the thread sleeps until something comes.

use std::cell::Cell;
use std::rc::Rc;

use crate::runtime::due::Due;
use crate::runtime::timers::{Alarm, Alarms};
use crate::shard::thread::Thread;

/// How soon what was used is looked at.
const LOOK_NS: u64 = 1_000_000_000;
/// Memory is given back when the thread has been without work for so long.
const REST_NS: u64 = 2_000_000_000;

pub(crate) struct Upkeep {
    alarm: Alarm,
    due: Cell<Due>,
    /// The last work, if memory was not given back since.
    worked_ns: Cell<Option<u64>>,
}

impl Upkeep {
    pub(crate) fn new(alarms: &Rc<Alarms>) -> Self {
        Self {
            alarm: alarms.alarm(),
            due: Cell::new(Due::NEVER),
            worked_ns: Cell::new(None),
        }
    }

    fn plan(&self, at_ns: u64) {
        let due = Due::at(at_ns);
        if due < self.due.get() {
            self.due.set(due);
            self.alarm.set(at_ns);
        }
    }

    /// Something was used just now that is to be tidied later.
    #[inline]
    pub(crate) fn worked(&self, now_ns: u64) {
        self.worked_ns.set(Some(now_ns));
        self.plan(now_ns + LOOK_NS);
    }
}

/// Tidies, if that is due.
pub(crate) fn run(thread: &Thread, now_ns: u64) {
    let upkeep = &thread.upkeep;
    if !upkeep.due.get().has_come(now_ns) {
        return;
    }
    upkeep.due.set(Due::NEVER);
    let are_idle = thread.pods.sweep(now_ns);
    crate::invoke::stored::expire(thread, now_ns);
    if are_idle || thread.executions.is_over_budget() {
        upkeep.plan(now_ns + LOOK_NS);
    }
    if let Some(expires_ns) = thread.executions.next_expiry_ns() {
        upkeep.plan(expires_ns.max(now_ns + LOOK_NS));
    }
    if let Some(worked_ns) = upkeep.worked_ns.get() {
        let rested_ns = worked_ns + REST_NS;
        if now_ns >= rested_ns {
            upkeep.worked_ns.set(None);
            thread.account.give_back_spare();
            thread.buffers.clear();
            (thread.config.collect_memory)();
        } else {
            upkeep.plan(rested_ns);
        }
    }
}
