//! Reports when a listener, a timer or another descriptor becomes readable, if no stream receives from this
//! descriptor. It reads nothing.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use super::{EventLoop, epoll, uring};

pub(crate) enum Watch {
    Uring(uring::Watch),
    Epoll(epoll::Watch),
}

impl Watch {
    pub(crate) fn new(event_loop: &EventLoop, fd: OwnedFd) -> io::Result<Self> {
        Ok(match event_loop {
            EventLoop::Uring(uring) => Self::Uring(uring::Watch::new(uring, fd)?),
            EventLoop::Epoll(epoll) => Self::Epoll(epoll::Watch::new(epoll, fd)?),
        })
    }

    /// Is ready once for each time that the descriptor becomes readable. The caller then has to read until
    /// nothing is left, because a later poll may report new arrivals only.
    pub(crate) fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        match self {
            Self::Uring(watch) => watch.poll_readable(cx),
            Self::Epoll(watch) => watch.poll_readable(cx),
        }
    }
}
