//! Models the state that the scheduler must keep: tickets in their order, slots, pods. The model is built
//! from the scheduler's input and output, and checks every grant and order. From the scheduler itself it
//! reads only the counters of the lanes.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nanofaas_core::entries::Entries;
use nanofaas_core::event::{Event, LanePlan, Order};
use nanofaas_core::limits::ASYNC_SHARE;
use nanofaas_core::queue_stats::QueueStats;
use nanofaas_core::ticket::{CallId, Class, Done, Grant, LaneId, PodId, PodVerdict, Ticket};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ModelPodState {
    Starting,
    Usable,
    Quarantined,
    /// The pod drains because of an event that the model received. Drains that the scheduler decides on are
    /// not visible to the model.
    Draining,
    Stopped,
    Down,
}

#[derive(Debug)]
struct ModelPod {
    lane: LaneId,
    state: ModelPodState,
    in_flight: u32,
    stale: bool,
    /// True if a probe was ordered since the pod was last quarantined.
    probed: bool,
}

struct ModelLane {
    stats: Arc<QueueStats>,
    plan: LanePlan,
    fifos: [VecDeque<CallId>; 2],
    /// Tickets of a registration that has not taken over the lane yet.
    early: Vec<Ticket>,
    id: LaneId,
    held: u32,
    is_removed: bool,
    /// The number of sync grants in a row that were made while an async call waited.
    sync_streak: u32,
    /// The number of grants since an async call was last granted although a sync call waited.
    since_jump: u32,
    /// True if a start failed or a pod went down since the last plan.
    failed: bool,
    /// True if the lane has ever adopted a pod. The lane may then have more pods than the spec's maximum.
    adopted: bool,
}

type ModelMailbox = (Arc<QueueStats>, VecDeque<Ticket>);

#[derive(Default)]
pub(crate) struct ReferenceModel {
    lanes: BTreeMap<u32, ModelLane>,
    pods: BTreeMap<PodId, ModelPod>,
    /// The tickets in each lane's ring, by the address of the lane's stats. Keeping the stats prevents other
    /// stats from getting the same address.
    mailboxes: BTreeMap<usize, ModelMailbox>,
    gone: BTreeSet<LaneId>,
    pub(crate) async_jumps: u64,
    pub(crate) replacements: u64,
}

impl ReferenceModel {
    pub(crate) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    pub(crate) fn pods(&self) -> usize {
        self.pods.len()
    }

    pub(crate) fn held(&self) -> u64 {
        self.lanes.values().map(|lane| u64::from(lane.held)).sum()
    }

    pub(crate) fn posted(&mut self, stats: &Arc<QueueStats>, ticket: &Ticket) {
        let address = Arc::as_ptr(stats) as usize;
        let fresh = || (stats.clone(), VecDeque::new());
        let (_, tickets) = self.mailboxes.entry(address).or_insert_with(fresh);
        tickets.push_back(*ticket);
    }

    pub(crate) fn collected(&mut self, index: u32) {
        let Some(lane) = self.lanes.get_mut(&index) else {
            return;
        };
        let address = Arc::as_ptr(&lane.stats) as usize;
        if let Some((_, tickets)) = self.mailboxes.get_mut(&address) {
            for ticket in tickets.drain(..) {
                lane.push(&ticket);
            }
        }
    }

    /// Notes an event that the scheduler receives next.
    pub(crate) fn on_event(&mut self, event: &Event, entries: &Entries) {
        match event {
            Event::Ticket(ticket) => match self.lanes.get_mut(&ticket.lane.index) {
                Some(lane) => lane.push(ticket),
                None => assert!(!entries.is_queued(ticket.call())),
            },
            Event::Done(done) => self.done(done),
            Event::LaneOpened { lane, stats, plan } => self.opened(*lane, stats, *plan),
            Event::LaneChanged {
                lane,
                plan,
                reshaped,
            } => self.changed(*lane, *plan, *reshaped),
            Event::LaneRemoved { lane } => {
                let removed = self.lanes.get_mut(&lane.index).expect("a lane was opened");
                assert_eq!(removed.id, *lane, "another registration is removed");
                removed.is_removed = true;
                self.drain(*lane);
            }
            Event::PodUp(pod) => {
                if let Some(pod) = self.pods.get_mut(pod)
                    && matches!(
                        pod.state,
                        ModelPodState::Starting | ModelPodState::Quarantined
                    )
                {
                    pod.state = ModelPodState::Usable;
                }
            }
            Event::PodDown(pod) | Event::StartFailed { pod, .. } => self.down(*pod),
            Event::PodLeaving(pod) => {
                if let Some(pod) = self.pods.get_mut(pod) {
                    pod.drain();
                }
            }
            Event::StartHeldUp { .. } | Event::Adopt { .. } => {}
        }
    }

