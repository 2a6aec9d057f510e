//! Runs the simulation. Virtual time jumps from event to event, and the product's own scheduler, admission
//! and state machine of a call handle each event. The clients, the pods and the bridge are simulated. Only
//! admission by perfect knowledge is a decision that the product does not make.

mod calls;
mod knowledge;
mod pods;

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nanofaas_core::call::Environment;
use nanofaas_core::entries::Entries;
use nanofaas_core::event::{Event, LanePlan, Outbox};
use nanofaas_core::function::Function;
use nanofaas_core::metrics::RejectReason;
use nanofaas_core::outcome::Stage;
use nanofaas_core::queue_stats::QueueStats;
use nanofaas_core::scheduler::{Scheduler, Turn};
use nanofaas_core::ticket::{LaneId, PodId};
use nanofaas_core::time::{Nanos, Uptime};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::history::{History, Moment};
use crate::{Setup, begin, nice};
use calls::CallPlace;
use knowledge::Knowledge;
use pods::SimulatedPods;

/// The first reading of the virtual clock. It is above 0, because an `AtomicUptime` cannot hold 0 exactly.
const CLOCK: Uptime = Uptime::from_ns(1_000_000_000_000);
const SEED: u64 = 7;
/// The approximate number of stretches into which the trace is divided. A plot can show that many.
const STRETCHES: u64 = 240;
const STRETCH_MIN: Nanos = Nanos::from_ms(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Calls are admitted by prediction, as in the product.
    Predicts,
    /// Calls are admitted by perfect knowledge of the future; only for traces without async calls.
    Knows,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallEnding {
    MadeIt,
    Refused(RejectReason),
    TimedOut(Stage),
    /// No pod could be started.
    NoPod,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct CallFate {
    pub(crate) ending: CallEnding,
    /// The time from the call's arrival to its first slot, if the call got a slot.
    pub(crate) wait: Option<Nanos>,
    /// The time from the call's arrival to its end.
    pub(crate) total: Nanos,
}

pub(crate) struct SimulationRun {
    /// The fate of each call, in the trace's order.
    pub(crate) fates: Vec<CallFate>,
    pub(crate) history: History,
}

impl SimulationRun {
    /// Returns the number of successful calls, not counting the first `before` calls.
    pub(crate) fn made_it(&self, before: usize) -> usize {
        let counted = self.fates.iter().skip(before);
        counted
            .filter(|fate| fate.ending == CallEnding::MadeIt)
            .count()
    }
}

/// An event in virtual time. Events of the same time happen in the order of the variants, so an answer that
/// comes exactly at the deadline is in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum VirtualEvent {
    PodUp(PodId),
    StartFails(PodId),
    JobRuns(AttemptId),
    JobFails(AttemptId),
    Answers(AttemptId),
    /// A timer of a call fires, for example at its deadline.
    Time {
        index: u32,
        generation: u32,
    },
}

/// Names an attempt of a call, so that events of earlier attempts can be ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct AttemptId {
    index: u32,
    generation: u32,
    attempt: u32,
}

/// The environment of a call's state machine. In the product an io thread is this environment.
struct SimulatedThread {
    function: Arc<Function>,
    entries: Arc<Entries>,
    dice: RefCell<SmallRng>,
    backing_off: Cell<i64>,
}

impl Environment for SimulatedThread {
    type Entry = Arc<Function>;

    fn function(entry: &Arc<Function>) -> &Function {
        entry
    }

    fn current(&self, lane: LaneId) -> Option<Arc<Function>> {
        (lane == self.function.lane).then(|| self.function.clone())
    }

    fn entries(&self) -> &Entries {
        &self.entries
    }

    fn random(&self) -> u64 {
        self.dice.borrow_mut().random()
    }

    fn between_attempts(&self, change: i64) {
        self.backing_off.set(self.backing_off.get() + change);
    }
}

/// The simulated control plane with its clients and pods.
pub(crate) struct Simulator<'a> {
    setup: &'a Setup,
    admission: Admission,
    thread: SimulatedThread,
    scheduler: Scheduler,
    out: Outbox,
    now: Uptime,
    /// The time at which the trace begins.
    origin: Uptime,
    due: BinaryHeap<Reverse<(Uptime, VirtualEvent)>>,
    places: Vec<CallPlace>,
    free: Vec<u32>,
    live: usize,
    pods: SimulatedPods,
    fates: Vec<Option<CallFate>>,
    history: History,
    knowledge: Knowledge,
}

