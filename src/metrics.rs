//! Writes the metrics page in Prometheus's text format 0.0.4 from the live counters. `management` calls this
//! module for every scrape, on a thread other than the bridge's.

mod process;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nanofaas_core::cold_start::{Phase, StartTimes};
use nanofaas_core::histogram::BUCKETS;
use nanofaas_core::metrics::{CallTime, Counter, FunctionMetrics, RejectReason, ThreadLedger};
use nanofaas_core::queue_stats::QueueStats;
use nanofaas_core::time::Nanos;

pub(crate) use process::ProcessMetrics;
use text::MetricsPage;

/// The label of functions that have no series of their own.
const OTHER: &str = "_other";
/// The label of calls that were refused before their function was looked up.
const UNKNOWN: &str = "_unknown";

/// The functions' data for one scrape. The bridge collects the data quickly, and another thread writes the
/// page.
#[derive(Clone, Default)]
pub(crate) struct ScrapedFunctions {
    /// Sorted by name.
    pub(crate) registered: Vec<(Arc<str>, Arc<QueueStats>)>,
    /// The lanes of removed functions whose last calls still run.
    pub(crate) leaving: Vec<Arc<QueueStats>>,
    /// The times from the order of a cold start to each of its phases.
    pub(crate) cold_starts: Arc<StartTimes>,
}

pub(crate) struct ProcessInfo {
    pub(crate) ledgers: Arc<[ThreadLedger]>,
    pub(crate) io_driver: &'static str,
    pub(crate) scheduler: &'static str,
    pub(crate) backend: &'static str,
    pub(crate) process: ProcessMetrics,
    /// The number of log lines that were dropped, because the queue to stderr was full.
    pub(crate) log_lines_dropped: u64,
}

/// The functions with their own series: the first `most` that were called. A function keeps its series while
/// it exists, so that its counters stay in one series.
pub(crate) struct FunctionLabels {
    most: usize,
    own: BTreeMap<Arc<str>, bool>,
}

impl FunctionLabels {
    pub(crate) const fn new(most: usize) -> Self {
        let own = BTreeMap::new();
        Self { most, own }
    }

    /// Removes functions that are gone. A new function gets its own series if fewer than `most` functions
    /// have their own.
    fn update(&mut self, called: &[(Arc<str>, Totals)]) {
        let names: BTreeSet<&str> = called.iter().map(|(name, _)| &**name).collect();
        self.own.retain(|name, _| names.contains(&**name));
        let mut taken = self.own.values().filter(|own| **own).count();
        for (name, _) in called {
            if !self.own.contains_key(name) {
                self.own.insert(name.clone(), taken < self.most);
                taken += 1;
            }
        }
    }
}

/// Name, help text, and the counter.
type CounterRow = (&'static str, &'static str, fn(&FunctionMetrics) -> &Counter);

const COUNTERS: [CounterRow; 8] = [
    ("function_enqueue_total", "Calls admitted.", |m| &m.enqueue),
    (
        "function_dispatch_total",
        "Attempts that were given a slot.",
        |m| &m.dispatch,
    ),
    (
        "function_success_total",
        "Calls that ended as success.",
        |m| &m.success,
    ),
    ("function_error_total", "Calls that ended as error.", |m| {
        &m.error
    }),
    (
        "function_timeout_total",
        "Calls that ended as timeout.",
        |m| &m.timeout,
    ),
    ("function_retry_total", "Attempts after the first.", |m| {
        &m.retry
    }),
    (
        "function_cold_start_total",
        "Calls that waited for a pod to start, or were the first one in it.",
        |m| &m.cold_start,
    ),
    (
        "function_warm_start_total",
        "The other calls that ran.",
        |m| &m.warm_start,
    ),
];

type TimeRow = (&'static str, &'static str, CallTime);

const TIMES: [TimeRow; CallTime::COUNT] = [
    (
        "function_queue_wait_seconds",
        "From admitted to granted, less the start.",
        CallTime::QueueWait,
    ),
    (
        "function_start_wait_seconds",
        "What calls waited for pods to start.",
        CallTime::StartWait,
    ),
    (
        "function_dispatch_seconds",
        "From granted to sent.",
        CallTime::Dispatch,
    ),
    (
        "function_handler_seconds",
        "From sent to answered.",
        CallTime::Handler,
    ),
    (
        "function_e2e_seconds",
        "From arrived to replied.",
        CallTime::E2e,
    ),
];

/// In the order of `QueueStats::pods`.
const POD_STATES: [&str; 3] = ["usable", "starting", "other"];

