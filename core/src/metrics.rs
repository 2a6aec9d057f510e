//! What one io thread counts of one function, and of all its calls: the ledger. That thread is the only
//! writer; the management port reads. There are no locks.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::beat::Beat;
use crate::histogram::{Histograms, bump};
use crate::time::{AtomicUptime, Nanos};

/// A counter with one writer.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one. Only the owning thread may call it.
    pub fn add(&self) {
        bump(&self.0, 1);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number with one writer, which goes up and down.
#[derive(Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Only the owning thread may call it.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Why a call was refused: the values of `X-Queue-Reject-Reason` and of the `reason` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum RejectReason {
    Rate = 0,
    Memory = 1,
    Depth = 2,
    EstWait = 3,
}

impl RejectReason {
    pub const ALL: [Self; 4] = [Self::Rate, Self::Memory, Self::Depth, Self::EstWait];

    /// The name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Memory => "memory",
            Self::Depth => "depth",
            Self::EstWait => "est_wait",
        }
    }
}

/// The times of a call. Every call has all of them except the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum CallTime {
    QueueWait = 0,
    Dispatch = 1,
    Handler = 2,
    E2e = 3,
    StartWait = 4,
}

impl CallTime {
    pub const COUNT: usize = 5;
}

/// Counters and histograms of one function on one io thread. The first cache line holds everything that a
/// successful warm call counts, and the sums of its times.
#[derive(Default)]
#[repr(C, align(64))]
pub struct FunctionMetrics {
    pub enqueue: Counter,
    pub dispatch: Counter,
    pub success: Counter,
    pub warm_start: Counter,
    pub times: Histograms<{ CallTime::COUNT }>,
    pub error: Counter,
    pub timeout: Counter,
    pub retry: Counter,
    pub cold_start: Counter,
    pub rejected: [Counter; 4],
}

impl FunctionMetrics {
    /// Counts one of a call's times. Only the owning thread may call it.
    pub fn record(&self, which: CallTime, time: Nanos) {
        self.times.record(which as usize, time);
    }
}

/// What one io thread accepted and finished. Together with the lanes' live counters it is the ledger.
#[derive(Default)]
pub struct ThreadLedger {
    pub accepted: Counter,
    pub finished: Counter,
    /// Calls that wait between two attempts, in no lane's queue.
    pub backing_off: AtomicU64,
    pub beat: Beat,
    /// Calls refused before their function was known (`rate`), so that no function's series counts them.
    pub rejected_unknown: Counter,
    /// Finished async, keyed or `Prefer` executions that were dropped early, because the store's budget was
    /// full.
    pub evicted: Counter,
    /// Bytes charged for calls on this thread (`memory`).
    pub inflight_bytes: Gauge,
    /// Answers that were not sent to their end, because their client read too slowly, or read nothing while
    /// other clients waited for memory.
    pub answers_cut: Counter,
    /// Bytes of the thread's stored executions.
    pub store_bytes: AtomicU64,
    /// When the oldest of its finished stored executions ended.
    pub oldest_kept: AtomicUptime,
}
