//! What one io thread counts of one function, and of all calls: the ledger.
//! One writer (that thread); the management port reads. It never locks.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::histogram::{Histogram, bump};

/// A counter with one writer.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one more. Only the owning thread may call it.
    pub fn add(&self) {
        bump(&self.0, 1);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why a call was refused, as `X-Queue-Reject-Reason` and the `reason` label say it.
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

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Memory => "memory",
            Self::Depth => "depth",
            Self::EstWait => "est_wait",
        }
    }
}

/// Counters and histograms of one function on one io thread.
#[derive(Default)]
pub struct FunctionMetrics {
    pub enqueue: Counter,
    pub dispatch: Counter,
    pub success: Counter,
    pub error: Counter,
    pub timeout: Counter,
    pub retry: Counter,
    pub rejected: [Counter; 4],
    pub cold_start: Counter,
    pub warm_start: Counter,
    pub queue_wait: Histogram,
    pub start_wait: Histogram,
    pub dispatch_time: Histogram,
    pub handler: Histogram,
    pub e2e: Histogram,
}

/// What one io thread accepted and finished; with the lanes' live counters it is the ledger.
#[derive(Default)]
pub struct ThreadLedger {
    pub accepted: Counter,
    pub finished: Counter,
    /// Calls that wait between two attempts, in no lane's queue.
    pub backing_off: AtomicU64,
    /// Nanoseconds of the process's clock at which the thread last showed that it lives.
    pub beat_ns: AtomicU64,
    /// Refused before the function was known (`rate`), which no function's series can count.
    pub rejected_unknown: Counter,
    /// Finished async, keyed or `Prefer` executions dropped before their time for the byte budget.
    pub evicted: Counter,
}