#[derive(Clone, Copy, Default)]
struct TimeTotals {
    buckets: [u64; BUCKETS],
    sum: Nanos,
}

/// The figures of one function, summed over all io threads.
#[derive(Clone, Default)]
struct Totals {
    counters: [u64; COUNTERS.len()],
    rejected: [u64; RejectReason::ALL.len()],
    times: [TimeTotals; TIMES.len()],
    depth: u64,
    running: u64,
    pods: [u64; POD_STATES.len()],
}

impl Totals {
    /// Returns `None` before the function's first call.
    fn of(stats: &QueueStats) -> Option<Self> {
        let mut totals: Option<Self> = None;
        for metrics in stats.metrics_seen() {
            totals.get_or_insert_default().count(metrics);
        }
        let mut totals = totals?;
        totals.depth = u64::from(stats.depth());
        totals.running = u64::from(stats.running.load(Relaxed));
        for (total, pods) in totals.pods.iter_mut().zip(&stats.pods) {
            *total = u64::from(pods.load(Relaxed));
        }
        Some(totals)
    }

    fn count(&mut self, metrics: &FunctionMetrics) {
        for (total, (_, _, counter)) in self.counters.iter_mut().zip(COUNTERS) {
            *total += counter(metrics).get();
        }
        for (total, counter) in self.rejected.iter_mut().zip(&metrics.rejected) {
            *total += counter.get();
        }
        for (times, (_, _, time)) in self.times.iter_mut().zip(TIMES) {
            times.sum += metrics.times.add_to(time as usize, &mut times.buckets);
        }
    }

    fn add(&mut self, other: &Self) {
        add_each(&mut self.counters, &other.counters);
        add_each(&mut self.rejected, &other.rejected);
        add_each(&mut self.pods, &other.pods);
        for (times, more) in self.times.iter_mut().zip(&other.times) {
            add_each(&mut times.buckets, &more.buckets);
            times.sum += more.sum;
        }
        self.depth += other.depth;
        self.running += other.running;
    }
}

fn add_each(sums: &mut [u64], more: &[u64]) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum += more;
    }
}

pub(crate) fn page(
    functions: &ScrapedFunctions,
    info: &ProcessInfo,
    labels: &mut FunctionLabels,
) -> String {
    let mut page = MetricsPage::default();
    let series = series(functions, labels);
    write_functions(&mut page, &series, info);
    write_cold_starts(&mut page, functions);
    write_ledger(&mut page, functions, info);
    page.one(
        "nanofaas_log_lines_dropped_total",
        "counter",
        "Log lines that were dropped because stderr was slow.",
        info.log_lines_dropped,
    );
    page.family(
        "nanofaas_build_info",
        "gauge",
        "1; the labels say what runs.",
    );
    let build = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("scheduler", info.scheduler),
        ("backend", info.backend),
    ];
    page.sample("nanofaas_build_info", &build, 1);
    page.family(
        "nanofaas_io_driver",
        "gauge",
        "1; the label says on what the io threads sit.",
    );
    page.sample("nanofaas_io_driver", &[("driver", info.io_driver)], 1);
    info.process.write(&mut page);
    page.done()
}

/// Returns the label and the figures of each series: the functions with their own series, and the sum of the
/// others. Functions that were never called are left out.
fn series(functions: &ScrapedFunctions, labels: &mut FunctionLabels) -> Vec<(Arc<str>, Totals)> {
    let called: Vec<_> = functions
        .registered
        .iter()
        .filter_map(|(name, stats)| Some((name.clone(), Totals::of(stats)?)))
        .collect();
    labels.update(&called);
    let mut other: Option<Totals> = None;
    let mut series = Vec::with_capacity(called.len());
    for (name, totals) in called {
        if labels.own.get(&name).copied().unwrap_or_default() {
            series.push((name, totals));
        } else {
            other.get_or_insert_default().add(&totals);
        }
    }
    series.extend(other.map(|totals| (OTHER.into(), totals)));
    series
}