    fn opened(&mut self, id: LaneId, stats: &Arc<QueueStats>, plan: LanePlan) {
        if let Some(lane) = self.lanes.get_mut(&id.index) {
            assert!(lane.is_removed, "a lane was opened twice");
            assert!(Arc::ptr_eq(&lane.stats, stats), "a lane's stats were lost");
            lane.is_removed = false;
            lane.id = id;
            lane.plan = plan;
            lane.failed = false;
            // The io threads of the waiting calls knew of the removal before this event, and end these calls.
            lane.fifos = Default::default();
            for ticket in std::mem::take(&mut lane.early) {
                lane.push(&ticket);
            }
            let pods = self.pods.values_mut();
            let of_lane = pods.filter(|pod| pod.lane.index == id.index);
            of_lane.for_each(|pod| pod.lane = id);
        } else {
            let lane = ModelLane {
                stats: stats.clone(),
                plan,
                fifos: Default::default(),
                early: Vec::new(),
                id,
                held: 0,
                is_removed: false,
                sync_streak: 0,
                since_jump: ASYNC_SHARE,
                failed: false,
                adopted: false,
            };
            self.lanes.insert(id.index, lane);
        }
        // The tickets that were posted before the scheduler knew the lane are collected here, because no
        // other bit announces them.
        self.collected(id.index);
    }

    fn changed(&mut self, id: LaneId, plan: LanePlan, reshaped: bool) {
        let Some(lane) = self.lanes.get_mut(&id.index) else {
            return;
        };
        assert_eq!(lane.id, id, "another registration is changed");
        lane.plan = plan;
        lane.failed = false;
        if plan.pods.is_none() {
            self.drain(id);
        } else if reshaped {
            let of_lane = self.pods.values_mut().filter(|pod| pod.lane == id);
            of_lane.for_each(|pod| pod.stale = true);
        }
    }

    fn drain(&mut self, lane: LaneId) {
        let of_lane = self.pods.values_mut().filter(|pod| pod.lane == lane);
        of_lane.for_each(ModelPod::drain);
    }

    fn done(&mut self, done: &Done) {
        let lane = self
            .lanes
            .get_mut(&done.lane.index)
            .expect("a lane of a call");
        lane.held -= 1;
        let Some(pod_ref) = done.pod else {
            return;
        };
        let pod = self.pods.get_mut(&pod_ref).expect("a pod of a call");
        pod.in_flight -= 1;
        if pod.state == ModelPodState::Usable && done.verdict != PodVerdict::Healthy {
            pod.state = ModelPodState::Quarantined;
            pod.probed = false;
        }
        if pod.state == ModelPodState::Down && pod.in_flight == 0 {
            self.pods.remove(&pod_ref);
        }
    }

    fn down(&mut self, pod: PodId) {
        let Some(found) = self.pods.get_mut(&pod) else {
            return;
        };
        if let Some(lane) = self.lanes.get_mut(&found.lane.index) {
            lane.failed = true;
        }
        found.state = ModelPodState::Down;
        if found.in_flight == 0 {
            self.pods.remove(&pod);
        }
    }

    pub(crate) fn ordered(&mut self, orders: &[Order]) {
        for order in orders {
            match *order {
                Order::Start { lane, pod, .. } => self.started(lane, pod, false),
                Order::Adopted {
                    lane,
                    pod: Some(pod),
                    ..
                } => self.started(lane, pod, true),
                Order::Adopted { pod: None, .. } => {}
                Order::Stop { pod } => {
                    let pod = self.pods.get_mut(&pod).expect("a pod to stop");
                    assert_eq!(pod.in_flight, 0, "a pod is stopped with calls in it");
                    assert_ne!(pod.state, ModelPodState::Stopped, "a pod is stopped twice");
                    self.replacements += u64::from(pod.stale);
                    pod.state = ModelPodState::Stopped;
                }
                Order::Probe { pod } => {
                    let pod = self.pods.get_mut(&pod).expect("a pod to probe");
                    assert_eq!(
                        pod.state,
                        ModelPodState::Quarantined,
                        "a probe of a good pod"
                    );
                    pod.probed = true;
                }
                Order::LaneGone { lane } => {
                    let gone = self.lanes.remove(&lane.index).expect("a lane goes once");
                    assert!(gone.is_removed && gone.id == lane, "another removal's end");
                    assert_eq!(gone.held, 0, "a lane went before its calls");
                    let has_pods = self.pods.values().any(|pod| pod.lane == lane);
                    assert!(!has_pods, "a lane went before its pods");
                    assert!(self.gone.insert(lane), "one removal ended twice");
                }
            }
        }
        let starts = orders.iter().filter_map(|order| match order {
            Order::Start { lane, .. } => Some(*lane),
            _ => None,
        });
        starts
            .collect::<BTreeSet<_>>()
            .into_iter()
            .for_each(|lane| self.check_starts(lane));
    }