impl<'a> Simulator<'a> {
    /// Makes a simulation before its first call: the function is registered, and its `minReplicas` pods are
    /// up.
    pub(crate) fn new(setup: &'a Setup, admission: Admission) -> Self {
        let entries = Arc::new(Entries::new(1));
        let function = Arc::new(Function {
            spec: setup.spec.clone(),
            lane: LaneId { index: 0, epoch: 1 },
            stats: Arc::new(QueueStats::new(1)),
            version: 1,
        });
        let begin = begin(setup);
        let last = setup.calls.last().map_or(Nanos::ZERO, |call| call.at);
        let width = ((last - begin) / STRETCHES).max(STRETCH_MIN);
        let width = Nanos::from_ns(nice::round_up(width.as_ns()));
        let mut simulator = Self {
            setup,
            admission,
            scheduler: Scheduler::new(entries.clone()),
            thread: SimulatedThread {
                function,
                entries,
                dice: RefCell::new(SmallRng::seed_from_u64(SEED)),
                backing_off: Cell::new(0),
            },
            out: Outbox::with_room(),
            now: CLOCK,
            origin: CLOCK,
            due: BinaryHeap::new(),
            places: Vec::new(),
            free: Vec::new(),
            live: 0,
            pods: SimulatedPods {
                coming: BTreeMap::new(),
                dice: SmallRng::seed_from_u64(SEED),
                jobs_starting: 0,
                jobs_up: 0,
            },
            fates: vec![None; setup.calls.len()],
            history: History::new(begin, width),
            knowledge: Knowledge::default(),
        };
        simulator.open();
        simulator
    }

    fn open(&mut self) {
        let function = &self.thread.function;
        let event = Event::LaneOpened {
            lane: function.lane,
            stats: function.stats.clone(),
            plan: LanePlan::of(&function.spec),
        };
        self.apply(event);
        self.raise_floor();
        self.settle();
    }

    fn stats(&self) -> &QueueStats {
        &self.thread.function.stats
    }

    /// Simulates the trace until its last call has ended. Returns `None` if perfect knowledge takes too many
    /// steps.
    pub(crate) fn run(mut self) -> Option<SimulationRun> {
        self.play()?;
        let fates = self.fates.into_iter();
        Some(SimulationRun {
            fates: fates.map(|fate| fate.expect("each call ended")).collect(),
            history: self.history,
        })
    }

    fn play(&mut self) -> Option<()> {
        let mut arrived = 0;
        while arrived < self.setup.calls.len() || self.live > 0 {
            let arrival = self.setup.calls.get(arrived);
            let arrival = arrival.map(|call| self.origin + call.at);
            let due = self.due.peek().map(|Reverse((at, _))| *at);
            let tick = self.scheduler.next_due();
            let next = [arrival, due, tick].into_iter().flatten().min();
            let next = next.expect("a call lives, and nothing will happen to it");
            self.now = self.now.max(next);
            if due == Some(next) {
                let Some(Reverse((_, event))) = self.due.pop() else {
                    unreachable!("it was seen");
                };
                self.handle(event);
            } else if tick == Some(next) {
                self.scheduler.tick(self.now, &mut self.out);
            } else {
                self.arrive(arrived);
                arrived += 1;
                if self.knowledge.is_too_much_work() {
                    return None;
                }
            }
            self.settle();
            self.record();
        }
        assert_eq!(
            self.thread.backing_off.get(),
            0,
            "a call is over and backs off"
        );
        Some(())
    }

    fn handle(&mut self, event: VirtualEvent) {
        match event {
            VirtualEvent::PodUp(pod) => self.pod_up(pod),
            VirtualEvent::StartFails(pod) => self.start_fails(pod),
            VirtualEvent::JobRuns(attempt) => self.job_runs(attempt),
            VirtualEvent::JobFails(attempt) => self.job_fails(attempt),
            VirtualEvent::Answers(attempt) => self.answers(attempt),
            VirtualEvent::Time { index, generation } => self.time(index, generation),
        }
    }

    fn at(&mut self, at: Uptime, event: VirtualEvent) {
        self.due.push(Reverse((at, event)));
    }

    fn apply(&mut self, event: Event) {
        self.scheduler.event(event, self.now, &mut self.out);
    }

    /// Delivers the scheduler's output and runs turns until nothing is left to do.
    fn settle(&mut self) {
        loop {
            self.apply_orders();
            self.deliver_notices();
            let turn = self.scheduler.turn(self.now, &mut self.out);
            for grant in std::mem::take(&mut self.out.grants) {
                self.grant(grant);
            }
            if turn == Turn::Idle && self.out.is_empty() {
                return;
            }
        }
    }

    fn record(&mut self) {
        let stats = self.stats();
        let load = |count: &std::sync::atomic::AtomicU32| count.load(Ordering::Relaxed);
        let moment = Moment {
            waiting: stats.depth(),
            running: load(&stats.running),
            slots: load(&stats.slots_now),
            up: load(&stats.pods[0]) + self.pods.jobs_up,
            starting: load(&stats.pods[1]) + self.pods.jobs_starting,
            other: load(&stats.pods[2]),
        };
        self.history.see(self.now.since(self.origin), moment);
    }
}
