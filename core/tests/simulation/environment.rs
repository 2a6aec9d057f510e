//! Holds the data that all actors of a run share: the clock, the rings between the actors, and the scheduler
//! with its model. The io threads and the bridge are actors. A pinned scheduler is an actor, too, and takes
//! events from rings; an inline scheduler is called by the actor that has an event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nanofaas_core::bitmap::Bitmap;
use nanofaas_core::entries::Entries;
use nanofaas_core::event::{Event, Notice, Order, Outbox};
use nanofaas_core::limits::GRANTS_PER_TURN;
use nanofaas_core::queue_stats::QueueStats;
use nanofaas_core::rate::{RateBucket, RateLimit};
use nanofaas_core::registry::{Change, FunctionUpdate};
use nanofaas_core::ring::{Consumer, Producer, channel};
use nanofaas_core::scheduler::{Scheduler, Turn};
use nanofaas_core::shard::ShardId;
use nanofaas_core::ticket::{Done, Grant, PodId, Ticket};
use nanofaas_core::time::Uptime;

use crate::reference_model::ReferenceModel;
use crate::rng::SimulationRng;
use crate::scenario::Nature;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SchedulerMode {
    Inline,
    Pinned,
}

pub(crate) enum ToIo {
    /// An event for the inline scheduler. A pinned scheduler gets its events from a ring of its own.
    Event(Event),
    Notice(Notice),
    Update(FunctionUpdate),
    Stop,
}

pub(crate) enum ToBridge {
    Order(Order),
    Ack(ShardId, u64),
    Request(Change),
}

/// Both ends of a ring. One value can hold both, because actors run one at a time.
pub(crate) struct SimulatedRing<T: Send> {
    producer: Producer<T>,
    consumer: Consumer<T>,
}

impl<T: Send> SimulatedRing<T> {
    fn new(places: usize) -> Self {
        let (producer, consumer) = channel(places);
        Self { producer, consumer }
    }

    pub(crate) fn push(&self, item: T) {
        assert!(self.producer.push(item).is_ok(), "a ring overflowed");
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        self.consumer.pop()
    }

    pub(crate) fn has_some(&self) -> bool {
        self.consumer.is_published()
    }
}

const LANES: usize = 64;

pub(crate) struct SharedEnvironment {
    pub(crate) mode: SchedulerMode,
    pub(crate) rng: SimulationRng,
    pub(crate) now: Uptime,
    shown: bool,
    pub(crate) entries: Arc<Entries>,
    pub(crate) bucket: RateBucket,
    pub(crate) natures: BTreeMap<Arc<str>, Nature>,
    pub(crate) scheduler: Scheduler,
    pub(crate) model: ReferenceModel,
    out: Outbox,
    busy: bool,
    events: SimulatedRing<Event>,
    bits: Bitmap,
    pub(crate) grants: Vec<SimulatedRing<Grant>>,
    pub(crate) to_io: Vec<SimulatedRing<ToIo>>,
    pub(crate) to_bridge: SimulatedRing<ToBridge>,
    /// The pods whose process is alive. An actor may not know yet that a pod has died.
    pub(crate) alive: BTreeSet<PodId>,
    /// For each pod: the number of calls that the io threads run in it.
    pub(crate) running_in: BTreeMap<PodId, u32>,
    pub(crate) grants_in_flight: u64,
    pub(crate) dones_in_flight: u64,
    pub(crate) turns: u64,
}

