//! Makes the result of one run in plain numbers, which JSON, tables and plots show. This module measures
//! nothing. The name of a field whose value has a unit ends with that unit.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::load::LoadSpec;
use crate::machine::MachineInfo;
use crate::run::RunResult;
use crate::watcher::CpuSample;

#[derive(Debug, Serialize)]
pub(crate) struct RunReport {
    pub(crate) tool: &'static str,
    pub(crate) machine: MachineInfo,
    pub(crate) load: LoadSpec,
    pub(crate) loop_kind: &'static str,
    /// The number of requests whose intended send time is within the measured time: the sum of `statuses` and
    /// `faults`.
    pub(crate) requests: u64,
    pub(crate) answers_per_s: f64,
    /// The number of requests that ended neither with an expected answer nor with a refusal.
    pub(crate) errors: u64,
    pub(crate) statuses: BTreeMap<u16, u64>,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) connect_errors: u64,
    pub(crate) unasked: u64,
    pub(crate) reconnects: u64,
    pub(crate) latency: Latency,
    /// The latencies of the answers that are not expected, including refusals, by status.
    pub(crate) unexpected: BTreeMap<u16, Latency>,
    pub(crate) targets: Vec<TargetReport>,
    /// The time from the intended send time until the client sent the request. It is recorded for answers,
    /// timeouts and unfinished requests.
    pub(crate) client_wait: Latency,
    pub(crate) cpu: CpuReport,
    pub(crate) windows: Vec<WindowReport>,
    pub(crate) cpu_samples: Vec<CpuSample>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) mean_us: f64,
    pub(crate) stdev_us: f64,
    pub(crate) min_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p75_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    /// The whole histogram as pairs of value (ns) and count, so that runs can be merged.
    pub(crate) histogram_ns: Vec<(u64, u64)>,
}

#[derive(Debug, Serialize)]
pub(crate) struct TargetReport {
    pub(crate) url: String,
    pub(crate) latency: Latency,
}

#[derive(Debug, Serialize)]
pub(crate) struct CpuReport {
    /// CPU use of the machine over the measured time, in cores.
    pub(crate) machine_cores: f64,
    pub(crate) steal_cores: f64,
    pub(crate) load_cores: f64,
    pub(crate) load_us_per_answer: f64,
    pub(crate) foreign_cores: f64,
    pub(crate) watched: Vec<WatchedReport>,
}

