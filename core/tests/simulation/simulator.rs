//! The simulator executes one run. It draws which actor acts next, advances the clock, and checks after every
//! step what must hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nanofaas_core::registry::Change;
use nanofaas_core::shard::ShardId;
use nanofaas_core::time::{Nanos, Uptime};

use crate::bridge::SimulatedBridge;
use crate::environment::{SchedulerMode, SharedEnvironment, ToBridge, ToIo};
use crate::io::{CallEndKind, IoThread};
use crate::judge::{CallPhase, Happening, phase};
use crate::rng::SimulationRng;
use crate::scenario::{MS, Nature, SECOND, draft};

/// A run with more steps than this counts as a livelock.
const STEPS_MAX: u64 = 200_000;

#[derive(Debug, Default)]
pub(crate) struct SimulationTally {
    steps: u64,
    accepted: u64,
    refused: u64,
    retries: u64,
    ends: BTreeMap<CallEndKind, u64>,
    happened: BTreeMap<(CallPhase, Happening), u64>,
    pods_started: u64,
    pods_died: u64,
    changes: u64,
    async_jumps: u64,
    replacements: u64,
}

impl SimulationTally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.retries += other.retries;
        self.pods_started += other.pods_started;
        self.pods_died += other.pods_died;
        self.changes += other.changes;
        self.async_jumps += other.async_jumps;
        self.replacements += other.replacements;
        for (end, count) in &other.ends {
            *self.ends.entry(*end).or_default() += count;
        }
        for (what, count) in &other.happened {
            *self.happened.entry(*what).or_default() += count;
        }
    }

    pub(crate) fn assert_rich(&self) {
        let ends = [
            CallEndKind::Ok,
            CallEndKind::Failed,
            CallEndKind::ColdStart,
            CallEndKind::Timeout,
            CallEndKind::Cancelled,
            CallEndKind::Removed,
            CallEndKind::Shutdown,
        ];
        for end in ends {
            let count = self.ends.get(&end).copied().unwrap_or(0);
            assert!(count >= 50, "only {count} calls ended as {end:?}");
        }
        for what in everything_that_happens() {
            let count = self.happened.get(&what).copied().unwrap_or(0);
            assert!(count >= 2, "{what:?} happened {count} times only");
        }
        let counts = [
            (self.refused, "refusals"),
            (self.retries, "retries"),
            (self.pods_died, "deaths of pods"),
            (self.async_jumps, "async calls before sync ones"),
            (self.replacements, "pods replaced for a new spec"),
        ];
        for (count, what) in counts {
            assert!(count >= 50, "only {count} {what}");
        }
    }
}

fn everything_that_happens() -> impl Iterator<Item = (CallPhase, Happening)> {
    let everywhere = [
        Happening::Time,
        Happening::Cancelled,
        Happening::ClientLeft,
        Happening::Removed,
        Happening::StartsFail,
        Happening::Shutdown,
        Happening::Detached,
        Happening::Replaced,
    ];
    let phases = [
        CallPhase::Queued,
        CallPhase::Running,
        CallPhase::AwaitingPodEnd,
        CallPhase::BackingOff,
    ];
    let all = phases.into_iter().flat_map(move |phase| {
        let of_phase = everywhere.into_iter();
        of_phase.map(move |happening| (phase, happening))
    });
    all.chain([
        (CallPhase::Queued, Happening::Granted),
        (CallPhase::Running, Happening::Attempted),
        (CallPhase::Running, Happening::RegisteredAnew),
        (CallPhase::AwaitingPodEnd, Happening::PodEnded { oom: true }),
        (
            CallPhase::AwaitingPodEnd,
            Happening::PodEnded { oom: false },
        ),
    ])
}

pub(crate) struct PlaneSimulator {
    shared: SharedEnvironment,
    io: Vec<IoThread>,
    bridge: SimulatedBridge,
    names: Vec<Arc<str>>,
    changes_left: u32,
    next_change: Uptime,
    clock_steps: bool,
    steps: u64,
}

