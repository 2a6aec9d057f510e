//! What is to go out of one socket: a small message is held to the end of the iteration, so that the sends
//! of many go together and wake their peers once; the rest is sent at once as far as the socket takes it, and
//! in order after that. Both event loops send by it; how each hears that there is room again is its own
//! business.

use std::cell::Cell;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};

use super::keep;
use crate::runtime::buffers::Buffers;

/// A message up to this size is held.
const HELD_MAX: usize = 16 * 1024;

/// The bytes did not all go out.
#[derive(Debug)]
pub(crate) struct Unsent {
    /// Not one byte of the message was taken.
    pub(crate) nothing: bool,
    pub(crate) why: io::Error,
}

/// Why nothing more goes out.
#[derive(Clone, Copy, Debug)]
struct Failed {
    nothing: bool,
    why: Errno,
}

/// Sends what the socket takes now, and never waits.
pub(super) trait SendNow: Fn(&[u8]) -> Result<usize, Errno> {}

impl<F: Fn(&[u8]) -> Result<usize, Errno>> SendNow for F {}

/// Of one socket.
pub(super) struct Outbox {
    fd: RawFd,
    /// One small message at most, of which nothing was tried.
    held: Vec<u8>,
    /// What the socket did not take. On io_uring the kernel may have bytes that go before these.
    waiting: Vec<u8>,
    /// So many of them are out.
    sent: usize,
    behind: bool,
    failed: Option<Failed>,
    waiter: Option<Waker>,
    /// Bytes that went out since they are counted.
    moved: Option<Rc<Cell<u64>>>,
}

/// What became of bytes that were posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Posted {
    Out,
    /// Not tried: the loop sees to it at the end of the iteration.
    Held,
    /// Not all of them; the loop has to see to the rest.
    Begun,
    /// Behind others, or never.
    Behind,
}

impl Outbox {
    pub(super) const fn new(fd: RawFd) -> Self {
        Self {
            fd,
            held: Vec::new(),
            waiting: Vec::new(),
            sent: 0,
            behind: false,
            failed: None,
            waiter: None,
            moved: None,
        }
    }

    /// Bytes that go out are counted there, from now on.
    pub(super) fn moved(&mut self) -> Rc<Cell<u64>> {
        self.moved.get_or_insert_default().clone()
    }

    /// So many bytes went out.
    pub(super) fn note_moved(&self, bytes: usize) {
        if let Some(moved) = &self.moved {
            moved.set(moved.get() + bytes as u64);
        }
    }

    pub(super) const fn is_behind(&self) -> bool {
        self.behind
    }

    pub(super) const fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    pub(super) const fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    pub(super) fn unsent(&self) -> Option<Unsent> {
        self.failed.map(|Failed { nothing, why }| Unsent {
            nothing,
            why: why.into(),
        })
    }

    /// Holds a small message, or sends what the socket takes now, after what was posted before.
    pub(super) fn post(&mut self, bytes: Vec<u8>, buffers: &Buffers, send: impl SendNow) -> Posted {
        let mut posted = Posted::Out;
        if !self.held.is_empty() {
            posted = self.release(buffers, &send);
        }
        if self.failed.is_some() {
            buffers.give(bytes);
            return Posted::Behind;
        }
        if self.behind {
            if self.waiting.is_empty() {
                self.waiting = bytes;
            } else {
                self.waiting.extend_from_slice(&bytes);
                buffers.give(bytes);
            }
            // Where the message before this one was the first that did not go out whole, it has begun.
            return if posted == Posted::Begun {
                posted
            } else {
                Posted::Behind
            };
        }
        if bytes.len() <= HELD_MAX {
            self.held = bytes;
            return Posted::Held;
        }
        self.send_from(bytes, 0, buffers, send);
        self.outcome()
    }

    /// Sends what was held, if anything is.
    pub(super) fn release(&mut self, buffers: &Buffers, send: impl SendNow) -> Posted {
        let held = std::mem::take(&mut self.held);
        if held.is_empty() {
            return Posted::Out;
        }
        self.send_from(held, 0, buffers, send);
        self.outcome()
    }

    fn outcome(&self) -> Posted {
        if self.behind {
            Posted::Begun
        } else if self.failed.is_some() {
            Posted::Behind
        } else {
            Posted::Out
        }
    }

    /// Goes on now that there may be room. True where some is left.
    pub(super) fn catch_up(&mut self, buffers: &Buffers, send: impl SendNow) -> bool {
        if self.behind {
            self.behind = false;
            let (bytes, sent) = (std::mem::take(&mut self.waiting), self.sent);
            self.send_from(bytes, sent, buffers, send);
            if !self.behind {
                self.wake();
            }
        }
        self.behind
    }

    fn send_from(
        &mut self,
        bytes: Vec<u8>,
        mut sent: usize,
        buffers: &Buffers,
        send: impl SendNow,
    ) {
        while sent < bytes.len() {
            match send(&bytes[sent..]) {
                Ok(taken) => {
                    sent += taken;
                    self.note_moved(taken);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.behind = true;
                    self.waiting = bytes;
                    self.sent = sent;
                    return;
                }
                Err(why) => {
                    self.fail(sent == 0, why);
                    break;
                }
            }
        }
        buffers.give(bytes);
    }

    /// The bytes that wait, and how many of them are out: the loop sends them itself. None where nothing
    /// waits any more, or nothing can go out.
    pub(super) fn take(&mut self) -> Option<(Vec<u8>, usize)> {
        if self.failed.is_some() || self.waiting.is_empty() {
            self.behind = false;
            self.waiting = Vec::new();
            self.wake();
            return None;
        }
        Some((
            std::mem::take(&mut self.waiting),
            std::mem::take(&mut self.sent),
        ))
    }

    /// Nothing goes out any more. The reading side hears of it too, by the end that this makes.
    pub(super) fn fail(&mut self, nothing: bool, why: Errno) {
        self.failed.get_or_insert(Failed { nothing, why });
        self.behind = false;
        self.held = Vec::new();
        self.waiting = Vec::new();
        let _ = shutdown(self.fd, Shutdown::Both);
        self.wake();
    }

    /// What is not out is lost.
    pub(super) fn give_back(self, buffers: &Buffers) {
        buffers.give(self.held);
        buffers.give(self.waiting);
    }

    /// The task of `cx` is woken when something changes.
    pub(super) fn keep_waiter(&mut self, cx: &Context<'_>) {
        keep(&mut self.waiter, cx);
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waiter {
            waker.wake_by_ref();
        }
    }

    /// Ready once all that was posted is out, or cannot be.
    pub(super) fn poll_sent(&mut self, cx: &Context<'_>) -> Poll<Result<(), Unsent>> {
        if let Some(unsent) = self.unsent() {
            return Poll::Ready(Err(unsent));
        }
        if !self.behind {
            self.waiter = None;
            return Poll::Ready(Ok(()));
        }
        keep(&mut self.waiter, cx);
        Poll::Pending
    }
}
