//! Counts the operations of a run and the ends of its calls, and records faults. A run with few kinds of
//! events proves nothing, so all forms together must contain every kind of operation and every kind of end.
//! All parts of a run add to the tally.

use std::collections::BTreeMap;
use std::sync::Mutex;

use nanofaas_testkit::wait::lock;

/// The number of faults that are printed. Further faults are only counted.
const SHOWN: usize = 12;

/// The events that the runs of all forms together must contain.
const RICH: &[&str] = &[
    "change register",
    "change replace",
    "change remove",
    "change scale",
    "change refused",
    "call invoke",
    "call enqueue",
    "call keyed",
    "call prefer-async",
    "call prefer-wait",
    "call raw",
    "leave in-request",
    "leave waiting",
    "leave half-closed",
    "step cancel",
    "step status",
    "step output",
    "step show",
    "kill",
    "cancel taken",
    "received WARM",
    "received JOB",
    "received POOL",
    "received again",
    "replay",
    "end LOCAL",
    "end success",
    "end CHAOS",
    "end POD_LOST",
    "end POD_UNREACHABLE",
    "end BAD_OUTPUT",
    "end COLD_START_FAILED",
    "end TIMEOUT",
    "end CANCELLED",
    "end FUNCTION_REMOVED",
    "answer 202",
    "answer 404",
    "answer 422",
    "answer 429",
];

#[derive(Default)]
pub(crate) struct Tally {
    counts: Mutex<BTreeMap<String, u64>>,
    faults: Mutex<Vec<String>>,
}

impl Tally {
    pub(crate) fn count(&self, what: &str) {
        let mut counts = lock(&self.counts);
        if let Some(count) = counts.get_mut(what) {
            *count += 1;
        } else {
            counts.insert(what.to_owned(), 1);
        }
    }

    pub(crate) fn of(&self, what: &str) -> u64 {
        lock(&self.counts).get(what).copied().unwrap_or(0)
    }

    pub(crate) fn wrong(&self, what: String) {
        lock(&self.faults).push(what);
    }

    pub(crate) fn check(&self, result: Result<(), String>) {
        if let Err(what) = result {
            self.wrong(what);
        }
    }

    pub(crate) fn wrongs(&self) -> usize {
        lock(&self.faults).len()
    }

    pub(crate) fn print_wrongs(&self, form: &str) {
        let faults = lock(&self.faults);
        for fault in faults.iter().take(SHOWN) {
            println!("WRONG [{form}] {fault}");
        }
        if faults.len() > SHOWN {
            println!("WRONG [{form}] and {} more", faults.len() - SHOWN);
        }
    }

    pub(crate) fn add(&self, other: &Self) {
        let mut counts = lock(&self.counts);
        for (what, count) in lock(&other.counts).iter() {
            *counts.entry(what.clone()).or_default() += count;
        }
    }

    pub(crate) fn print(&self) {
        for (what, count) in lock(&self.counts).iter() {
            println!("  {count:>8} {what}");
        }
    }

    /// Returns the required events that did not occur.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        RICH.iter()
            .copied()
            .filter(|what| self.of(what) == 0)
            .collect()
    }
}
