//! The process's clock, as one io thread reads it. The clock never runs backwards. `now` reads it, for
//! measurements. `recent` returns the last reading, which suffices for deadlines of seconds.

use std::cell::Cell;
use std::time::Instant;

use nanofaas_core::time::Uptime;
use nix::time::{ClockId, clock_gettime};

pub(crate) struct Clock {
    /// The origin of the process's clock, as a time of the system's monotonic clock.
    origin_ns: u64,
    read_at: Cell<Uptime>,
}

impl Clock {
    pub(crate) fn since(origin: Instant) -> Self {
        // Each result is too early by the time between its two readings, so the latest of the results is the
        // most exact one.
        let origin_ns = (0..8)
            .map(|_| monotonic_ns() - elapsed_ns(origin))
            .max()
            .expect("eight readings");
        Self {
            origin_ns,
            read_at: Cell::new(Uptime::from_ns(monotonic_ns() - origin_ns)),
        }
    }

    #[inline]
    pub(crate) fn now(&self) -> Uptime {
        let now = Uptime::from_ns(monotonic_ns() - self.origin_ns);
        self.read_at.set(now);
        now
    }

    pub(crate) const fn recent(&self) -> Uptime {
        self.read_at.get()
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn elapsed_ns(origin: Instant) -> u64 {
    origin.elapsed().as_nanos().try_into().unwrap_or(u64::MAX)
}

/// Returns the time of the system's monotonic clock in nanoseconds. An `Instant` reads the same clock, but
/// subtracts seconds and nanoseconds separately, which costs more.
#[inline]
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the system has a monotonic clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn it_agrees_with_the_standard_librarys() {
        let origin = Instant::now();
        let clock = Clock::since(origin);
        std::thread::sleep(Duration::from_millis(2));
        let before = elapsed_ns(origin);
        let now = clock.now().as_ns();
        let after = elapsed_ns(origin);
        // The readings may be up to a second apart, because the machine may be busy between them.
        let apart = Duration::from_secs(1).as_nanos() as u64;
        assert!(
            now + apart >= before && now <= after + apart,
            "{before} {now} {after}"
        );
        assert_eq!(clock.recent().as_ns(), now);
    }
}
