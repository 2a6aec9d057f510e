//! Computes the figures by which contenders are compared, and their spread over rounds. This module measures
//! nothing; it takes the figures of a load from the run's report.

use std::collections::BTreeMap;

use nanofaas_plot::show;
use serde::{Deserialize, Serialize};

use crate::report::RunReport;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    /// The number of expected answers a second. An answer is expected if the load's `expect` names its
    /// status, by default 200 to 299.
    AnswersPerS,
    /// The number of expected answers for each second of CPU time of the measured processes.
    AnswersPerCoreS,
    /// The CPU time of the measured processes, divided by the number of expected answers.
    CpuUsPerAnswer,
    P50Us,
    P99Us,
    MeanUs,
    /// The time from the start of a process, or from the call, until the first answer. Only comparisons with
    /// `measure: first_answer` have this figure.
    FirstAnswerUs,
    /// The median latency minus the median latency of the direct call.
    AddedP50Us,
    /// P99 of the refusals with the most frequent refusal status. If the load names no refusals, this is P99
    /// of the answers with the most frequent unexpected status.
    RefusedP99Us,
    Errors,
    /// The CPU use of the measured processes, in cores.
    CpuCores,
    LoadCores,
    /// The memory of the measured processes at the end of the run.
    MemoryMib,
    /// The growth of the memory of the measured processes during the run.
    MemoryGrowthMib,
}

impl Figure {
    pub(crate) const SHOWN: [Self; 9] = [
        Self::AnswersPerS,
        Self::AnswersPerCoreS,
        Self::CpuUsPerAnswer,
        Self::P50Us,
        Self::P99Us,
        Self::FirstAnswerUs,
        Self::AddedP50Us,
        Self::RefusedP99Us,
        Self::MemoryMib,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AnswersPerS => "answers/s",
            Self::AnswersPerCoreS => "answers/s and core",
            Self::CpuUsPerAnswer => "CPU an answer",
            Self::P50Us => "p50",
            Self::P99Us => "p99",
            Self::MeanUs => "mean",
            Self::FirstAnswerUs => "first answer",
            Self::AddedP50Us => "p50 added",
            Self::RefusedP99Us => "p99 of refusals",
            Self::Errors => "errors",
            Self::CpuCores => "CPU (cores)",
            Self::LoadCores => "load generator (cores)",
            Self::MemoryMib => "memory",
            Self::MemoryGrowthMib => "memory growth",
        }
    }

    /// Returns the label of an axis with plain numbers. The label names the unit of the numbers.
    pub(crate) fn axis(self) -> &'static str {
        match self {
            Self::AnswersPerS | Self::AnswersPerCoreS => "answers per second",
            Self::CpuUsPerAnswer => "CPU (µs)",
            Self::P50Us
            | Self::P99Us
            | Self::MeanUs
            | Self::FirstAnswerUs
            | Self::AddedP50Us
            | Self::RefusedP99Us => "latency (µs)",
            Self::Errors => "requests",
            Self::CpuCores | Self::LoadCores => "CPU (cores)",
            Self::MemoryMib | Self::MemoryGrowthMib => "memory (MiB)",
        }
    }

    /// Formats a value with its unit.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::AnswersPerS | Self::AnswersPerCoreS => show::rate(value),
            Self::CpuUsPerAnswer
            | Self::P50Us
            | Self::P99Us
            | Self::MeanUs
            | Self::FirstAnswerUs
            | Self::AddedP50Us
            | Self::RefusedP99Us => show::duration(value * 1e3),
            Self::Errors | Self::CpuCores | Self::LoadCores => show::digits(value),
            Self::MemoryMib | Self::MemoryGrowthMib => format!("{} MiB", show::digits(value)),
        }
    }
}

pub(crate) type Figures = BTreeMap<Figure, f64>;

/// The memory of the measured processes before and after a run, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Growth {
    pub(crate) before: u64,
    pub(crate) after: u64,
}

/// Computes the figures of a run. `measured` tells for each watched process whether it belongs to the
/// contender.
pub(crate) fn of(report: &RunReport, measured: &[bool], memory: Growth) -> Figures {
    let watched = || {
        report
            .cpu
            .watched
            .iter()
            .zip(measured)
            .filter(|(_, measured)| **measured)
    };
    let cores: f64 = watched().map(|(process, _)| process.cores).sum();
    let cpu_us: f64 = watched().map(|(process, _)| process.us_per_answer).sum();
    let mib = |bytes: f64| bytes / 1024.0 / 1024.0;
    let mut figures = Figures::from([
        (Figure::AnswersPerS, report.answers_per_s),
        (Figure::P50Us, report.latency.p50_us),
        (Figure::P99Us, report.latency.p99_us),
        (Figure::MeanUs, report.latency.mean_us),
        (Figure::Errors, report.errors as f64),
        (Figure::CpuCores, cores),
        (Figure::LoadCores, report.cpu.load_cores),
        (Figure::MemoryMib, mib(memory.after as f64)),
        (
            Figure::MemoryGrowthMib,
            mib(memory.after as f64 - memory.before as f64),
        ),
    ]);
    if cpu_us > 0.0 {
        figures.insert(Figure::CpuUsPerAnswer, cpu_us);
        figures.insert(Figure::AnswersPerCoreS, 1e6 / cpu_us);
    }
    let refusals = &report.load.refusals;
    if let Some(refused) = report
        .unexpected
        .iter()
        .filter(|(status, _)| refusals.is_empty() || refusals.contains(status))
        .map(|(_, latency)| latency)
        .max_by_key(|latency| latency.count)
    {
        figures.insert(Figure::RefusedP99Us, refused.p99_us);
    }
    figures
}

/// The median of some values, their range, and their quartiles.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// The lower quartile: the middle half of the values lies between it and `upper_quartile`.
    pub(crate) lower_quartile: f64,
    pub(crate) upper_quartile: f64,
}

impl Spread {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        // Interpolates a quantile between the two nearest values.
        let at = |share: f64| {
            let parsed = share * last as f64;
            let (low, high) = (
                values[parsed.floor() as usize],
                values[parsed.ceil() as usize],
            );
            low + (high - low) * parsed.fract()
        };
        Some(Self {
            median: at(0.5),
            min: values[0],
            max: values[last],
            lower_quartile: at(0.25),
            upper_quartile: at(0.75),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_the_values() {
        let spread = Spread::of([3.0, 1.0, f64::NAN, 2.0, 10.0].into_iter()).expect("a spread");
        assert_eq!((spread.median, spread.min, spread.max), (2.5, 1.0, 10.0));
        assert_eq!((spread.lower_quartile, spread.upper_quartile), (1.75, 4.75));
        assert_eq!(Spread::of([].into_iter()), None);
    }
}
