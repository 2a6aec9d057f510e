//! A reactor's kernel side on epoll, edge-triggered. It keeps account: a receive that did not fill its
//! buffer has emptied the socket, so none is tried in vain. Asks for room to send only where a send
//! did not go out whole.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::sockets::{Entry, Sockets, keep};
use crate::buffers::Buffers;

/// Events of one look.
const EVENTS: usize = 256;
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

pub(super) struct Epoll {
    fd: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Epoll {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            fd: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS),
        })
    }

    /// Hears of a new descriptor from now on.
    pub(super) fn add(&self, entry: &Entry, index: u32) -> io::Result<()> {
        let data = epoll::EventData::new_u64(index.into());
        Ok(epoll::add(
            &self.fd,
            &entry.fd,
            data,
            interest(entry.armed_out),
        )?)
    }

    /// Asks for room to send, or asks no more.
    pub(super) fn ask_out(&self, entry: &mut Entry, index: u32, on: bool) {
        if entry.armed_out == on {
            return;
        }
        entry.armed_out = on;
        let data = epoll::EventData::new_u64(index.into());
        if let Err(why) = epoll::modify(&self.fd, &entry.fd, data, interest(on)) {
            entry.fail(false, why);
        }
    }

    /// What came, if anything did; nothing at all is the end.
    pub(super) fn poll_recv(
        entry: &mut Entry,
        buffers: &Buffers,
        room: usize,
        cx: &Context<'_>,
    ) -> Poll<Result<Vec<u8>, Errno>> {
        while entry.readable {
            let mut buffer = buffers.take(room);
            let space = buffer.capacity();
            let received = recv(&entry.fd, spare_capacity(&mut buffer), RecvFlags::DONTWAIT);
            match received {
                Ok((_, count)) if count > 0 => {
                    entry.readable = count == space || entry.more;
                    return Poll::Ready(Ok(buffer));
                }
                Ok(_) => {
                    buffers.give(buffer);
                    return Poll::Ready(Ok(Vec::new()));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => entry.readable = false,
                Err(why) => {
                    buffers.give(buffer);
                    return Poll::Ready(Err(why));
                }
            }
            buffers.give(buffer);
        }
        keep(&mut entry.reader, cx);
        Poll::Pending
    }

    pub(super) fn turn(&mut self, sockets: &mut Sockets, buffers: &Buffers, wait: bool) {
        self.events.clear();
        let timeout = (!wait).then_some(&AT_ONCE);
        match epoll::wait(&self.fd, spare_capacity(&mut self.events), timeout) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(why) => panic!("epoll cannot be waited for: {why}"),
        }
        for at in 0..self.events.len() {
            let epoll::Event { flags, data } = self.events[at];
            self.event(sockets, buffers, data.u64() as u32, flags);
        }
    }

    fn event(
        &self,
        sockets: &mut Sockets,
        buffers: &Buffers,
        index: u32,
        flags: epoll::EventFlags,
    ) {
        // A process that was forked meanwhile keeps a closed descriptor in epoll until it executes.
        let Some(entry) = sockets.find(index) else {
            return;
        };
        let end = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        if flags.intersects(end) {
            entry.more = true;
        }
        if flags.intersects(end | epoll::EventFlags::IN) {
            entry.readable = true;
            if let Some(waker) = &entry.reader {
                waker.wake_by_ref();
            }
        }
        if flags.intersects(end | epoll::EventFlags::OUT) {
            entry.writable = true;
            if let Some(waker) = &entry.writer {
                waker.wake_by_ref();
            }
            if entry.backlog.is_some() && !sockets.catch_up(index, buffers) {
                self.ask_out(sockets.at(index), index, false);
            }
        }
    }
}

fn interest(out: bool) -> epoll::EventFlags {
    let arrivals = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
    if out {
        arrivals | epoll::EventFlags::OUT
    } else {
        arrivals
    }
}
