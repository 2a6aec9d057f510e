//! Which pods a lane wants: more as calls wait, fewer when idle, others when the spec changed.
//! It never starts or ends one; orders to the bridge do. A part of the scheduler's state machine.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::event::{Notice, Order, Outbox};
use crate::limits::START_BACKOFF_NS;
use crate::pods::PodState;
use crate::scheduler::{Scheduler, find};
use crate::ticket::{LaneId, PodRef};

/// A pod that dies sooner than this after it came up, without one good answer, counts as a failed
/// start: otherwise a function that crashes on its first breath would be started in a tight loop.
const SHORT_LIFE_NS: u64 = 5_000_000_000;
/// An order that no call needed for so long is taken back; as often it is asked, since calls may leave the
/// queue unseen.
const LOOK_AGAIN_NS: u64 = 1_000_000_000;

impl Scheduler {
    fn mean_start(&mut self, id: LaneId, sample_ns: u64) {
        if let Some(lane) = self.lane(id) {
            let old = lane.view.start_ns.load(Ordering::Relaxed);
            let new = if old == 0 {
                sample_ns
            } else {
                old - old / 4 + sample_ns / 4
            };
            lane.view.start_ns.store(new.max(1), Ordering::Relaxed);
        }
    }

    pub(crate) fn pod_up(&mut self, pod_ref: PodRef, now_ns: u64, out: &mut Outbox) {
        let Some(pod) = self.pods.get(pod_ref) else {
            return;
        };
        let (lane, was, wanted_ns) = (pod.lane, pod.state, pod.wanted_ns);
        match was {
            PodState::Starting => {
                pod.usable_ns = now_ns;
                pod.idle_since_ns = now_ns;
                pod.state = PodState::Usable;
                if let Some(lane) = self.lane(lane) {
                    lane.starts.are_late = false;
                }
                self.mean_start(lane, now_ns.saturating_sub(wanted_ns));
            }
            PodState::Quarantined => pod.state = PodState::Usable,
            PodState::Usable | PodState::Draining | PodState::Leaving => return,
        }
        self.recount(lane);
        self.retire_later(lane, now_ns);
        self.reconcile(lane, now_ns, out);
        self.list(lane);
    }

    pub(crate) fn pod_down(&mut self, pod_ref: PodRef, now_ns: u64, out: &mut Outbox) {
        let Some(pod) = self.pods.get(pod_ref) else {
            return;
        };
        if pod.state == PodState::Starting {
            let why = "the pod ended before it was ready".into();
            return self.start_failed(pod_ref, false, why, now_ns, out);
        }
        let (lane, wanted_ns) = (pod.lane, pod.wanted_ns);
        let died_young = pod.state != PodState::Leaving
            && !pod.proven
            && now_ns.saturating_sub(pod.usable_ns) < SHORT_LIFE_NS;
        pod.state = PodState::Leaving;
        pod.down = true;
        if pod.in_flight == 0 {
            self.forget(pod_ref.index);
        }
        if died_young && let Some(lane) = self.lane(lane) {
            let why: Arc<str> = "pods end right after they came up".into();
            lane.starts.fail(wanted_ns, now_ns, false, why);
        }
        self.recount(lane);
        self.reconcile(lane, now_ns, out);
        self.finish_close(lane, now_ns, out);
    }

    pub(crate) fn pod_leaving(&mut self, pod_ref: PodRef, now_ns: u64, out: &mut Outbox) {
        let Some(pod) = self.pods.get(pod_ref) else {
            return;
        };
        let lane = pod.lane;
        self.drain(pod_ref.index, out);
        self.recount(lane);
        self.reconcile(lane, now_ns, out);
    }

    pub(crate) fn start_failed(
        &mut self,
        pod_ref: PodRef,
        permanent: bool,
        why: Arc<str>,
        now_ns: u64,
        out: &mut Outbox,
    ) {
        let Some(pod) = self.pods.get(pod_ref) else {
            return;
        };
        if pod.state != PodState::Starting {
            return self.pod_down(pod_ref, now_ns, out);
        }
        let (id, wanted_ns) = (pod.lane, pod.wanted_ns);
        self.forget(pod_ref.index);
        if let Some(lane) = self.lane(id) {
            lane.starts.fail(wanted_ns, now_ns, permanent, why);
        }
        self.recount(id);
        self.reconcile(id, now_ns, out);
        self.finish_close(id, now_ns, out);
    }

    /// Calls that wait for it hear why at their deadline.
    pub(crate) fn start_held_up(&mut self, pod_ref: PodRef, why: Option<Arc<str>>) {
        let Some(pod) = self.pods.get(pod_ref) else {
            return;
        };
        let id = pod.lane;
        if let Some(lane) = self.lane(id) {
            lane.starts.held_up = why.map(|why| (pod_ref, why));
        }
        self.recount(id);
    }

