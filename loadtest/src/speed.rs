//! Measures the speed of the machine. One measurement, called a probe here, times a fixed piece of work on
//! all cores at once, and a cache line that two cores pass back and forth. A host may move a virtual core
//! onto a physical core that another machine shares. It may also move two cores so far apart that they share
//! no cache and traffic between them costs several times as much. Such a move changes figures by a third
//! within seconds, and no counter of the kernel shows it. This module also decides whether the speed
//! disturbed a round, and how much the speed differed between rounds. It knows no contender. Comparisons
//! probe before the first turn of a round and after each turn, while no contender's process runs.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::{black_box, spin_loop};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{ScopedJoinHandle, sleep};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cores;
use crate::scenario::Disturbance;

/// The nanoseconds for a unit of work, by core, and for a round trip, by pair of cores. A value may be
/// compared only with other values of the same core or pair.
pub(crate) type WorkNs = BTreeMap<String, f64>;

/// The results of the probes before and after a contender's turn.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Around {
    pub(crate) before: WorkNs,
    pub(crate) after: WorkNs,
}

const WAY: &str = "the way";
/// The number of words that a unit computes over: 256 KiB, which fit into a core's own cache.
const WORDS: usize = 32 * 1024;
/// A unit of work computes, and then sends this many bytes through a socket, one at a time. With 6 bytes,
/// both parts take about the same time.
const TRIPS: usize = 6;
/// The number of units that are timed together; they take 0.3 ms.
const UNITS: u32 = 16;
/// The number of timings of a core in one visit; `VISITS` says how many visits there are.
const TIMINGS: usize = 6;
/// The number of round trips before the clock starts. The first one waits until the other core's thread runs.
const WARM_UP: u32 = 50;
/// The number of timed round trips.
const PASSES: u32 = 500;
/// The time limit for the round trips of a pair. On idle cores they take only a small part of it.
const PASS_MAX: Duration = Duration::from_secs(1);
/// The numbers of the timings that are ignored: the first and the last. Another core may be idle during these
/// two, and the first one also has cold caches and a low clock.
const ALONE: [usize; 2] = [0, TIMINGS - 1];
/// The number of visits to each core, and the pause before each of them. The least time of all visits counts,
/// because a short burst of work on a neighbouring core must not make a round invalid. On an unchanged
/// machine the least time varied by 1.5 %, the median by 29 %.
const VISITS: usize = 5;
const PAUSE: Duration = Duration::from_millis(25);

/// Measures the cores, and the pairs of neighbours in `cores`. A probe takes about an eighth of a second, and
/// 10 ms of CPU time on each core.
pub(crate) fn probe(cores: &[usize]) -> Result<WorkNs, String> {
    let named = |error: std::io::Error| format!("cannot probe the speed: {error}");
    let mut works = Vec::new();
    for core in cores {
        works.push((*core, SpeedProbe::new().map_err(named)?));
    }
    let mut least = WorkNs::new();
    for _ in 0..VISITS {
        sleep(PAUSE);
        let mut found = visit(&mut works)?;
        for pair in cores.windows(2) {
            found.push(pass(pair[0], pair[1])?);
        }
        for (parsed, ns) in found {
            let known = least.entry(parsed).or_insert(ns);
            *known = known.min(ns);
        }
    }
    Ok(least)
}

/// Times all cores at once. Each core has a thread that is pinned to it, so that the caller's own cores stay
/// unchanged.
fn visit(works: &mut [(usize, SpeedProbe)]) -> Result<Vec<(String, f64)>, String> {
    let start = Barrier::new(works.len());
    std::thread::scope(|scope| {
        let visits: Vec<_> = works
            .iter_mut()
            .map(|(core, work)| scope.spawn(|| visit_one(*core, work, &start)))
            .collect();
        visits.into_iter().map(join).collect()
    })
}

fn join<T>(thread: ScopedJoinHandle<'_, Result<T, String>>) -> Result<T, String> {
    let panicked = |_| Err("a thread that probes the speed panicked".to_owned());
    thread.join().unwrap_or_else(panicked)
}

fn visit_one(core: usize, work: &mut SpeedProbe, start: &Barrier) -> Result<(String, f64), String> {
    let pinned = cores::pin(&[core]);
    // This thread waits even if its pin failed, because the other threads wait for it at the
    // barrier.
    start.wait();
    pinned?;
    let mut least = f64::INFINITY;
    for timing in 0..TIMINGS {
        let ns = work
            .time()
            .map_err(|error| format!("cannot probe the speed: {error}"))?;
        if ALONE.contains(&timing) {
            continue;
        }
        least = least.min(ns);
    }
    Ok((format!("core {core}"), least))
}

