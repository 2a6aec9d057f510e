//! Wakes a thread that sleeps, at a time: a descriptor like any other, so that the wait itself needs no
//! time of its own. The ticker has one.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use super::{Direction, Reactor, Socket};

pub(crate) struct Timer(Socket);

const ZERO: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

impl Timer {
    /// One that is not set.
    pub(crate) fn new(reactor: &Rc<Reactor>) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Socket::new(reactor, fd).map(Self)
    }

    /// Sets it, in place of any earlier setting.
    pub(crate) fn set(&self, after: Duration) {
        // Zero would switch it off.
        let after = after.max(Duration::from_nanos(1));
        let it_value = Timespec {
            tv_sec: after.as_secs() as i64,
            tv_nsec: i64::from(after.subsec_nanos()),
        };
        let once = Itimerspec {
            it_interval: ZERO,
            it_value,
        };
        self.0.not_ready(Direction::In);
        self.0
            .with_fd(|fd| timerfd_settime(fd, TimerfdTimerFlags::empty(), &once))
            .expect("a timer takes any time");
    }

    /// Ready once the time has come.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        self.0.poll_ready(Direction::In, cx)
    }
}