    /// Ends the wait of a lane's calls where no pod is there and none will come.
    fn give_up(&mut self, id: LaneId, now_ns: u64, out: &mut Outbox) {
        let Some(lane) = self.lane(id) else {
            return;
        };
        let census = lane.census;
        let none = census.usable + census.starting + census.quarantined == 0;
        let in_vain = lane.starts.hopeless() && now_ns < lane.starts.retry_at_ns;
        if none && in_vain && lane.view.depth() > 0 {
            let why = lane
                .starts
                .why
                .clone()
                .unwrap_or_else(|| "no pod could be started".into());
            out.notices.push(Notice::StartsFail { lane: id, why });
        }
    }

    /// A running pod of an earlier plane becomes one of ours. It takes the place of one that was
    /// only ordered: the lane opened before anybody knew that there are pods.
    pub(crate) fn adopt(
        &mut self,
        id: LaneId,
        token: u64,
        stale: bool,
        now_ns: u64,
        out: &mut Outbox,
    ) {
        if !stale {
            self.stop_ordered(id, out);
        }
        let place = find(&mut self.lanes, id).and_then(|lane| {
            let pod = self.pods.add(id, now_ns)?;
            lane.pods.push(pod.index);
            Some((pod, lane.plan.pods.is_some() && !lane.is_removed))
        });
        let (pod, wanted) = place.unwrap_or((PodRef::NONE, false));
        out.orders.push(Order::Adopted {
            lane: id,
            token,
            pod,
        });
        if pod.is_some() {
            let adopted = self.pods.at(pod.index);
            adopted.stale = stale;
            adopted.adopted = true;
            if !wanted {
                self.drain(pod.index, out);
            }
            self.recount(id);
        }
    }

    /// Stops one pod that starts for this plane.
    fn stop_ordered(&mut self, id: LaneId, out: &mut Outbox) {
        let Some(lane) = self.lane(id) else {
            return;
        };
        let mut starting = lane.pods.clone().into_iter().filter(|index| {
            let pod = self.pods.at(*index);
            pod.state == PodState::Starting && !pod.adopted
        });
        if let Some(index) = starting.next() {
            self.stop(index, out);
        }
    }

    /// Starts what is missing, and drains old pods whose place new ones have taken.
    pub(crate) fn reconcile(&mut self, id: LaneId, now_ns: u64, out: &mut Outbox) {
        let Some(lane) = self.lane(id) else {
            return;
        };
        if lane.plan.pods.is_none() || lane.is_removed {
            return;
        }
        let surplus = lane.stale_surplus(now_ns);
        if surplus > 0 {
            self.drain_stale(id, surplus, out);
        }
        let Some(lane) = self.lane(id) else {
            return;
        };
        let missing = lane.pods_missing(now_ns);
        if missing == 0 {
            return self.take_back(id, now_ns, out);
        }
        lane.needs_all();
        let failed = lane.starts.failed > 0;
        if failed && now_ns < lane.starts.retry_at_ns {
            let retry_at_ns = lane.starts.retry_at_ns;
            self.arm(id, retry_at_ns);
            return self.give_up(id, now_ns, out);
        }
        // After a failure one start shows whether it mended.
        let at_once = match (failed, lane.census.starting) {
            (false, _) => missing,
            (true, 0) => 1,
            (true, _) => 0,
        };
        for _ in 0..at_once {
            if !self.start(id, now_ns, out) {
                self.arm(id, now_ns + START_BACKOFF_NS);
                break;
            }
        }
        self.recount(id);
        self.arm(id, now_ns + LOOK_AGAIN_NS);
    }

    /// Ends starts that no call needs any more, the latest first, and looks again while there are some, or
    /// calls wait for which one is not worth it yet.
    fn take_back(&mut self, id: LaneId, now_ns: u64, out: &mut Outbox) {
        let mut left = self
            .lane(id)
            .map_or(0, |lane| lane.pods_too_many(now_ns, LOOK_AGAIN_NS));
        if left > 0 {
            let pods = self.lane(id).map_or(Vec::new(), |lane| lane.pods.clone());
            for index in pods.into_iter().rev() {
                let pod = self.pods.at(index);
                if left > 0 && pod.state == PodState::Starting && !pod.adopted {
                    left -= 1;
                    let wanted_ns = pod.wanted_ns;
                    if let Some(lane) = self.lane(id) {
                        lane.starts.are_late |= lane.view.is_overdue(wanted_ns, now_ns);
                    }
                    self.stop(index, out);
                }
            }
        }
        let Some(lane) = self.lane(id) else {
            return;
        };
        let starting = lane.census.starting;
        if let Some(at_ns) = lane.note_waiting(now_ns) {
            self.arm(id, at_ns);
        }
        if starting > 0 {
            self.arm(id, now_ns + LOOK_AGAIN_NS);
        }
    }