impl SharedEnvironment {
    pub(crate) fn new(
        mode: SchedulerMode,
        mut rng: SimulationRng,
        io_threads: usize,
        shown: bool,
    ) -> Self {
        let limit = match rng.below(4) {
            0 => RateLimit::PerSecond(500),
            1 => RateLimit::PerSecond(5000),
            _ => RateLimit::Off,
        };
        let entries = Arc::new(Entries::new(io_threads));
        Self {
            mode,
            now: Uptime::from_ns(rng.within(1, 1 << 40)),
            rng,
            shown,
            bucket: RateBucket::new(limit),
            natures: BTreeMap::new(),
            scheduler: Scheduler::new(entries.clone()),
            entries,
            model: ReferenceModel::default(),
            out: Outbox::with_room(),
            busy: false,
            events: SimulatedRing::new(8192),
            bits: Bitmap::with_capacity(LANES),
            grants: (0..io_threads).map(|_| SimulatedRing::new(2048)).collect(),
            to_io: (0..io_threads).map(|_| SimulatedRing::new(2048)).collect(),
            to_bridge: SimulatedRing::new(4096),
            alive: BTreeSet::new(),
            running_in: BTreeMap::new(),
            grants_in_flight: 0,
            dones_in_flight: 0,
            turns: 0,
        }
    }

    /// Prints a line if the run is of a single seed.
    pub(crate) fn show(&self, what: impl FnOnce() -> String) {
        if self.shown {
            println!("{:>16} {}", self.now.as_ns(), what());
        }
    }

    fn feed(&mut self, event: Event) {
        self.show(|| match &event {
            Event::Ticket(ticket) => format!("scheduler gets {ticket:?}"),
            Event::Done(done) => format!("scheduler gets {done:?}"),
            Event::LaneOpened { lane, plan, .. } => format!("scheduler opens {lane:?} {plan:?}"),
            Event::LaneChanged { lane, plan, .. } => format!("scheduler changes {lane:?} {plan:?}"),
            Event::LaneRemoved { lane } => format!("scheduler removes {lane:?}"),
            Event::PodUp(pod) => format!("scheduler gets up {pod:?}"),
            Event::PodDown(pod) => format!("scheduler gets down {pod:?}"),
            Event::PodLeaving(pod) => format!("scheduler gets leaving {pod:?}"),
            Event::StartFailed { pod, .. } => format!("scheduler gets start failed {pod:?}"),
            Event::StartHeldUp { pod, .. } => format!("scheduler gets held up {pod:?}"),
            Event::Adopt { lane, .. } => format!("scheduler gets adopt {lane:?}"),
        });
        self.model.on_event(&event, &self.entries);
        let stale = matches!(event, Event::Adopt { stale: true, .. });
        self.scheduler.event(event, self.now, &mut self.out);
        self.model.ordered(&self.out.orders);
        for order in self.out.orders.iter().filter(|_| stale) {
            if let Order::Adopted { pod: Some(pod), .. } = *order {
                self.model.adopted_stale(pod);
            }
        }
        self.deliver();
    }

    fn collect(&mut self, lane: u32) {
        self.show(|| format!("scheduler collects {lane}"));
        self.model.collected(lane);
        self.scheduler.collect(lane, self.now, &mut self.out);
        self.model.ordered(&self.out.orders);
        self.deliver();
    }

    fn deliver(&mut self) {
        for grant in std::mem::take(&mut self.out.grants) {
            self.grants_in_flight += 1;
            self.grants[grant.call.shard.index()].push(grant);
        }
        for order in std::mem::take(&mut self.out.orders) {
            self.show(|| format!("scheduler orders {order:?}"));
            self.to_bridge.push(ToBridge::Order(order));
        }
        for notice in std::mem::take(&mut self.out.notices) {
            self.show(|| format!("scheduler notes {notice:?}"));
            let all = self.to_io.iter();
            all.for_each(|ring| ring.push(ToIo::Notice(notice.clone())));
        }
    }

    fn turn(&mut self) {
        self.turns += 1;
        self.busy = self.scheduler.turn(self.now, &mut self.out) == Turn::Busy;
        assert!(self.out.orders.is_empty(), "a turn only grants");
        assert!(self.out.grants.len() <= GRANTS_PER_TURN, "a turn too long");
        for grant in &self.out.grants {
            self.show(|| format!("scheduler grants {grant:?}"));
        }
        self.model.granted(&self.out.grants, &self.entries);
        self.deliver();
        if !self.busy {
            let timer = self.scheduler.next_due().is_some();
            self.model.check_rest(&self.entries, timer);
        }
    }

