//! Keeps the state words of calls: one for each call that an io thread may hold. The thread that moves a word
//! out of QUEUED decides whether the call runs or leaves the queue. The word does not show why a call left
//! the queue; the io thread that owns the call knows the reason. Writers: the owner, and the scheduler when
//! it grants.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::CALLS_PER_IO_THREAD_MAX;
use crate::ticket::CallId;

const FREE: u64 = 0;
const QUEUED: u64 = 1;
const GRANTED: u64 = 2;
const LEFT: u64 = 3;
const STATE_BITS: u32 = 8;
const STATE_MASK: u64 = (1 << STATE_BITS) - 1;

/// The state words of all io threads.
pub struct Entries {
    threads: Box<[Box<[AtomicU64]>]>,
}

const fn word(generation: u32, state: u64) -> u64 {
    (generation as u64) << STATE_BITS | state
}

impl Entries {
    pub fn new(threads: usize) -> Self {
        let table = || {
            (0..CALLS_PER_IO_THREAD_MAX)
                .map(|_| AtomicU64::new(FREE))
                .collect()
        };
        Self {
            threads: (0..threads).map(|_| table()).collect(),
        }
    }

    fn at(&self, call: CallId) -> &AtomicU64 {
        &self.threads[call.shard.index()][call.index as usize]
    }

    /// Marks a call as queued: a new call, or a call that waits for another attempt. Only the owner calls
    /// this.
    pub fn queue(&self, call: CallId) {
        // The load is Relaxed, because the word is not QUEUED: only its owner writes it, and the owner is
        // this thread.
        let was = self.at(call).load(Ordering::Relaxed);
        assert!(
            was & STATE_MASK != QUEUED,
            "a call was queued twice: {call:?}"
        );
        // Release: pairs with the Acquire of the exchange in `leave_queue`. The transfer of the ticket to the
        // scheduler would also order this store before that exchange.
        self.at(call)
            .store(word(call.generation, QUEUED), Ordering::Release);
    }

    fn leave_queue(&self, call: CallId, to: u64) -> bool {
        let from = word(call.generation, QUEUED);
        let to = word(call.generation, to);
        let order = (Ordering::AcqRel, Ordering::Acquire);
        self.at(call)
            .compare_exchange(from, to, order.0, order.1)
            .is_ok()
    }

    /// Marks a call as granted. Returns false if the call no longer waits. Only the scheduler calls this.
    pub fn grant(&self, call: CallId) -> bool {
        self.leave_queue(call, GRANTED)
    }

    /// Takes a call out of the queue, for example because it expired or was cancelled. Returns false if the
    /// scheduler granted the call first. Only the owner calls this.
    pub fn leave(&self, call: CallId) -> bool {
        self.leave_queue(call, LEFT)
    }

    /// Returns whether the call still waits. True is only a hint, because another thread may change the word
    /// right after this load. The exchange in `grant` or `leave` decides.
    pub fn is_queued(&self, call: CallId) -> bool {
        self.at(call).load(Ordering::Acquire) == word(call.generation, QUEUED)
    }

    /// Frees the entry, so that another call may use it. Only the owner calls this.
    pub fn free(&self, call: CallId) {
        let was = self
            .at(call)
            .swap(word(call.generation, FREE), Ordering::AcqRel);
        assert!(
            was != word(call.generation, QUEUED),
            "a queued call was dropped: {call:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::ShardId;

    const CALL: CallId = CallId {
        index: 3,
        generation: 1,
        shard: ShardId::new(0),
    };

    #[test]
    fn a_call_is_queued_anew_after_its_grant() {
        let entries = Entries::new(1);
        entries.queue(CALL);
        assert!(entries.is_queued(CALL) && entries.grant(CALL));
        assert!(!entries.leave(CALL), "the grant came first");
        entries.queue(CALL);
        assert!(entries.leave(CALL) && !entries.grant(CALL));
        entries.free(CALL);
    }

    #[test]
    #[should_panic(expected = "a call was queued twice")]
    fn a_call_that_waits_is_not_queued_again() {
        let entries = Entries::new(1);
        entries.queue(CALL);
        entries.queue(CallId {
            generation: 2,
            ..CALL
        });
    }
}
