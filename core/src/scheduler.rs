//! The scheduler's turn: it matches waiting tickets to free slots and says which pods are wanted.
//! One state machine, `&mut self`, with time as an argument; it never sleeps, locks or allocates on
//! a warm call's path. Two drivers call it: an io thread (inline) or a thread of its own (pinned).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::entries::Entries;
use crate::event::{Event, LanePlan, Outbox};
use crate::lane::Lane;
use crate::limits::{FUNCTIONS_MAX, GRANTS_PER_LANE, GRANTS_PER_TURN};
use crate::pods::{PodState, Pods};
use crate::sync::planted;
use crate::ticket::{Done, Grant, LaneId, PodRef, PodVerdict, Ticket};
use crate::view::LaneView;

/// Whether a turn left work that could be done at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Idle,
    Busy,
}

/// How often a removed lane whose last waiting calls did not leave yet is looked at.
const LEFT_OVER_NS: u64 = 10_000_000;

/// All lanes and pods.
pub struct Scheduler {
    pub(crate) lanes: Vec<Option<Lane>>,
    pub(crate) pods: Pods,
    entries: Arc<Entries>,
    ready: VecDeque<LaneId>,
    /// At most one timer for each lane: idle pods, and starts that wait.
    due: BinaryHeap<Reverse<(u64, LaneId)>>,
}

/// The lane, if that registration has it.
pub(crate) fn find(lanes: &mut [Option<Lane>], id: LaneId) -> Option<&mut Lane> {
    let lane = lanes.get_mut(id.index as usize)?.as_mut();
    lane.filter(|lane| lane.id == id)
}

impl Scheduler {
    /// No lanes yet. `entries` are the state words of all io threads.
    pub fn new(entries: Arc<Entries>) -> Self {
        Self {
            lanes: Vec::new(),
            pods: Pods::default(),
            entries,
            ready: VecDeque::with_capacity(FUNCTIONS_MAX),
            due: BinaryHeap::new(),
        }
    }

    /// Whether a lane is open at this place; a ticket for one that is not may be ahead of its
    /// registration, and is found by it.
    pub fn knows(&self, index: u32) -> bool {
        matches!(self.lanes.get(index as usize), Some(Some(_)))
    }

    pub(crate) fn lane(&mut self, id: LaneId) -> Option<&mut Lane> {
        find(&mut self.lanes, id)
    }

    /// Takes one event in. `now_ns` never runs backwards by more than the clock does.
    pub fn event(&mut self, event: Event, now_ns: u64, out: &mut Outbox) {
        match event {
            Event::Ticket(ticket) => self.ticket(ticket, now_ns, out),
            Event::Done(done) => self.done(done, now_ns, out),
            Event::LaneOpened { lane, view, plan } => self.open(lane, view, plan, now_ns, out),
            Event::LaneChanged {
                lane,
                plan,
                reshaped,
            } => {
                self.change(lane, plan, reshaped, now_ns, out);
            }
            Event::LaneRemoved { lane } => self.close(lane, now_ns, out),
            Event::PodUp(pod) => self.pod_up(pod, now_ns, out),
            Event::PodDown(pod) => self.pod_down(pod, now_ns, out),
            Event::PodLeaving(pod) => self.pod_leaving(pod, now_ns, out),
            Event::StartFailed { pod, failure } => {
                self.start_failed(pod, failure.permanent, failure.message, now_ns, out);
            }
            Event::StartHeldUp { pod, why } => self.start_held_up(pod, why),
            Event::Adopt { lane, token, stale } => self.adopt(lane, token, stale, now_ns, out),
        }
    }

    /// A call waits.
    pub fn ticket(&mut self, ticket: Ticket, now_ns: u64, out: &mut Outbox) {
        let lane = self.lanes.get_mut(ticket.lane.index as usize);
        let lane = lane.and_then(Option::as_mut);
        let Some(lane) = lane else {
            assert!(
                !self.entries.is_queued(ticket.call()),
                "a call waits for a function that is gone"
            );
            return;
        };
        if ticket.lane.epoch > lane.id.epoch {
            // Its function is registered again, and the removal of the old one is on its way here:
            // under the old plan the call must not run.
            return lane.early.push(ticket);
        }
        lane.push(ticket, &self.entries);
        if lane.lacks_pods() || lane.is_watched() {
            self.reconcile(ticket.lane, now_ns, out);
        }
        self.list(ticket.lane);
    }