    fn tick(&mut self) {
        if self.scheduler.next_due().is_some_and(|at| at <= self.now) {
            self.scheduler.tick(self.now, &mut self.out);
            self.model.ordered(&self.out.orders);
            self.deliver();
        }
    }

    pub(crate) fn feed_inline(&mut self, event: Event) {
        self.feed(event);
        self.turn();
    }

    pub(crate) fn pass_inline(&mut self) {
        if self.mode == SchedulerMode::Inline {
            self.tick();
            self.turn();
        }
    }

    pub(crate) fn scheduler_is_due(&self) -> bool {
        let due = self.scheduler.next_due();
        let received =
            self.mode == SchedulerMode::Pinned && (self.events.has_some() || self.bits.any());
        received || self.busy || due.is_some_and(|at| at <= self.now)
    }

    /// Runs one round of the pinned scheduler's thread. It may leave events and tickets for a later round, as
    /// the bounds of a real round do.
    pub(crate) fn pass_pinned(&mut self) {
        if self.rng.chance(500) {
            self.sweep();
        }
        let most = self.rng.pick(&[1, 3, 20, usize::MAX]);
        for _ in 0..most {
            let Some(event) = self.events.pop() else {
                break;
            };
            if matches!(event, Event::Done(_)) {
                self.dones_in_flight -= 1;
            }
            self.feed(event);
        }
        if self.rng.chance(700) {
            self.sweep();
        }
        self.tick();
        self.turn();
    }

    fn sweep(&mut self) {
        let mut lanes = Vec::new();
        self.bits.take(|lane| lanes.push(lane as u32));
        lanes.into_iter().for_each(|lane| self.collect(lane));
    }

    /// Sends an event of the bridge. An inline scheduler gets it through the inbox of io thread 0.
    pub(crate) fn send_event(&mut self, event: Event) {
        match self.mode {
            SchedulerMode::Inline => self.to_io[0].push(ToIo::Event(event)),
            SchedulerMode::Pinned => self.events.push(event),
        }
    }

    /// Sends a ticket to the scheduler. Returns false if the lane's ring is full.
    pub(crate) fn post(&mut self, stats: &Arc<QueueStats>, ticket: Ticket) -> bool {
        match self.mode {
            SchedulerMode::Inline => {
                self.feed_inline(Event::Ticket(ticket));
                true
            }
            SchedulerMode::Pinned => {
                let posted = stats.post(ticket).is_ok();
                if posted {
                    self.model.posted(stats, &ticket);
                    self.bits.set(ticket.lane.index as usize);
                }
                posted
            }
        }
    }

    pub(crate) fn post_again(&mut self, ticket: Ticket) {
        match self.mode {
            SchedulerMode::Inline => self.feed_inline(Event::Ticket(ticket)),
            SchedulerMode::Pinned => self.events.push(Event::Ticket(ticket)),
        }
    }

    pub(crate) fn done(&mut self, done: Done) {
        match self.mode {
            SchedulerMode::Inline => self.feed_inline(Event::Done(done)),
            SchedulerMode::Pinned => {
                self.dones_in_flight += 1;
                self.events.push(Event::Done(done));
            }
        }
    }

    pub(crate) fn entered_pod(&mut self, pod: PodId) {
        *self.running_in.entry(pod).or_default() += 1;
    }

    pub(crate) fn left_pod(&mut self, pod: PodId) {
        let running = self.running_in.get_mut(&pod);
        *running.expect("it ran") -= 1;
    }

    pub(crate) fn is_alive(&self, pod: PodId) -> bool {
        self.alive.contains(&pod)
    }

    /// Returns true if no message is in flight between actors and the scheduler's last turn left no work.
    pub(crate) fn is_quiet(&self) -> bool {
        let rings = self.events.has_some() || self.bits.any() || self.to_bridge.has_some();
        let inboxes = self.grants.iter().any(SimulatedRing::has_some)
            || self.to_io.iter().any(SimulatedRing::has_some);
        !(rings || inboxes || self.busy)
    }
}
