//! Wakes a sleeping thread at a given time. The timer is a descriptor, which both loops watch like any other,
//! so their wait needs no timeout. monoio's own timers fire only when the thread parks, so they cannot be
//! used. The ticker has one timer.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use super::{EventLoop, Watch};

pub(crate) struct Timer {
    fd: OwnedFd,
    watch: Watch,
    due: Cell<Option<Instant>>,
}

const ZERO: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

impl Timer {
    /// Makes a timer that is not set.
    pub(crate) fn new(event_loop: &EventLoop) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let watch = Watch::new(event_loop, fd.try_clone()?)?;
        Ok(Self {
            fd,
            watch,
            due: Cell::new(None),
        })
    }

    /// Sets the timer, in place of any earlier setting.
    #[expect(
        clippy::disallowed_methods,
        reason = "the clock that the descriptor counts by"
    )]
    pub(crate) fn set(&self, after: Duration) {
        // A zero would switch the timer off.
        let after = after.max(Duration::from_nanos(1));
        self.due.set(Instant::now().checked_add(after));
        self.settle(Timespec {
            tv_sec: after.as_secs() as i64,
            tv_nsec: i64::from(after.subsec_nanos()),
        });
    }

    /// Switches the timer off. After the timer's time has come, the descriptor stays readable until the timer
    /// is set or unset, and polls would complete again and again.
    pub(crate) fn unset(&self) {
        self.due.set(None);
        self.settle(ZERO);
    }

    fn settle(&self, it_value: Timespec) {
        let once = Itimerspec {
            it_interval: ZERO,
            it_value,
        };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once)
            .expect("a timer takes any time");
    }

    /// Is ready when the time has come, once for each setting. The caller has to set or unset the timer
    /// before it polls again.
    #[expect(
        clippy::disallowed_methods,
        reason = "the clock that the descriptor counts by"
    )]
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        while self.watch.poll_readable(cx).is_ready() {
            // The event may belong to an earlier setting of the timer.
            if self.due.get().is_some_and(|due| due <= Instant::now()) {
                self.due.set(None);
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}