    /// Empties a lane's mailbox; called for every bit that the sweep found.
    pub fn collect(&mut self, index: u32, now_ns: u64, out: &mut Outbox) {
        let Some(Some(lane)) = self.lanes.get_mut(index as usize) else {
            return;
        };
        let Some(mut mailbox) = lane.mailbox.take().or_else(|| lane.view.take_mailbox()) else {
            return;
        };
        while let Some(ticket) = mailbox.pop() {
            self.ticket(ticket, now_ns, out);
        }
        if let Some(Some(lane)) = self.lanes.get_mut(index as usize) {
            lane.mailbox = Some(mailbox);
        }
    }

    fn done(&mut self, done: Done, now_ns: u64, out: &mut Outbox) {
        let lane = self.lanes[done.lane.index as usize]
            .as_mut()
            .expect("a lane outlives its calls");
        assert!(
            lane.id.epoch >= done.lane.epoch,
            "a call ended in a lane that was not opened yet"
        );
        // The call may be one of a registration before this one.
        let id = lane.id;
        let held_ns = lane.slots.release(done.slot, now_ns);
        lane.view
            .running
            .store(lane.slots.held(), Ordering::Relaxed);
        lane.learn(done.held, held_ns);
        let is_watched = lane.is_watched();
        if done.pod.is_some() {
            self.pod_done(done, id, now_ns, out);
        }
        if is_watched {
            self.reconcile(id, now_ns, out);
        }
        self.list(id);
        self.finish_close(id, now_ns, out);
    }

    fn pod_done(&mut self, done: Done, id: LaneId, now_ns: u64, out: &mut Outbox) {
        let pod = self
            .pods
            .get(done.pod)
            .expect("a pod's place outlives its calls");
        assert!(pod.in_flight > 0, "a call ended twice in a pod");
        pod.in_flight -= 1;
        pod.idle_since_ns = now_ns;
        match (pod.state, done.verdict) {
            (PodState::Usable, PodVerdict::Healthy) => {
                if !pod.proven {
                    pod.proven = true;
                    if let Some(lane) = self.lane(id) {
                        lane.starts.failed = 0;
                    }
                    self.recount(id);
                }
                if self.pods.at(done.pod.index).in_flight == 0 {
                    self.arm_idle(id, now_ns);
                }
            }
            (PodState::Usable, PodVerdict::Lost | PodVerdict::CutOff) => {
                pod.state = PodState::Quarantined;
                out.orders
                    .push(crate::event::Order::Probe { pod: done.pod });
                self.recount(id);
            }
            (PodState::Draining, _) if pod.in_flight == 0 => self.stop(done.pod.index, out),
            (PodState::Leaving, _) if pod.in_flight == 0 && pod.down => {
                self.forget(done.pod.index);
            }
            _ => {}
        }
    }

    fn open(
        &mut self,
        id: LaneId,
        view: Arc<LaneView>,
        plan: LanePlan,
        now_ns: u64,
        out: &mut Outbox,
    ) {
        let place = id.index as usize;
        if self.lanes.len() <= place {
            self.lanes.resize_with(place + 1, || None);
        }
        match &mut self.lanes[place] {
            Some(_) => self.take_over(id, plan),
            empty => *empty = Some(Lane::new(id, view, plan)),
        }
        self.recount(id);
        self.reconcile(id, now_ns, out);
        // A ticket may have been faster than this, and its bit taken when there was no lane.
        self.collect(id.index, now_ns, out);
        self.list(id);
    }

