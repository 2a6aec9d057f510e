//! The byte budget of stored executions, which limits the sum over all io threads. Each io thread writes the
//! bytes of its own executions. If the sum exceeds the budget, the execution that finished first in the whole
//! process has to be dropped. Only the thread that owns this execution can drop it; this module finds that
//! thread, and `executions` drops.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use nanofaas_core::metrics::ThreadLedger;
use nanofaas_core::shard::ShardId;
use nanofaas_core::time::Uptime;

/// The part of the store that all io threads share.
pub(crate) struct Store {
    bytes_max: u64,
    ledgers: Arc<[ThreadLedger]>,
    /// For each io thread: whether it was asked to drop its oldest finished execution and has not begun to do
    /// so.
    asked: Box<[AtomicBool]>,
}

impl Store {
    pub(crate) fn new(bytes_max: u64, ledgers: Arc<[ThreadLedger]>) -> Self {
        let asked = ledgers.iter().map(|_| AtomicBool::new(false)).collect();
        Self {
            bytes_max,
            ledgers,
            asked,
        }
    }
}

/// The store, as one io thread sees it.
pub(crate) struct Budget {
    store: Arc<Store>,
    thread: ShardId,
}

/// Which thread has the execution that has to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Oldest {
    Own,
    /// The execution is on this other thread.
    Of(ShardId),
}

impl Budget {
    pub(crate) const fn new(store: Arc<Store>, thread: ShardId) -> Self {
        Self { store, thread }
    }

    fn own(&self) -> &ThreadLedger {
        &self.store.ledgers[self.thread.index()]
    }

    /// Changes the bytes of an execution of this thread from `was` to `is`.
    pub(crate) fn change(&self, was: u64, is: u64) {
        let held = &self.own().store_bytes;
        let now = held.load(Ordering::Relaxed) - was + is;
        held.store(now, Ordering::Relaxed);
    }

    /// Sets the time at which the oldest finished execution of this thread ended.
    pub(crate) fn set_oldest(&self, finished_at: Option<Uptime>) {
        self.own().oldest_kept.set(finished_at);
    }

    /// Returns which thread has the execution that has to be dropped, if the budget is exceeded and any
    /// execution has finished.
    pub(crate) fn passed(&self) -> Option<Oldest> {
        // The fence is between this thread's writes and its reads. Of two threads that exceed the budget
        // together, the one whose fence comes second sees the bytes and the oldest executions of both.
        fence(Ordering::SeqCst);
        let ledgers = self.store.ledgers.iter();
        let held: u64 = ledgers
            .clone()
            .map(|ledger| ledger.store_bytes.load(Ordering::Relaxed))
            .sum();
        if held <= self.store.bytes_max {
            return None;
        }
        let finished = (0..)
            .map(ShardId::new)
            .zip(ledgers)
            .filter_map(|(thread, ledger)| Some((ledger.oldest_kept.get()?, thread)));
        // If two executions ended at the same time, the one of the thread with the lower number is taken.
        let (_, thread) = finished.min_by_key(|(ended_at, _)| *ended_at)?;
        Some(if thread == self.thread {
            Oldest::Own
        } else {
            Oldest::Of(thread)
        })
    }

    /// Notes that `thread` is asked to drop its oldest execution. Returns false if no request need be sent,
    /// because `thread` has not begun to act on an earlier one.
    pub(crate) fn ask(&self, thread: ShardId) -> bool {
        !self.store.asked[thread.index()].swap(true, Ordering::Relaxed)
    }

    /// Notes that this thread begins to drop its oldest execution, so that other threads can ask it again.
    pub(crate) fn acknowledge(&self) {
        self.store.asked[self.thread.index()].store(false, Ordering::Relaxed);
    }
}
