//! A socket of a reactor: what came is polled, what goes out is posted. Dropping it closes it, whatever
//! is in flight. `client` and `connection` speak over one each; the bell and the timer are two more.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll};

use rustix::net::{Shutdown, shutdown};

use super::sockets::{Entry, Failed, keep};
use super::{Direction, Kernel, Reactor, System};

/// More bytes than this go out at once and alone: copying them takes longer than the system call.
const COPIED_MAX: usize = 16 * 1024;

/// The bytes did not all go out.
#[derive(Debug)]
pub(crate) struct Unsent {
    /// Not one of them was taken.
    pub(crate) nothing: bool,
    pub(crate) why: io::Error,
}

impl From<Failed> for Unsent {
    fn from(failed: Failed) -> Self {
        Self {
            nothing: failed.nothing,
            why: failed.why.into(),
        }
    }
}

pub(crate) struct Socket {
    reactor: Rc<Reactor>,
    index: u32,
}

impl Socket {
    /// Over a descriptor that can be read, or will be.
    pub(crate) fn new(reactor: &Rc<Reactor>, fd: impl Into<OwnedFd>) -> io::Result<Self> {
        Self::register(reactor, fd.into(), false)
    }

    /// Over one that cannot be written to yet.
    pub(super) fn connecting(reactor: &Rc<Reactor>, fd: OwnedFd) -> io::Result<Self> {
        Self::register(reactor, fd, true)
    }

    fn register(reactor: &Rc<Reactor>, fd: OwnedFd, out: bool) -> io::Result<Self> {
        let Kernel { sockets, system } = &mut *reactor.kernel.borrow_mut();
        let index = sockets.put(fd);
        let entry = sockets.at(index);
        if let System::Epoll(epoll) = system {
            entry.armed_out = out;
            if let Err(error) = epoll.add(entry, index) {
                entry.dropped = true;
                sockets.release(index, &reactor.buffers);
                return Err(error);
            }
        }
        let reactor = reactor.clone();
        Ok(Self { reactor, index })
    }

    /// It can be written to now.
    pub(super) fn is_connected(&self) {
        let Kernel { sockets, system } = &mut *self.reactor.kernel.borrow_mut();
        let entry = sockets.at(self.index);
        entry.writer = None;
        if let System::Epoll(epoll) = system {
            epoll.ask_out(entry, self.index, false);
        }
    }

    fn with<T>(&self, ask: impl FnOnce(&mut Entry) -> T) -> T {
        ask(self.reactor.kernel.borrow_mut().sockets.at(self.index))
    }

    pub(super) fn with_fd<T>(&self, ask: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        self.with(|entry| ask(entry.fd.as_fd()))
    }

    /// What came, if anything did, in a buffer with room for at least `room` bytes; no bytes are the end.
    /// Else whoever asks is woken once something does.
    pub(crate) fn poll_recv(&self, room: usize, cx: &Context<'_>) -> Poll<io::Result<Vec<u8>>> {
        let Kernel { sockets, system } = &mut *self.reactor.kernel.borrow_mut();
        let buffers = &self.reactor.buffers;
        let entry = sockets.at(self.index);
        let received = match system {
            System::Uring(uring) => uring.poll_recv(entry, self.index, buffers, room, cx),
            System::Epoll(_) => super::Epoll::poll_recv(entry, buffers, room, cx),
        };
        received.map_err(io::Error::from)
    }

    /// False if a byte or an end had reached the socket when the loop last entered the kernel to wait. Unlike
    /// a receive that is pending it may be relied on: a receive that was armed just now knows nothing.
    pub(crate) fn is_quiet(&self) -> bool {
        let Kernel { sockets, system } = &mut *self.reactor.kernel.borrow_mut();
        let entry = sockets.at(self.index);
        match system {
            System::Uring(_) => super::Uring::is_quiet(entry),
            System::Epoll(_) => !entry.readable || entry.is_empty(),
        }
    }

