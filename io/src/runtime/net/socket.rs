//! A connection: what comes is polled, what goes out is posted. `client_conn` and `pod_conn` speak over one
//! each; the bell is one more. Dropping it ends it, whatever is in flight: what was not sent is lost.

use std::cell::Cell;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::{EventLoop, Received, Unsent, epoll, uring};

pub(crate) enum Socket {
    Uring(uring::Stream),
    Epoll(epoll::Stream),
}

impl Socket {
    /// Over a descriptor that is connected.
    pub(crate) fn new(event_loop: &EventLoop, fd: impl Into<OwnedFd>) -> io::Result<Self> {
        Ok(match event_loop {
            EventLoop::Uring(uring) => Self::Uring(uring::Stream::new(uring, fd.into())?),
            EventLoop::Epoll(epoll) => Self::Epoll(epoll::Stream::new(epoll, fd.into())?),
        })
    }

    /// What came, if anything did, in a buffer with room for at least `room` bytes; no bytes are the end.
    /// Else the task is woken once something does. At most one receive is in flight: it keeps the room
    /// that it was asked for first.
    pub(crate) fn poll_recv(&self, room: usize, cx: &Context<'_>) -> Received {
        match self {
            Self::Uring(stream) => stream.poll_recv(room, cx),
            Self::Epoll(stream) => stream.poll_recv(room, cx),
        }
    }

    /// No task waits for it for now; what comes is found by `check_quiet`. On io_uring a receive is armed and lets
    /// go of the task's waker, which would keep the task's memory; on epoll there is nothing to do, and the
    /// task may be woken once in vain.
    pub(crate) fn rest(&self) {
        if let Self::Uring(stream) = self {
            stream.rest();
        }
    }

    /// False if a byte or an end had reached the socket when the loop last entered the kernel to wait. Not
    /// the same as a receive that is pending: one that was armed just now knows nothing. The socket rests
    /// from then on: see `rest`.
    pub(crate) fn check_quiet(&self) -> bool {
        match self {
            Self::Uring(stream) => stream.check_quiet(),
            Self::Epoll(stream) => stream.check_quiet(),
        }
    }

    /// Whether the peer has ended its direction, also where not all that it sent before was taken. It is known
    /// as soon as the kernel knows, which on io_uring costs a system call, or two where bytes wait.
    pub(crate) fn has_ended(&self) -> bool {
        match self {
            Self::Uring(stream) => stream.has_ended(),
            Self::Epoll(stream) => stream.has_ended(),
        }
    }

    /// Sends all of `bytes`, after what was posted before, and never waits. True where they are out, or go
    /// out with the other small messages of this iteration; else they go out as the peer takes them, and
    /// `poll_sent` tells. Where a peer does not take a small message then, the task that receives is woken.
    pub(crate) fn post(&self, bytes: Vec<u8>) -> bool {
        match self {
            Self::Uring(stream) => stream.post(bytes),
            Self::Epoll(stream) => stream.post(bytes),
        }
    }

    /// Whether something that was posted is still to go out, or never will.
    pub(crate) fn is_behind(&self) -> bool {
        match self {
            Self::Uring(stream) => stream.is_behind(),
            Self::Epoll(stream) => stream.is_behind(),
        }
    }

    /// Counts the bytes that go out, from the first such question on.
    pub(crate) fn moved(&self) -> Rc<Cell<u64>> {
        match self {
            Self::Uring(stream) => stream.moved(),
            Self::Epoll(stream) => stream.moved(),
        }
    }

    /// Whether more has come than a small buffer has room for: a large one would be filled at once, and not
    /// wait with nothing in it. It costs a system call.
    pub(crate) fn has_much(&self) -> bool {
        match self {
            Self::Uring(stream) => stream.has_much(),
            Self::Epoll(stream) => stream.has_much(),
        }
    }

    /// Why something that was posted did not go out, where that is known.
    pub(crate) fn unsent(&self) -> Option<Unsent> {
        match self {
            Self::Uring(stream) => stream.unsent(),
            Self::Epoll(stream) => stream.unsent(),
        }
    }

    /// Ready once all that was posted is out, or cannot be.
    pub(crate) fn poll_sent(&self, cx: &Context<'_>) -> Poll<Result<(), Unsent>> {
        match self {
            Self::Uring(stream) => stream.poll_sent(cx),
            Self::Epoll(stream) => stream.poll_sent(cx),
        }
    }

    /// Ends both directions now. What was posted and is not out is lost; `poll_freed` tells when its memory
    /// is free.
    pub(crate) fn abandon(&self) {
        match self {
            Self::Uring(stream) => stream.abandon(),
            Self::Epoll(stream) => stream.abandon(),
        }
    }

    /// Ready once the kernel holds no buffer that was posted.
    pub(crate) fn poll_freed(&self, cx: &Context<'_>) -> Poll<()> {
        match self {
            Self::Uring(stream) => stream.poll_freed(cx),
            Self::Epoll(_) => Poll::Ready(()),
        }
    }

    /// Ends one direction, or both, after what was posted as far as the peer takes it. An error means
    /// that the peer was faster.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        match self {
            Self::Uring(stream) => stream.release(),
            Self::Epoll(stream) => stream.release(),
        }
        use nix::sys::socket::Shutdown as Nix;
        let how = match how {
            Shutdown::Read => Nix::Read,
            Shutdown::Write => Nix::Write,
            Shutdown::Both => Nix::Both,
        };
        let _ = nix::sys::socket::shutdown(self.fd(), how);
    }

    /// It is open as long as the socket is there.
    fn fd(&self) -> std::os::fd::RawFd {
        match self {
            Self::Uring(stream) => stream.fd(),
            Self::Epoll(stream) => stream.fd(),
        }
    }
}
