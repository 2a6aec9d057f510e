//! The scheduler matches waiting tickets to free slots, and orders pods to be started and stopped. It is one
//! state machine with time as an argument. It never sleeps, and for a warm call it takes no lock and
//! allocates nothing. Its driver is an io thread (inline) or a thread of its own (pinned).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::entries::Entries;
use crate::event::{Event, LanePlan, Order, Outbox};
use crate::lane::Lane;
use crate::limits::{FUNCTIONS_MAX, GRANTS_PER_LANE, GRANTS_PER_TURN};
use crate::pods::{PodState, Pods};
use crate::queue_stats::QueueStats;
use crate::sync::planted;
use crate::ticket::{Done, Grant, LaneId, PodId, PodVerdict, Ticket};
use crate::time::{Nanos, Uptime};

/// Whether a turn left work that the next turn could do at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Idle,
    Busy,
}

/// The time between two checks of a removed lane in which calls still wait.
const LEFT_OVER: Nanos = Nanos::from_ms(10);

/// The lanes of all functions, and the pods of all lanes.
pub struct Scheduler {
    lanes: Vec<Option<Lane>>,
    shared: Shared,
}

/// What all lanes share. It is separate from the lanes, so that code can borrow a lane and the shared data at
/// the same time.
pub(crate) struct Shared {
    pub(crate) pods: Pods,
    entries: Arc<Entries>,
    ready: VecDeque<LaneId>,
    /// The lanes' timers, for idle pods and for starts that were put off. At most one timer of a lane is
    /// valid.
    due: BinaryHeap<Reverse<(Uptime, LaneId)>>,
}

/// Returns the lane with this index, if the registration of `id` owns it.
fn find(lanes: &mut [Option<Lane>], id: LaneId) -> Option<&mut Lane> {
    let lane = lanes.get_mut(id.index as usize)?.as_mut();
    lane.filter(|lane| lane.id == id)
}

impl Scheduler {
    /// Makes a scheduler without lanes. `entries` are the state words of all io threads.
    pub fn new(entries: Arc<Entries>) -> Self {
        Self {
            lanes: Vec::new(),
            shared: Shared {
                pods: Pods::default(),
                entries,
                ready: VecDeque::with_capacity(FUNCTIONS_MAX),
                due: BinaryHeap::new(),
            },
        }
    }

    /// Returns whether the scheduler has a lane with this index. If there is no lane although the ticket of a
    /// waiting call has arrived, the event that opens the lane has yet to be applied.
    pub fn knows(&self, index: u32) -> bool {
        matches!(self.lanes.get(index as usize), Some(Some(_)))
    }

    /// Applies one event. `now` is earlier than in the last call only if the clock stepped back.
    pub fn event(&mut self, event: Event, now: Uptime, out: &mut Outbox) {
        match event {
            Event::Ticket(ticket) => self.ticket(ticket, now, out),
            Event::Done(done) => self.done(done, now, out),
            Event::LaneOpened { lane, stats, plan } => self.open(lane, stats, plan, now, out),
            Event::LaneChanged {
                lane,
                plan,
                reshaped,
            } => {
                self.change(lane, plan, reshaped, now, out);
            }
            Event::LaneRemoved { lane } => self.close(lane, now, out),
            Event::PodUp(pod) => self.of_pod(pod, now, out, |shared, lane, out| {
                shared.pod_up(lane, pod.index, now, out);
            }),
            Event::PodDown(pod) => self.of_pod(pod, now, out, |shared, lane, out| {
                shared.pod_down(lane, pod.index, now, out);
            }),
            Event::PodLeaving(pod) => self.of_pod(pod, now, out, |shared, lane, out| {
                shared.pod_leaving(lane, pod.index, now, out);
            }),
            Event::StartFailed { pod, failure } => {
                self.of_pod(pod, now, out, |shared, lane, out| {
                    shared.start_failed(lane, pod.index, failure, now, out);
                });
            }
            Event::StartHeldUp { pod, why } => self.of_pod(pod, now, out, |shared, lane, _| {
                shared.start_held_up(lane, pod, why);
            }),
            Event::Adopt { lane, token, stale } => match find(&mut self.lanes, lane) {
                Some(lane) => self.shared.adopt(lane, token, stale, now, out),
                None => out.orders.push(Order::Adopted {
                    lane,
                    token,
                    pod: None,
                }),
            },
        }
    }

    /// Applies an event of a pod. Does nothing if the pod has gone since the event was sent.
    fn of_pod(
        &mut self,
        pod: PodId,
        now: Uptime,
        out: &mut Outbox,
        apply: impl FnOnce(&mut Shared, &mut Lane, &mut Outbox),
    ) {
        let Some(pod) = self.shared.pods.get(pod) else {
            return;
        };
        let id = pod.lane;
        let lane = find(&mut self.lanes, id).expect("a lane outlives its pods");
        apply(&mut self.shared, lane, out);
        if lane.is_removed {
            self.finish_close(id, now, out);
        }
    }

