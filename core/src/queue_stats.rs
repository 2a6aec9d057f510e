//! `QueueStats` is the part of a lane that all threads share: live counters, measured times, the metrics of
//! each io thread and, with a pinned scheduler, the lane's ring. The comments of the fields name the writers.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::capacity::Capacity;
use crate::limits::{
    CALL_OVERHEAD_BYTES, CALLS_PER_IO_THREAD_MAX, IO_THREADS_MAX, LANE_RING_DEPTH,
};
use crate::metrics::FunctionMetrics;
use crate::ring::{Consumer, Producer, channel};
use crate::ticket::{Class, Ticket};
use crate::time::{Nanos, Uptime};

type Mailbox = (Producer<Ticket>, Mutex<Option<Consumer<Ticket>>>);

const CALLS_MAX: u32 = (IO_THREADS_MAX * CALLS_PER_IO_THREAD_MAX) as u32;

/// The shortest time after which a start is overdue. If twice the measured time of starts is longer, that
/// time applies.
const OVERDUE_MIN: Nanos = Nanos::from_s(1);

/// A measured time; none before the first sample.
#[derive(Debug, Default)]
pub struct MeasuredTime(AtomicU64);

impl MeasuredTime {
    pub fn get(&self) -> Option<Nanos> {
        let ns = Some(self.0.load(Ordering::Relaxed)).filter(|ns| *ns > 0);
        ns.map(Nanos::from_ns)
    }

    /// Stores a mean time. A time of zero is stored as one nanosecond, because zero stands for none.
    pub fn set(&self, time: Option<Nanos>) {
        let ns = time.map_or(0, |time| time.as_ns().max(1));
        self.0.store(ns, Ordering::Relaxed);
    }
}

/// The part of a lane that all threads may read.
pub struct QueueStats {
    /// The numbers of waiting calls, by class. Writers: each thread that moves a call into or out of the
    /// queue.
    depths: [AtomicU32; 2],
    /// The bytes of arriving and waiting bodies. Bodies of at most 1 KiB are not counted. Writers: io
    /// threads.
    waiting_bytes: AtomicU64,
    /// The number of held slots. Writer: scheduler.
    pub running: AtomicU32,
    /// The largest number of slots that the function may have. Writer: scheduler.
    pub slots_max: AtomicU32,
    /// The number of slots that the function has now, held or free. Writer: scheduler.
    pub slots_now: AtomicU32,
    /// The mean time for which a call holds its slot. Writer: scheduler.
    pub service_time: MeasuredTime,
    /// The mean difference between a call's time and `service_time`, in nanoseconds. Writer: scheduler.
    pub(crate) service_spread_ns: AtomicU64,
    /// The mean time of a start, from the order until the pod is usable. Writer: scheduler.
    pub start_time: MeasuredTime,
    /// Since when each slot has been held, and which slots ordered pods will bring. Writer: scheduler.
    pub capacity: Capacity,
    /// The numbers of usable, starting and other pods, for the gauges. Writer: scheduler.
    pub pods: [AtomicU32; 3],
    /// The lane's ring. Io threads put tickets in, and the scheduler takes the receiving end.
    mailbox: OnceLock<Mailbox>,
    /// One item for each io thread, made when that thread first counts something for the function. Writer:
    /// that thread.
    metrics: Box<[OnceLock<Box<FunctionMetrics>>]>,
}

impl QueueStats {
    pub fn new(io_threads: usize) -> Self {
        Self {
            depths: Default::default(),
            waiting_bytes: AtomicU64::new(0),
            running: AtomicU32::new(0),
            slots_max: AtomicU32::new(0),
            slots_now: AtomicU32::new(0),
            service_time: MeasuredTime::default(),
            service_spread_ns: AtomicU64::new(0),
            start_time: MeasuredTime::default(),
            capacity: Capacity::default(),
            pods: Default::default(),
            mailbox: OnceLock::new(),
            metrics: (0..io_threads).map(|_| OnceLock::new()).collect(),
        }
    }

