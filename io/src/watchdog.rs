//! Stops the process where an io thread runs and gets nowhere. monoio does not tell that the kernel refuses
//! to be entered: such a thread goes round at full speed, and runs no task that could notice. This thread
//! looks once a second and never at a call. `start` starts it where io threads are on io_uring.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use nanofaas_core::metrics::ThreadLedger;
use nix::unistd::Pid;

const LOOK: Duration = Duration::from_secs(1);
/// What an io thread may compute between two beats of its ticker, which come once a second.
const FUTILE_NS: u64 = 3_000_000_000;

/// An io thread, as the watchdog sees it.
pub(crate) struct Watched {
    pub(crate) index: usize,
    pub(crate) tid: Pid,
    /// Gone with the thread: its number may be another's then.
    pub(crate) alive: Weak<()>,
    pub(crate) seen: Seen,
}

/// The processor time of a thread when its beat was last seen to change.
#[derive(Default)]
pub(crate) struct Seen {
    beat_ns: u64,
    cpu_ns: u64,
}

impl Seen {
    /// Whether so much was computed since the last beat that none will come.
    fn is_futile(&mut self, beat_ns: u64, cpu_ns: u64) -> bool {
        if beat_ns != self.beat_ns {
            *self = Self { beat_ns, cpu_ns };
        }
        // Before the first beat the thread starts, which costs little.
        cpu_ns.saturating_sub(self.cpu_ns) > FUTILE_NS
    }
}

/// Watches until all threads have ended.
pub(crate) fn start(
    mut threads: Vec<Watched>,
    ledgers: Arc<[ThreadLedger]>,
) -> std::io::Result<()> {
    let watch = move || {
        while !threads.is_empty() {
            std::thread::sleep(LOOK);
            threads.retain_mut(|one| {
                let Some(_alive) = one.alive.upgrade() else {
                    return false;
                };
                let beat_ns = ledgers[one.index].beat_ns.load(Relaxed);
                let futile = cpu_ns(one.tid).is_some_and(|cpu_ns| one.seen.is_futile(beat_ns, cpu_ns));
                assert!(
                    !futile,
                    "io-{} ran for 3 s without a beat: the kernel refuses to be entered on its ring; \
                     use --io-driver epoll",
                    one.index
                );
                true
            });
        }
    };
    std::thread::Builder::new()
        .name("io-watch".to_owned())
        .spawn(watch)
        .map(drop)
}

/// What the thread has computed so far: `utime` and `stime` of proc(5), in hundredths of a second.
fn cpu_ns(tid: Pid) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).ok()?;
    // Its name, in parentheses, may hold spaces.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * 10_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_computes_and_does_not_beat_is_told_from_one_that_sleeps() {
        let mut seen = Seen::default();
        assert!(!seen.is_futile(1, 10));
        // It sleeps, however long.
        assert!(!seen.is_futile(1, 20));
        // It works, and beats.
        assert!(!seen.is_futile(2, FUTILE_NS + 11));
        assert!(!seen.is_futile(2, 2 * FUTILE_NS));
        assert!(seen.is_futile(2, 2 * FUTILE_NS + 12));
        assert!(!seen.is_futile(3, 3 * FUTILE_NS));
    }

    #[test]
    fn what_a_thread_computes_is_seen() {
        let began = std::time::Instant::now();
        let tid = nix::unistd::gettid();
        let at_first = cpu_ns(tid).expect("it is there");
        while cpu_ns(tid).expect("it is there") == at_first {
            assert!(began.elapsed() < Duration::from_secs(60));
        }
    }
}