    /// Whether it is ready, as was asked since `not_ready`.
    pub(super) fn poll_ready(&self, direction: Direction, cx: &Context<'_>) -> Poll<()> {
        let Kernel { sockets, system } = &mut *self.reactor.kernel.borrow_mut();
        let entry = sockets.at(self.index);
        let (ready, waker) = match direction {
            Direction::In => (entry.readable, &mut entry.reader),
            Direction::Out => (entry.writable, &mut entry.writer),
        };
        if ready {
            return Poll::Ready(());
        }
        keep(waker, cx);
        if let System::Uring(uring) = system {
            uring.ask(entry, self.index, direction);
        }
        Poll::Pending
    }

    pub(super) fn not_ready(&self, direction: Direction) {
        self.with(|entry| match direction {
            Direction::In => entry.readable = false,
            Direction::Out => entry.writable = false,
        });
    }

    /// Sends all of `bytes`, after what was posted before. True where they are out, or will be at the end
    /// of this pass unless the peer takes nothing; else `poll_sent` tells.
    pub(crate) fn post(&self, bytes: Vec<u8>) -> bool {
        let Kernel { sockets, system } = &mut *self.reactor.kernel.borrow_mut();
        let buffers = &self.reactor.buffers;
        let entry = sockets.at(self.index);
        if let System::Uring(uring) = system
            && entry.failed.is_none()
            && entry.backlog.is_none()
            && (self.reactor.pace.is_busy() && bytes.len() <= COPIED_MAX || entry.passing.is_some())
        {
            let fits = uring.pass(entry, self.index, bytes, buffers);
            uring.pass_on(sockets);
            return fits;
        }
        let begun = sockets.send(self.index, bytes, buffers);
        let entry = sockets.at(self.index);
        if begun {
            match system {
                System::Uring(uring) => uring.ask(entry, self.index, Direction::Out),
                System::Epoll(epoll) => epoll.ask_out(entry, self.index, true),
            }
        }
        entry.backlog.is_none() && entry.failed.is_none()
    }

    /// Whether something that was posted in an earlier pass is still to go out, or never will.
    pub(crate) fn is_behind(&self) -> bool {
        self.with(|entry| entry.backlog.is_some() || entry.failed.is_some())
    }

    /// Why something that was posted did not go out, where that is known.
    pub(crate) fn unsent(&self) -> Option<Unsent> {
        self.with(|entry| entry.failed).map(Unsent::from)
    }

    /// Ready once all that was posted is out, or cannot be.
    pub(crate) fn poll_sent(&self, cx: &Context<'_>) -> Poll<Result<(), Unsent>> {
        let Kernel { sockets, system } = &mut *self.reactor.kernel.borrow_mut();
        let entry = sockets.at(self.index);
        if let Some(failed) = entry.failed {
            return Poll::Ready(Err(failed.into()));
        }
        if entry.backlog.is_none() && entry.passing.is_none() {
            entry.writer = None;
            return Poll::Ready(Ok(()));
        }
        if let System::Uring(uring) = system
            && entry.passing.is_some()
        {
            uring.await_passing();
        }
        keep(&mut entry.writer, cx);
        Poll::Pending
    }

    /// Ends one direction, or both. An error means that the peer was faster.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        let _ = self.with_fd(|fd| shutdown(fd, how));
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let Kernel { sockets, system } = &mut *self.reactor.kernel.borrow_mut();
        let entry = sockets.at(self.index);
        entry.dropped = true;
        entry.reader = None;
        entry.writer = None;
        if entry.in_flight > 0 || entry.passing.is_some() {
            // What is armed ends at once; what is neither a stream nor connected has to be told.
            let _ = shutdown(&entry.fd, Shutdown::Both);
            if let System::Uring(uring) = system {
                uring.ask_no_more(entry, self.index);
            }
        }
        sockets.release(self.index, &self.reactor.buffers);
    }
}
