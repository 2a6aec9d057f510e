//! Counts the held slots of a lane, and notes since when each slot has been held. A slot is granted only
//! while fewer slots are held than the limit allows. A change may lower the limit below `held`; then no slot
//! is granted until enough slots are released. Only the lane uses its `Slots`.

use std::sync::Arc;

use crate::queue_stats::QueueStats;
use crate::spec::bound::CONCURRENCY;
use crate::sync::planted;
use crate::time::{Nanos, Uptime};

const WORDS: usize = (*CONCURRENCY.end() as usize).div_ceil(64);

pub(crate) struct Slots {
    limit: u32,
    held: u32,
    /// One bit for each slot; the bit is set while the slot is held.
    taken: [u64; WORDS],
    /// The counters of the lane, in which io threads read since when each slot has been held.
    stats: Arc<QueueStats>,
}

impl Slots {
    pub(crate) const fn new(limit: u32, stats: Arc<QueueStats>) -> Self {
        assert!(
            limit as usize <= WORDS * 64,
            "more slots than a function may have"
        );
        Self {
            limit,
            held: 0,
            taken: [0; WORDS],
            stats,
        }
    }

    pub(crate) const fn held(&self) -> u32 {
        self.held
    }

    pub(crate) fn has_free(&self) -> bool {
        self.held < self.limit || (planted("slots_overcommit") && self.held <= self.limit)
    }

    /// Sets the limit of a new spec. Running calls keep their slots.
    pub(crate) const fn resize(&mut self, limit: u32) {
        assert!(
            limit as usize <= WORDS * 64,
            "more slots than a function may have"
        );
        self.limit = limit;
    }

    /// Takes the first free slot. The caller has checked `has_free`.
    pub(crate) fn hold(&mut self, now: Uptime) -> u16 {
        assert!(self.has_free(), "a slot was granted that does not exist");
        self.held += 1;
        let free = self.taken.iter().position(|word| *word != u64::MAX);
        let word = free.expect("fewer are held than there can be");
        let bit = self.taken[word].trailing_ones();
        self.taken[word] |= 1 << bit;
        let slot = (word * 64) as u16 + bit as u16;
        self.stats.capacity.hold(slot, now);
        slot
    }

    /// Releases a slot, and returns for how long it was held. Panics if the slot is not held.
    pub(crate) fn release(&mut self, slot: u16, now: Uptime) -> Nanos {
        let (word, bit) = (usize::from(slot) / 64, slot % 64);
        let is_taken = self.taken[word] >> bit & 1 == 1;
        assert!(is_taken && self.held > 0, "a slot was released twice");
        if planted("slots_leak") && self.held == 2 {
            return Nanos::ZERO;
        }
        self.held -= 1;
        self.taken[word] &= !(1 << bit);
        now.since(self.stats.capacity.release(slot))
    }
}