    fn started(&mut self, lane: LaneId, pod: PodId, adopted: bool) {
        let found = self.lanes.get_mut(&lane.index).expect("a lane of a pod");
        found.adopted |= adopted;
        assert!(
            adopted || (!found.is_removed && found.id == lane),
            "a pod for a removed function"
        );
        let state = ModelPodState::Starting;
        let new = ModelPod {
            lane,
            state,
            in_flight: 0,
            stale: false,
            probed: false,
        };
        let was = self.pods.insert(pod, new);
        assert!(was.is_none(), "one place for two pods");
    }

    pub(crate) fn adopted_stale(&mut self, pod: PodId) {
        self.pods.get_mut(&pod).expect("an adopted pod").stale = true;
    }

    fn counts(&self, lane: LaneId, state: ModelPodState) -> u32 {
        let of_lane = self.pods.values().filter(|pod| pod.lane == lane);
        of_lane.filter(|pod| pod.state == state).count() as u32
    }

    /// Counts the usable, starting and quarantined pods. The gauges leave out draining pods and do not count
    /// quarantined ones, which the model adds.
    fn serving(&self, id: LaneId, lane: &ModelLane) -> u32 {
        let gauge = |at: usize| lane.stats.pods[at].load(Relaxed);
        gauge(0) + gauge(1) + self.counts(id, ModelPodState::Quarantined)
    }

    /// Counts the pods of `serving` without the quarantined pods that may be draining. The scheduler stops a
    /// draining pod without a running call at once, so only those with a running call may be draining.
    fn surely_serving(&self, id: LaneId, lane: &ModelLane) -> u32 {
        let doubtful = self.pods.values().filter(|pod| {
            pod.lane == id && pod.state == ModelPodState::Quarantined && pod.in_flight > 0
        });
        self.serving(id, lane) - doubtful.count() as u32
    }

    fn has_stale(&self, id: LaneId) -> bool {
        let of_lane = self.pods.values().filter(|pod| pod.lane == id);
        let mut kept = of_lane.filter(|pod| pod.state != ModelPodState::Stopped);
        kept.any(|pod| pod.stale)
    }

    fn check_starts(&self, id: LaneId) {
        let lane = &self.lanes[&id.index];
        let plan = lane.plan.pods.expect("only functions with pods start some");
        let calls = (lane.stats.depth() + lane.held).min(lane.plan.concurrency);
        let needed = calls.div_ceil(plan.cap).clamp(plan.min, plan.max);
        let stale = self.has_stale(id);
        let serving = self.surely_serving(id, lane);
        // While old pods are replaced, the lane may have one pod more than the maximum.
        let most = if stale { plan.max + 1 } else { needed };
        assert!(
            serving <= most,
            "{serving} pods where {needed} are needed (stale: {stale}, {plan:?})"
        );
    }

    pub(crate) fn granted(&mut self, grants: &[Grant], entries: &Entries) {
        let batch: HashSet<CallId> = grants.iter().map(|grant| grant.call).collect();
        let waited = |call: &CallId| batch.contains(call) || entries.is_queued(*call);
        grants.iter().for_each(|grant| self.grant(grant, &waited));
    }

    /// `waited` returns whether a call was waiting when the turn began.
    fn grant(&mut self, grant: &Grant, waited: &impl Fn(&CallId) -> bool) {
        let lane = self
            .lanes
            .get_mut(&grant.lane.index)
            .expect("a lane of a grant");
        assert!(!lane.is_removed, "a grant in a removed function");
        assert_eq!(lane.id, grant.lane, "a grant for another registration");
        assert!(
            lane.held < lane.plan.concurrency,
            "more calls than concurrency allows"
        );
        lane.held += 1;
        let class = lane.take(grant.call, waited);
        let waits = |fifo: &VecDeque<CallId>| fifo.iter().any(waited);
        lane.since_jump = lane.since_jump.saturating_add(1);
        if class == Class::Async {
            lane.sync_streak = 0;
            if waits(&lane.fifos[0]) {
                assert!(lane.since_jump >= ASYNC_SHARE, "async goes before sync");
                lane.since_jump = 0;
                self.async_jumps += 1;
            }
        } else if waits(&lane.fifos[1]) {
            lane.sync_streak += 1;
            assert!(lane.sync_streak < ASYNC_SHARE, "async is starved by sync");
        } else {
            lane.sync_streak = 0;
        }
        let plan = lane.plan.pods;
        assert_eq!(plan.is_some(), grant.pod.is_some(), "a pod where none is");
        if let (Some(plan), Some(pod)) = (plan, grant.pod) {
            let pod = self.pods.get_mut(&pod).expect("a known pod");
            assert_eq!(pod.state, ModelPodState::Usable, "a grant for a bad pod");
            assert_eq!(pod.lane, grant.lane, "a grant for another function's pod");
            assert!(pod.in_flight < plan.cap, "a pod over its cap");
            pod.in_flight += 1;
        }
    }