    /// Orders one pod; false where the table of pods is full.
    fn start(&mut self, id: LaneId, now_ns: u64, out: &mut Outbox) -> bool {
        let Some(lane) = find(&mut self.lanes, id) else {
            return false;
        };
        let Some(pod) = self.pods.add(id, now_ns) else {
            return false;
        };
        lane.pods.push(pod.index);
        out.orders.push(Order::Start {
            lane: id,
            pod,
            wanted_ns: now_ns,
        });
        true
    }

    fn drain_stale(&mut self, id: LaneId, most: u32, out: &mut Outbox) {
        let Some(lane) = self.lane(id) else {
            return;
        };
        let mut left = most;
        for index in lane.pods.clone() {
            let pod = self.pods.at(index);
            if left > 0 && pod.stale && pod.state == PodState::Usable {
                left -= 1;
                self.drain(index, out);
            }
        }
        self.recount(id);
    }

    /// Drains what a lowered ceiling leaves no room for: old pods first, then those that serve
    /// least.
    pub(crate) fn drain_surplus(&mut self, id: LaneId, out: &mut Outbox) {
        let Some(lane) = self.lane(id) else {
            return;
        };
        let Some(plan) = lane.plan.pods else { return };
        let mut serving = lane.pods.clone();
        serving.retain(|index| {
            let state = self.pods.at(*index).state;
            state != PodState::Draining && state != PodState::Leaving
        });
        serving.sort_by_key(|index| {
            let pod = self.pods.at(*index);
            (!pod.stale, pod.state == PodState::Usable, pod.in_flight)
        });
        let surplus = serving.len().saturating_sub(plan.max as usize);
        for index in &serving[..surplus] {
            self.drain(*index, out);
        }
        self.recount(id);
    }

    /// No new grant for a pod; it is stopped with its last call.
    pub(crate) fn drain(&mut self, index: u32, out: &mut Outbox) {
        let pod = self.pods.at(index);
        match pod.state {
            PodState::Leaving => {}
            PodState::Starting => self.stop(index, out),
            PodState::Usable | PodState::Quarantined | PodState::Draining => {
                pod.state = PodState::Draining;
                if pod.in_flight == 0 {
                    self.stop(index, out);
                }
            }
        }
    }

    pub(crate) fn stop(&mut self, index: u32, out: &mut Outbox) {
        let pod = self.pods.at(index);
        pod.state = PodState::Leaving;
        let lane = pod.lane;
        let pod = self.pods.reference(index);
        out.orders.push(Order::Stop { pod });
        self.recount(lane);
    }

    /// Frees the place of a pod that is down and empty.
    pub(crate) fn forget(&mut self, index: u32) {
        let id = self.pods.at(index).lane;
        self.pods.remove(index);
        if let Some(lane) = self.lane(id) {
            lane.pods.retain(|other| *other != index);
        }
        self.recount(id);
    }

    /// Sets the timer for pods that may fall idle.
    pub(crate) fn retire_later(&mut self, id: LaneId, now_ns: u64) {
        let Some(lane) = self.lane(id) else {
            return;
        };
        if let Some(plan) = lane.plan.pods
            && lane.census.usable > plan.min
        {
            self.arm(id, now_ns.saturating_add(plan.idle_ns));
        }
    }

    /// Drains pods that nobody called for long, down to the floor, and sets the next timer.
    pub(crate) fn retire_idle(&mut self, id: LaneId, now_ns: u64, out: &mut Outbox) {
        let Some(lane) = self.lane(id) else {
            return;
        };
        let Some(plan) = lane.plan.pods else { return };
        let floor = lane.pods_needed(now_ns);
        let mut usable = lane.census.usable;
        let mut next_ns = u64::MAX;
        // The latest first: earlier ones are chosen first for calls.
        for index in lane.pods.clone().into_iter().rev() {
            let pod = self.pods.at(index);
            if pod.state != PodState::Usable || usable <= floor {
                continue;
            }
            let idle_until = pod.idle_since_ns.saturating_add(plan.idle_ns);
            if pod.in_flight == 0 && idle_until <= now_ns {
                usable -= 1;
                self.drain(index, out);
            } else if pod.in_flight == 0 {
                next_ns = next_ns.min(idle_until);
            } else {
                next_ns = next_ns.min(now_ns.saturating_add(plan.idle_ns));
            }
        }
        self.recount(id);
        if usable > plan.min {
            let later = now_ns.saturating_add(plan.idle_ns.max(1_000_000));
            self.arm(id, next_ns.min(later));
        }
    }
}