#[derive(Debug, Serialize)]
pub(crate) struct WatchedReport {
    pub(crate) name: String,
    pub(crate) cores: f64,
    pub(crate) us_per_answer: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct WindowReport {
    /// The middle of the window, in seconds from the end of the warm-up.
    pub(crate) at_s: f64,
    pub(crate) answers_per_s: f64,
    pub(crate) errors_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

impl Latency {
    pub(crate) fn new(histogram: &Histogram<u64>) -> Self {
        let us = |ns: u64| ns as f64 / 1e3;
        let at = |quantile| us(histogram.value_at_quantile(quantile));
        Self {
            count: histogram.len(),
            mean_us: histogram.mean() / 1e3,
            stdev_us: histogram.stdev() / 1e3,
            min_us: us(histogram.min()),
            p50_us: at(0.5),
            p75_us: at(0.75),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: us(histogram.max()),
            histogram_ns: histogram
                .iter_recorded()
                .map(|value| {
                    (
                        value.value_iterated_to(),
                        value.count_since_last_iteration(),
                    )
                })
                .collect(),
        }
    }
}

impl RunReport {
    pub(crate) fn new(run: &RunResult) -> Self {
        let tally = &run.tally;
        let answers = tally.answered_in_span as f64;
        let per_answer = |cpu_s: f64| {
            if answers > 0.0 {
                cpu_s * 1e6 / answers
            } else {
                0.0
            }
        };
        let cores = |cpu_s: f64| cpu_s / run.cpu.length_s.max(1e-9);
        let targets = run.load.targets.iter().enumerate();
        let targets = targets.map(|(at, target)| (target, tally.of_target(at)));
        let watched = run.watched.iter().zip(&run.cpu.watched_s);
        Self {
            tool: concat!("nanofaas-loadtest ", env!("CARGO_PKG_VERSION")),
            machine: MachineInfo::read(),
            load: run.load.clone(),
            loop_kind: if run.load.arrivals.is_some() {
                "open"
            } else {
                "closed"
            },
            requests: tally.requests,
            answers_per_s: answers / run.load.duration_s,
            errors: tally.unwanted() + tally.faults.values().sum::<u64>(),
            statuses: tally.statuses.clone(),
            faults: tally
                .faults
                .iter()
                .map(|(error, n)| (error.name(), *n))
                .collect(),
            connect_errors: tally.connect_errors,
            unasked: tally.unasked,
            reconnects: tally.reconnects,
            latency: Latency::new(&tally.latency),
            unexpected: tally
                .unexpected
                .iter()
                .map(|(status, histogram)| (*status, Latency::new(histogram)))
                .collect(),
            targets: targets
                .map(|(target, histogram)| TargetReport {
                    url: target.url.clone(),
                    latency: Latency::new(histogram),
                })
                .collect(),
            client_wait: Latency::new(&tally.wait),
            cpu: CpuReport {
                machine_cores: cores(run.cpu.machine_s),
                steal_cores: cores(run.cpu.steal_s),
                load_cores: cores(run.cpu.load_s),
                load_us_per_answer: per_answer(run.cpu.load_s),
                foreign_cores: cores(run.cpu.foreign_s()),
                watched: watched
                    .map(|(watched, cpu_s)| WatchedReport {
                        name: watched.name.clone(),
                        cores: cores(*cpu_s),
                        us_per_answer: per_answer(*cpu_s),
                    })
                    .collect(),
            },
            windows: windows(run),
            cpu_samples: run.samples.clone(),
        }
    }

    /// Returns what a reader must know before trusting the figures.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.cpu.load_cores > 0.9 {
            warnings.push(format!(
                "the load generator used {:.0} % of a core: it may be the limit, and not the server",
                self.cpu.load_cores * 100.0
            ));
        }
        let unfinished = self.faults.get("unfinished").copied().unwrap_or_default();
        if unfinished > 0 {
            warnings.push(format!(
                "{unfinished} requests had no answer at the end; they count with the time they had \
                 lasted, so the true percentiles are higher"
            ));
        }
        if self.errors > 0 {
            warnings.push(format!(
                "{} of {} requests failed",
                self.errors, self.requests
            ));
        }
        if self.cpu.steal_cores > 0.02 {
            warnings.push(format!(
                "the hypervisor took {:.0} % of a core away",
                self.cpu.steal_cores * 100.0
            ));
        }
        // If no server is watched, the server's CPU time counts as foreign, and a warning would be wrong.
        if !self.cpu.watched.is_empty() && self.cpu.foreign_cores > 0.1 {
            warnings.push(format!(
                "other processes used {:.0} % of a core: the machine was not quiet",
                self.cpu.foreign_cores * 100.0
            ));
        }
        if self.latency.count < 1_000 {
            warnings.push(format!(
                "p99 stands on {} of {} answers; run longer to trust it",
                self.latency.count / 100,
                self.latency.count
            ));
        }
        warnings
    }
}

fn windows(run: &RunResult) -> Vec<WindowReport> {
    let us = |ns: u64| ns as f64 / 1e3;
    let windows = run.tally.windows.iter();
    windows
        .map(|window| {
            let length_s = (window.end_ns - window.begin_ns) as f64 / 1e9;
            WindowReport {
                at_s: (window.begin_ns + window.end_ns) as f64 / 2e9 - run.load.warm_up_s,
                answers_per_s: window.answers as f64 / length_s,
                errors_per_s: window.errors as f64 / length_s,
                p50_us: us(window.p50_ns),
                p99_us: us(window.p99_ns),
                max_us: us(window.max_ns),
            }
        })
        .collect()
}