    /// Queues the ticket of a call that waits.
    pub fn ticket(&mut self, ticket: Ticket, now: Uptime, out: &mut Outbox) {
        let lane = self.lanes.get_mut(ticket.lane.index as usize);
        let Some(lane) = lane.and_then(Option::as_mut) else {
            assert!(
                !self.shared.entries.is_queued(ticket.call()),
                "a call waits for a function that is gone"
            );
            return;
        };
        if ticket.lane.epoch > lane.id.epoch {
            // The function was removed and registered again, and the event of the new registration has not
            // arrived yet. The call must not run under the old plan, so its ticket is kept for the next
            // registration.
            return lane.early.push(ticket);
        }
        lane.push(ticket, &self.shared.entries);
        if ticket.lane != lane.id {
            // The ticket belongs to a removed registration. The io thread that owns the call knows of the
            // removal and ends the call, so no pod is started for the call.
            return;
        }
        // A warm call skips this block, because its lane has the pods that it needs and no pod is starting.
        if lane.lacks_pods() || lane.is_watched() {
            self.shared.reconcile(lane, now, out);
        }
        self.shared.list(lane);
    }

    /// Takes all tickets out of a lane's ring. The driver calls `collect` for every bit that it takes from
    /// the bitmap. If the lane is not open yet, `open` calls `collect` later.
    pub fn collect(&mut self, index: u32, now: Uptime, out: &mut Outbox) {
        let Some(Some(lane)) = self.lanes.get_mut(index as usize) else {
            return;
        };
        let Some(mut mailbox) = lane.mailbox.take().or_else(|| lane.stats.take_mailbox()) else {
            return;
        };
        while let Some(ticket) = mailbox.pop() {
            self.ticket(ticket, now, out);
        }
        let lane = self.lanes[index as usize].as_mut();
        lane.expect("a ticket closes no lane").mailbox = Some(mailbox);
    }

    fn done(&mut self, done: Done, now: Uptime, out: &mut Outbox) {
        let lane = self.lanes[done.lane.index as usize]
            .as_mut()
            .expect("a lane outlives its calls");
        assert!(
            lane.id.epoch >= done.lane.epoch,
            "a call ended in a lane that was not opened yet"
        );
        // The call may belong to an earlier registration of the lane. The lane still counts the call's slot.
        let held_for = lane.slots.release(done.slot, now);
        lane.stats
            .running
            .store(lane.slots.held(), Ordering::Relaxed);
        lane.learn(done.held, held_for);
        let is_watched = lane.is_watched();
        if let Some(pod) = done.pod {
            self.shared.pod_done(lane, pod, done.verdict, now, out);
        }
        if is_watched {
            self.shared.reconcile(lane, now, out);
        }
        self.shared.list(lane);
        if lane.is_removed {
            let id = lane.id;
            self.finish_close(id, now, out);
        }
    }

    fn open(
        &mut self,
        id: LaneId,
        stats: Arc<QueueStats>,
        plan: LanePlan,
        now: Uptime,
        out: &mut Outbox,
    ) {
        let place = id.index as usize;
        if self.lanes.len() <= place {
            self.lanes.resize_with(place + 1, || None);
        }
        let lane = match &mut self.lanes[place] {
            Some(lane) => {
                self.shared.take_over(lane, id, plan);
                lane
            }
            empty => empty.insert(Lane::new(id, stats, plan)),
        };
        // A lane that was taken over may have pods already. They are counted before `reconcile`, which starts
        // only the pods that are missing.
        lane.count(&mut self.shared.pods);
        self.shared.reconcile(lane, now, out);
        // A ticket may have arrived before this event. The driver then took the lane's bit while there was no
        // lane, so the ticket is still in the ring.
        self.collect(id.index, now, out);
        let lane = find(&mut self.lanes, id).expect("a ticket closes no lane");
        self.shared.list(lane);
    }

    /// Changes a lane's plan. The registry sends changes only while the lane is open.
    fn change(
        &mut self,
        id: LaneId,
        plan: LanePlan,
        reshaped: bool,
        now: Uptime,
        out: &mut Outbox,
    ) {
        let lane = find(&mut self.lanes, id).expect("a lane is changed while it is open");
        let shared = &mut self.shared;
        lane.replan(plan);
        for index in lane.pods.clone() {
            let pod = shared.pods.at(index);
            if plan.pods.is_none() {
                shared.drain(lane, index, out);
            } else if reshaped {
                pod.stale = true;
                if pod.state == PodState::Starting {
                    shared.stop(lane, index, out);
                }
            }
        }
        lane.count(&mut shared.pods);
        // Pods above the new ceiling are drained before `reconcile`, which compares the remaining pods with
        // the need.
        shared.drain_surplus(lane, out);
        shared.reconcile(lane, now, out);
        // If the floor was lowered, idle pods may be above it. Their timer is set here, because otherwise the
        // lane would set it only when a call ends or a pod comes up.
        shared.retire_later(lane, now);
        shared.list(lane);
    }

