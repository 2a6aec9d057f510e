//! Decides which pods a lane starts and stops: more pods while calls wait, fewer when pods are idle, new pods
//! after a change of the spec. This module is part of the scheduler's state machine, so it only makes orders,
//! and the bridge executes them.

use std::sync::Arc;

use crate::event::{Notice, Order, Outbox, StartFailure};
use crate::lane::Lane;
use crate::limits::START_BACKOFF;
use crate::pods::PodState;
use crate::scheduler::Shared;
use crate::ticket::{PodId, PodIndex};
use crate::time::{Nanos, Uptime};

/// The time after a pod came up in which its end counts as a failed start, if no call has succeeded in the
/// pod. The back-off of failed starts then applies, so a function that crashes at its first call is started
/// again only after a pause.
const SHORT_LIFE: Nanos = Nanos::from_s(5);
/// How long no call may need an ordered pod before the pod is stopped. A timer with this period checks for
/// such pods, because calls can leave the queue without an event.
const POLL: Nanos = Nanos::from_s(1);
/// The shortest time between two checks for idle pods, even if the plan's `idle_timeout` is shorter.
const IDLE_POLL_MIN: Nanos = Nanos::from_ms(1);

impl Shared {
    pub(crate) fn pod_up(
        &mut self,
        lane: &mut Lane,
        index: PodIndex,
        now: Uptime,
        out: &mut Outbox,
    ) {
        let pod = self.pods.at(index);
        match pod.state {
            PodState::Starting => {
                pod.usable_at = Some(now);
                pod.idle_since = now;
                pod.state = PodState::Usable;
                lane.starts.are_late = false;
                // The time since `wanted_at` is no measure of a start if an earlier control plane started the
                // pod.
                if !pod.adopted {
                    lane.learn_start(now.since(pod.wanted_at));
                }
            }
            PodState::Quarantined => pod.state = PodState::Usable,
            PodState::Usable | PodState::Draining | PodState::Leaving => return,
        }
        lane.count(&mut self.pods);
        self.keep_ceiling(lane, out);
        self.retire_later(lane, now);
        self.reconcile(lane, now, out);
        self.list(lane);
    }

    pub(crate) fn pod_down(
        &mut self,
        lane: &mut Lane,
        index: PodIndex,
        now: Uptime,
        out: &mut Outbox,
    ) {
        let pod = self.pods.at(index);
        if pod.state == PodState::Starting {
            let failure = StartFailure {
                permanent: false,
                message: "the pod ended before it was ready".into(),
            };
            return self.start_failed(lane, index, failure, now, out);
        }
        // `wanted_at` is read before `forget` frees the pod's place.
        let wanted_at = pod.wanted_at;
        // A pod that was ordered to stop has not failed.
        let died_young = pod.state != PodState::Leaving
            && !pod.proven
            && now.since(pod.usable_at.expect("it was up")) < SHORT_LIFE;
        pod.state = PodState::Leaving;
        pod.down = true;
        if pod.in_flight == 0 {
            self.forget(lane, index);
        }
        if died_young {
            let failure = StartFailure {
                permanent: false,
                message: "pods end right after they came up".into(),
            };
            lane.starts.fail(wanted_at, now, failure);
        }
        lane.count(&mut self.pods);
        self.reconcile(lane, now, out);
    }

    pub(crate) fn pod_leaving(
        &mut self,
        lane: &mut Lane,
        index: PodIndex,
        now: Uptime,
        out: &mut Outbox,
    ) {
        self.drain(lane, index, out);
        lane.count(&mut self.pods);
        self.reconcile(lane, now, out);
    }

    pub(crate) fn start_failed(
        &mut self,
        lane: &mut Lane,
        index: PodIndex,
        failure: StartFailure,
        now: Uptime,
        out: &mut Outbox,
    ) {
        let pod = self.pods.at(index);
        if pod.state != PodState::Starting {
            return self.pod_down(lane, index, now, out);
        }
        let wanted_at = pod.wanted_at;
        self.forget(lane, index);
        lane.starts.fail(wanted_at, now, failure);
        lane.count(&mut self.pods);
        self.reconcile(lane, now, out);
    }

    /// Keeps the reason why a start is held up. A call whose deadline passes while it waits for the start
    /// ends with this reason.
    pub(crate) fn start_held_up(&mut self, lane: &mut Lane, pod: PodId, why: Option<Arc<str>>) {
        lane.starts.held_up = why.map(|why| (pod, why));
        lane.count(&mut self.pods);
    }

