//! Whether a thread lives: it beats when it is asked to, so that nothing wakes it while no health check asks. Who asks
//! rings the thread's doorbell after it; the thread looks at `is_owed` before it sleeps, as it does at
//! everything that is published for it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::time::{Nanos, Uptime};

/// Of one thread.
#[derive(Debug, Default)]
pub struct Beat {
    /// Writer: the thread.
    last_ns: AtomicU64,
    /// Writer: the one who asks. Relaxed: the doorbell's fences order it.
    asked_ns: AtomicU64,
}

impl Beat {
    /// The thread lives.
    pub fn beat(&self, now: Uptime) {
        self.last_ns.store(now.as_ns(), Relaxed);
    }

    pub fn last(&self) -> Uptime {
        Uptime::from_ns(self.last_ns.load(Relaxed))
    }

    /// Whether it was asked and has not beaten since.
    pub fn is_owed(&self) -> bool {
        self.asked() > self.last()
    }

    /// Asks, unless an earlier question is open; for how long that has been.
    pub fn ask(&self, now: Uptime) -> Nanos {
        if self.is_owed() {
            return now.since(self.asked());
        }
        self.asked_ns.store(now.as_ns(), Relaxed);
        Nanos::ZERO
    }

    fn asked(&self) -> Uptime {
        Uptime::from_ns(self.asked_ns.load(Relaxed))
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
