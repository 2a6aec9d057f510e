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
use crate::ticket::{Done, Grant, PodRef, PodVerdict, Ticket};
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
    ready: VecDeque<u32>,
    /// At most one timer for each lane: idle pods, and starts that wait.
    due: BinaryHeap<Reverse<(u64, u32)>>,
}

/// Old samples weigh seven eighths.
fn mean(old: u64, sample: u64) -> u64 {
    if old == 0 {
        sample.max(1)
    } else {
        (old - old / 8 + sample / 8).max(1)
    }
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

    /// Whether a lane is open; a ticket for one that is not may be ahead of its registration, and
    /// is found by it.
    pub fn knows(&self, lane: u32) -> bool {
        self.lane_index(lane).is_some()
    }

    fn lane_index(&self, lane: u32) -> Option<&Lane> {
        self.lanes.get(lane as usize)?.as_ref()
    }

    fn lane(&mut self, lane: u32) -> Option<&mut Lane> {
        self.lanes.get_mut(lane as usize)?.as_mut()
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
            Event::LaneRemoved { lane, epoch } => self.close(lane, epoch, now_ns, out),
            Event::PodUp(pod) => self.pod_up(pod, now_ns, out),
            Event::PodDown(pod) => self.pod_down(pod, now_ns, out),
            Event::PodLeaving(pod) => self.pod_leaving(pod, now_ns, out),
            Event::StartFailed { pod, failure } => {
                self.start_failed(pod, failure.permanent, failure.message, now_ns, out);
            }
            Event::Adopt { lane, token, stale } => self.adopt(lane, token, stale, now_ns, out),
        }
    }

    /// A call waits.
    pub fn ticket(&mut self, ticket: Ticket, now_ns: u64, out: &mut Outbox) {
        let Some(Some(lane)) = self.lanes.get_mut(ticket.lane as usize) else {
            assert!(
                !self.entries.is_queued(ticket.call()),
                "a call waits for a function that is gone"
            );
            return;
        };
        lane.push(ticket, &self.entries);
        if lane.lacks_pods() {
            self.reconcile(ticket.lane, now_ns, out);
        }
        self.list(ticket.lane);
    }

    /// Empties a lane's mailbox; called for every bit that the sweep found.
    pub fn collect(&mut self, lane_index: u32, now_ns: u64, out: &mut Outbox) {
        let Some(lane) = self.lane(lane_index) else {
            return;
        };
        let Some(mut mailbox) = lane.mailbox.take().or_else(|| lane.view.take_mailbox()) else {
            return;
        };
        while let Some(ticket) = mailbox.pop() {
            self.ticket(ticket, now_ns, out);
        }
        if let Some(lane) = self.lane(lane_index) {
            lane.mailbox = Some(mailbox);
        }
    }

    fn done(&mut self, done: Done, now_ns: u64, out: &mut Outbox) {
        let lane = self.lanes[done.lane as usize]
            .as_mut()
            .expect("a lane outlives its calls");
        lane.slots.release();
        lane.view
            .running
            .store(lane.slots.held(), Ordering::Relaxed);
        if let Some(sample) = done.function_ns {
            let old = lane.view.service_ns.load(Ordering::Relaxed);
            lane.view
                .service_ns
                .store(mean(old, sample), Ordering::Relaxed);
        }
        if done.pod.is_some() {
            self.pod_done(done, now_ns, out);
        }
        self.list(done.lane);
        self.finish_close(done.lane, now_ns, out);
    }

    fn pod_done(&mut self, done: Done, now_ns: u64, out: &mut Outbox) {
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
                    if let Some(lane) = self.lane(done.lane) {
                        lane.starts.failed = 0;
                    }
                }
                if self.pods.at(done.pod.index).in_flight == 0 {
                    self.arm_idle(done.lane, now_ns);
                }
            }
            (PodState::Usable, PodVerdict::Lost | PodVerdict::CutOff) => {
                pod.state = PodState::Quarantined;
                out.orders
                    .push(crate::event::Order::Probe { pod: done.pod });
                self.recount(done.lane);
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
        lane: u32,
        view: Arc<LaneView>,
        plan: LanePlan,
        now_ns: u64,
        out: &mut Outbox,
    ) {
        let place = lane as usize;
        if self.lanes.len() <= place {
            self.lanes.resize_with(place + 1, || None);
        }
        match &mut self.lanes[place] {
            // Re-created while calls of the old one run: it takes the lane over with its counts.
            Some(old) => {
                old.removed = None;
                old.replan(plan);
            }
            empty => *empty = Some(Lane::new(view, plan)),
        }
        self.recount(lane);
        self.reconcile(lane, now_ns, out);
        // A ticket may have been faster than this, and its bit taken when there was no lane.
        self.collect(lane, now_ns, out);
        self.list(lane);
    }

    fn change(
        &mut self,
        lane_index: u32,
        plan: LanePlan,
        reshaped: bool,
        now_ns: u64,
        out: &mut Outbox,
    ) {
        let Some(lane) = self.lane(lane_index) else {
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
        self.recount(lane_index);
        self.drain_surplus(lane_index, out);
        self.reconcile(lane_index, now_ns, out);
        // A lower floor leaves pods that no call will make the timer look at.
        self.retire_later(lane_index, now_ns);
        self.list(lane_index);
    }

    fn close(&mut self, lane_index: u32, epoch: u32, now_ns: u64, out: &mut Outbox) {
        let entries = self.entries.clone();
        let Some(lane) = self.lane(lane_index) else {
            out.orders.push(crate::event::Order::LaneGone {
                lane: lane_index,
                epoch,
            });
            return;
        };
        lane.removed = Some(epoch);
        lane.clear(&entries);
        for index in lane.pods.clone() {
            self.drain(index, out);
        }
        self.recount(lane_index);
        self.finish_close(lane_index, now_ns, out);
    }

    /// Forgets a removed lane once nothing runs in it and its pods are gone. A call that waits all
    /// the same is about to leave, or its successor's: `LaneOpened` comes and takes the lane over.
    pub(crate) fn finish_close(&mut self, lane_index: u32, now_ns: u64, out: &mut Outbox) {
        let Some(lane) = self.lane(lane_index) else {
            return;
        };
        let Some(epoch) = lane.removed else { return };
        if lane.slots.held() == 0 && lane.pods.is_empty() {
            if lane.view.depth() > 0 {
                return self.arm(lane_index, now_ns + LEFT_OVER_NS);
            }
            if let Some(mailbox) = lane.mailbox.take() {
                lane.view.return_mailbox(mailbox);
            }
            if lane.listed {
                self.ready.retain(|listed| *listed != lane_index);
            }
            self.lanes[lane_index as usize] = None;
            out.orders.push(crate::event::Order::LaneGone {
                lane: lane_index,
                epoch,
            });
        }
    }

    /// Puts a lane into the list of those a turn looks at.
    pub(crate) fn list(&mut self, lane_index: u32) {
        let Some(lane) = self.lane(lane_index) else {
            return;
        };
        if !lane.listed && lane.waiting() > 0 {
            lane.listed = true;
            self.ready.push_back(lane_index);
        }
    }

    /// Matches tickets to slots, round robin over the ready lanes, a bounded number of them.
    pub fn turn(&mut self, now_ns: u64, out: &mut Outbox) -> Turn {
        let mut left = GRANTS_PER_TURN;
        while left > 0 {
            let Some(lane_index) = self.ready.pop_front() else {
                return Turn::Idle;
            };
            let Some(lane) = self.lanes[lane_index as usize].as_mut() else {
                continue;
            };
            let most = left.min(GRANTS_PER_LANE);
            let looked = grant_lane(
                lane,
                lane_index,
                &mut self.pods,
                &self.entries,
                most,
                now_ns,
                out,
            );
            // A lane that used all its looks may have more; one that did not has nothing to give.
            lane.listed = looked == most && lane.waiting() > 0;
            if lane.listed {
                self.ready.push_back(lane_index);
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
        while let Some(Reverse((at, lane_index))) = self.due.peek().copied() {
            if at > now_ns {
                return;
            }
            self.due.pop();
            let Some(lane) = self.lane(lane_index) else {
                continue;
            };
            if lane.due_ns != at {
                continue;
            }
            lane.due_ns = u64::MAX;
            self.retire_idle(lane_index, now_ns, out);
            self.reconcile(lane_index, now_ns, out);
            self.finish_close(lane_index, now_ns, out);
        }
    }

    /// Sets the lane's timer, unless it fires earlier anyway.
    pub(crate) fn arm(&mut self, lane_index: u32, at_ns: u64) {
        let Some(lane) = self.lane(lane_index) else {
            return;
        };
        if at_ns < lane.due_ns {
            lane.due_ns = at_ns;
            self.due.push(Reverse((at_ns, lane_index)));
        }
    }

    fn arm_idle(&mut self, lane_index: u32, now_ns: u64) {
        let Some(lane) = self.lane(lane_index) else {
            return;
        };
        let Some(plan) = lane.plan.pods else { return };
        if lane.census.usable > plan.min && lane.due_ns == u64::MAX {
            self.arm(lane_index, now_ns.saturating_add(plan.idle_ns));
        }
    }

    pub(crate) fn recount(&mut self, lane_index: u32) {
        if let Some(Some(lane)) = self.lanes.get_mut(lane_index as usize) {
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
    lane_index: u32,
    pods: &mut Pods,
    entries: &Entries,
    most: usize,
    now_ns: u64,
    out: &mut Outbox,
) -> usize {
    // A call that waits in a removed lane is its successor's, under a plan that is about to come.
    if lane.removed.is_some() {
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
        if !entries.grant(ticket.call()) {
            continue;
        }
        lane.view.leave();
        lane.granted(ticket.class);
        lane.slots.hold();
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
            lane: lane_index,
            pod,
            granted_ns: now_ns,
            start_ns,
        });
    }
    most
}
