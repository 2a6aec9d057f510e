//! Judges whether a transfer keeps the required pace: on average 16 KiB a second in each window of 60 s. It
//! has no clock; `client_conn` uses it for bodies, `sending` for answers.

use nanofaas_core::time::{Nanos, Uptime};

const WINDOW: Nanos = Nanos::from_s(60);
const BYTES_PER_WINDOW: u64 = 60 * 16 * 1024;

pub(crate) struct TransferPace {
    /// The beginning of the current window, and the bytes that had moved by then.
    since: Uptime,
    moved: u64,
}

impl TransferPace {
    pub(crate) const fn begin(now: Uptime, moved: u64) -> Self {
        Self { since: now, moved }
    }

    /// Returns the end of the current window, at which the caller has to call `judge`.
    pub(crate) fn due(&self) -> Uptime {
        self.since + WINDOW
    }

    /// Returns whether the pace was kept in the current window, and begins the next window. `moved` counts
    /// the bytes from the beginning of the transfer.
    pub(crate) const fn judge(&mut self, now: Uptime, moved: u64) -> bool {
        let kept = moved - self.moved >= BYTES_PER_WINDOW;
        *self = Self::begin(now, moved);
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns after how many seconds a transfer at this rate is judged too slow, or 600 if it keeps the pace
    /// for ten minutes.
    fn lasts_s(bytes_per_s: u64) -> u64 {
        let mut pace = TransferPace::begin(Uptime::ZERO, 0);
        for second in 1..=600 {
            let now = Uptime::ZERO + Nanos::from_s(second);
            if now >= pace.due() && !pace.judge(now, second * bytes_per_s) {
                return second;
            }
        }
        600
    }

    #[test]
    fn who_keeps_the_pace_has_all_the_time() {
        assert_eq!(lasts_s(16 * 1024), 600);
        assert_eq!(lasts_s(16 * 1024 - 1), 60);
        assert_eq!(lasts_s(0), 60);
    }

    #[test]
    fn a_stop_is_judged_by_its_own_window() {
        let mut pace = TransferPace::begin(Uptime::ZERO, 0);
        assert!(pace.judge(pace.due(), 100 << 20));
        assert!(!pace.judge(pace.due(), 100 << 20));
    }
}