impl PlaneSimulator {
    pub(crate) fn new(seed: u64, mode: SchedulerMode, shown: bool) -> Self {
        let mut rng = SimulationRng::new(seed);
        let io_threads = match mode {
            SchedulerMode::Inline => 1,
            SchedulerMode::Pinned => rng.within(1, 3) as usize,
        };
        let functions = rng.within(1, 5);
        let names: Vec<Arc<str>> = (0..functions).map(|n| format!("f{n}").into()).collect();
        let clock_steps = rng.chance(300);
        let changes_left = if rng.chance(300) {
            0
        } else {
            rng.within(1, 30) as u32
        };
        let mut shared = SharedEnvironment::new(mode, rng, io_threads, shown);
        for name in &names {
            let nature = Nature::random(&mut shared.rng);
            shared.show(|| format!("{name}: {nature:?}"));
            shared.natures.insert(name.clone(), nature);
            let draft = draft(&mut shared.rng, name);
            let replace = false;
            let register = Change::Register { draft, replace };
            shared.to_bridge.push(ToBridge::Request(register));
        }
        let io = (0..io_threads)
            .map(|number| IoThread::new(ShardId::new(number as u16), &mut shared))
            .collect();
        Self {
            next_change: shared.now + shared.rng.span(100 * MS),
            shared,
            io,
            bridge: SimulatedBridge::new(io_threads),
            names,
            changes_left,
            clock_steps,
            steps: 0,
        }
    }

    /// Runs until all calls have arrived and ended and all changes are made. Then removes every function and
    /// runs until no function is left.
    pub(crate) fn run(mut self) -> SimulationTally {
        self.until("all calls ended", |simulator| {
            let arrived = simulator.io.iter().all(|io| io.arrivals_left == 0);
            arrived && simulator.changes_left == 0 && simulator.is_at_rest()
        });
        assert_eq!(self.shared.scheduler.held(), 0, "a slot leaked");
        assert_eq!(self.drift(), 0, "the ledger drifts at rest");
        self.bridge.calm = true;
        self.clock_steps = false;
        for name in self.names.clone() {
            let remove = Change::Remove { name };
            self.shared.to_bridge.push(ToBridge::Request(remove));
        }
        self.until("all functions are gone", |simulator| {
            simulator.is_at_rest()
                && simulator.bridge.registry.is_settled()
                && simulator.bridge.registry.leaving_stats().count() == 0
                && simulator.bridge.pods() == 0
        });
        assert!(self.bridge.registry.functions().is_empty());
        assert_eq!(self.shared.model.lanes(), 0, "a lane was left over");
        assert_eq!(self.shared.model.pods(), 0, "a pod was left over");
        self.tally()
    }

    fn until(&mut self, what: &str, reached: impl Fn(&Self) -> bool) {
        while !reached(self) {
            self.step();
            self.check();
            self.steps += 1;
            assert!(self.steps < STEPS_MAX, "not reached: {what}");
        }
    }

    fn is_at_rest(&self) -> bool {
        self.shared.is_quiet() && self.io.iter().all(|io| io.calls().next().is_none())
    }

    fn step(&mut self) {
        self.change();
        let shared = &self.shared;
        let mut due: Vec<usize> = (0..self.io.len())
            .filter(|at| self.io[*at].is_due(shared))
            .collect();
        let (bridge, scheduler) = (self.io.len(), self.io.len() + 1);
        due.extend(self.bridge.is_due(shared).then_some(bridge));
        let pinned = shared.mode == SchedulerMode::Pinned;
        due.extend((pinned && shared.scheduler_is_due()).then_some(scheduler));
        if due.is_empty() {
            return self.wait();
        }
        let actor = self.shared.rng.pick(&due);
        if actor == bridge {
            self.bridge.pass(&mut self.shared);
            for pod in std::mem::take(&mut self.bridge.dead) {
                let io = self.io.iter_mut();
                io.for_each(|io| io.pod_died(pod, &mut self.shared));
            }
        } else if actor == scheduler {
            self.shared.pass_pinned();
        } else {
            self.io[actor].pass(&mut self.shared);
        }
        self.drift_clock();
    }

    fn change(&mut self) {
        if self.changes_left > 0 && self.next_change <= self.shared.now {
            self.changes_left -= 1;
            if self.shared.rng.chance(60) {
                let all = self.shared.to_io.iter();
                all.for_each(|ring| ring.push(ToIo::Stop));
            }
            let names = &self.names;
            self.bridge.random_change(names, &mut self.shared);
            self.next_change = self.shared.now + self.shared.rng.span(2 * SECOND);
        }
    }

    /// Moves the clock to the next timer. This is called when no actor has anything to do.
    fn wait(&mut self) {
        let io = self.io.iter().filter_map(IoThread::next_at);
        let change = (self.changes_left > 0).then_some(self.next_change);
        let scheduler = self.shared.scheduler.next_due();
        let others = [self.bridge.next_at(), change, scheduler];
        let next = io.chain(others.into_iter().flatten()).min();
        let next = next.expect("something is going to happen, or calls wait for ever");
        self.shared.now = self.shared.now.max(next);
    }

