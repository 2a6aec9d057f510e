//! Whether a thread lives: it beats when it is asked to, so that nothing wakes it while no health check asks. Who asks
//! rings the thread's doorbell after it; the thread looks at `is_owed` before it sleeps, as it does at
//! everything that is published for it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Of one thread. Times are nanoseconds of the process's clock.
#[derive(Debug, Default)]
pub struct Beat {
    /// Writer: the thread.
    last_ns: AtomicU64,
    /// Writer: the one who asks. Relaxed: the doorbell's fences order it.
    asked_ns: AtomicU64,
}

impl Beat {
    /// The thread lives.
    pub fn beat(&self, now_ns: u64) {
        self.last_ns.store(now_ns, Relaxed);
    }

    pub fn last_ns(&self) -> u64 {
        self.last_ns.load(Relaxed)
    }

    /// Whether it was asked and has not beaten since.
    pub fn is_owed(&self) -> bool {
        self.asked_ns.load(Relaxed) > self.last_ns()
    }

    /// Asks, unless an earlier question is open; for how long that has been.
    pub fn ask(&self, now_ns: u64) -> u64 {
        if self.is_owed() {
            return now_ns.saturating_sub(self.asked_ns.load(Relaxed));
        }
        self.asked_ns.store(now_ns, Relaxed);
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_open_until_the_next_beat() {
        let beat = Beat::default();
        assert!(!beat.is_owed(), "nobody asked");
        assert_eq!((beat.ask(10), beat.is_owed()), (0, true));
        assert_eq!(beat.ask(25), 15);
        beat.beat(9);
        assert!(beat.is_owed(), "that was before the question");
        beat.beat(26);
        assert!(!beat.is_owed());
        assert_eq!((beat.ask(40), beat.ask(41)), (0, 1));
    }
}
