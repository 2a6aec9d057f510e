//! Perfect knowledge: when a call that comes now would begin, to the nanosecond, from what runs, waits and
//! starts. It admits nothing; `calls` asks it in place of the prediction.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering;

use nanofaas_core::event::LanePlan;
use nanofaas_core::spec::ExecutionMode;
use nanofaas_core::ticket::Class;

use super::World;
use super::pods::{comes_up, held_ns};

/// A call that waits: which, how long it takes, and until when it waits.
struct Waiting {
    order: (Class, usize),
    service_ns: u64,
    deadline_ns: u64,
}

impl World<'_> {
    /// Whether a sync call that comes now will be answered in time. One that would be the first pod's is let
    /// in: else no pod would ever be wanted.
    pub(super) fn will_make_it(&self, service_ns: u64, deadline_ns: u64) -> bool {
        let job_start_ns = self.job_start_ns();
        if job_start_ns.is_some_and(|start_ns| !comes_up(start_ns)) {
            return false;
        }
        match self.begins_ns() {
            Some(begins_ns) => begins_ns + held_ns(job_start_ns, service_ns) <= deadline_ns,
            None => true,
        }
    }

    /// How long the Job of a call is expected to start.
    fn job_start_ns(&self) -> Option<u64> {
        let is_job = self.setup.spec.execution_mode == ExecutionMode::Job;
        self.setup.start.filter(|_| is_job).map(|start| start.ns)
    }

    /// None where there is no slot, and none on its way.
    fn begins_ns(&self) -> Option<u64> {
        let (mut free, waiting) = self.slots_and_waiting();
        let mut begins_ns = |service_ns: u64, deadline_ns: u64| {
            let Reverse(at_ns) = free.pop()?;
            // A call whose deadline passes before takes no slot.
            let until_ns = if at_ns < deadline_ns {
                (at_ns + service_ns).min(deadline_ns)
            } else {
                at_ns
            };
            free.push(Reverse(until_ns));
            Some(at_ns)
        };
        for call in waiting {
            begins_ns(call.service_ns, call.deadline_ns)?;
        }
        begins_ns(0, u64::MAX)
    }

    /// When each slot is free, and what waits for them, in its order.
    fn slots_and_waiting(&self) -> (BinaryHeap<Reverse<u64>>, Vec<Waiting>) {
        let (mut held, mut waiting) = (Vec::new(), Vec::new());
        for live in self.places.iter().filter_map(|place| place.call.as_ref()) {
            let call = &self.setup.calls[live.number];
            let (service_ns, deadline_ns) = (call.service_ns, live.life.deadline_ns());
            if live.life.is_running() {
                held.push(live.ends_ns.min(deadline_ns));
            } else {
                waiting.push(Waiting {
                    order: (call.class, live.number),
                    service_ns: held_ns(self.job_start_ns(), service_ns),
                    deadline_ns,
                });
            }
        }
        waiting.sort_by_key(|call| (call.order.0 as u8, call.order.1));
        let view = self.view();
        let slots = view.slots_now.load(Ordering::Relaxed) as usize;
        let most = view.slots_max.load(Ordering::Relaxed) as usize;
        let mut free = held;
        free.resize(free.len().max(slots), self.now_ns);
        let cap = LanePlan::of(&self.setup.spec)
            .pods
            .map_or(0, |pods| pods.cap) as usize;
        for up_ns in self.pods.coming.values() {
            free.extend(std::iter::repeat_n(*up_ns, cap));
        }
        // A call that would still wait a start from now is one that a pod is ordered for.
        if let Some(start) = self.setup.start.filter(|start| comes_up(start.ns))
            && free.len() < most
        {
            free.resize(most, self.now_ns + start.ns);
        }
        free.sort_unstable();
        free.truncate(most);
        (free.into_iter().map(Reverse).collect(), waiting)
    }
}