    /// Re-created while calls of the old function run: it takes the lane over with its counts, and
    /// nothing names the lane by the old registration any more but those calls.
    fn take_over(&mut self, id: LaneId, plan: LanePlan) {
        let lane = self.lanes[id.index as usize].as_mut();
        let lane = lane.expect("the caller found it");
        assert!(
            lane.is_removed && lane.id.epoch < id.epoch,
            "a lane was opened twice"
        );
        let old = std::mem::replace(&mut lane.id, id);
        lane.is_removed = false;
        lane.replan(plan);
        for index in &lane.pods {
            self.pods.at(*index).lane = id;
        }
        // The timer's entry names the old registration, and is passed over.
        lane.due_ns = u64::MAX;
        if std::mem::take(&mut lane.listed) {
            self.ready.retain(|listed| *listed != old);
        }
        for ticket in std::mem::take(&mut lane.early) {
            // One may be ahead of the next registration, too.
            if ticket.lane.epoch > id.epoch {
                lane.early.push(ticket);
            } else {
                lane.push(ticket, &self.entries);
            }
        }
    }

    fn change(
        &mut self,
        id: LaneId,
        plan: LanePlan,
        reshaped: bool,
        now_ns: u64,
        out: &mut Outbox,
    ) {
        let Some(lane) = self.lane(id) else {
            return;
        };
        lane.replan(plan);
        let pods = lane.pods.clone();
        for index in pods {
            let pod = self.pods.at(index);
            if plan.pods.is_none() {
                self.drain(index, out);
            } else if reshaped {
                pod.stale = true;
                if pod.state == PodState::Starting {
                    self.stop(index, out);
                }
            }
        }
        self.recount(id);
        self.drain_surplus(id, out);
        self.reconcile(id, now_ns, out);
        // A lower floor leaves pods that no call will make the timer look at.
        self.retire_later(id, now_ns);
        self.list(id);
    }

    fn close(&mut self, id: LaneId, now_ns: u64, out: &mut Outbox) {
        let entries = self.entries.clone();
        let lane = self
            .lane(id)
            .expect("a lane is removed once, after it was opened");
        lane.is_removed = true;
        lane.clear(&entries);
        for index in lane.pods.clone() {
            self.drain(index, out);
        }
        self.recount(id);
        self.finish_close(id, now_ns, out);
    }

    /// Forgets a removed lane once nothing runs in it and its pods are gone. A call that waits all
    /// the same is about to leave, or its successor's: `LaneOpened` comes and takes the lane over.
    pub(crate) fn finish_close(&mut self, id: LaneId, now_ns: u64, out: &mut Outbox) {
        let Some(lane) = self.lane(id) else {
            return;
        };
        if !lane.is_removed {
            return;
        }
        if lane.slots.held() == 0 && lane.pods.is_empty() {
            if lane.view.depth() > 0 {
                return self.arm(id, now_ns + LEFT_OVER_NS);
            }
            if let Some(mailbox) = lane.mailbox.take() {
                lane.view.return_mailbox(mailbox);
            }
            if lane.listed {
                self.ready.retain(|listed| *listed != id);
            }
            self.lanes[id.index as usize] = None;
            out.orders.push(crate::event::Order::LaneGone { lane: id });
        }
    }

    /// Puts a lane into the list of those a turn looks at.
    pub(crate) fn list(&mut self, id: LaneId) {
        let Some(lane) = self.lane(id) else {
            return;
        };
        if !lane.listed && lane.waiting() > 0 {
            lane.listed = true;
            self.ready.push_back(id);
        }
    }

    /// Matches tickets to slots, round robin over the ready lanes, a bounded number of them.
    pub fn turn(&mut self, now_ns: u64, out: &mut Outbox) -> Turn {
        let mut left = GRANTS_PER_TURN;
        while left > 0 {
            let Some(id) = self.ready.pop_front() else {
                return Turn::Idle;
            };
            let lane = find(&mut self.lanes, id).expect("a listed lane is open");
            let most = left.min(GRANTS_PER_LANE);
            let looked = grant_lane(lane, &mut self.pods, &self.entries, most, now_ns, out);
            // A lane that used all its looks may have more; one that did not has nothing to give.
            lane.listed = looked == most && lane.waiting() > 0;
            if lane.listed {
                self.ready.push_back(id);
            }
            left -= looked.max(1);
        }
        if self.ready.is_empty() {
            Turn::Idle
        } else {
            Turn::Busy
        }
    }

