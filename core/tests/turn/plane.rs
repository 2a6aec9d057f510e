//! `SteppedScheduler` is a scheduler whose surroundings the test controls: waiting calls, a bridge that does
//! what the test demands, and a clock that only the test advances.

use std::collections::HashMap;
use std::sync::Arc;

use nanofaas_core::entries::Entries;
use nanofaas_core::event::{Event, LanePlan, Notice, Order, Outbox, PodPlan, StartFailure};
use nanofaas_core::queue_stats::QueueStats;
use nanofaas_core::scheduler::{Scheduler, Turn};
use nanofaas_core::shard::ShardId;
use nanofaas_core::ticket::{CallId, Class, Done, Grant, Held, LaneId, PodId, PodVerdict, Ticket};
use nanofaas_core::time::{Nanos, Uptime};

pub(crate) const MS: Nanos = Nanos::from_ms(1);
pub(crate) const SECOND: Nanos = Nanos::SECOND;
const QUEUE_SIZE: u32 = 10_000;

pub(crate) const LANE: LaneId = LaneId { index: 0, epoch: 1 };

pub(crate) struct SteppedScheduler {
    pub(crate) entries: Arc<Entries>,
    pub(crate) scheduler: Scheduler,
    pub(crate) now: Uptime,
    out: Outbox,
    stats: HashMap<u32, Arc<QueueStats>>,
    /// The number of times that each lane was opened.
    epochs: HashMap<u32, u32>,
    calls: u32,
}

pub(crate) fn podless(concurrency: u32) -> LanePlan {
    LanePlan {
        concurrency,
        queue_size: QUEUE_SIZE,
        pods: None,
    }
}

/// Makes a plan with pods for one call each. At most `concurrency` pods run, and idle pods stay for a second.
pub(crate) fn warm(concurrency: u32, min: u32) -> LanePlan {
    let pods = PodPlan {
        min,
        max: concurrency,
        cap: 1,
        idle_timeout: SECOND,
    };
    LanePlan {
        pods: Some(pods),
        ..podless(concurrency)
    }
}

pub(crate) fn pod_of(grant: &Grant) -> PodId {
    grant.pod.expect("a warm call runs in a pod")
}

impl SteppedScheduler {
    pub(crate) fn new() -> Self {
        let entries = Arc::new(Entries::new(1));
        Self {
            scheduler: Scheduler::new(entries.clone()),
            entries,
            now: Uptime::ZERO + 1000 * SECOND,
            out: Outbox::with_room(),
            stats: HashMap::new(),
            epochs: HashMap::new(),
            calls: 0,
        }
    }

    pub(crate) fn with(plan: LanePlan) -> Self {
        let mut plane = Self::new();
        plane.open(0, plan);
        plane
    }

    pub(crate) fn open(&mut self, lane: u32, plan: LanePlan) {
        let stats = Arc::new(QueueStats::new(1));
        self.open_with(lane, stats, plan);
    }

    pub(crate) fn open_with(&mut self, lane: u32, stats: Arc<QueueStats>, plan: LanePlan) {
        self.stats.insert(lane, stats.clone());
        *self.epochs.entry(lane).or_default() += 1;
        let lane = self.id(lane);
        self.on_event(Event::LaneOpened { lane, stats, plan });
    }

    pub(crate) fn id(&self, lane: u32) -> LaneId {
        let (index, epoch) = (lane, self.epochs[&lane]);
        LaneId { index, epoch }
    }

    pub(crate) fn stats(&self, lane: u32) -> Arc<QueueStats> {
        self.stats[&lane].clone()
    }

    pub(crate) fn on_event(&mut self, event: Event) {
        self.scheduler.event(event, self.now, &mut self.out);
    }

    /// Queues a call. The scheduler gets the returned ticket only if the test sends it.
    pub(crate) fn ticket(&mut self, lane: u32, class: Class) -> Ticket {
        let has_room = self.stats[&lane].enter(class, QUEUE_SIZE);
        assert!(has_room, "the queue is full");
        let ticket = Ticket {
            queued_at: self.now,
            index: self.calls,
            generation: 0,
            lane: self.id(lane),
            avoid: None,
            shard: ShardId::new(0),
            class,
        };
        self.calls += 1;
        self.entries.queue(ticket.call());
        ticket
    }