    /// Adds a running pod of an earlier control plane to the lane, if the table of pods has room. If the
    /// adopted pod is not stale, one ordered pod that is not up yet is stopped in exchange. There may be such
    /// a pod, because the lane opens before the bridge finds the pods of the earlier control plane.
    pub(crate) fn adopt(
        &mut self,
        lane: &mut Lane,
        token: u64,
        stale: bool,
        now: Uptime,
        out: &mut Outbox,
    ) {
        if !stale {
            self.stop_ordered(lane, out);
        }
        let pod = self.pods.add(lane.id, now);
        out.orders.push(Order::Adopted {
            lane: lane.id,
            token,
            pod,
        });
        let Some(PodId { index, .. }) = pod else {
            return;
        };
        lane.pods.push(index);
        let adopted = self.pods.at(index);
        adopted.stale = stale;
        adopted.adopted = true;
        if lane.plan.pods.is_none() || lane.is_removed {
            self.drain(lane, index, out);
        }
        lane.count(&mut self.pods);
    }

    fn stop_ordered(&mut self, lane: &mut Lane, out: &mut Outbox) {
        let ordered = lane.pods.iter().copied().find(|index| {
            let pod = self.pods.at(*index);
            pod.state == PodState::Starting && !pod.adopted
        });
        if let Some(index) = ordered {
            self.stop(lane, index, out);
        }
    }

    /// Starts missing pods, drains stale pods that new pods have replaced, and stops ordered pods that no
    /// call needs.
    pub(crate) fn reconcile(&mut self, lane: &mut Lane, now: Uptime, out: &mut Outbox) {
        if lane.plan.pods.is_none() || lane.is_removed {
            return;
        }
        // Stale pods are drained before `pods_missing` is called, because a drained pod changes the counts
        // that `pods_missing` reads.
        let surplus = lane.stale_surplus(now);
        if surplus > 0 {
            self.drain_stale(lane, surplus, out);
        }
        let missing = lane.pods_missing(now);
        if missing == 0 {
            return self.take_back(lane, now, out);
        }
        lane.needs_all();
        let retry_at = lane.starts.failed.as_ref().map(|failed| failed.retry_at);
        if let Some(retry_at) = retry_at.filter(|at| now < *at) {
            self.arm(lane, retry_at);
            return give_up(lane, out);
        }
        // After a failure only one pod is started, to find out whether starts work again.
        let at_once = match (retry_at, lane.counts.starting) {
            (None, _) => missing,
            (Some(_), 0) => 1,
            (Some(_), _) => 0,
        };
        for _ in 0..at_once {
            if !self.start(lane, now, out) {
                self.arm(lane, now + START_BACKOFF);
                break;
            }
        }
        lane.count(&mut self.pods);
        self.arm(lane, now + POLL);
    }

    /// Stops ordered pods that no call needs any more. The latest are stopped first, because the earliest
    /// will be up soonest. Sets a timer for the next check while pods are starting, or while calls wait that
    /// do not justify a start yet.
    fn take_back(&mut self, lane: &mut Lane, now: Uptime, out: &mut Outbox) {
        let mut left = lane.pods_too_many(now, POLL);
        if left > 0 {
            for index in lane.pods.clone().into_iter().rev() {
                let pod = self.pods.at(index);
                if left > 0 && pod.state == PodState::Starting && !pod.adopted {
                    left -= 1;
                    lane.starts.are_late |= lane.stats.is_overdue(pod.wanted_at, now);
                    self.stop(lane, index, out);
                }
            }
        }
        let starting = lane.counts.starting;
        if let Some(at) = lane.note_waiting(now) {
            self.arm(lane, at);
        }
        if starting > 0 {
            self.arm(lane, now + POLL);
        }
    }

    /// Orders one pod. Returns false if the table of pods is full.
    fn start(&mut self, lane: &mut Lane, now: Uptime, out: &mut Outbox) -> bool {
        let Some(pod) = self.pods.add(lane.id, now) else {
            return false;
        };
        lane.pods.push(pod.index);
        out.orders.push(Order::Start {
            lane: lane.id,
            pod,
            wanted_at: now,
        });
        true
    }

    fn drain_stale(&mut self, lane: &mut Lane, most: u32, out: &mut Outbox) {
        let mut left = most;
        for index in lane.pods.clone() {
            let pod = self.pods.at(index);
            if left > 0 && pod.stale && pod.state == PodState::Usable {
                left -= 1;
                self.drain(lane, index, out);
            }
        }
        lane.count(&mut self.pods);
    }

