//! Benches of the scheduler's turn: a call arrives, is granted and ends, with few or many functions, and with
//! few or many other calls that wait.

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion};
use nanofaas_core::entries::Entries;
use nanofaas_core::event::{Event, LanePlan, Outbox};
use nanofaas_core::queue_stats::QueueStats;
use nanofaas_core::scheduler::Scheduler;
use nanofaas_core::shard::ShardId;
use nanofaas_core::ticket::{Class, Done, Held, LaneId, PodVerdict, Ticket};
use nanofaas_core::time::{Nanos, Uptime};

/// The number of call entries. The bench uses them one after another; an io thread has more.
const CALLS: u32 = 8192;
const QUEUE_SIZE: u32 = 10_000;

const fn id(index: u32) -> LaneId {
    LaneId { index, epoch: 1 }
}

struct TurnFixture {
    entries: Arc<Entries>,
    scheduler: Scheduler,
    stats: Vec<Arc<QueueStats>>,
    out: Outbox,
    calls: u32,
    now: Uptime,
}

impl TurnFixture {
    /// Makes a scheduler with the lanes of `functions` functions without pods. Each function runs one call at
    /// a time.
    fn new(functions: u32) -> Self {
        let entries = Arc::new(Entries::new(1));
        let mut plane = Self {
            scheduler: Scheduler::new(entries.clone()),
            entries,
            stats: Vec::new(),
            out: Outbox::with_room(),
            calls: 0,
            now: Uptime::ZERO,
        };
        let plan = LanePlan {
            concurrency: 1,
            queue_size: QUEUE_SIZE,
            pods: None,
        };
        for lane in 0..functions {
            let stats = Arc::new(QueueStats::new(1));
            plane.stats.push(stats.clone());
            let lane = id(lane);
            plane.hear(Event::LaneOpened { lane, stats, plan });
        }
        plane
    }

    fn hear(&mut self, event: Event) {
        self.scheduler.event(event, self.now, &mut self.out);
    }

    fn call(&mut self, lane: u32) {
        let has_room = self.stats[lane as usize].enter(Class::Sync, QUEUE_SIZE);
        assert!(has_room, "it is full");
        self.now += Nanos::from_us(1);
        let ticket = Ticket {
            queued_at: self.now,
            index: self.calls % CALLS,
            generation: self.calls / CALLS,
            lane: id(lane),
            avoid: None,
            shard: ShardId::new(0),
            class: Class::Sync,
        };
        self.calls = self.calls.wrapping_add(1);
        self.entries.queue(ticket.call());
        self.hear(Event::Ticket(ticket));
    }

    /// Runs a turn and takes its only grant.
    fn turn(&mut self) {
        self.scheduler.turn(self.now, &mut self.out);
        let grant = self.out.grants.pop().expect("one slot is free");
        assert!(self.out.is_empty(), "one slot, one grant");
        self.entries.free(grant.call);
    }

    fn done(&mut self, lane: u32) {
        self.hear(Event::Done(Done {
            lane: id(lane),
            pod: None,
            verdict: PodVerdict::Healthy,
            // The only slot of the lane has this number.
            slot: 0,
            held: Held::Whole,
        }));
    }
}

pub(crate) fn functions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("turn by functions");
    for functions in [1, 10_000] {
        let mut plane = TurnFixture::new(functions);
        let mut lane = 0;
        group.bench_function(BenchmarkId::from_parameter(functions), |bencher| {
            bencher.iter(|| {
                // The step and the number of lanes have no common factor, so every lane is used.
                lane = (lane + 7919) % functions;
                plane.call(lane);
                plane.turn();
                plane.done(lane);
            });
        });
    }
    group.finish();
}

pub(crate) fn waiting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("turn by waiting calls");
    for waiting in [1, 1000] {
        let mut plane = TurnFixture::new(1);
        for _ in 0..waiting {
            plane.call(0);
        }
        group.bench_function(BenchmarkId::from_parameter(waiting), |bencher| {
            bencher.iter(|| {
                plane.turn();
                plane.done(0);
                plane.call(0);
            });
        });
    }
    group.finish();
}
