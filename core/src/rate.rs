//! The plane's token bucket: one for all io threads, a single word, no lock (GCRA: the word is the
//! time at which the bucket would be full again). It never looks at a clock. Admission calls it.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many calls may begin a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimit {
    Off,
    /// Calls a second, and as many at once after a quiet second; 0 refuses all.
    PerSecond(u32),
}

/// A token bucket.
pub struct RateBucket {
    limit: RateLimit,
    full_at_ns: AtomicU64,
}

const SECOND_NS: u64 = 1_000_000_000;

impl RateBucket {
    pub const fn new(limit: RateLimit) -> Self {
        Self {
            limit,
            full_at_ns: AtomicU64::new(0),
        }
    }

    /// Takes a token, or says in how many nanoseconds there will be one.
    pub fn take(&self, now_ns: u64) -> Result<(), u64> {
        let per_second = match self.limit {
            RateLimit::Off => return Ok(()),
            RateLimit::PerSecond(0) => return Err(SECOND_NS),
            RateLimit::PerSecond(n) => u64::from(n),
        };
        let token_ns = SECOND_NS.div_ceil(per_second);
        let mut seen = self.full_at_ns.load(Ordering::Relaxed);
        loop {
            let next = seen.max(now_ns) + token_ns;
            if next - now_ns > SECOND_NS.max(token_ns) {
                return Err(next - now_ns - SECOND_NS.max(token_ns));
            }
            let order = Ordering::Relaxed;
            match self
                .full_at_ns
                .compare_exchange_weak(seen, next, order, order)
            {
                Ok(_) => return Ok(()),
                Err(now) => seen = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_tokens_at_once_then_one_at_a_time() {
        let bucket = RateBucket::new(RateLimit::PerSecond(10));
        let taken = (0..20)
            .filter(|_| bucket.take(5 * SECOND_NS).is_ok())
            .count();
        assert_eq!(taken, 10);
        assert_eq!(bucket.take(5 * SECOND_NS), Err(SECOND_NS / 10));
        assert!(bucket.take(5 * SECOND_NS + SECOND_NS / 10).is_ok());
        assert!(bucket.take(5 * SECOND_NS + SECOND_NS / 10).is_err());
    }

    #[test]
    fn zero_refuses_all_and_off_none() {
        assert!(RateBucket::new(RateLimit::PerSecond(0)).take(9).is_err());
        let off = RateBucket::new(RateLimit::Off);
        assert!((0..10_000).all(|_| off.take(0).is_ok()));
    }

    #[test]
    fn a_clock_that_steps_back_does_not_refuse_for_ever() {
        let bucket = RateBucket::new(RateLimit::PerSecond(1000));
        assert!(bucket.take(100 * SECOND_NS).is_ok());
        assert!(bucket.take(99 * SECOND_NS).is_err());
        assert!(bucket.take(101 * SECOND_NS).is_ok());
    }
}