    /// Drains the pods above the plan's ceiling: stale pods first, then pods that are not usable, then the
    /// pods with the fewest calls.
    pub(crate) fn drain_surplus(&mut self, lane: &mut Lane, out: &mut Outbox) {
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
            self.drain(lane, *index, out);
        }
        lane.count(&mut self.pods);
    }

    /// Drains usable pods above the plan's ceiling, which may have been lowered before these pods were
    /// adopted. Keeps pods in other states, because a pod whose probe is not answered yet may still run a
    /// call of an earlier control plane.
    fn keep_ceiling(&mut self, lane: &mut Lane, out: &mut Outbox) {
        let most = lane.plan.pods.map_or(u32::MAX, |pods| pods.max);
        let surplus = lane.counts.usable.saturating_sub(most) as usize;
        if surplus == 0 {
            return;
        }
        let mut usable = lane.pods.clone();
        usable.retain(|index| self.pods.at(*index).state == PodState::Usable);
        usable.sort_by_key(|index| {
            let pod = self.pods.at(*index);
            (!pod.stale, pod.in_flight)
        });
        for index in &usable[..surplus] {
            self.drain(lane, *index, out);
        }
        lane.count(&mut self.pods);
    }

    /// Gives the pod no new call, and stops it as soon as no call runs in it.
    pub(crate) fn drain(&mut self, lane: &mut Lane, index: PodIndex, out: &mut Outbox) {
        let pod = self.pods.at(index);
        match pod.state {
            PodState::Leaving => {}
            PodState::Starting => self.stop(lane, index, out),
            PodState::Usable | PodState::Quarantined | PodState::Draining => {
                pod.state = PodState::Draining;
                if pod.in_flight == 0 {
                    self.stop(lane, index, out);
                }
            }
        }
    }

    pub(crate) fn stop(&mut self, lane: &mut Lane, index: PodIndex, out: &mut Outbox) {
        self.pods.at(index).state = PodState::Leaving;
        let pod = self.pods.reference(index);
        out.orders.push(Order::Stop { pod });
        lane.count(&mut self.pods);
    }

    /// Frees the place of a pod that is gone and has no running call.
    pub(crate) fn forget(&mut self, lane: &mut Lane, index: PodIndex) {
        self.pods.remove(index);
        lane.pods.retain(|other| *other != index);
        lane.count(&mut self.pods);
    }

    /// Sets the timer that drains idle pods, if the lane has more usable pods than the plan's floor.
    pub(crate) fn retire_later(&mut self, lane: &mut Lane, now: Uptime) {
        if let Some(plan) = lane.plan.pods
            && lane.counts.usable > plan.min
        {
            self.arm(lane, now.saturating_add(plan.idle_timeout));
        }
    }

    /// Drains usable pods that had no call for `idle_timeout`, but keeps as many as the calls need, and at
    /// least the plan's floor. Sets the next timer.
    pub(crate) fn retire_idle(&mut self, lane: &mut Lane, now: Uptime, out: &mut Outbox) {
        let Some(plan) = lane.plan.pods else { return };
        let floor = lane.pods_needed(now);
        let mut usable = lane.counts.usable;
        let mut next_at = now.saturating_add(plan.idle_timeout.max(IDLE_POLL_MIN));
        // The latest pods are checked first. They are most likely idle, because `Lane::choose` prefers the
        // earlier pods.
        for index in lane.pods.clone().into_iter().rev() {
            let pod = self.pods.at(index);
            if pod.state != PodState::Usable || usable <= floor {
                continue;
            }
            let idle_until = pod.idle_since.saturating_add(plan.idle_timeout);
            if pod.in_flight == 0 && idle_until <= now {
                usable -= 1;
                self.drain(lane, index, out);
            } else if pod.in_flight == 0 {
                next_at = next_at.min(idle_until);
            } else {
                next_at = next_at.min(now.saturating_add(plan.idle_timeout));
            }
        }
        lane.count(&mut self.pods);
        if usable > plan.min {
            self.arm(lane, next_at);
        }
    }
}

/// Ends the wait of a lane's calls if the next start is expected to fail and no pod is usable, starting or
/// quarantined.
fn give_up(lane: &Lane, out: &mut Outbox) {
    if let Some(failed) = &lane.starts.failed
        && failed.are_hopeless()
        && lane.counts.serving() == 0
        && lane.stats.depth() > 0
    {
        let (lane, why) = (lane.id, failed.why.clone());
        out.notices.push(Notice::StartsFail { lane, why });
    }
}