    fn close(&mut self, id: LaneId, now: Uptime, out: &mut Outbox) {
        let lane = find(&mut self.lanes, id);
        let lane = lane.expect("a lane is removed once, after it was opened");
        let shared = &mut self.shared;
        lane.is_removed = true;
        lane.clear(&shared.entries);
        for index in lane.pods.clone() {
            shared.drain(lane, index, out);
        }
        lane.count(&mut shared.pods);
        self.finish_close(id, now, out);
    }

    /// Forgets a removed lane if it has neither calls nor pods any more. If only waiting calls are left,
    /// checks the lane again later. Such a call is about to leave, or belongs to the next registration, whose
    /// `LaneOpened` takes the lane over.
    fn finish_close(&mut self, id: LaneId, now: Uptime, out: &mut Outbox) {
        let lane = find(&mut self.lanes, id).expect("a lane is forgotten once");
        assert!(lane.is_removed, "a lane was forgotten that is open");
        if lane.slots.held() > 0 || !lane.pods.is_empty() {
            return;
        }
        if lane.stats.depth() > 0 {
            return self.shared.arm(lane, now + LEFT_OVER);
        }
        if let Some(mailbox) = lane.mailbox.take() {
            lane.stats.return_mailbox(mailbox);
        }
        if lane.listed {
            self.shared.ready.retain(|listed| *listed != id);
        }
        self.lanes[id.index as usize] = None;
        out.orders.push(Order::LaneGone { lane: id });
    }

    /// Matches a bounded number of tickets to slots, round robin over the ready lanes.
    pub fn turn(&mut self, now: Uptime, out: &mut Outbox) -> Turn {
        let shared = &mut self.shared;
        let mut left = GRANTS_PER_TURN;
        while left > 0 {
            let Some(id) = shared.ready.pop_front() else {
                return Turn::Idle;
            };
            let lane = find(&mut self.lanes, id).expect("a listed lane is open");
            assert!(lane.listed, "a lane was listed twice");
            let most = left.min(GRANTS_PER_LANE);
            let examined = shared.grant(lane, most, now, out);
            // If `most` tickets were examined, more tickets of the lane may be granted. If fewer were
            // examined, the lane lacks tickets, slots or pods; the event that brings them puts the lane into
            // the list again.
            lane.listed = examined == most && lane.waiting() > 0;
            if lane.listed {
                shared.ready.push_back(id);
            }
            // A lane in which no ticket was examined counts as one ticket, so that many such lanes cannot
            // lengthen the turn.
            left -= examined.max(1);
        }
        if shared.ready.is_empty() {
            Turn::Idle
        } else {
            Turn::Busy
        }
    }

    /// Returns the earliest time at which `tick` may have something to do.
    pub fn next_due(&self) -> Option<Uptime> {
        self.shared.due.peek().map(|Reverse((at, _))| *at)
    }

    /// Checks the lanes whose timers are due: drains idle pods, starts and stops pods as the waiting calls
    /// need, and forgets removed lanes. Skips a timer if its lane is gone or has set another timer since.
    pub fn tick(&mut self, now: Uptime, out: &mut Outbox) {
        while let Some(Reverse((at, id))) = self.shared.due.peek().copied() {
            if at > now {
                return;
            }
            self.shared.due.pop();
            let Some(lane) = find(&mut self.lanes, id) else {
                continue;
            };
            if lane.due != Some(at) {
                continue;
            }
            lane.due = None;
            self.shared.retire_idle(lane, now, out);
            self.shared.reconcile(lane, now, out);
            if lane.is_removed {
                self.finish_close(id, now, out);
            }
        }
    }

    /// Returns the number of held slots in all lanes, for tests.
    pub fn held(&self) -> u64 {
        self.lanes
            .iter()
            .flatten()
            .map(|lane| u64::from(lane.slots.held()))
            .sum()
    }
}

impl Shared {
    /// Puts a lane with waiting tickets into the list of ready lanes, unless the list has the lane already.
    pub(crate) fn list(&mut self, lane: &mut Lane) {
        if !lane.listed && lane.waiting() > 0 {
            lane.listed = true;
            self.ready.push_back(lane.id);
        }
    }

