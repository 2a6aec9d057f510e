//! Reports when a descriptor can be read that no stream receives from: a listener, a timer. It reads nothing.

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

    /// Ready once for each time that the descriptor becomes readable. The caller then reads until nothing is
    /// left, or polls again for new arrivals only.
    pub(crate) fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        match self {
            Self::Uring(watch) => watch.poll_readable(cx),
            Self::Epoll(watch) => watch.poll_readable(cx),
        }
    }
}
