//! Counts times in fixed buckets, whose upper bounds go from 10 µs to 60 s. One thread writes, any number of
//! threads read, and nothing locks or allocates. Counts that are usually changed together are adjacent in
//! memory, because with ten thousand functions each further cache line makes a call slower.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::time::Nanos;

/// The upper bounds of the buckets. One more bucket counts the longer times.
pub const BOUNDS: [Nanos; 21] = [
    Nanos::from_us(10),
    Nanos::from_us(25),
    Nanos::from_us(50),
    Nanos::from_us(100),
    Nanos::from_us(250),
    Nanos::from_us(500),
    Nanos::from_ms(1),
    Nanos::from_us(2500),
    Nanos::from_ms(5),
    Nanos::from_ms(10),
    Nanos::from_ms(25),
    Nanos::from_ms(50),
    Nanos::from_ms(100),
    Nanos::from_ms(250),
    Nanos::from_ms(500),
    Nanos::from_s(1),
    Nanos::from_ms(2500),
    Nanos::from_s(5),
    Nanos::from_s(10),
    Nanos::from_s(30),
    Nanos::from_s(60),
];

/// The number of buckets, including the bucket without an upper bound.
pub const BUCKETS: usize = BOUNDS.len() + 1;

/// Histograms of `N` kinds of time. A kind is named by its index.
#[repr(C)]
pub struct Histograms<const N: usize> {
    sums_ns: [AtomicU64; N],
    /// The bucket is the first index, because the times of one call are often in the same bucket and are then
    /// adjacent.
    counts: [[AtomicU64; N]; BUCKETS],
}

impl<const N: usize> Default for Histograms<N> {
    fn default() -> Self {
        let row = || std::array::from_fn(|_| AtomicU64::new(0));
        Self {
            sums_ns: row(),
            counts: std::array::from_fn(|_| row()),
        }
    }
}

/// Adds `by` to a counter. The counter has one writer, so no locked instruction is needed.
pub(crate) fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
}

impl<const N: usize> Histograms<N> {
    /// Counts one time of the kind `which`. Only the owning thread may call this.
    pub fn record(&self, which: usize, time: Nanos) {
        let at = BOUNDS.partition_point(|bound| *bound < time);
        bump(&self.counts[at][which], 1);
        bump(&self.sums_ns[which], time.as_ns());
    }

    /// Adds the counts of the kind `which` to `into`, bucket by bucket, and returns the sum of its times.
    pub fn add_to(&self, which: usize, into: &mut [u64; BUCKETS]) -> Nanos {
        for (sum, counts) in into.iter_mut().zip(&self.counts) {
            *sum += counts[which].load(Ordering::Relaxed);
        }
        Nanos::from_ns(self.sums_ns[which].load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_in_its_smallest_bucket() {
        let histograms = Histograms::<2>::default();
        for ns in [0, 10_000, 10_001, 60_000_000_000, u64::MAX / 2] {
            histograms.record(1, Nanos::from_ns(ns));
        }
        assert_eq!(histograms.add_to(0, &mut [0; BUCKETS]), Nanos::ZERO);
        let mut counts = [0; BUCKETS];
        let sum = histograms.add_to(1, &mut counts);
        assert_eq!((counts[0], counts[1]), (2, 1));
        assert_eq!((counts[BUCKETS - 2], counts[BUCKETS - 1]), (1, 1));
        let expected = 20_001 + 60_000_000_000 + u64::MAX / 2;
        assert_eq!(sum.as_ns(), expected);
    }
}