    /// Sets the lane's timer to `at`, unless the timer is already set to `at` or an earlier time.
    pub(crate) fn arm(&mut self, lane: &mut Lane, at: Uptime) {
        if lane.due.is_none_or(|due| at < due) {
            lane.due = Some(at);
            self.due.push(Reverse((at, lane.id)));
        }
    }

    fn arm_idle(&mut self, lane: &mut Lane, now: Uptime) {
        let Some(plan) = lane.plan.pods else { return };
        if lane.counts.usable > plan.min && lane.due.is_none() {
            self.arm(lane, now.saturating_add(plan.idle_timeout));
        }
    }

    /// Opens a removed lane for the next registration of its function. The lane still has calls or pods,
    /// which stay counted. From here on only calls of the old registration name the lane by its old id.
    fn take_over(&mut self, lane: &mut Lane, id: LaneId, plan: LanePlan) {
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
        // The entry of the lane's timer in `due` names the old registration, so `tick` ignores that entry.
        lane.due = None;
        if std::mem::take(&mut lane.listed) {
            self.ready.retain(|listed| *listed != old);
        }
        for ticket in std::mem::take(&mut lane.early) {
            // An early ticket may belong to a registration after this one.
            if ticket.lane.epoch > id.epoch {
                lane.early.push(ticket);
            } else {
                lane.push(ticket, &self.entries);
            }
        }
    }

    fn pod_done(
        &mut self,
        lane: &mut Lane,
        pod_ref: PodId,
        verdict: PodVerdict,
        now: Uptime,
        out: &mut Outbox,
    ) {
        let index = pod_ref.index;
        let pod = self.pods.leave(pod_ref, lane.id);
        pod.idle_since = now;
        let is_empty = pod.in_flight == 0;
        match (pod.state, verdict) {
            (PodState::Usable, PodVerdict::Healthy) => {
                if !pod.proven {
                    pod.proven = true;
                    lane.starts.failed = None;
                    lane.count(&mut self.pods);
                }
                if is_empty {
                    self.arm_idle(lane, now);
                }
            }
            (PodState::Usable, PodVerdict::Lost | PodVerdict::CutOff) => {
                pod.state = PodState::Quarantined;
                out.orders.push(Order::Probe { pod: pod_ref });
                lane.count(&mut self.pods);
            }
            (PodState::Draining, _) if is_empty => self.stop(lane, index, out),
            (PodState::Leaving, _) if is_empty && pod.down => self.forget(lane, index),
            _ => {}
        }
    }

    /// Grants slots to the calls of up to `most` tickets of a lane. Returns how many tickets it examined.
    fn grant(&mut self, lane: &mut Lane, most: usize, now: Uptime, out: &mut Outbox) -> usize {
        // A call that waits in a removed lane is about to leave, or belongs to the next registration, whose
        // plan has not arrived yet.
        if lane.is_removed {
            return 0;
        }
        for examined in 0..most {
            if !lane.slots.has_free() || lane.waiting() == 0 {
                return examined;
            }
            let needs_pod = lane.plan.pods.is_some();
            // A pod with room is sought before the pop, because a popped ticket has lost its place in the
            // queue. Any pod will do here, because only the ticket shows which pod the call should avoid.
            if needs_pod && lane.choose(&mut self.pods, None).is_none() {
                return examined;
            }
            let ticket = lane.pop().expect("something waits");
            // The ticket belongs to a removed registration. The io thread that owns the call knows of the
            // removal and ends the call, so the ticket is dropped.
            if ticket.lane != lane.id && !planted("scheduler_ignores_epochs") {
                continue;
            }
            // The owner of the call may take it out of the queue at the same time. The exchange of the state
            // word decides, and only the thread whose exchange succeeds lowers the depth.
            if !self.entries.grant(ticket.call()) {
                continue;
            }
            lane.stats.leave(ticket.class);
            lane.granted(ticket.class);
            let slot = lane.slots.hold(now);
            lane.stats
                .running
                .store(lane.slots.held(), Ordering::Relaxed);
            let (pod, start) = if let Some(plan) = lane.plan.pods {
                let index = lane
                    .choose(&mut self.pods, ticket.avoid)
                    .expect("a pod has room");
                let pod = self.pods.enter(index, plan.cap);
                let usable_at = pod.usable_at.expect("a pod that is granted came up");
                let waited_from = ticket.queued_at.max(pod.wanted_at);
                (
                    Some(self.pods.reference(index)),
                    usable_at.since(waited_from),
                )
            } else {
                (None, Nanos::ZERO)
            };
            let call = ticket.call();
            out.grants.push(Grant {
                call,
                lane: lane.id,
                pod,
                slot,
                granted_at: now,
                start,
            });
        }
        most
    }
}
