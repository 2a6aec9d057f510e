//! A `RateBucket` is the token bucket by which admission limits the calls of all io threads. It is one atomic
//! word without a lock, and reads no clock. The algorithm is GCRA: the word is the time at which the bucket
//! would be full again without further calls.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::time::{Nanos, Uptime};

/// How many calls may begin in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimit {
    Off,
    /// The number of calls that may begin in a second. After a second without calls, as many calls may begin
    /// at once. 0 refuses all calls.
    PerSecond(u32),
}

pub struct RateBucket {
    limit: RateLimit,
    full_at_ns: AtomicU64,
}

impl RateBucket {
    pub const fn new(limit: RateLimit) -> Self {
        Self {
            limit,
            full_at_ns: AtomicU64::new(0),
        }
    }

    /// Takes a token, or returns how long it takes until the next token exists.
    pub fn take(&self, now: Uptime) -> Result<(), Nanos> {
        let per_second = match self.limit {
            RateLimit::Off => return Ok(()),
            RateLimit::PerSecond(0) => return Err(Nanos::SECOND),
            RateLimit::PerSecond(n) => u64::from(n),
        };
        let second_ns = Nanos::SECOND.as_ns();
        let token_ns = second_ns.div_ceil(per_second);
        let most_ns = second_ns.max(token_ns);
        let now_ns = now.as_ns();
        let mut seen = self.full_at_ns.load(Ordering::Relaxed);
        loop {
            let next = seen.max(now_ns) + token_ns;
            if next - now_ns > most_ns {
                return Err(Nanos::from_ns(next - now_ns - most_ns));
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

    fn at_ms(ms: u64) -> Uptime {
        Uptime::ZERO + Nanos::from_ms(ms)
    }

    #[test]
    fn one_second_of_tokens_then_one_by_one() {
        let bucket = RateBucket::new(RateLimit::PerSecond(10));
        let taken = (0..20).filter(|_| bucket.take(at_ms(5000)).is_ok()).count();
        assert_eq!(taken, 10);
        assert_eq!(bucket.take(at_ms(5000)), Err(Nanos::from_ms(100)));
        assert!(bucket.take(at_ms(5100)).is_ok());
        assert!(bucket.take(at_ms(5100)).is_err());
    }

    #[test]
    fn zero_refuses_all_and_off_none() {
        assert!(
            RateBucket::new(RateLimit::PerSecond(0))
                .take(at_ms(9))
                .is_err()
        );
        let off = RateBucket::new(RateLimit::Off);
        assert!((0..10_000).all(|_| off.take(Uptime::ZERO).is_ok()));
    }

    #[test]
    fn a_clock_stepping_back_does_not_refuse_forever() {
        let bucket = RateBucket::new(RateLimit::PerSecond(1000));
        assert!(bucket.take(at_ms(100_000)).is_ok());
        assert!(bucket.take(at_ms(99_000)).is_err());
        assert!(bucket.take(at_ms(101_000)).is_ok());
    }
}