fn write_functions(page: &mut MetricsPage, series: &[(Arc<str>, Totals)], info: &ProcessInfo) {
    for (at, (name, help, _)) in COUNTERS.iter().enumerate() {
        page.family(name, "counter", help);
        for (function, totals) in series {
            page.sample(name, &[("function", function)], totals.counters[at]);
        }
    }
    write_rejected(page, series, info);
    let gauge = |page: &mut MetricsPage, name, help, value: fn(&Totals) -> u64| {
        page.family(name, "gauge", help);
        for (function, totals) in series {
            page.sample(name, &[("function", function)], value(totals));
        }
    };
    gauge(page, "function_queue_depth", "Live calls that wait.", |t| {
        t.depth
    });
    gauge(page, "function_inFlight", "Slots held.", |t| t.running);
    page.family("function_pods", "gauge", "Pods by state.");
    for (function, totals) in series {
        for (state, pods) in POD_STATES.iter().zip(totals.pods) {
            page.sample(
                "function_pods",
                &[("function", function), ("state", state)],
                pods,
            );
        }
    }
    for (at, (name, help, _)) in TIMES.iter().enumerate() {
        page.family(name, "histogram", help);
        for (function, totals) in series {
            let times = &totals.times[at];
            let label = ("function", &**function);
            page.histogram(name, label, &times.buckets, times.sum);
        }
    }
}

fn write_rejected(page: &mut MetricsPage, series: &[(Arc<str>, Totals)], info: &ProcessInfo) {
    const NAME: &str = "function_queue_rejected_total";
    page.family(NAME, "counter", "Calls refused with 429, by reason.");
    for (function, totals) in series {
        for (reason, refused) in RejectReason::ALL.iter().zip(totals.rejected) {
            let labels = [("function", &**function), ("reason", reason.as_str())];
            page.sample(NAME, &labels, refused);
        }
    }
    // The rate limit is checked before the function is looked up, so it also refuses calls of unknown
    // functions.
    let unknown = sum(info, |ledger| ledger.rejected_unknown.get());
    let labels = [
        ("function", UNKNOWN),
        ("reason", RejectReason::Rate.as_str()),
    ];
    page.sample(NAME, &labels, unknown);
}

fn write_cold_starts(page: &mut MetricsPage, functions: &ScrapedFunctions) {
    const NAME: &str = "nanofaas_cold_start_seconds";
    page.family(
        NAME,
        "histogram",
        "From a pod wanted to each phase of its start.",
    );
    for phase in Phase::ALL {
        let mut buckets = [0; BUCKETS];
        let sum = functions.cold_starts.add_to(phase as usize, &mut buckets);
        if buckets.iter().any(|count| *count > 0) {
            page.histogram(NAME, ("phase", phase.as_str()), &buckets, sum);
        }
    }
}

fn sum(info: &ProcessInfo, of: fn(&ThreadLedger) -> u64) -> u64 {
    info.ledgers.iter().map(of).sum()
}

fn write_ledger(page: &mut MetricsPage, functions: &ScrapedFunctions, info: &ProcessInfo) {
    let lanes = || {
        let registered = functions.registered.iter().map(|(_, stats)| stats);
        registered.chain(&functions.leaving)
    };
    let queued: u64 = lanes().map(|stats| u64::from(stats.depth())).sum();
    let backing_off = sum(info, |ledger| ledger.backing_off.load(Relaxed));
    let running: u64 = lanes()
        .map(|stats| u64::from(stats.running.load(Relaxed)))
        .sum();
    let accepted = sum(info, |ledger| ledger.accepted.get());
    let finished = sum(info, |ledger| ledger.finished.get());
    let waiting = queued + backing_off;
    for (name, kind, help, value) in [
        ("accepted", "counter", "Executions accepted.", accepted),
        ("finished", "counter", "Executions that ended.", finished),
        (
            "waiting",
            "gauge",
            "Executions in a queue or between two attempts.",
            waiting,
        ),
        ("running", "gauge", "Executions that hold a slot.", running),
    ] {
        page.one(&format!("nanofaas_executions_{name}"), kind, help, value);
    }
    page.one(
        "nanofaas_executions_evicted_total",
        "counter",
        "Finished executions dropped before their time for --execution-store-bytes.",
        sum(info, |ledger| ledger.evicted.get()),
    );
    page.one(
        "nanofaas_answers_cut_total",
        "counter",
        "Answers that their client did not read to the end, or not fast enough.",
        sum(info, |ledger| ledger.answers_cut.get()),
    );
    page.one(
        "nanofaas_inflight_bytes",
        "gauge",
        "What is held for calls and their answers, of --inflight-bytes.",
        sum(info, |ledger| ledger.inflight_bytes.get()),
    );
    page.one(
        "nanofaas_store_bytes",
        "gauge",
        "What kept executions weigh, of --execution-store-bytes.",
        sum(info, |ledger| ledger.store_bytes.load(Relaxed)),
    );
}

#[cfg(test)]
pub(crate) mod tests;
