//! The byte budget of kept executions. It is the process's: each io thread writes what its own weigh,
//! and the sum is what counts. Past it the oldest finished execution of the process goes, which only
//! its own thread can drop; a thread that finds the budget passed learns here which one that is.
//! It drops nothing; `executions` does.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use nanofaas_core::metrics::ThreadLedger;
use nanofaas_core::shard::ShardId;
use nanofaas_core::time::Uptime;

/// What the io threads share.
pub(crate) struct Store {
    bytes_max: u64,
    ledgers: Arc<[ThreadLedger]>,
    /// By io thread: it was asked to drop its oldest, and has not looked yet.
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

/// Who is to drop an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Oldest {
    Own,
    /// That of this thread.
    Of(ShardId),
}

impl Budget {
    pub(crate) const fn new(store: Arc<Store>, thread: ShardId) -> Self {
        Self { store, thread }
    }

    fn own(&self) -> &ThreadLedger {
        &self.store.ledgers[self.thread.index()]
    }

    /// An execution of this thread weighs something else now.
    pub(crate) fn change(&self, was: u64, is: u64) {
        let held = &self.own().store_bytes;
        let now = held.load(Ordering::Relaxed) - was + is;
        held.store(now, Ordering::Relaxed);
    }

    /// When the oldest of this thread's finished executions ended.
    pub(crate) fn set_oldest(&self, finished_at: Option<Uptime>) {
        self.own().oldest_kept.set(finished_at);
    }

    /// Which execution has to go, if the budget is passed and one is over.
    pub(crate) fn passed(&self) -> Option<Oldest> {
        // Between this thread's writes and its reads: of two threads that pass the budget together, the
        // one whose fence comes second sees what both hold and what both could drop.
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
        // Of two that are as old the first thread's.
        let (_, thread) = finished.min_by_key(|(ended_at, _)| *ended_at)?;
        Some(if thread == self.thread {
            Oldest::Own
        } else {
            Oldest::Of(thread)
        })
    }

    /// Whether the thread has to be asked to drop its oldest: not where it was and has not looked yet.
    pub(crate) fn ask(&self, thread: ShardId) -> bool {
        !self.store.asked[thread.index()].swap(true, Ordering::Relaxed)
    }

    /// This thread was asked to drop its oldest; what passes the budget from now on asks anew.
    pub(crate) fn acknowledge(&self) {
        self.store.asked[self.thread.index()].store(false, Ordering::Relaxed);
    }
}
