//! Cleans up after an io thread's work: idle connections to pods, executions that are past their time, free
//! memory. `ticker` calls it each time the ticker wakes. If nothing is left to clean up, no further upkeep is
//! planned, so that the thread can sleep.

use nanofaas_core::time::Uptime;

use crate::invoke::stored;
use crate::links::Links;
use crate::runtime::upkeep::POLL_EVERY;

/// Cleans up, if that is due.
pub(crate) fn run(thread: &Links, now: Uptime) {
    let upkeep = &thread.upkeep;
    if !upkeep.take_due(now) {
        return;
    }
    let are_idle = thread.pods.sweep(now);
    stored::expire(thread, now);
    if are_idle || thread.executions.is_over_budget() {
        upkeep.plan(now + POLL_EVERY);
    }
    if let Some(expires_at) = thread.executions.next_expiry() {
        upkeep.plan(expires_at.max(now + POLL_EVERY));
    }
    if upkeep.take_rest(now) {
        thread.account.give_back_spare();
        thread.buffers.clear();
        (thread.config.collect_memory)();
    }
}