    pub fn depth(&self) -> u32 {
        self.depth_of(Class::Sync) + self.depth_of(Class::Async)
    }

    pub fn depth_of(&self, class: Class) -> u32 {
        self.depths[class as usize].load(Ordering::Relaxed)
    }

    /// Counts a new call among the waiting calls of its class. Returns false if `most` calls wait already.
    pub fn enter(&self, class: Class, most: u32) -> bool {
        let depth = &self.depths[class as usize];
        // The call is counted before the check, so that two threads cannot both take the last place.
        let was = depth.fetch_add(1, Ordering::Relaxed);
        if was >= most {
            depth.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Counts a call that was admitted earlier and waits again.
    pub fn reenter(&self, class: Class) {
        let was = self.depths[class as usize].fetch_add(1, Ordering::Relaxed);
        assert!(was < CALLS_MAX, "more calls wait than there can be");
    }

    /// Counts a call as no longer waiting. Only the thread that moved the call out of the queue does this.
    pub fn leave(&self, class: Class) {
        let was = self.depths[class as usize].fetch_sub(1, Ordering::Relaxed);
        assert!(was > 0, "more calls left a queue than were in it");
    }

    /// Returns whether a pod that was ordered at `wanted_at` is overdue. Such a pod may never come up.
    pub(crate) fn is_overdue(&self, wanted_at: Uptime, now: Uptime) -> bool {
        let patience = (2 * self.start_time.get().unwrap_or_default()).max(OVERDUE_MIN);
        now >= wanted_at.saturating_add(patience)
    }

    /// Returns the charge of the calls that arrive or wait: 1 KiB for each waiting call, and the bytes of the
    /// bodies that are larger than 1 KiB.
    pub fn waiting_bytes(&self) -> u64 {
        let calls = u64::from(self.depth()) * CALL_OVERHEAD_BYTES as u64;
        calls + self.waiting_bytes.load(Ordering::Relaxed)
    }

    /// Counts a body that begins to arrive or to wait.
    pub fn add_waiting(&self, bytes: u64) {
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Stops counting a body that neither arrives nor waits any more.
    pub fn sub_waiting(&self, bytes: u64) {
        let was = self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        assert!(was >= bytes, "more bytes left a queue than were in it");
    }

    fn mailbox(&self) -> &Mailbox {
        self.mailbox.get_or_init(|| {
            let (producer, consumer) = channel(LANE_RING_DEPTH);
            (producer, Mutex::new(Some(consumer)))
        })
    }

    /// Puts a ticket into the lane's ring, which the first ticket creates. A full ring returns the ticket.
    pub fn post(&self, ticket: Ticket) -> Result<(), Ticket> {
        self.mailbox().0.push(ticket)
    }

    /// Takes the receiving end of the lane's ring. Returns `None` if the ring does not exist yet or its end
    /// is already taken.
    pub fn take_mailbox(&self) -> Option<Consumer<Ticket>> {
        let (_, mailbox) = self.mailbox.get()?;
        mailbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Puts the receiving end of the lane's ring back, because the function may be registered again with the
    /// same `QueueStats`.
    pub(crate) fn return_mailbox(&self, consumer: Consumer<Ticket>) {
        if let Some((_, mailbox)) = self.mailbox.get() {
            *mailbox.lock().unwrap_or_else(PoisonError::into_inner) = Some(consumer);
        }
    }

    /// Returns the function's counters on one io thread.
    pub fn metrics(&self, thread: usize) -> &FunctionMetrics {
        self.metrics[thread].get_or_init(Default::default)
    }

    /// Returns the counters of those io threads that have counted something for the function.
    pub fn metrics_seen(&self) -> impl Iterator<Item = &FunctionMetrics> {
        self.metrics
            .iter()
            .filter_map(|metrics| metrics.get().map(|metrics| &**metrics))
    }
}
