//! A connection: incoming bytes are polled, outgoing bytes are posted. `client_conn` and `pod_conn` have one
//! each, and the bell is one, too. Dropping a socket closes it, whatever is in flight; bytes that were not sent
//! are lost.

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
    /// Takes a descriptor that is connected.
    pub(crate) fn new(event_loop: &EventLoop, fd: impl Into<OwnedFd>) -> io::Result<Self> {
        Ok(match event_loop {
            EventLoop::Uring(uring) => Self::Uring(uring::Stream::new(uring, fd.into())?),
            EventLoop::Epoll(epoll) => Self::Epoll(epoll::Stream::new(epoll, fd.into())?),
        })
    }

    /// Returns the received bytes, in a buffer with room for at least `room` bytes; an empty buffer means the
    /// end. If nothing came yet, the task is woken when something comes. At most one receive is in flight, and
    /// it keeps the `room` with which it was made.
    pub(crate) fn poll_recv(&self, room: usize, cx: &Context<'_>) -> Received {
        match self {
            Self::Uring(stream) => stream.poll_recv(room, cx),
            Self::Epoll(stream) => stream.poll_recv(room, cx),
        }
    }

    /// Ends a task's wait. From now on `check_quiet` notices bytes and ends. On io_uring a receive is armed,
    /// and the waker of the task is dropped, because it would keep the task's memory. On epoll there is nothing
    /// to do: the task may be woken once in vain.
    pub(crate) fn rest(&self) {
        if let Self::Uring(stream) = self {
            stream.rest();
        }
    }

    /// False if a byte or an end had reached the socket when the loop last entered the kernel to wait. A
    /// pending receive does not show this, because a receive that was armed just now has seen nothing. The
    /// check also ends a task's wait, as `rest` does.
    pub(crate) fn check_quiet(&self) -> bool {
        match self {
            Self::Uring(stream) => stream.check_quiet(),
            Self::Epoll(stream) => stream.check_quiet(),
        }
    }

    /// Whether the peer has ended its direction, also if bytes that it sent before were not received yet. It is
    /// known as soon as the kernel knows it; on io_uring this costs a system call, or four if bytes wait.
    pub(crate) fn has_ended(&self) -> bool {
        match self {
            Self::Uring(stream) => stream.has_ended(),
            Self::Epoll(stream) => stream.has_ended(),
        }
    }

    /// Sends all of `bytes`, after the bytes that were posted before, and never waits. True if they are sent,
    /// or will be sent with the other small messages of this iteration. False if they are sent as the peer
    /// takes them; `poll_sent` then reports the end. If the peer does not take a small message at the end of
    /// the iteration, the task that receives is woken.
    pub(crate) fn post(&self, bytes: Vec<u8>) -> bool {
        match self {
            Self::Uring(stream) => stream.post(bytes),
            Self::Epoll(stream) => stream.post(bytes),
        }
    }

    /// Whether some posted bytes are not sent yet, or never will be.
    pub(crate) fn is_behind(&self) -> bool {
        match self {
            Self::Uring(stream) => stream.is_behind(),
            Self::Epoll(stream) => stream.is_behind(),
        }
    }

    /// The count of sent bytes. It is kept from the first call of this function on.
    pub(crate) fn moved(&self) -> Rc<Cell<u64>> {
        match self {
            Self::Uring(stream) => stream.moved(),
            Self::Epoll(stream) => stream.moved(),
        }
    }

    /// Whether more bytes have come than a small buffer has room for. If so, a large buffer would be filled at
    /// once, and not wait empty. This costs a system call.
    pub(crate) fn has_much(&self) -> bool {
        match self {
            Self::Uring(stream) => stream.has_much(),
            Self::Epoll(stream) => stream.has_much(),
        }
    }

    /// Why posted bytes were not sent, if that is known.
    pub(crate) fn unsent(&self) -> Option<Unsent> {
        match self {
            Self::Uring(stream) => stream.unsent(),
            Self::Epoll(stream) => stream.unsent(),
        }
    }

    /// Ready once everything that was posted is sent, or cannot be.
    pub(crate) fn poll_sent(&self, cx: &Context<'_>) -> Poll<Result<(), Unsent>> {
        match self {
            Self::Uring(stream) => stream.poll_sent(cx),
            Self::Epoll(stream) => stream.poll_sent(cx),
        }
    }

    /// Ends both directions now. Posted bytes that were not sent are lost; `poll_freed` reports when their
    /// memory is free.
    pub(crate) fn abandon(&self) {
        match self {
            Self::Uring(stream) => stream.abandon(),
            Self::Epoll(stream) => stream.abandon(),
        }
    }

    /// Ready once the kernel holds no posted buffer.
    pub(crate) fn poll_freed(&self, cx: &Context<'_>) -> Poll<()> {
        match self {
            Self::Uring(stream) => stream.poll_freed(cx),
            Self::Epoll(_) => Poll::Ready(()),
        }
    }

    /// Sends the held message as far as the peer takes it, and then ends one direction, or both. An error means
    /// that the peer has ended it first.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        match self {
            // Held bytes go first: after the shutdown they could not be sent.
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

    /// The descriptor, which is open as long as the socket exists.
    fn fd(&self) -> std::os::fd::RawFd {
        match self {
            Self::Uring(stream) => stream.fd(),
            Self::Epoll(stream) => stream.fd(),
        }
    }
}