fn pass(one: usize, other: usize) -> Result<(String, f64), String> {
    let word = AtomicU32::new(0);
    let end = Instant::now() + PASS_MAX;
    let wait = |until: u32| {
        let mut looks = 0_u32;
        while word.load(Ordering::Acquire) != until {
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(4096) && Instant::now() > end {
                return Err(format!(
                    "cores {one} and {other} do not run at the same time"
                ));
            }
            spin_loop();
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| {
            cores::pin(&[other])?;
            for trip in 0..WARM_UP + PASSES {
                wait(2 * trip + 1)?;
                word.store(2 * trip + 2, Ordering::Release);
            }
            Ok(())
        });
        let timed = scope.spawn(|| {
            cores::pin(&[one])?;
            let mut begun = Instant::now();
            for trip in 0..WARM_UP + PASSES {
                if trip == WARM_UP {
                    begun = Instant::now();
                }
                word.store(2 * trip + 1, Ordering::Release);
                wait(2 * trip + 2)?;
            }
            Ok(begun.elapsed().as_nanos() as f64 / f64::from(PASSES))
        });
        let (echoed, timed) = (join(echo), join(timed));
        echoed?;
        Ok((format!("{WAY} between cores {one} and {other}"), timed?))
    })
}

/// A unit of work: about half computation and half system calls. Other machines on the same host slow down
/// these two kinds of work most.
struct SpeedProbe {
    words: Vec<u64>,
    near: UnixStream,
    far: UnixStream,
}

impl SpeedProbe {
    fn new() -> std::io::Result<Self> {
        let (near, far) = UnixStream::pair()?;
        let words = (0..WORDS as u64).collect();
        Ok(Self { words, near, far })
    }

    /// Returns the mean time of `UNITS` units, in nanoseconds.
    fn time(&mut self) -> std::io::Result<f64> {
        let begun = Instant::now();
        for _ in 0..UNITS {
            black_box(mix(black_box(&self.words)));
            for _ in 0..TRIPS {
                self.near.write_all(&[1])?;
                self.far.read_exact(&mut [0])?;
            }
        }
        Ok(begun.elapsed().as_nanos() as f64 / f64::from(UNITS))
    }
}

/// Computes four independent products at a time. They use the core fully, so that a neighbour on
/// the same physical core slows them down.
fn mix(words: &[u64]) -> u64 {
    let mut lanes = [1_u64, 2, 3, 4];
    for four in words.chunks_exact(lanes.len()) {
        for (lane, word) in lanes.iter_mut().zip(four) {
            *lane = (*lane ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
    }
    lanes.iter().fold(0, |sum, lane| sum ^ lane)
}

/// Returns why a round with these probes does not count, or `None` if it counts. The probes are in the order
/// of time. A round does not count if a round trip takes too long, or if the slowest probe of a core or pair
/// is slower than the fastest one by too many percent.
pub(crate) fn disturbance(probes: &[WorkNs], limits: &Disturbance) -> Option<String> {
    let far = |probe: &WorkNs| {
        let limit = limits.way_ns?;
        let ways = probe.iter().filter(|(parsed, _)| parsed.starts_with(WAY));
        let (way, ns) = ways.max_by(|one, other| one.1.total_cmp(other.1))?;
        (*ns > limit).then(|| format!("{way} took {ns:.0} ns"))
    };
    if let Some(far) = probes.iter().find_map(far) {
        return Some(far);
    }
    let worst = known(probes.iter())
        .into_iter()
        .filter_map(|parsed| {
            let times = || {
                probes
                    .iter()
                    .filter_map(|probe| probe.get(&parsed))
                    .enumerate()
            };
            let (fast_at, fast) = times().min_by(|one, other| one.1.total_cmp(other.1))?;
            let (slow_at, slow) = times().max_by(|one, other| one.1.total_cmp(other.1))?;
            let when = if slow_at > fast_at {
                "than earlier in the round"
            } else {
                "at first than later in the round"
            };
            Some((percent(*fast, *slow), parsed, when))
        })
        .max_by(|one, other| one.0.total_cmp(&other.0));
    let (percent, parsed, when) = worst?;
    (percent > limits.speed_percent).then(|| format!("{parsed} was {percent:.0} % slower {when}"))
}

/// How much the machine's speed differed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Differences {
    /// The largest difference between the probes of one round.
    pub(crate) within_percent: f64,
    /// The largest difference between the means of rounds; `None` if there is only one round.
    pub(crate) between_percent: Option<f64>,
}

impl Differences {
    /// Computes the differences; `rounds` has the probes of each round. Returns `None` if nothing was probed.
    pub(crate) fn of(rounds: &[Vec<&WorkNs>]) -> Option<Self> {
        let mut differences = Self {
            within_percent: 0.0,
            between_percent: (rounds.len() > 1).then_some(0.0),
        };
        let places = known(rounds.iter().flatten().copied());
        for parsed in &places {
            let mut means = Vec::new();
            for probes in rounds {
                let times: Vec<f64> = probes
                    .iter()
                    .filter_map(|probe| probe.get(parsed).copied())
                    .collect();
                let within = &mut differences.within_percent;
                *within = within.max(apart_percent(&times));
                means.push(times.iter().sum::<f64>() / times.len() as f64);
            }
            if let Some(between) = &mut differences.between_percent {
                *between = between.max(apart_percent(&means));
            }
        }
        (!places.is_empty()).then_some(differences)
    }

    /// Formats the differences as a part of a sentence.
    pub(crate) fn describe(&self) -> String {
        let within = self.within_percent;
        let mut text =
            format!("the machine's speed differed by at most {within:.0} % within a round");
        if let Some(between) = self.between_percent {
            text.push_str(&format!(" and {between:.0} % between rounds"));
        }
        text
    }
}

/// Returns the names of all probed cores and pairs.
fn known<'a>(probes: impl Iterator<Item = &'a WorkNs>) -> BTreeSet<String> {
    probes.flat_map(WorkNs::keys).cloned().collect()
}

