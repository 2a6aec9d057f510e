//! Shows whether a thread still runs. A thread beats each time its loop runs. An idle thread sleeps and does
//! not beat, so a health check requests a beat: the check calls `ask` and then rings the thread's doorbell.
//! Before a thread sleeps, it looks for work and also reads `is_owed`, so it misses no request.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::time::{Nanos, Uptime};

/// The beat of one thread.
#[derive(Debug, Default)]
pub struct Beat {
    /// The time of the last beat. Writer: the thread.
    last_ns: AtomicU64,
    /// The time of the last request. Writer: the health check. The accesses are Relaxed, because the
    /// doorbell's fences order these accesses.
    requested_ns: AtomicU64,
}

impl Beat {
    /// Notes that the thread runs at `now`.
    pub fn beat(&self, now: Uptime) {
        self.last_ns.store(now.as_ns(), Relaxed);
    }

    pub fn last(&self) -> Uptime {
        Uptime::from_ns(self.last_ns.load(Relaxed))
    }

    /// Returns whether a beat was requested and the thread has not beaten since.
    pub fn is_owed(&self) -> bool {
        self.requested_at() > self.last()
    }

    /// Requests a beat, unless an earlier request is unanswered. Returns for how long the earlier request has
    /// been unanswered, or zero if this request is new.
    pub fn ask(&self, now: Uptime) -> Nanos {
        if self.is_owed() {
            return now.since(self.requested_at());
        }
        self.requested_ns.store(now.as_ns(), Relaxed);
        Nanos::ZERO
    }

    fn requested_at(&self) -> Uptime {
        Uptime::from_ns(self.requested_ns.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_open_until_the_next_beat() {
        let beat = Beat::default();
        let ask = |ns| beat.ask(Uptime::from_ns(ns)).as_ns();
        let beat_at = |ns| beat.beat(Uptime::from_ns(ns));
        assert!(!beat.is_owed(), "nobody asked");
        assert_eq!((ask(10), beat.is_owed()), (0, true));
        assert_eq!(ask(25), 15);
        beat_at(9);
        assert!(beat.is_owed(), "that was before the question");
        beat_at(26);
        assert!(!beat.is_owed());
        assert_eq!((ask(40), ask(41)), (0, 1));
    }
}
