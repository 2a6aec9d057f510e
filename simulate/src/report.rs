//! Computes the result of a simulation in numbers: totals, and values over time. This module decides nothing
//! and rounds nothing.

use nanofaas_core::metrics::RejectReason;
use nanofaas_core::outcome::Stage;
use nanofaas_core::time::Nanos;
use serde::{Serialize, Serializer};

use crate::history::{Stretch, join};
use crate::simulator::{CallEnding, CallFate, SimulationRun};
use crate::{Setup, begin, nice};

/// The largest number of rows of the printed table.
const ROWS_MAX: usize = 24;

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SimulationReport {
    pub function: String,
    /// The effective execution mode.
    pub execution_mode: String,
    /// Whether the platform runs pods for the function.
    pub has_pods: bool,
    pub summary: Summary,
    /// The values over time, in slices that are short enough for a plot.
    pub over_time: Vec<Slice>,
    /// The values over time, in a few slices for a table.
    #[serde(skip)]
    pub rows: Vec<Slice>,
}

/// Totals over the trace.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    pub calls: usize,
    /// Calls that were answered by their deadline.
    pub made_it: usize,
    /// What `made_it` would be if admission knew in advance which calls will succeed. JSON has null if this
    /// number is not computed.
    #[serde(serialize_with = "or_null")]
    pub made_it_with_perfect_knowledge: Result<usize, NotComputed>,
    pub refused_depth: usize,
    pub refused_est_wait: usize,
    pub refused_memory: usize,
    pub timed_out_queued: usize,
    pub timed_out_starting: usize,
    pub timed_out_running: usize,
    /// Calls that failed because no pod could be started.
    pub failed_cold_start: usize,
    /// The time from the arrival to the first slot, for calls that got a slot.
    pub wait_ms: Percentiles,
    /// The time from the arrival to the answer, for calls that succeeded.
    pub total_ms: Percentiles,
    /// The number of pods or Jobs that were started during the trace.
    pub starts: u64,
    /// The largest number of pods or Jobs that were up or starting at the same time.
    pub pods_max: u32,
    /// The sum of the lifetimes of all pods, including the time of their starts.
    pub pod_seconds: f64,
    /// The time for which slots were held, divided by the time for which slots existed; `None` without slots.
    pub slot_utilisation: Option<f64>,
    /// The time from the first counted call to the end of the last call.
    pub duration_ms: f64,
}

impl Summary {
    pub const fn refused(&self) -> usize {
        self.refused_depth + self.refused_est_wait + self.refused_memory
    }

    /// Returns the number of calls that were admitted and not answered in time.
    pub const fn let_in_and_failed(&self) -> usize {
        self.timed_out_queued
            + self.timed_out_starting
            + self.timed_out_running
            + self.failed_cold_start
    }
}

/// Why `made_it_with_perfect_knowledge` is not computed. `Display` writes the end of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotComputed {
    #[error("not computed with async calls")]
    AsyncCalls,
    #[error("not computed, because it would take too long")]
    TooMuchWork,
}

fn or_null<S: Serializer>(
    number: &Result<usize, NotComputed>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    number.ok().serialize(serializer)
}

/// Exact percentiles, by nearest rank; `None` without values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Percentiles {
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    pub max: Option<f64>,
}

impl Percentiles {
    fn of(mut times: Vec<Nanos>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100);
            times.get(rank.checked_sub(1)?).map(|time| ms(*time))
        };
        Self {
            p50: at(50),
            p90: at(90),
            p99: at(99),
            max: at(100),
        }
    }
}

/// A slice of time. A call counts in the slice in which it arrived.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Slice {
    pub from_ms: f64,
    pub to_ms: f64,
    pub calls: usize,
    pub refused: usize,
    /// Calls that were admitted and not answered in time.
    pub failed: usize,
    pub wait_p50_ms: Option<f64>,
    pub wait_p99_ms: Option<f64>,
    /// The highest number of waiting calls in this slice. `running`, `slots` and the numbers of
    /// pods are the highest numbers, too.
    pub waiting: u32,
    pub running: u32,
    pub slots: u32,
    pub pods_up: u32,
    pub pods_starting: u32,
    /// The highest number of pods that were up or starting at the same time.
    pub pods_wanted: u32,
    pub starts: u32,
}

fn ms(time: Nanos) -> f64 {
    time.as_ns() as f64 / 1e6
}