fn apart_percent(times: &[f64]) -> f64 {
    let fast = times.iter().copied().reduce(f64::min);
    let slow = times.iter().copied().reduce(f64::max);
    fast.zip(slow)
        .map_or(0.0, |(fast, slow)| percent(fast, slow))
}

fn percent(fast: f64, slow: f64) -> f64 {
    (slow / fast - 1.0) * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probes(times: &[[f64; 2]]) -> Vec<WorkNs> {
        let probe = |[zero, one]: &[f64; 2]| {
            WorkNs::from([("core 0".to_owned(), *zero), ("core 1".to_owned(), *one)])
        };
        times.iter().map(probe).collect()
    }

    #[test]
    fn a_round_counts_while_cores_change_little() {
        for (times, limit, expected) in [
            (&[[100.0, 50.0], [110.0, 50.0]][..], 10.1, None),
            // Different cores may have different speeds.
            (&[[100.0, 900.0], [100.0, 900.0]], 0.0, None),
            (
                &[[100.0, 50.0], [123.0, 52.0], [101.0, 50.0]],
                10.0,
                Some("core 0 was 23 % slower than earlier in the round"),
            ),
            (
                &[[100.0, 75.0], [123.0, 50.0]],
                10.0,
                Some("core 1 was 50 % slower at first than later in the round"),
            ),
            (
                &[[100.0, 50.0], [100.001, 50.0]],
                0.0,
                Some("core 0 was 0 % slower than earlier in the round"),
            ),
            (&[[100.0, 50.0]], 0.0, None),
            (&[], 0.0, None),
        ] {
            let limits = Disturbance {
                speed_percent: limit,
                ..Disturbance::default()
            };
            let found = disturbance(&probes(times), &limits);
            assert_eq!(found.as_deref(), expected, "{times:?}");
        }
    }

    #[test]
    fn cores_too_far_apart_do_not_count() {
        let way = |ns| WorkNs::from([("the way between cores 0 and 1".to_owned(), ns)]);
        let probes = [way(301.0), way(300.0)];
        let mut limits = Disturbance::default();
        assert_eq!(disturbance(&probes, &limits), None);
        limits.way_ns = Some(300.5);
        let expected = "the way between cores 0 and 1 took 301 ns";
        assert_eq!(disturbance(&probes, &limits).as_deref(), Some(expected));
        limits.way_ns = Some(302.0);
        assert_eq!(disturbance(&probes, &limits), None);
    }

    #[test]
    fn rounds_lie_apart_by_their_means() {
        let first = probes(&[[100.0, 50.0], [106.0, 50.0]]);
        let second = probes(&[[206.0, 51.0], [206.0, 51.0]]);
        let rounds = [first.iter().collect(), second.iter().collect()];
        let found = Differences::of(&rounds).expect("differences");
        assert_eq!(
            found.describe(),
            "the machine's speed differed by at most 6 % within a round and 100 % between rounds"
        );
        let found = Differences::of(&rounds[..1]).expect("differences");
        assert_eq!(found.between_percent, None);
        assert!(found.describe().ends_with("6 % within a round"));
        assert_eq!(Differences::of(&[]), None);
    }

    #[test]
    fn every_core_is_timed_and_the_caller_returns() {
        let allowed = cores::allowed();
        let found = probe(&allowed).expect("a probe");
        for core in &allowed {
            let ns = found[&format!("core {core}")];
            // The twelve system calls of a unit take longer than 500 ns, and no machine needs a
            // second for a unit.
            assert!((500.0..1e9).contains(&ns), "core {core}: {ns} ns");
        }
        for pair in allowed.windows(2) {
            let ns = found[&format!("the way between cores {} and {}", pair[0], pair[1])];
            assert!((1.0..1e9).contains(&ns), "{pair:?}: {ns} ns");
        }
        assert_eq!(found.len(), allowed.len() * 2 - 1);
        assert_eq!(cores::allowed(), allowed);
        assert!(probe(&[100_000]).is_err());
    }
}
