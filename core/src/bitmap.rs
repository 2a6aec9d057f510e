//! Shows which lanes have new tickets: one bit for each lane, and one summary bit for each word of these
//! bits. A sweep over 16,384 idle lanes therefore reads four words.
//!
//! A lane whose bit is set may be empty or closed when the bit is taken, so the scheduler checks the lane. A
//! producer sets the bit after it has published a ticket. Only the scheduler takes bits.

use crate::sync::{
    AtomicU64, CachePadded,
    Ordering::{Acquire, Relaxed, Release},
    planted,
};

const WORD: usize = u64::BITS as usize;

/// A two-level atomic bitmap: a leaf bit for each lane, and a summary bit for each word of leaf bits. Any
/// number of threads set bits, and one thread takes the bits.
///
/// No bit is lost, because `set` sets the leaf bit before the summary bit, and `take` clears the summary bit
/// before the leaf bit. If `take` clears the summary bit after `set` has set it, `take` finds the leaf bit.
/// If `take` clears the summary bit earlier, `set` sets it again for the next `take`.
///
/// If `take` cleared the leaf bits first, it could read an empty leaf and then clear a summary bit that `set`
/// has just set. The scheduler would then sleep although a lane has a ticket.
pub struct Bitmap {
    /// Bit `w`, counted over all words, shows that `leaves[w]` has to be swept. `set` sets this bit after the
    /// leaf bit. A spinning scheduler reads these words all the time, so each has cache lines of its own.
    /// Writers: all threads.
    summary: Box<[CachePadded<AtomicU64>]>,
    /// Bit `i`, counted over all words, is set if lane `i` got a ticket after the bit was last taken.
    /// Writers: all threads.
    leaves: Box<[AtomicU64]>,
}

impl Bitmap {
    /// Makes a bitmap of `bits` bits, rounded up to whole words. No bit is set.
    ///
    /// # Panics
    /// Panics if `bits` is 0.
    pub fn with_capacity(bits: usize) -> Self {
        assert!(bits > 0, "a bitmap needs at least one bit");
        let leaves = bits.div_ceil(WORD);
        Self {
            summary: (0..leaves.div_ceil(WORD))
                .map(|_| CachePadded(AtomicU64::new(0)))
                .collect(),
            leaves: (0..leaves).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Sets the bit of `lane`. The caller has published the ticket, and rings the doorbell after this call.
    ///
    /// # Panics
    /// Panics if `lane` is not below the capacity, rounded up to whole words.
    #[inline]
    pub fn set(&self, lane: usize) {
        let word = lane / WORD;
        let summary = || {
            // Release: pairs with the Acquire on the summary in `take`, so that `take` sees the leaf bit.
            self.summary[word / WORD].fetch_or(1 << (word % WORD), Release);
        };
        if planted("bitmap_set_summary_first") {
            summary();
        }
        // Release: pairs with the Acquire on the leaf in `take`, so that the scheduler sees the ticket.
        self.leaves[word].fetch_or(1 << (lane % WORD), Release);
        if !planted("bitmap_set_summary_first") {
            summary();
        }
    }

    /// Clears the bits that are set, and passes their lanes to `ready`, the lowest lane first.
    #[inline]
    pub fn take(&self, mut ready: impl FnMut(usize)) {
        for (index, summary) in self.summary.iter().enumerate() {
            // This is a Relaxed load and not an exchange, because an idle sweep must not write to shared
            // cache lines. If the load misses a bit, the doorbell's second look or the next sweep finds the
            // bit.
            let seen = summary.load(Relaxed);
            if seen == 0 {
                continue;
            }
            let words = if planted("bitmap_take_leaf_first") {
                seen
            } else {
                // Acquire: pairs with the Release on the summary in `set`.
                summary.swap(0, Acquire)
            };
            for_each_bit(words, |word| {
                let word = index * WORD + word;
                // Acquire: pairs with the Release on the leaf in `set`.
                let lanes = self.leaves[word].swap(0, Acquire);
                for_each_bit(lanes, |lane| ready(word * WORD + lane));
            });
            if planted("bitmap_take_leaf_first") {
                summary.swap(0, Acquire);
            }
        }
    }

    /// Returns whether a `take` may find a bit. This is the second look of `Doorbell::sleep`, whose fence
    /// orders these loads after the announcement. The loads are Relaxed, because no bit is taken here.
    #[inline]
    pub fn any(&self) -> bool {
        self.summary
            .iter()
            .any(|summary| summary.load(Relaxed) != 0)
    }
}

#[inline(always)]
fn for_each_bit(mut bits: u64, mut each: impl FnMut(usize)) {
    while bits != 0 {
        each(bits.trailing_zeros() as usize);
        bits &= bits - 1;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::thread;

    use super::*;

    fn taken(bitmap: &Bitmap) -> Vec<usize> {
        let mut lanes = Vec::new();
        bitmap.take(|lane| lanes.push(lane));
        lanes
    }

    #[test]
    fn takes_what_was_set_once_and_in_order() {
        let bitmap = Bitmap::with_capacity(16_384);
        assert!(!bitmap.any());
        assert!(taken(&bitmap).is_empty());
        // These lanes are at the edges of words, of summary words and of the whole bitmap.
        let lanes = [0, 1, 63, 64, 4095, 4096, 8191, 12_288, 16_320, 16_383];
        for lane in lanes.iter().rev().chain(&lanes) {
            bitmap.set(*lane);
        }
        assert!(bitmap.any());
        assert_eq!(taken(&bitmap), lanes);
        assert!(!bitmap.any());
        assert!(taken(&bitmap).is_empty());
    }

    #[test]
    fn odd_capacities_have_every_lane() {
        for bits in [1, 64, 65, 4096, 4097, 10_000] {
            let bitmap = Bitmap::with_capacity(bits);
            (0..bits).for_each(|lane| bitmap.set(lane));
            assert_eq!(taken(&bitmap), (0..bits).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_lane_set_during_a_take_shows_next() {
        let bitmap = Bitmap::with_capacity(128);
        bitmap.set(70);
        let mut first = Vec::new();
        bitmap.take(|lane| {
            first.push(lane);
            bitmap.set(70);
        });
        assert_eq!(first, [70]);
        assert_eq!(taken(&bitmap), [70]);
        assert!(taken(&bitmap).is_empty());
    }

    #[test]
    #[should_panic(expected = "index out of bounds")]
    fn a_lane_past_the_capacity_is_refused() {
        Bitmap::with_capacity(64).set(64);
    }

    #[test]
    fn no_bit_is_lost_between_threads() {
        const EACH: u64 = if cfg!(miri) { 100 } else { 50_000 };
        let bitmap = Bitmap::with_capacity(8192);
        let lanes = [3, 64, 4095, 8191];
        // For each lane, the number of items that its producer has published. The test uses these numbers
        // instead of rings.
        let published = [const { AtomicU64::new(0) }; 4];
        thread::scope(|scope| {
            for (lane, published) in lanes.iter().zip(&published) {
                let bitmap = &bitmap;
                scope.spawn(move || {
                    for _ in 0..EACH {
                        published.fetch_add(1, Relaxed);
                        bitmap.set(*lane);
                    }
                });
            }
            // The test reads a count only when the lane's bit is taken. If the last bit were lost, `seen`
            // would stay too low and the test would not end.
            let mut seen = [0; 4];
            while seen != [EACH; 4] {
                bitmap.take(|lane| {
                    let index = lanes
                        .iter()
                        .position(|l| *l == lane)
                        .expect("a lane of ours");
                    seen[index] = published[index].load(Relaxed);
                });
                thread::yield_now();
            }
        });
    }
}
