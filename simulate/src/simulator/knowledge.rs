//! Perfect knowledge: when a call that comes now would begin, to the nanosecond, from what runs, waits and
//! starts. It admits nothing; `calls` asks it in place of the prediction. It knows sync calls only: they
//! begin in the order in which they come.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering;

use nanofaas_core::event::LanePlan;
use nanofaas_core::spec::ExecutionMode;
use nanofaas_core::time::{Nanos, Uptime};

use super::Simulator;
use super::pods::{comes_up, held_for};

/// Steps of planning in one trace, a call or a place for one in each: about ten seconds of work. A plan that has
/// to be made anew at each arrival, because starts spread, takes as many steps as there are live calls.
const STEPS_MAX: u64 = 100_000_000;

/// The plan of the last arrival, kept for the next one.
#[derive(Default)]
pub(super) struct Knowledge {
    /// None where something went otherwise than it was planned.
    plan: Option<PerfectPlan>,
    steps: u64,
}

impl Knowledge {
    /// Pods change, or a call ends at another time than was expected.
    pub(super) fn forget(&mut self) {
        self.plan = None;
    }

    pub(super) const fn is_too_much_work(&self) -> bool {
        self.steps > STEPS_MAX
    }
}

/// The slots that there are or will be, after all calls that wait have had theirs.
#[derive(Clone, Debug)]
struct PerfectPlan {
    /// When each is free. One of the past is free now.
    free: BinaryHeap<Reverse<Uptime>>,
    /// Slots of pods that are ordered if a call would still wait a start from now.
    unordered: usize,
    /// From an order until its pod is up.
    start: Nanos,
    /// Whether a waiting call takes one of `unordered`. Such a plan holds at its own time only, because each
    /// moment without the order delays the pod.
    counts_on_unordered: bool,
    /// The slots that there were, and their most, when it was made.
    slots: (usize, usize),
}

impl PerfectPlan {
    /// When the next call would begin. None where there is no slot, and none on its way.
    fn begins_at(&self, now: Uptime) -> Option<Uptime> {
        let known_at = self.free.peek().map(|Reverse(at)| now.max(*at));
        let ordered_at = (self.unordered > 0).then_some(now + self.start);
        known_at.into_iter().chain(ordered_at).min()
    }

    /// A call waits behind all others. One whose deadline passes before it begins takes no slot.
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
    /// Whether a call that comes now will be answered in time. One that would be the first pod's is let in:
    /// else no pod would ever be wanted.
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

    /// A call was let in.
    pub(super) fn plan_for(&mut self, service: Nanos, deadline: Uptime) {
        let held_for = held_for(self.job_start(), service);
        if let Some(plan) = &mut self.knowledge.plan {
            plan.queue(self.now, held_for, deadline);
        }
    }

    /// An attempt begins whose Job takes so long to start.
    pub(super) fn learn_job_start(&mut self, start: Nanos) {
        if self.job_start() != Some(start) {
            self.knowledge.forget();
        }
    }

    /// How long the Job of a call is expected to start.
    fn job_start(&self) -> Option<Nanos> {
        let is_job = self.setup.spec.execution_mode == ExecutionMode::Job;
        let start = self.setup.start.filter(|_| is_job);
        start.map(|start| start.time)
    }

    /// The slots that there are, and how many there may be.
    fn slots(&self) -> (usize, usize) {
        let stats = self.stats();
        let slots = stats.slots_now.load(Ordering::Relaxed);
        let most = stats.slots_max.load(Ordering::Relaxed);
        (slots as usize, most as usize)
    }

    /// The plan that holds now: the last one, if all went by it.
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

    /// From everything that there is.
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
        // In the order in which they came.
        waiting.sort_unstable();
        let mut plan = self.plan_of_slots(held);
        let job_start = self.job_start();
        for (number, deadline) in waiting {
            let held_for = held_for(job_start, self.setup.calls[number].service);
            plan.queue(self.now, held_for, deadline);
        }
        plan
    }

    /// Without the calls that wait; `held` is until when the others have their slots.
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
