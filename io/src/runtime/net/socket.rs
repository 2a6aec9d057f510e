//! A connection on either event loop: incoming bytes are polled, outgoing bytes are posted. A `ClientConn`
//! and a `PodConn` have one socket each, and the bell of an io thread is a socket, too. Dropping a socket
//! closes it, even while bytes are in flight; bytes that were not sent are lost.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Shutdown};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll};

use nix::sys::socket::{SockaddrStorage, getpeername};

use super::{EventLoop, Received, Unsent, epoll, uring};

pub(crate) enum Socket {
    Uring(uring::Stream),
    Epoll(epoll::Stream),
}

impl Socket {
    /// Makes a socket of a connected descriptor.
    pub(crate) fn new(event_loop: &EventLoop, fd: impl Into<OwnedFd>) -> io::Result<Self> {
        Ok(match event_loop {
            EventLoop::Uring(uring) => Self::Uring(uring::Stream::new(uring, fd.into())?),
            EventLoop::Epoll(epoll) => Self::Epoll(epoll::Stream::new(epoll, fd.into())?),
        })
    }

    /// Returns the received bytes; an empty buffer means the end. If nothing has come yet, the task of `cx`
    /// is woken when something comes. At most one receive is in flight. A new receive gets a buffer with room
    /// for at least `room` bytes; a receive in flight keeps the buffer that it has.
    pub(crate) fn poll_recv(&self, room: usize, cx: &Context<'_>) -> Received {
        match self {
            Self::Uring(stream) => stream.poll_recv(room, cx),
            Self::Epoll(stream) => stream.poll_recv(room, cx),
        }
    }

    /// Ends a task's wait for bytes. From now on `check_quiet` reports whether bytes or an end have come. On
    /// io_uring a receive is armed, and the waker of the task is dropped, because the waker would keep the
    /// task's memory. On epoll nothing is done, so the task may be woken once without need.
    pub(crate) fn rest(&self) {
        if let Self::Uring(stream) = self {
            stream.rest();
        }
    }

    /// Returns false if a byte or an end had reached the socket when the loop last entered the kernel to
    /// wait. A pending receive does not suffice for this check, because a receive that was armed just now has
    /// seen nothing. The check also ends a task's wait, as `rest` does.
    pub(crate) fn check_quiet(&self) -> bool {
        match self {
            Self::Uring(stream) => stream.check_quiet(),
            Self::Epoll(stream) => stream.check_quiet(),
        }
    }

    /// Returns whether the peer has ended its direction, even if bytes that it sent before were not received
    /// yet. On io_uring the kernel is asked, which costs a system call, or four if bytes wait. On epoll the
    /// result is that of the last poll of the events.
    pub(crate) fn has_ended(&self) -> bool {
        match self {
            Self::Uring(stream) => stream.has_ended(),
            Self::Epoll(stream) => stream.has_ended(),
        }
    }

    /// Sends all of `bytes`, after the bytes that were posted before, and does not wait. Returns true if they
    /// are sent, or are held and will be sent at the end of this iteration. If the peer does not take a held
    /// message at that time, the task that receives is woken.
    ///
    /// Returns false if the peer has not taken all of `bytes` yet, or if no bytes can be sent any more.
    /// `poll_sent` then reports how the send ends.
    pub(crate) fn post(&self, bytes: Vec<u8>) -> bool {
        match self {
            Self::Uring(stream) => stream.post(bytes),
            Self::Epoll(stream) => stream.post(bytes),
        }
    }

    /// Returns whether some posted bytes are not sent yet or cannot be sent any more. A held message does not
    /// count.
    pub(crate) fn is_behind(&self) -> bool {
        match self {
            Self::Uring(stream) => stream.is_behind(),
            Self::Epoll(stream) => stream.is_behind(),
        }
    }

    /// Returns the count of sent bytes, which begins with the first call of this function.
    pub(crate) fn moved(&self) -> Rc<Cell<u64>> {
        match self {
            Self::Uring(stream) => stream.moved(),
            Self::Epoll(stream) => stream.moved(),
        }
    }

    /// Returns whether more bytes have come than a small buffer has room for. If so, a large buffer for the
    /// next receive is filled at once and does not lie empty. The check costs a system call.
    pub(crate) fn has_much(&self) -> bool {
        match self {
            Self::Uring(stream) => stream.has_much(),
            Self::Epoll(stream) => stream.has_much(),
        }
    }

    /// Returns why posted bytes were not sent, if that is known.
    pub(crate) fn unsent(&self) -> Option<Unsent> {
        match self {
            Self::Uring(stream) => stream.unsent(),
            Self::Epoll(stream) => stream.unsent(),
        }
    }

    /// Is ready when everything that was posted is sent or cannot be sent.
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

    /// Is ready when the kernel no longer holds a posted buffer.
    pub(crate) fn poll_freed(&self, cx: &Context<'_>) -> Poll<()> {
        match self {
            Self::Uring(stream) => stream.poll_freed(cx),
            Self::Epoll(_) => Poll::Ready(()),
        }
    }

    /// Sends as much of the held message as the peer takes, and then shuts down one direction, or both.
    /// Ignores an error of the shutdown, because the error means that the peer has ended the connection
    /// first.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        match self {
            // The held bytes are sent first, because they could not be sent after the shutdown.
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

    /// Returns the address of the peer, if it has one.
    pub(crate) fn peer_ip(&self) -> Option<IpAddr> {
        let address: SockaddrStorage = getpeername(self.fd()).ok()?;
        let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
    }

    /// Returns the descriptor, which is open as long as the socket exists.
    fn fd(&self) -> std::os::fd::RawFd {
        match self {
            Self::Uring(stream) => stream.fd(),
            Self::Epoll(stream) => stream.fd(),
        }
    }
}
