//! A seeded simulation tests what core decides. The real scheduler, lanes, registry, rings and timers run
//! among models of io threads, a bridge and pods, with an inline and a pinned scheduler. Time is virtual, so
//! the same seed always makes the same run.
//!
//! `NANOFAAS_SEEDS=n` sets how many seeds are run (400 by default). `NANOFAAS_SEED=s` runs one seed and
//! prints what happens.

#![allow(
    clippy::disallowed_methods,
    reason = "tests act in place of clients, pods and clocks"
)]
#![cfg(not(loom))]

mod bridge;
mod environment;
mod io;
mod judge;
mod rng;
mod scenario;
mod reference_model;
mod simulator;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use environment::SchedulerMode;
use simulator::{PlaneSimulator, SimulationTally};

const SEEDS: u64 = 400;

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a whole number, is {text:?}")),
    )
}

fn run(seed: u64, shown: bool) -> SimulationTally {
    let mut tally = SimulationTally::default();
    for mode in [SchedulerMode::Inline, SchedulerMode::Pinned] {
        match catch_unwind(AssertUnwindSafe(|| {
            PlaneSimulator::new(seed, mode, shown).run()
        })) {
            Ok(one) => tally.add(&one),
            Err(panic) => {
                eprintln!(
                    "SEED={seed} MODE={mode:?} failed; replay: \
                     NANOFAAS_SEED={seed} cargo test -p nanofaas-core --test simulation"
                );
                std::panic::resume_unwind(panic);
            }
        }
    }
    tally
}

#[test]
fn every_seed_holds() {
    if let Some(seed) = number("NANOFAAS_SEED") {
        println!("{:?}", run(seed, true));
        return;
    }
    let seeds = number("NANOFAAS_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let total = thread::scope(|scope| {
        let work = || {
            let mut tally = SimulationTally::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds || failed.load(Ordering::Relaxed) {
                    return tally;
                }
                match catch_unwind(|| run(seed, false)) {
                    Ok(one) => tally.add(&one),
                    Err(panic) => {
                        failed.store(true, Ordering::Relaxed);
                        std::panic::resume_unwind(panic);
                    }
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut total = SimulationTally::default();
        for worker in workers {
            match worker.join() {
                Ok(one) => total.add(&one),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        total
    });
    println!("{seeds} seeds, inline and pinned: {total:?}");
    // A simulation in which little happens proves little, so the tally must show that enough happened.
    if seeds >= SEEDS {
        total.assert_rich();
    }
}