    /// Advances the clock a little at random. If `clock_steps` is true, the clock may also jump, as after a
    /// machine's sleep, or step back a little.
    fn drift_clock(&mut self) {
        let rng = &mut self.shared.rng;
        if rng.chance(300) {
            self.shared.now += rng.span(Nanos::from_ns(100_000));
        }
        if self.clock_steps && rng.chance(3) {
            self.shared.now += Nanos::from_ns(rng.within(SECOND.as_ns(), 30 * SECOND.as_ns()));
        }
        if self.clock_steps && rng.chance(5) {
            let back = Nanos::from_ns(rng.within(0, 5 * MS.as_ns()));
            self.shared.now = self.shared.now.saturating_sub(back);
        }
    }

    /// Returns the ledger's drift (see the glossary) as the metrics show it.
    fn drift(&self) -> i64 {
        let registry = &self.bridge.registry;
        let stats = registry
            .functions()
            .values()
            .map(|function| &function.stats);
        let mut known = 0;
        for stats in stats.chain(registry.leaving_stats()) {
            known += u64::from(stats.depth()) + u64::from(stats.running.load(Ordering::Relaxed));
        }
        let mut accepted = 0;
        for io in &self.io {
            accepted += io.ledger().accepted.get();
            known += io.ledger().finished.get();
            known += io.ledger().backing_off.load(Ordering::Relaxed);
        }
        accepted as i64 - known as i64
    }

    fn check(&self) {
        let shared = &self.shared;
        let (mut live, mut granted, mut running, mut backing_off) = (0u64, 0u64, 0u64, 0u64);
        let mut depths: BTreeMap<usize, u32> = BTreeMap::new();
        for io in &self.io {
            for (reference, call) in io.calls() {
                live += 1;
                match phase(&call.life) {
                    CallPhase::Queued if shared.entries.is_queued(reference) => {
                        let stats = Arc::as_ptr(&call.life.function().stats) as usize;
                        *depths.entry(stats).or_default() += 1;
                    }
                    CallPhase::Queued => granted += 1,
                    CallPhase::Running => running += 1,
                    CallPhase::AwaitingPodEnd | CallPhase::BackingOff => backing_off += 1,
                }
            }
        }
        let sum = |of: &dyn Fn(&IoThread) -> u64| self.io.iter().map(of).sum::<u64>();
        let accepted = sum(&|io| io.ledger().accepted.get());
        let finished = sum(&|io| io.ledger().finished.get());
        assert_eq!(accepted, finished + live, "a call was lost or ended twice");
        let counted = sum(&|io| io.ledger().backing_off.load(Ordering::Relaxed));
        assert_eq!(counted, backing_off, "backing off is miscounted");
        // Each held slot has exactly one holder: a grant in flight, a running attempt, or a `Done` in flight.
        let held = shared.scheduler.held();
        let holders = running + shared.grants_in_flight + shared.dones_in_flight;
        assert_eq!(held, holders, "a slot without a holder, or two for one");
        assert_eq!(held, shared.model.held(), "slots are miscounted");
        assert!(granted <= shared.grants_in_flight, "a grant got lost");
        let registry = &self.bridge.registry;
        let stats = registry
            .functions()
            .values()
            .map(|function| &function.stats);
        let mut seen = 0;
        for stats in stats.chain(registry.leaving_stats()) {
            let waiting = depths
                .get(&(Arc::as_ptr(stats) as usize))
                .copied()
                .unwrap_or(0);
            assert_eq!(
                stats.depth(),
                waiting,
                "a queue's depth is not its live calls"
            );
            seen += waiting;
        }
        assert_eq!(seen, depths.values().sum::<u32>(), "calls wait in no lane");
        // The metrics count a call twice while its `Done` is in flight. They also count an ended call twice
        // while a grant for it is in flight.
        let unborn = shared.grants_in_flight - granted;
        let under_way = shared.dones_in_flight + unborn;
        assert_eq!(self.drift(), -(under_way as i64), "the ledger drifts");
    }

    fn tally(&self) -> SimulationTally {
        let mut tally = SimulationTally {
            steps: self.steps,
            pods_started: self.bridge.started,
            pods_died: self.bridge.deaths,
            changes: self.bridge.changes,
            async_jumps: self.shared.model.async_jumps,
            replacements: self.shared.model.replacements,
            ..SimulationTally::default()
        };
        for io in &self.io {
            tally.accepted += io.ledger().accepted.get();
            tally.refused += io.refused;
            tally.retries += io.retries;
            for (end, count) in &io.ends {
                *tally.ends.entry(*end).or_default() += count;
            }
            for (what, count) in &io.happened {
                *tally.happened.entry(*what).or_default() += count;
            }
        }
        tally
    }
}