    /// When `tick` has something to do, at the earliest.
    pub fn next_due_ns(&self) -> Option<u64> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// Looks after what is due: idle pods, starts that were put off.
    pub fn tick(&mut self, now_ns: u64, out: &mut Outbox) {
        while let Some(Reverse((at, id))) = self.due.peek().copied() {
            if at > now_ns {
                return;
            }
            self.due.pop();
            let Some(lane) = self.lane(id) else {
                continue;
            };
            if lane.due_ns != at {
                continue;
            }
            lane.due_ns = u64::MAX;
            self.retire_idle(id, now_ns, out);
            self.reconcile(id, now_ns, out);
            self.finish_close(id, now_ns, out);
        }
    }

    /// Sets the lane's timer, unless it fires earlier anyway.
    pub(crate) fn arm(&mut self, id: LaneId, at_ns: u64) {
        let Some(lane) = self.lane(id) else {
            return;
        };
        if at_ns < lane.due_ns {
            lane.due_ns = at_ns;
            self.due.push(Reverse((at_ns, id)));
        }
    }

    fn arm_idle(&mut self, id: LaneId, now_ns: u64) {
        let Some(lane) = self.lane(id) else {
            return;
        };
        let Some(plan) = lane.plan.pods else { return };
        if lane.census.usable > plan.min && lane.due_ns == u64::MAX {
            self.arm(id, now_ns.saturating_add(plan.idle_ns));
        }
    }

    pub(crate) fn recount(&mut self, id: LaneId) {
        if let Some(lane) = find(&mut self.lanes, id) {
            lane.count(&mut self.pods);
        }
    }

    /// Slots held, over all lanes; for the simulation and the ledger.
    pub fn held(&self) -> u64 {
        self.lanes
            .iter()
            .flatten()
            .map(|lane| u64::from(lane.slots.held()))
            .sum()
    }
}

/// Grants up to `most` tickets of a lane; gives how many were looked at.
fn grant_lane(
    lane: &mut Lane,
    pods: &mut Pods,
    entries: &Entries,
    most: usize,
    now_ns: u64,
    out: &mut Outbox,
) -> usize {
    // A call that waits in a removed lane is its successor's, under a plan that is about to come.
    if lane.is_removed {
        return 0;
    }
    for looked in 0..most {
        if !lane.slots.has_free() || lane.waiting() == 0 {
            return looked;
        }
        let needs_pod = lane.plan.pods.is_some();
        // Any pod with room will do for the look; which one depends on the ticket.
        if needs_pod && lane.choose(pods, PodRef::NONE.index).is_none() {
            return looked;
        }
        let ticket = lane.pop().expect("something waits");
        // Its function was removed and registered anew; the call's owner was told and ends it.
        if ticket.lane != lane.id && !planted("scheduler_ignores_epochs") {
            continue;
        }
        if !entries.grant(ticket.call()) {
            continue;
        }
        lane.view.leave(ticket.class);
        lane.granted(ticket.class);
        let slot = lane.slots.hold(now_ns);
        lane.view
            .running
            .store(lane.slots.held(), Ordering::Relaxed);
        let (pod, start_ns) = if needs_pod {
            let index = lane.choose(pods, ticket.avoid).expect("a pod has room");
            let pod = pods.at(index);
            pod.in_flight += 1;
            let waited_from = ticket.queued_ns.max(pod.wanted_ns);
            (
                pods.reference(index),
                pods.at(index).usable_ns.saturating_sub(waited_from),
            )
        } else {
            (PodRef::NONE, 0)
        };
        let call = ticket.call();
        out.grants.push(Grant {
            call,
            lane: lane.id,
            pod,
            slot,
            granted_ns: now_ns,
            start_ns,
        });
    }
    most
}
