//! Stops the process if an io thread computes and makes no progress. If the kernel refuses `io_uring_enter`,
//! monoio reports no error, and the thread loops at full speed and runs no task. The watchdog checks the io
//! threads when one of them has computed for a quarter of a second, so calls do no work for these checks.
//! `start` starts the watchdog if the io threads use io_uring.

use std::sync::{Arc, Weak};
use std::time::Duration;

use nanofaas_core::doorbell::Doorbell;
use nanofaas_core::metrics::ThreadLedger;
use nanofaas_core::shard::ShardId;
use nanofaas_core::time::{Nanos, Uptime};
use nix::sys::signal::{SigEvent, SigSet, SigevNotify, Signal};
use nix::sys::time::TimeValLike;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, gettid};

/// The processor time that a thread uses between two checks.
const POLL_EVERY: Duration = Duration::from_millis(250);
/// The signal that the timers send to the watchdog's thread.
const SIGNAL: Signal = Signal::SIGVTALRM;
/// The largest processor time that an io thread may use without a beat. Each check rings the thread's bell,
/// and a thread that makes progress then beats.
const FUTILE: Nanos = Nanos::from_s(1);

/// An io thread, as the watchdog sees it.
pub(crate) struct Watched {
    pub(crate) id: ShardId,
    pub(crate) tid: Pid,
    /// This reference can be upgraded as long as the thread lives. Afterwards `tid` may be the id of another
    /// thread.
    pub(crate) alive: Weak<()>,
    pub(crate) bell: Arc<Doorbell>,
    pub(crate) seen: LastSeen,
}

/// A thread's last beat, as the watchdog saw it, and the processor time that the thread had used when the
/// watchdog first saw this beat.
#[derive(Default)]
pub(crate) struct LastSeen {
    beat_at: Uptime,
    cpu_time: Nanos,
}

impl LastSeen {
    fn update(&mut self, beat_at: Uptime, cpu_time: Nanos) {
        if beat_at != self.beat_at {
            *self = Self { beat_at, cpu_time };
        }
    }

    /// Returns whether the thread has used more than `FUTILE` of processor time since the watchdog first saw
    /// the thread's last beat. A thread that makes progress beats more often.
    fn is_futile(&self, cpu_time: Nanos) -> bool {
        // Before the first beat `self.cpu_time` is 0. That is accurate enough, because the start takes little
        // processor time.
        cpu_time.saturating_sub(self.cpu_time) > FUTILE
    }
}

/// Starts the watchdog's thread, which runs as long as an io thread lives.
pub(crate) fn start(
    mut threads: Vec<Watched>,
    ledgers: Arc<[ThreadLedger]>,
) -> std::io::Result<()> {
    let watch = move || {
        let alarms = CpuAlarms::set(&threads);
        while !threads.is_empty() {
            alarms.wait();
            threads.retain_mut(|one| {
                let Some(_alive) = one.alive.upgrade() else {
                    return false;
                };
                let beat_at = ledgers[one.id.index()].beat.last();
                let futile = cpu_time(one.tid).is_some_and(|cpu_time| {
                    one.seen.update(beat_at, cpu_time);
                    one.seen.is_futile(cpu_time)
                });
                assert!(
                    !futile,
                    "{} computed for 1 s and began nothing: the kernel refuses to be entered on its ring; \
                     use --io-driver epoll",
                    one.id
                );
                // A thread that makes progress beats when its bell rings.
                one.bell.ring();
                true
            });
        }
    };
    std::thread::Builder::new()
        .name("io-watch".to_owned())
        .spawn(watch)
        .map(drop)
}

/// What wakes the watchdog: a timer on the processor time of each io thread, so that the watchdog sleeps
/// while the io threads sleep. If the system has no such timers, the watchdog wakes every `POLL_EVERY` of
/// real time.
struct CpuAlarms {
    signals: SigSet,
    timers: Option<Vec<Timer>>,
}

impl CpuAlarms {
    fn set(threads: &[Watched]) -> Self {
        let mut signals = SigSet::empty();
        signals.add(SIGNAL);
        let blocked = signals.thread_block();
        let watch = gettid();
        let timer = |one: &Watched| {
            let to = SigevNotify::SigevThreadId {
                signal: SIGNAL,
                thread_id: watch.as_raw(),
                si_value: 0,
            };
            let mut timer = Timer::new(clock_of(one.tid), SigEvent::new(to))?;
            timer.set(
                Expiration::Interval(POLL_EVERY.into()),
                TimerSetTimeFlags::empty(),
            )?;
            Ok(timer)
        };
        let timers = blocked.and_then(|()| threads.iter().map(timer).collect());
        Self {
            signals,
            timers: timers.ok(),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the watchdog's own thread")]
    fn wait(&self) {
        if self.timers.is_none() || self.signals.wait().is_err() {
            std::thread::sleep(POLL_EVERY);
        }
    }
}

/// Returns the clock of a thread's processor time. Its number is made of the thread's id and of
/// `CPUCLOCK_SCHED` for one thread, as in the kernel.
fn clock_of(tid: Pid) -> ClockId {
    ClockId::from_raw((!tid.as_raw() << 3) | 6)
}

/// Returns the processor time that the thread has used. This function must not allocate, because the
/// allocation test counts the allocations of all threads as allocations of warm calls.
fn cpu_time(tid: Pid) -> Option<Nanos> {
    let time = clock_gettime(clock_of(tid)).ok()?;
    let ns = u64::try_from(time.num_nanoseconds()).ok()?;
    Some(Nanos::from_ns(ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_computing_thread_differs_from_a_sleeping_one() {
        let mut seen = LastSeen::default();
        let mut is_futile = |beat_at, cpu_time| {
            seen.update(Uptime::from_ns(beat_at), cpu_time);
            seen.is_futile(cpu_time)
        };
        let ns = Nanos::from_ns;
        assert!(!is_futile(1, ns(10)));
        // A thread that sleeps is not futile, however long it sleeps.
        assert!(!is_futile(1, ns(20)));
        // A thread that works and beats is not futile.
        assert!(!is_futile(2, FUTILE + ns(11)));
        assert!(!is_futile(2, 2 * FUTILE));
        assert!(is_futile(2, 2 * FUTILE + ns(12)));
        assert!(!is_futile(3, 3 * FUTILE));
    }

    #[test]
    fn what_a_thread_computes_is_seen() {
        let began = std::time::Instant::now();
        let tid = gettid();
        let at_first = cpu_time(tid).expect("it is there");
        while cpu_time(tid).expect("it is there") == at_first {
            assert!(began.elapsed() < Duration::from_secs(60));
        }
    }
}
