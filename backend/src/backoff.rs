//! Computes how long a task waits before its next try. The wait doubles with each try up to a maximum, and is
//! shortened by a random part. The task itself sleeps. Each task of a backend that retries has a `Backoff` of
//! its own.

use std::time::Duration;

use crate::random::random;

#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// Returns a random time between half of the wait and the whole wait, so that tasks do not retry
    /// together.
    pub fn wait(&mut self) -> Duration {
        let whole = self.next;
        self.next = (self.next * 2).min(self.longest);
        let share = f64::from(u32::from_ne_bytes(random())) / f64::from(u32::MAX);
        whole.mul_f64(0.5 + share / 2.0)
    }

    /// Begins again with the first wait. The task calls this after a success.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_longest_and_begin_again() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 4 * second);
        for whole in [second, 2 * second, 4 * second, 4 * second] {
            let wait = backoff.wait();
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= second);
    }
}
