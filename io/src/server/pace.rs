//! Whether bytes come, or are taken, as fast as they have to: 16 KiB a second, over every 60 s from the
//! first byte. It has no clock; `client_conn` asks it about bodies and answers.

const WINDOW_NS: u64 = 60_000_000_000;
const BYTES_PER_WINDOW: u64 = 60 * 16 * 1024;

pub(crate) struct Pace {
    /// When the window began, and what had moved by then.
    since_ns: u64,
    moved: u64,
}

impl Pace {
    pub(crate) const fn begin(now_ns: u64, moved: u64) -> Self {
        Self {
            since_ns: now_ns,
            moved,
        }
    }

    /// When it is judged next.
    pub(crate) const fn due_ns(&self) -> u64 {
        self.since_ns + WINDOW_NS
    }

    /// Whether the pace was kept in the window that is over; another one begins. `moved` counts from the
    /// beginning.
    pub(crate) const fn judge(&mut self, now_ns: u64, moved: u64) -> bool {
        let kept = moved - self.moved >= BYTES_PER_WINDOW;
        *self = Self::begin(now_ns, moved);
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a client that moves so many bytes a second is waited for, up to ten minutes.
    fn lasts_s(bytes_per_s: u64) -> u64 {
        let mut pace = Pace::begin(5, 0);
        for second in 1..=600 {
            let now_ns = 5 + second * 1_000_000_000;
            if now_ns >= pace.due_ns() && !pace.judge(now_ns, second * bytes_per_s) {
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
    fn who_stops_is_judged_by_the_window_in_which_that_was() {
        let mut pace = Pace::begin(0, 0);
        assert!(pace.judge(pace.due_ns(), 100 << 20));
        assert!(!pace.judge(pace.due_ns(), 100 << 20));
    }
}
