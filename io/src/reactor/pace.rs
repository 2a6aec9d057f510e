//! How close together requests come to an io thread: the one thing that tells a thread with a single
//! caller from a busy one before it looks at its sockets. `conn` reports each, through the reactor, which
//! sends at once where little is going on.

use std::cell::Cell;

/// Above some 33,000 requests a second there is nearly always another send to make in the same pass.
const BUSY_GAP_NS: u64 = 30_000;

/// The mean time between the last requests; old gaps weigh seven eighths.
#[derive(Default)]
pub(super) struct Pace {
    last_ns: Cell<u64>,
    gap_ns: Cell<u64>,
}

impl Pace {
    /// A request came.
    pub(super) fn request(&self, now_ns: u64) {
        // A long pause counts for no more than a quiet time does.
        let gap_ns = (now_ns - self.last_ns.replace(now_ns)).min(8 * BUSY_GAP_NS);
        let mean_ns = self.gap_ns.get();
        self.gap_ns.set(mean_ns - mean_ns / 8 + gap_ns / 8);
    }

    /// Whether so many come that what goes out had better go together.
    pub(super) const fn is_busy(&self) -> bool {
        self.gap_ns.get() < BUSY_GAP_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_requests_in_a_row_make_it_busy_and_one_pause_makes_it_quiet() {
        let pace = Pace::default();
        let mut now_ns = 1_000_000_000;
        let mut come = |count: u32, gap_ns: u64| {
            for _ in 0..count {
                now_ns += gap_ns;
                pace.request(now_ns);
            }
            pace.is_busy()
        };
        assert!(!come(3, 50_000));
        assert!(come(30, 14_000));
        assert!(come(30, 25_000));
        assert!(!come(2, 10_000_000_000));
        assert!(!come(100, 45_000));
    }
}
