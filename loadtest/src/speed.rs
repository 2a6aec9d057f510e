//! How fast each core is just now: a fixed piece of work, timed on one core after another. Neighbours
//! on the same physical core and its frequency change that by a third within seconds, and no counter
//! tells. Also what such a change means for a round, and how far rounds lie apart.
//! It never looks at contenders, and finds something out only while their processes are gone.
//! Comparisons probe before the first turn of a round and after each.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cores;

/// Nanoseconds for a unit of work, by core. They mean something beside each other only.
pub(crate) type WorkNs = BTreeMap<usize, f64>;

/// The probes around a turn.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Around {
    pub(crate) before: WorkNs,
    pub(crate) after: WorkNs,
}

/// Words that a unit computes over: 256 KiB, which stay in a core's own cache.
const WORDS: usize = 32 * 1024;
/// Bytes that a unit sends through a socket, one by one: about as long as the computation.
const TRIPS: usize = 6;
/// Units that are timed together: 0.3 ms.
const UNITS: u32 = 16;
/// Timings of a visit; the first one finds caches cold and the clock low.
const TIMINGS: usize = 4;
/// A core is visited so often, so far apart: a neighbour's burst of less than a tenth of a second is
/// short against a turn, and should not cost a round. The least time counts: where nothing changed,
/// it was the same to 1.5 %, the median to 29 %.
const VISITS: usize = 5;
const PAUSE: Duration = Duration::from_millis(25);

/// Takes an eighth of a second, and 6 ms of each core.
pub(crate) fn probe(cores: &[usize]) -> Result<WorkNs, String> {
    // A thread is set aside for it, so that the caller stays where it may run.
    std::thread::scope(|scope| scope.spawn(|| visit(cores)).join())
        .map_err(|_| "the thread that probes the speed panicked".to_owned())?
}

fn visit(cores: &[usize]) -> Result<WorkNs, String> {
    let named = |fault: std::io::Error| format!("cannot probe the speed: {fault}");
    let mut work = Work::new().map_err(named)?;
    let mut least = WorkNs::new();
    for _ in 0..VISITS {
        sleep(PAUSE);
        for core in cores {
            cores::pin(&[*core])?;
            for _ in 0..TIMINGS {
                let ns = work.time().map_err(named)?;
                let known = least.entry(*core).or_insert(ns);
                *known = known.min(ns);
            }
        }
    }
    Ok(least)
}

/// Half computation, half entries into the kernel, which neighbours slow most.
struct Work {
    words: Vec<u64>,
    near: UnixStream,
    far: UnixStream,
}

impl Work {
    fn new() -> std::io::Result<Self> {
        let (near, far) = UnixStream::pair()?;
        let words = (0..WORDS as u64).collect();
        Ok(Self { words, near, far })
    }

    /// Nanoseconds for a unit.
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

/// Four products at a time: as much as a core can do at once, of which a neighbour takes its share.
fn mix(words: &[u64]) -> u64 {
    let mut lanes = [1_u64, 2, 3, 4];
    for four in words.chunks_exact(lanes.len()) {
        for (lane, word) in lanes.iter_mut().zip(four) {
            *lane = (*lane ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
    }
    lanes.iter().fold(0, |sum, lane| sum ^ lane)
}

/// Why a round with these probes, in the order in which they were taken, does not count: what the
/// slowest one of a core took is more than so many percent above the fastest one's.
pub(crate) fn disturbance(probes: &[WorkNs], limit_percent: f64) -> Option<String> {
    let worst = known(probes.iter())
        .into_iter()
        .filter_map(|core| {
            let times = || {
                probes
                    .iter()
                    .filter_map(|probe| probe.get(&core))
                    .enumerate()
            };
            let (fast_at, fast) = times().min_by(|one, other| one.1.total_cmp(other.1))?;
            let (slow_at, slow) = times().max_by(|one, other| one.1.total_cmp(other.1))?;
            let when = if slow_at > fast_at {
                "than earlier in the round"
            } else {
                "at first than later in the round"
            };
            Some((percent(*fast, *slow), core, when))
        })
        .max_by(|one, other| one.0.total_cmp(&other.0));
    let (percent, core, when) = worst?;
    (percent > limit_percent).then(|| format!("core {core} was {percent:.0} % slower {when}"))
}

/// How far the speed of a core lay apart, at most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Differences {
    /// Among the probes of a round.
    pub(crate) within_percent: f64,
    /// Among the means of rounds; nothing where there is but one.
    pub(crate) between_percent: Option<f64>,
}

impl Differences {
    /// Of rounds, each with its probes.
    pub(crate) fn of(rounds: &[Vec<&WorkNs>]) -> Option<Self> {
        let mut differences = Self {
            within_percent: 0.0,
            between_percent: (rounds.len() > 1).then_some(0.0),
        };
        let cores = known(rounds.iter().flatten().copied());
        for core in &cores {
            let mut means = Vec::new();
            for probes in rounds {
                let times: Vec<f64> = probes
                    .iter()
                    .filter_map(|probe| probe.get(core).copied())
                    .collect();
                let within = &mut differences.within_percent;
                *within = within.max(apart_percent(&times));
                means.push(times.iter().sum::<f64>() / times.len() as f64);
            }
            if let Some(between) = &mut differences.between_percent {
                *between = between.max(apart_percent(&means));
            }
        }
        (!cores.is_empty()).then_some(differences)
    }

    /// For the end of a sentence.
    pub(crate) fn tell(&self) -> String {
        let within = self.within_percent;
        let mut text =
            format!("the machine's speed differed by at most {within:.0} % within a round");
        if let Some(between) = self.between_percent {
            text.push_str(&format!(" and {between:.0} % between rounds"));
        }
        text
    }
}

/// The cores that were probed.
fn known<'a>(probes: impl Iterator<Item = &'a WorkNs>) -> BTreeSet<usize> {
    probes.flat_map(WorkNs::keys).copied().collect()
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
        let probe = |[zero, one]: &[f64; 2]| WorkNs::from([(0, *zero), (1, *one)]);
        times.iter().map(probe).collect()
    }

    #[test]
    fn a_round_counts_while_no_core_changes_by_more_than_the_limit() {
        for (times, limit, told) in [
            (&[[100.0, 50.0], [110.0, 50.0]][..], 10.1, None),
            // Cores may differ from each other.
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
            let found = disturbance(&probes(times), limit);
            assert_eq!(found.as_deref(), told, "{times:?}");
        }
    }

    #[test]
    fn rounds_lie_apart_by_their_means() {
        let first = probes(&[[100.0, 50.0], [106.0, 50.0]]);
        let second = probes(&[[206.0, 51.0], [206.0, 51.0]]);
        let rounds = [first.iter().collect(), second.iter().collect()];
        let found = Differences::of(&rounds).expect("differences");
        assert_eq!(
            found.tell(),
            "the machine's speed differed by at most 6 % within a round and 100 % between rounds"
        );
        let found = Differences::of(&rounds[..1]).expect("differences");
        assert_eq!(found.between_percent, None);
        assert!(found.tell().ends_with("6 % within a round"));
        assert_eq!(Differences::of(&[]), None);
    }

    #[test]
    fn every_core_takes_some_time_and_the_caller_stays_where_it_is() {
        let allowed = cores::allowed();
        let found = probe(&allowed).expect("a probe");
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), allowed);
        for (core, ns) in found {
            // Twelve system calls take longer than that, and a second is more than any machine needs.
            assert!((500.0..1e9).contains(&ns), "core {core}: {ns} ns");
        }
        assert_eq!(cores::allowed(), allowed);
        assert!(probe(&[100_000]).is_err());
    }
}