    /// Checks that no call waits while a slot for the call is free. The scheduler must have no work left.
    pub(crate) fn check_rest(&mut self, entries: &Entries, timer: bool) {
        let indexes: Vec<_> = self.lanes.keys().copied().collect();
        for index in indexes {
            let lane = self.lanes.get_mut(&index).expect("it is there");
            for fifo in &mut lane.fifos {
                fifo.retain(|call| entries.is_queued(*call));
            }
            let live = lane.fifos.iter().map(VecDeque::len).sum::<usize>() as u32;
            let lane = &self.lanes[&index];
            let running = lane.stats.running.load(Relaxed);
            assert_eq!(running, lane.held, "slots leaked or doubled");
            if !lane.is_removed {
                self.check_lane(lane, live, timer);
            }
        }
    }

    fn check_lane(&self, lane: &ModelLane, live: u32, timer: bool) {
        let id = lane.id;
        let gauge = |at: usize| lane.stats.pods[at].load(Relaxed);
        let of_lane = || self.pods.values().filter(|pod| pod.lane == id);
        let usable = || of_lane().filter(|pod| pod.state == ModelPodState::Usable);
        let starting = self.counts(id, ModelPodState::Starting);
        assert_eq!(gauge(1), starting, "starting pods are miscounted");
        // The model counts a pod as usable even after the scheduler has begun to drain it; the gauge does
        // not. The difference is the number of these pods.
        let drained = (usable().count() as u32)
            .checked_sub(gauge(0))
            .expect("no more usable pods than came up");
        let asked = |pod: &ModelPod| {
            pod.state != ModelPodState::Quarantined || pod.in_flight > 0 || pod.probed
        };
        assert!(of_lane().all(asked), "a quarantined pod nobody asks");
        let slot_free = lane.held < lane.plan.concurrency;
        let Some(plan) = lane.plan.pods else {
            assert!(live == 0 || !slot_free, "a call waits for a free slot");
            return;
        };
        let roomy = usable().filter(|pod| pod.in_flight < plan.cap).count() as u32;
        assert!(
            live == 0 || !slot_free || roomy <= drained,
            "a call waits for a free slot in a pod"
        );
        let calls = (live + lane.held).min(lane.plan.concurrency);
        let needed = calls.div_ceil(plan.cap).clamp(plan.min, plan.max);
        let serving = self.serving(id, lane);
        let most = plan.max + u32::from(self.has_stale(id));
        assert!(
            lane.adopted || self.surely_serving(id, lane) <= most,
            "more pods than the spec allows"
        );
        if serving < needed {
            // While a pod is usable, the waiting calls may be too few for a start.
            let may_wait = lane.failed || usable().next().is_some();
            assert!(may_wait, "{serving} pods of {needed}, and none starts");
            assert!(timer || starting > 0, "nothing will start the next pod");
        }
    }
}

impl ModelPod {
    const fn drain(&mut self) {
        if matches!(
            self.state,
            ModelPodState::Usable | ModelPodState::Quarantined
        ) {
            self.state = ModelPodState::Draining;
        }
    }
}

impl ModelLane {
    fn push(&mut self, ticket: &Ticket) {
        let call = ticket.call();
        match ticket.lane.epoch.cmp(&self.id.epoch) {
            Ordering::Equal => self.fifos[ticket.class as usize].push_back(call),
            Ordering::Greater => self.early.push(*ticket),
            // The call's registration is gone, so its io thread ends the call.
            Ordering::Less => {}
        }
    }

    /// Takes a granted call out of its queue. Fails if a call before it still waited.
    fn take(&mut self, call: CallId, waited: &impl Fn(&CallId) -> bool) -> Class {
        for class in [Class::Sync, Class::Async] {
            let fifo = &mut self.fifos[class as usize];
            if let Some(at) = fifo.iter().position(|waiting| *waiting == call) {
                let mut before = fifo.drain(..=at);
                let overtaken = before.any(|other| other != call && waited(&other));
                assert!(!overtaken, "a call was overtaken in its own class");
                drop(before);
                return class;
            }
        }
        panic!("a grant for a call that does not wait: {call:?}");
    }
}
