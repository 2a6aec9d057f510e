//! Computes when a call that arrives now would begin, from the true times of all running, waiting and
//! starting work. This is called perfect knowledge. In this module, a plan is the times at which slots become
//! free. This module admits nothing; `calls` uses this knowledge instead of the prediction. Only sync calls
//! are supported, because they begin in the order of their arrival.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering;

use nanofaas_core::event::LanePlan;
use nanofaas_core::spec::ExecutionMode;
use nanofaas_core::time::{Nanos, Uptime};

use super::Simulator;
use super::pods::{comes_up, held_for};

/// The largest number of planning steps for one trace, about ten seconds of work. A new plan takes one step
/// for each entry of the call table, used or free. If the times of Jobs' starts vary, each arrival needs a
/// new plan.
const STEPS_MAX: u64 = 100_000_000;

/// What is kept from one arrival to the next.
#[derive(Default)]
pub(super) struct Knowledge {
    /// The plan of the last arrival; `None` if an event differed from the plan.
    plan: Option<PerfectPlan>,
    steps: u64,
}

impl Knowledge {
    /// Drops the plan. The simulation calls this after an event that the plan did not foresee, such as the
    /// order of a pod.
    pub(super) fn forget(&mut self) {
        self.plan = None;
    }

    pub(super) const fn is_too_much_work(&self) -> bool {
        self.steps > STEPS_MAX
    }
}

/// The times at which the slots are free after all waiting calls have had their slots.
#[derive(Clone, Debug)]
struct PerfectPlan {
    /// The time at which each slot is free; a time in the past means now.
    free: BinaryHeap<Reverse<Uptime>>,
    /// The number of slots on pods that are not ordered yet, but would be ordered if a call had to wait.
    unordered: usize,
    /// The time from the order of a pod until it is up.
    start: Nanos,
    /// Whether a waiting call uses one of the `unordered` slots. Such a plan is valid only at the time at
    /// which it was made, because a pod that is ordered later comes up later.
    counts_on_unordered: bool,
    /// The number of slots, and their maximum, when the plan was made.
    slots: (usize, usize),
}

impl PerfectPlan {
    /// Returns when the next call would begin; `None` if there is no slot and none can come.
    fn begins_at(&self, now: Uptime) -> Option<Uptime> {
        let known_at = self.free.peek().map(|Reverse(at)| now.max(*at));
        let ordered_at = (self.unordered > 0).then_some(now + self.start);
        known_at.into_iter().chain(ordered_at).min()
    }

    /// Queues a call behind all other calls. A call whose deadline passes before it begins takes no slot.
    fn queue(&mut self, now: Uptime, held_for: Nanos, deadline: Uptime) {
        let begins_at = self.begins_at(now);
        let Some(begins_at) = begins_at.filter(|begins_at| *begins_at < deadline) else {
            return;
        };
        let is_known = self.free.peek().is_some_and(|Reverse(at)| *at <= begins_at);
        if is_known {
            self.free.pop();
        } else {
            self.unordered -= 1;
            self.counts_on_unordered = true;
        }
        let until = (begins_at + held_for).min(deadline);
        self.free.push(Reverse(until));
    }
}

impl Simulator<'_> {
    /// Returns whether a call that arrives now will be answered in time. If there is no slot and none can
    /// come, returns true, because the first pod is ordered only for a call that was admitted.
    pub(super) fn will_make_it(&mut self, service: Nanos, deadline: Uptime) -> bool {
        let job_start = self.job_start();
        if job_start.is_some_and(|start| !comes_up(start)) {
            return false;
        }
        let now = self.now;
        match self.plan().begins_at(now) {
            Some(begins_at) => begins_at + held_for(job_start, service) <= deadline,
            None => true,
        }
    }

    /// Adds an admitted call to the plan.
    pub(super) fn plan_for(&mut self, service: Nanos, deadline: Uptime) {
        let held_for = held_for(self.job_start(), service);
        if let Some(plan) = &mut self.knowledge.plan {
            plan.queue(self.now, held_for, deadline);
        }
    }

    /// Checks how long the start of an attempt's Job actually takes; an unexpected time drops the plan.
    pub(super) fn learn_job_start(&mut self, start: Nanos) {
        if self.job_start() != Some(start) {
            self.knowledge.forget();
        }
    }

    /// Returns how long the start of a call's Job is expected to take; `None` if calls have no Jobs.
    fn job_start(&self) -> Option<Nanos> {
        let is_job = self.setup.spec.execution_mode == ExecutionMode::Job;
        let start = self.setup.start.filter(|_| is_job);
        start.map(|start| start.time)
    }

    fn slots(&self) -> (usize, usize) {
        let stats = self.stats();
        let slots = stats.slots_now.load(Ordering::Relaxed);
        let most = stats.slots_max.load(Ordering::Relaxed);
        (slots as usize, most as usize)
    }

    /// Returns the valid plan: the last plan if everything happened as planned, else a new one.
    fn plan(&mut self) -> &PerfectPlan {
        let slots = self.slots();
        let last = self.knowledge.plan.take();
        let holds = |plan: &PerfectPlan| !plan.counts_on_unordered && plan.slots == slots;
        let plan = match last.filter(holds) {
            Some(plan) => {
                #[cfg(test)]
                self.assert_as_new(&plan);
                plan
            }
            None => {
                self.knowledge.steps += self.places.len() as u64;
                self.new_plan()
            }
        };
        self.knowledge.plan.insert(plan)
    }

    /// Makes a plan from all calls and pods.
    fn new_plan(&self) -> PerfectPlan {
        let (mut held, mut waiting) = (Vec::new(), Vec::new());
        for live in self.places.iter().filter_map(|place| place.call.as_ref()) {
            let deadline = live.life.deadline();
            if live.life.is_running() {
                held.push(live.ends_at.min(deadline));
            } else {
                waiting.push((live.number, deadline));
            }
        }
        // Each pair begins with the call's number in the trace, so the sort puts the calls in the order of
        // their arrival.
        waiting.sort_unstable();
        let mut plan = self.plan_of_slots(held);
        let job_start = self.job_start();
        for (number, deadline) in waiting {
            let held_for = held_for(job_start, self.setup.calls[number].service);
            plan.queue(self.now, held_for, deadline);
        }
        plan
    }

    /// Makes a plan without the waiting calls. `held` has the times at which running calls free their slots.
    fn plan_of_slots(&self, held: Vec<Uptime>) -> PerfectPlan {
        let (slots, most) = self.slots();
        let mut free = held;
        free.resize(free.len().max(slots), self.now);
        let pods = LanePlan::of(&self.setup.spec).pods;
        let cap = pods.map_or(0, |pods| pods.cap) as usize;
        for up_at in self.pods.coming.values() {
            free.extend(std::iter::repeat_n(*up_at, cap));
        }
        free.sort_unstable();
        free.truncate(most);
        let start = self.setup.start.filter(|start| comes_up(start.time));
        PerfectPlan {
            unordered: start.map_or(0, |_| most - free.len()),
            start: start.map_or(Nanos::ZERO, |start| start.time),
            free: free.into_iter().map(Reverse).collect(),
            counts_on_unordered: false,
            slots: (slots, most),
        }
    }
}

#[cfg(test)]
mod tests;
