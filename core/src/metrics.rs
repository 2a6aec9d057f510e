//! Defines what an io thread counts: the calls of each function, and the thread's part of the ledger, which
//! counts all its calls together. The io thread is the only writer, the management port reads, and nothing
//! locks.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::beat::Beat;
use crate::histogram::{Histograms, bump};
use crate::time::{AtomicUptime, Nanos};

/// A counter with one writer.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one. Only the owning thread may call this.
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

    /// Sets the number. Only the owning thread may call this.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Why a call was refused. The header `X-Queue-Reject-Reason` and the label `reason` have these values.
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

    /// Returns the name of the reason in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Memory => "memory",
            Self::Depth => "depth",
            Self::EstWait => "est_wait",
        }
    }
}

/// The times of a call. Each call has `QueueWait` and `E2e`. A call with an attempt has `Dispatch` and
/// `Handler`, and a call that waited for a start has `StartWait`.
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

/// The counters and histograms of one function on one io thread. The first cache line holds the counters that
/// a successful warm call changes, and the sums of its times.
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
    /// Counts one of a call's times. Only the owning thread may call this.
    pub fn record(&self, which: CallTime, time: Nanos) {
        self.times.record(which as usize, time);
    }
}

/// What one io thread accepted and finished. These numbers and the lanes' live counters are the ledger.
#[derive(Default)]
pub struct ThreadLedger {
    pub accepted: Counter,
    pub finished: Counter,
    /// Calls that wait between two attempts, in no lane's queue.
    pub backing_off: AtomicU64,
    pub beat: Beat,
    /// Calls that were refused with `rate` and named no existing function. No function's series can count
    /// such calls.
    pub rejected_unknown: Counter,
    /// Stored executions that had ended and were dropped early, because the store's budget was exceeded.
    pub evicted: Counter,
    /// The bytes that are charged on this thread (see the module `memory`).
    pub inflight_bytes: Gauge,
    /// Answers that were not sent completely. The client read too slowly, or read nothing while tasks waited
    /// for memory, or the store dropped the output meanwhile.
    pub answers_cut: Counter,
    /// The bytes of the thread's stored executions.
    pub store_bytes: AtomicU64,
    /// When the first of the thread's stored executions ended; none if none of them has ended.
    pub oldest_kept: AtomicUptime,
}