impl SimulationReport {
    pub(crate) fn new(
        setup: &Setup,
        run: &SimulationRun,
        perfect: Result<usize, NotComputed>,
    ) -> Self {
        let width = run.history.width;
        let stretches = used(setup, run);
        // Each row of the table joins a round number of stretches, so that rows begin at round times.
        let many = nice::round_up(stretches.len().div_ceil(ROWS_MAX) as u64);
        let joined = join(stretches, many as usize);
        Self {
            function: setup.spec.name.to_string(),
            execution_mode: setup.spec.execution_mode.to_string(),
            has_pods: setup.spec.execution_mode.has_pods(),
            summary: summary(setup, run, perfect),
            over_time: slices(setup, &run.fates, stretches, width),
            rows: slices(setup, &run.fates, &joined, width.saturating_mul(many)),
        }
    }
}

/// Returns the stretches of the history. If the last stretch begins when the last call ends, and no call
/// arrived in it, that stretch is left out.
fn used<'a>(setup: &Setup, run: &'a SimulationRun) -> &'a [Stretch] {
    let width = run.history.width;
    let last = setup.calls.last().map_or(Nanos::ZERO, |call| call.at) - begin(setup);
    let count = run
        .history
        .length()
        .as_ns()
        .div_ceil(width.as_ns())
        .max(last / width + 1);
    let stretches = &run.history.stretches;
    &stretches[..stretches.len().min(count as usize)]
}

fn summary(setup: &Setup, run: &SimulationRun, perfect: Result<usize, NotComputed>) -> Summary {
    let fates = &run.fates[setup.before.min(run.fates.len())..];
    let history = &run.history;
    let count = |ending| fates.iter().filter(|fate| fate.ending == ending).count();
    let refused = |reason| count(CallEnding::Refused(reason));
    let timed_out = |stage| count(CallEnding::TimedOut(stage));
    let made_it = fates
        .iter()
        .filter(|fate| fate.ending == CallEnding::MadeIt);
    let utilisation = history.running_ns as f64 / history.slots_ns as f64;
    let starts = history.stretches.iter().map(|one| u64::from(one.starts));
    let pods = history.stretches.iter().map(|one| one.pods_highest);
    Summary {
        calls: fates.len(),
        made_it: count(CallEnding::MadeIt),
        made_it_with_perfect_knowledge: perfect,
        refused_depth: refused(RejectReason::Depth),
        refused_est_wait: refused(RejectReason::EstWait),
        refused_memory: refused(RejectReason::Memory),
        timed_out_queued: timed_out(Stage::Queued),
        timed_out_starting: timed_out(Stage::Starting),
        timed_out_running: timed_out(Stage::Running),
        failed_cold_start: count(CallEnding::NoPod),
        wait_ms: waits(fates),
        total_ms: Percentiles::of(made_it.map(|fate| fate.total).collect()),
        starts: starts.sum(),
        pods_max: pods.max().unwrap_or_default(),
        pod_seconds: history.pods_ns as f64 / 1e9,
        slot_utilisation: (history.slots_ns > 0).then_some(utilisation),
        duration_ms: ms(history.length()),
    }
}

fn waits(fates: &[CallFate]) -> Percentiles {
    Percentiles::of(fates.iter().filter_map(|fate| fate.wait).collect())
}

fn slices(setup: &Setup, fates: &[CallFate], stretches: &[Stretch], width: Nanos) -> Vec<Slice> {
    let begin = begin(setup);
    let mut first = setup.before;
    let mut slices = Vec::with_capacity(stretches.len());
    for (number, stretch) in stretches.iter().enumerate() {
        let from = width.saturating_mul(number as u64);
        let to = from.saturating_add(width);
        let came = setup.calls[first.min(setup.calls.len())..]
            .partition_point(|call| call.at - begin < to);
        let fates = &fates[first..first + came];
        first += came;
        let waits = waits(fates);
        let is_refused = |fate: &&CallFate| matches!(fate.ending, CallEnding::Refused(_));
        let is_late =
            |fate: &&CallFate| matches!(fate.ending, CallEnding::TimedOut(_) | CallEnding::NoPod);
        slices.push(Slice {
            from_ms: ms(from),
            to_ms: ms(to),
            calls: came,
            refused: fates.iter().filter(is_refused).count(),
            failed: fates.iter().filter(is_late).count(),
            wait_p50_ms: waits.p50,
            wait_p99_ms: waits.p99,
            waiting: stretch.highest.waiting,
            running: stretch.highest.running,
            slots: stretch.highest.slots,
            pods_up: stretch.highest.up,
            pods_starting: stretch.highest.starting,
            pods_wanted: stretch.pods_highest,
            starts: stretch.starts,
        });
    }
    slices
}
