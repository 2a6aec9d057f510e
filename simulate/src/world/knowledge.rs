//! Perfect knowledge: when a call that comes now would begin, to the nanosecond, from what runs, waits and
//! starts. It admits nothing; `calls` asks it in place of the prediction. It knows sync calls only: they
//! begin in the order in which they come.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering;

use nanofaas_core::event::LanePlan;
use nanofaas_core::spec::ExecutionMode;

use super::World;
use super::pods::{comes_up, held_ns};

/// Steps of planning in one trace, a call or a place for one in each: about ten seconds of work. A plan that has
/// to be made anew at each arrival, because starts spread, takes as many steps as there are live calls.
const STEPS_MAX: u64 = 100_000_000;

/// What is remembered between two calls.
#[derive(Default)]
pub(super) struct Knowledge {
    /// None where something went otherwise than it was planned.
    plan: Option<Plan>,
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
struct Plan {
    /// When each is free. One of the past is free now.
    free: BinaryHeap<Reverse<u64>>,
    /// Slots of pods that are ordered if a call would still wait a start from now.
    unordered: usize,
    /// From an order until its pod is up.
    start_ns: u64,
    /// Whether a waiting call takes one of `unordered`. Such a plan holds at its own time only, because each
    /// moment without the order delays the pod.
    counts_on_unordered: bool,
    /// The slots that there were, and their most, when it was made.
    slots: (usize, usize),
}

impl Plan {
    /// When the next call would begin. None where there is no slot, and none on its way.
    fn begins_ns(&self, now_ns: u64) -> Option<u64> {
        let known_ns = self.free.peek().map(|Reverse(at_ns)| now_ns.max(*at_ns));
        let ordered_ns = (self.unordered > 0).then_some(now_ns + self.start_ns);
        known_ns.into_iter().chain(ordered_ns).min()
    }

    /// A call waits behind all others. One whose deadline passes before it begins takes no slot.
    fn queue(&mut self, now_ns: u64, held_ns: u64, deadline_ns: u64) {
        let begins_ns = self.begins_ns(now_ns);
        let Some(begins_ns) = begins_ns.filter(|begins_ns| *begins_ns < deadline_ns) else {
            return;
        };
        let is_known = self
            .free
            .peek()
            .is_some_and(|Reverse(at_ns)| *at_ns <= begins_ns);
        if is_known {
            self.free.pop();
        } else {
            self.unordered -= 1;
            self.counts_on_unordered = true;
        }
        let until_ns = (begins_ns + held_ns).min(deadline_ns);
        self.free.push(Reverse(until_ns));
    }
}

impl World<'_> {
    /// Whether a call that comes now will be answered in time. One that would be the first pod's is let in:
    /// else no pod would ever be wanted.
    pub(super) fn will_make_it(&mut self, service_ns: u64, deadline_ns: u64) -> bool {
        let job_start_ns = self.job_start_ns();
        if job_start_ns.is_some_and(|start_ns| !comes_up(start_ns)) {
            return false;
        }
        let now_ns = self.now_ns;
        match self.plan().begins_ns(now_ns) {
            Some(begins_ns) => begins_ns + held_ns(job_start_ns, service_ns) <= deadline_ns,
            None => true,
        }
    }

    /// A call was let in.
    pub(super) fn plan_for(&mut self, service_ns: u64, deadline_ns: u64) {
        let held_ns = held_ns(self.job_start_ns(), service_ns);
        if let Some(plan) = &mut self.knowledge.plan {
            plan.queue(self.now_ns, held_ns, deadline_ns);
        }
    }

    /// An attempt begins whose Job takes so long to start.
    pub(super) fn learn_job_start(&mut self, start_ns: u64) {
        if self.job_start_ns() != Some(start_ns) {
            self.knowledge.forget();
        }
    }

    /// How long the Job of a call is expected to start.
    fn job_start_ns(&self) -> Option<u64> {
        let is_job = self.setup.spec.execution_mode == ExecutionMode::Job;
        let start = self.setup.start.filter(|_| is_job);
        start.map(|start| start.ns)
    }

    /// The slots that there are, and how many there may be.
    fn slots(&self) -> (usize, usize) {
        let view = self.view();
        let slots = view.slots_now.load(Ordering::Relaxed);
        let most = view.slots_max.load(Ordering::Relaxed);
        (slots as usize, most as usize)
    }

    /// The plan that holds now: the last one, if all went by it.
    fn plan(&mut self) -> &Plan {
        let slots = self.slots();
        let last = self.knowledge.plan.take();
        let holds = |plan: &Plan| !plan.counts_on_unordered && plan.slots == slots;
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
    fn new_plan(&self) -> Plan {
        let (mut held, mut waiting) = (Vec::new(), Vec::new());
        for live in self.places.iter().filter_map(|place| place.call.as_ref()) {
            let deadline_ns = live.life.deadline_ns();
            if live.life.is_running() {
                held.push(live.ends_ns.min(deadline_ns));
            } else {
                waiting.push((live.number, deadline_ns));
            }
        }
        // In the order in which they came.
        waiting.sort_unstable();
        let mut plan = self.plan_of_slots(held);
        let job_start_ns = self.job_start_ns();
        for (number, deadline_ns) in waiting {
            let held_ns = held_ns(job_start_ns, self.setup.calls[number].service_ns);
            plan.queue(self.now_ns, held_ns, deadline_ns);
        }
        plan
    }

    /// Without the calls that wait; `held` is until when the others have their slots.
    fn plan_of_slots(&self, held: Vec<u64>) -> Plan {
        let (slots, most) = self.slots();
        let mut free = held;
        free.resize(free.len().max(slots), self.now_ns);
        let pods = LanePlan::of(&self.setup.spec).pods;
        let cap = pods.map_or(0, |pods| pods.cap) as usize;
        for up_ns in self.pods.coming.values() {
            free.extend(std::iter::repeat_n(*up_ns, cap));
        }
        free.sort_unstable();
        free.truncate(most);
        let start = self.setup.start.filter(|start| comes_up(start.ns));
        Plan {
            unordered: start.map_or(0, |_| most - free.len()),
            start_ns: start.map_or(0, |start| start.ns),
            free: free.into_iter().map(Reverse).collect(),
            counts_on_unordered: false,
            slots: (slots, most),
        }
    }
}

#[cfg(test)]
mod tests;