    pub(crate) fn call(&mut self, lane: u32, class: Class) -> CallId {
        let ticket = self.ticket(lane, class);
        self.scheduler.ticket(ticket, self.now, &mut self.out);
        ticket.call()
    }

    pub(crate) fn on_ticket(&mut self, ticket: Ticket) {
        self.scheduler.ticket(ticket, self.now, &mut self.out);
    }

    pub(crate) fn calls(&mut self, lane: u32, class: Class, many: usize) -> Vec<CallId> {
        (0..many).map(|_| self.call(lane, class)).collect()
    }

    pub(crate) fn leave(&mut self, lane: u32, call: CallId) {
        assert!(self.entries.leave(call), "a grant came first");
        self.stats[&lane].leave(Class::Sync);
    }

    /// Runs a turn. Returns its grants, and whether the turn left work.
    pub(crate) fn turn(&mut self) -> (Turn, Vec<Grant>) {
        let turn = self.scheduler.turn(self.now, &mut self.out);
        (turn, std::mem::take(&mut self.out.grants))
    }

    /// Runs turns until one leaves no work.
    pub(crate) fn grants(&mut self) -> Vec<Grant> {
        let mut all = Vec::new();
        loop {
            let (turn, grants) = self.turn();
            all.extend(grants);
            if turn == Turn::Idle {
                return all;
            }
        }
    }

    pub(crate) fn granted(&mut self) -> Vec<CallId> {
        self.grants().iter().map(|grant| grant.call).collect()
    }

    pub(crate) fn done(&mut self, grant: &Grant, verdict: PodVerdict) {
        self.on_event(Event::Done(Done {
            lane: grant.lane,
            pod: grant.pod,
            verdict,
            slot: grant.slot,
            held: Held::Whole,
        }));
    }

    pub(crate) fn collect(&mut self, lane: u32) {
        self.scheduler.collect(lane, self.now, &mut self.out);
    }

    pub(crate) fn pass(&mut self, span: Nanos) {
        let until = self.now + span;
        while let Some(due) = self.scheduler.next_due().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.scheduler.tick(self.now, &mut self.out);
        }
        self.now = until;
    }

    pub(crate) fn orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.out.orders)
    }

    pub(crate) fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.out.notices)
    }

    /// Returns the pods that were ordered since the orders were last taken. Fails at any other order.
    pub(crate) fn starts(&mut self) -> Vec<PodId> {
        let orders = self.orders().into_iter();
        orders
            .map(|order| match order {
                Order::Start { pod, .. } => pod,
                other => panic!("not a start: {other:?}"),
            })
            .collect()
    }

    /// Returns the pods that were ordered to stop since the orders were last taken. Fails at any other order.
    pub(crate) fn stops(&mut self) -> Vec<PodId> {
        let orders = self.orders().into_iter();
        orders
            .map(|order| match order {
                Order::Stop { pod } => pod,
                other => panic!("not a stop: {other:?}"),
            })
            .collect()
    }

    pub(crate) fn up(&mut self, pods: &[PodId]) {
        pods.iter()
            .for_each(|pod| self.on_event(Event::PodUp(*pod)));
    }

    pub(crate) fn down(&mut self, pods: &[PodId]) {
        pods.iter()
            .for_each(|pod| self.on_event(Event::PodDown(*pod)));
    }

    pub(crate) fn start_fails(&mut self, pod: PodId, permanent: bool) {
        let message = "no such program".into();
        let failure = StartFailure { permanent, message };
        self.on_event(Event::StartFailed { pod, failure });
    }

    /// Reports the ordered pods as up. Fails at any other order.
    pub(crate) fn started(&mut self) -> Vec<PodId> {
        let pods = self.starts();
        self.up(&pods);
        pods
    }
}
