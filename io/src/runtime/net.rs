//! The event loop of an io thread, and everything that the loop waits for: sockets, listeners, timers. On
//! io_uring the loop is monoio's (`uring`), elsewhere it is a small one over epoll (`epoll`). Both loops keep
//! the same promises, so that the code above can use either. Each io thread has one loop.

mod connect;
mod epoll;
mod listener;
mod outbox;
mod probe;
mod socket;
#[cfg(test)]
mod tests;
mod timer;
mod uring;
mod watch;

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

pub(crate) use connect::{connect_tcp, connect_unix};
pub(crate) use listener::{Accepted, Listener};
pub(crate) use outbox::Unsent;
pub(crate) use socket::Socket;
pub(crate) use timer::Timer;
pub(crate) use watch::Watch;

use crate::runtime::buffers::Buffers;
use epoll::Epoll;
use uring::Uring;

/// A thread's event loop.
pub(crate) enum EventLoop {
    Uring(Rc<Uring>),
    Epoll(Rc<Epoll>),
}

/// How io_uring is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingSetup {
    /// The number of operations that can be submitted together.
    pub(crate) entries: u32,
    /// Whether `DEFER_TASKRUN` is on. If so, the kernel makes completions only when the loop waits for them,
    /// not in every system call. The option has to be off for a loop that spins, because such a loop does not
    /// wait.
    pub(crate) deferred: bool,
}

impl EventLoop {
    pub(crate) fn uring(setup: RingSetup, buffers: Rc<Buffers>) -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self::Uring(Uring::new(setup, buffers)?)))
    }

    pub(crate) fn epoll(buffers: Rc<Buffers>) -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self::Epoll(Epoll::new(buffers)?)))
    }

    /// Checks that io_uring can be used here: the set-up, the entry into the kernel, and the operations of a
    /// connection.
    pub(crate) fn probe_uring() -> io::Result<()> {
        probe::probe()
    }

    /// Starts a task. The caller has to be code that runs within `run`.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        match self {
            Self::Uring(uring) => uring.spawn(task),
            Self::Epoll(epoll) => epoll.spawn(task),
        }
    }

    /// Runs tasks until `life` is over.
    pub(crate) fn run(&self, life: impl Future<Output = ()> + 'static) {
        match self {
            Self::Uring(uring) => uring.run(life),
            Self::Epoll(epoll) => epoll.run(life),
        }
    }

    /// Waits until the loop has polled its sockets, so that other tasks can run in between. A task must not
    /// wake itself instead, because monoio would run it next, again and again.
    pub(crate) async fn yield_now(&self) {
        match self {
            Self::Uring(uring) => uring.yield_now().await,
            Self::Epoll(epoll) => epoll.yield_now().await,
        }
    }

    /// Returns whether everything that was posted is sent or cannot be sent.
    pub(crate) fn is_settled(&self) -> bool {
        match self {
            Self::Uring(uring) => uring.is_settled(),
            Self::Epoll(epoll) => epoll.is_settled(),
        }
    }
}

/// Stores the waker of `cx` in `place`, but does not clone the waker if `place` has it already.
fn keep(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *place = Some(cx.waker().clone()),
    }
}

/// The result of a receive: bytes, an empty buffer at an orderly end, or an error at any other end.
type Received = Poll<io::Result<Vec<u8>>>;
