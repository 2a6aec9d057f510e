//! The outgoing bytes of one socket. A small message is held until the end of the iteration, so that the
//! messages of many sockets go out together and their peers wake less often. Of a larger message, as much as
//! the socket takes is sent at once, and the rest is sent before any later message. Both event loops send
//! through this type, but each has its own way to detect that a socket has room again.

use std::cell::Cell;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};

use super::keep;
use crate::runtime::buffers::Buffers;

/// The size of the largest message that is held, in bytes.
const HELD_MAX: usize = 16 * 1024;

/// The error that not all posted bytes were sent.
#[derive(Debug)]
pub(crate) struct Unsent {
    /// Whether the socket took no byte of the message.
    pub(crate) nothing: bool,
    pub(crate) why: io::Error,
}

#[derive(Clone, Copy, Debug)]
struct Failed {
    nothing: bool,
    why: Errno,
}

/// A function that sends what the socket takes now, and does not wait.
pub(super) trait SendNow: Fn(&[u8]) -> Result<usize, Errno> {}

impl<F: Fn(&[u8]) -> Result<usize, Errno>> SendNow for F {}

/// The outgoing bytes of one socket.
pub(super) struct SocketOutbox {
    fd: RawFd,
    /// At most one small message, of which nothing was sent yet.
    held: Vec<u8>,
    /// The bytes that the socket did not take. On io_uring, earlier bytes may still be in `write_rest`, which
    /// sends them before these.
    waiting: Vec<u8>,
    /// How many of the waiting bytes were sent.
    sent: usize,
    behind: bool,
    failed: Option<Failed>,
    waiter: Option<Waker>,
    /// The count of sent bytes, if one is kept.
    moved: Option<Rc<Cell<u64>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Posted {
    Out,
    /// The message is held, and the loop sends it at the end of the iteration.
    Held,
    /// The socket did not take the whole message, so the loop has to send the rest.
    Begun,
    /// The message waits behind earlier bytes, or cannot be sent any more.
    Behind,
}

impl SocketOutbox {
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

    /// Returns the count of sent bytes, which begins with the first call of this function.
    pub(super) fn moved(&mut self) -> Rc<Cell<u64>> {
        self.moved.get_or_insert_default().clone()
    }

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

    /// Holds a small message, or sends as much of a larger one as the socket takes now. If earlier bytes
    /// wait, a message of any size is queued behind them.
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
            // If the release above has left a rest of the held message, the result has to be `Begun`, so that
            // the loop sends that rest.
            return if posted == Posted::Begun {
                posted
            } else {
                Posted::Behind
            };
        }
        // A small message is held, because with 64 connections a call then takes a quarter less CPU than with
        // a send at once. The reason is that the peers of the call wake less often.
        if bytes.len() <= HELD_MAX {
            self.held = bytes;
            return Posted::Held;
        }
        self.send_from(bytes, 0, buffers, send);
        self.outcome()
    }

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

    /// Sends more of the waiting bytes, if any wait. Returns true if some are still left.
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

    /// Takes the waiting bytes, with the number of those that were sent, for a task that sends the rest.
    /// Returns none if no bytes wait, or if nothing can be sent.
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

    /// Ends all sending. Shuts down both directions, so that the task that receives gets an end.
    pub(super) fn fail(&mut self, nothing: bool, why: Errno) {
        self.failed.get_or_insert(Failed { nothing, why });
        self.behind = false;
        self.held = Vec::new();
        self.waiting = Vec::new();
        let _ = shutdown(self.fd, Shutdown::Both);
        self.wake();
    }

    /// Gives the buffers back. Bytes that were not sent are lost.
    pub(super) fn give_back(self, buffers: &Buffers) {
        buffers.give(self.held);
        buffers.give(self.waiting);
    }

    pub(super) fn keep_waiter(&mut self, cx: &Context<'_>) {
        keep(&mut self.waiter, cx);
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waiter {
            waker.wake_by_ref();
        }
    }

    /// Is ready when everything that was posted, except a held message, is sent or cannot be sent.
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
