//! Shows which lanes have tickets: one bit for each lane, and one summary bit for each word of these bits. A
//! sweep over 16,384 idle lanes therefore reads four words.
//!
//! The bitmap does not know what a lane holds. A lane whose bit is set may be empty or closed by now, so the
//! scheduler checks each lane whose bit it takes. Producers set a bit after they have published the ticket;
//! only the scheduler takes bits.

use crate::sync::{
    AtomicU64, CachePadded,
    Ordering::{Acquire, Relaxed, Release},
    planted,
};

const WORD: usize = u64::BITS as usize;

/// A two-level atomic bitmap; any number of threads set bits, one thread takes them.
///
/// No bit is lost, because `set` writes the leaf and then the summary, while `take` reads the summary and
/// then the leaf. Both change a summary word by a read-modify-write operation, so one of the two operations
/// comes first. If the operation of `set` comes first, the `take` that clears the summary bit sees the leaf
/// bit and takes it. If the operation of `take` comes first, the summary bit stays for the next `take`. With
/// the opposite order `take` could read an empty leaf and then clear a summary bit that `set` has just set: a
/// lost wake-up.
pub struct Bitmap {
    /// Bit `w`, counted over all words, is set if `leaves[w]` may hold a bit. Writers: all threads. Each word
    /// has its own cache line, because a spinning scheduler reads these words all the time.
    summary: Box<[CachePadded<AtomicU64>]>,
    /// Bit `i`, counted over all words, is set if lane `i` got a ticket since this bit was last taken.
    /// Writers: all threads.
    leaves: Box<[AtomicU64]>,
}

impl Bitmap {
    /// A bitmap of `bits` bits, rounded up to whole words, none set.
    ///
    /// # Panics
    /// When `bits` is 0.
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

    /// Marks `lane`, whose ticket is already published. Ring the doorbell after this.
    ///
    /// # Panics
    /// When `lane` is not below the capacity.
    #[inline]
    pub fn set(&self, lane: usize) {
        let word = lane / WORD;
        let summary = || {
            // Release: pairs with the Acquire on the summary in `take`, which then sees the leaf bit.
            self.summary[word / WORD].fetch_or(1 << (word % WORD), Release);
        };
        if planted("bitmap_set_summary_first") {
            summary();
        }
        // Release: pairs with the Acquire on the leaf in `take`, which then sees the ticket.
        self.leaves[word].fetch_or(1 << (lane % WORD), Release);
        if !planted("bitmap_set_summary_first") {
            summary();
        }
    }

    /// Clears every bit that is set and passes its lane to `ready`, lowest first.
    #[inline]
    pub fn take(&self, mut ready: impl FnMut(usize)) {
        for (index, summary) in self.summary.iter().enumerate() {
            // This is a Relaxed load and not an exchange, because an idle sweep must not write to shared
            // cache lines. If this load misses a bit, the doorbell's second look or the next sweep finds it.
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

    /// Whether a `take` may find a bit. `Doorbell::sleep` uses this for its second look. Relaxed, because no
    /// bit is taken here, and the fence in `Doorbell::sleep` orders this load after the announcement.
    #[inline]
    pub fn any(&self) -> bool {
        self.summary
            .iter()
            .any(|summary| summary.load(Relaxed) != 0)
    }
}

/// Calls `each` with the index of every set bit, lowest first.
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
        // Items that a lane's producer has published; stands for the lane's ring.
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
            // The test reads a count only when its bit is taken. If the last bit were lost, `seen` would stay
            // too low for ever.
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
