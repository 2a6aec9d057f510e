//! The event loop on epoll, edge-triggered, for systems where io_uring cannot be used. The loop records which
//! sockets are empty, because a receive that did not fill its buffer has emptied its socket. The loop tries
//! no receive on an empty socket; monoio's own epoll driver does, which costs 11 %. The loop asks for events
//! of writability only after a send that did not go out completely.

mod sockets;
mod tasks;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::sockopt::{set_tcp_nodelay, socket_error};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, connect, recv, socket_with};

use super::outbox::Posted;
use super::{Received, Unsent, keep};
use crate::runtime::buffers::Buffers;
use sockets::{Entry, Sockets};
use tasks::Tasks;

const EVENTS: usize = 256;
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

pub(crate) struct Epoll {
    tasks: Tasks,
    sockets: RefCell<Sockets>,
    fd: OwnedFd,
    events: RefCell<Vec<epoll::Event>>,
    buffers: Rc<Buffers>,
    iteration: Cell<u64>,
    /// The wakers of the tasks that continue in the next iteration.
    yielded: RefCell<Vec<Waker>>,
}

impl Epoll {
    pub(super) fn new(buffers: Rc<Buffers>) -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            tasks: Tasks::new(),
            sockets: RefCell::default(),
            fd: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: RefCell::new(Vec::with_capacity(EVENTS)),
            buffers,
            iteration: Cell::new(0),
            yielded: RefCell::default(),
        }))
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.spawn(Box::pin(task));
    }

    pub(super) fn run(&self, life: impl Future<Output = ()> + 'static) {
        let over = Rc::new(Cell::new(false));
        let ended = over.clone();
        self.spawn(async move {
            life.await;
            ended.set(true);
        });
        while !over.get() {
            // The number of tasks that run is bounded, because tasks that keep waking each other would keep
            // the loop from polling its sockets.
            let mut left = 2 * self.tasks.ready() + 1;
            while left > 0
                && !over.get()
                && let Some(index) = self.tasks.next()
            {
                self.tasks.run(index);
                left -= 1;
            }
            // Held messages are sent before the loop may sleep.
            self.release();
            let idle = self.tasks.ready() == 0 && self.yielded.borrow().is_empty();
            self.poll_events(idle && !over.get());
            self.iteration.set(self.iteration.get() + 1);
            // A task that yielded continues only now, after the poll.
            self.yielded.borrow_mut().drain(..).for_each(Waker::wake);
        }
    }

    pub(super) async fn yield_now(&self) {
        let before = self.iteration.get();
        poll_fn(|cx| {
            if self.iteration.get() != before {
                return Poll::Ready(());
            }
            self.yielded.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub(super) fn is_settled(&self) -> bool {
        let sockets = self.sockets.borrow();
        sockets.behind == 0 && sockets.held.is_empty()
    }

    /// Returns the number of places for tasks, taken or free.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.tasks.places()
    }

    /// Sends the messages that were held in this iteration.
    fn release(&self) {
        let sockets = &mut *self.sockets.borrow_mut();
        let mut held = std::mem::take(&mut sockets.held);
        for index in held.drain(..) {
            self.release_one(sockets, index);
        }
        // The empty vector is put back, so that its capacity is used again.
        sockets.held = held;
    }

    fn release_one(&self, sockets: &mut Sockets, index: u32) {
        if let Some(entry) = sockets.find(index) {
            let posted = entry.release(&self.buffers);
            self.follow(sockets, index, posted);
        }
    }

    /// Turns the events of writability on, if a message did not go out completely.
    fn follow(&self, sockets: &mut Sockets, index: u32, posted: Posted) {
        if posted == Posted::Begun {
            self.ask_out(sockets.at(index), index, true);
            sockets.behind += 1;
        }
    }

    fn poll_events(&self, wait: bool) {
        let events = &mut *self.events.borrow_mut();
        events.clear();
        let timeout = (!wait).then_some(&AT_ONCE);
        match epoll::wait(&self.fd, spare_capacity(events), timeout) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(why) => panic!("epoll cannot be waited for: {why}"),
        }
        let sockets = &mut *self.sockets.borrow_mut();
        for event in events {
            let epoll::Event { flags, data } = *event;
            self.event(sockets, data.u64() as u32, flags);
        }
    }

    fn event(&self, sockets: &mut Sockets, index: u32, flags: epoll::EventFlags) {
        // The socket may be closed already. Epoll still reports its events as long as a forked process has
        // the descriptor, which closes when that process executes another program.
        let Some(entry) = sockets.find(index) else {
            return;
        };
        let end = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        if flags.intersects(end) {
            entry.ended = true;
        }
        // An end counts as readable and as writable, because a receive or a send has to report it.
        if flags.intersects(end | epoll::EventFlags::IN) {
            entry.readable = true;
            if let Some(waker) = &entry.reader {
                waker.wake_by_ref();
            }
        }
        if flags.intersects(end | epoll::EventFlags::OUT) {
            entry.writable = true;
            if let Some(waker) = &entry.connector {
                waker.wake_by_ref();
            }
            if entry.outbox.is_behind() {
                let left = entry.catch_up(&self.buffers);
                if !left {
                    self.ask_out(entry, index, false);
                    sockets.behind -= 1;
                }
            }
        }
    }

    fn register(&self, fd: OwnedFd, out: bool) -> io::Result<u32> {
        let sockets = &mut *self.sockets.borrow_mut();
        let index = sockets.put(fd);
        let entry = sockets.at(index);
        entry.armed_out = out;
        let data = epoll::EventData::new_u64(index.into());
        if let Err(why) = epoll::add(&self.fd, &entry.fd, data, interest(out)) {
            sockets.remove(index, &self.buffers);
            return Err(why.into());
        }
        Ok(index)
    }

    fn ask_out(&self, entry: &mut Entry, index: u32, on: bool) {
        if entry.armed_out == on {
            return;
        }
        entry.armed_out = on;
        let data = epoll::EventData::new_u64(index.into());
        if let Err(why) = epoll::modify(&self.fd, &entry.fd, data, interest(on)) {
            entry
                .outbox
                .fail(false, nix::errno::Errno::from_raw(why.raw_os_error()));
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

/// A descriptor that is registered with the loop. Dropping this value closes the descriptor.
struct Registered {
    epoll: Rc<Epoll>,
    index: u32,
}

impl Registered {
    fn with<T>(&self, ask: impl FnOnce(&mut Entry) -> T) -> T {
        ask(self.epoll.sockets.borrow_mut().at(self.index))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let sockets = &mut *self.epoll.sockets.borrow_mut();
        sockets.remove(self.index, &self.epoll.buffers);
    }
}

pub(crate) struct Watch(Registered);

impl Watch {
    pub(super) fn new(epoll: &Rc<Epoll>, fd: OwnedFd) -> io::Result<Self> {
        let index = epoll.register(fd, false)?;
        let epoll = epoll.clone();
        Ok(Self(Registered { epoll, index }))
    }

    pub(super) fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        self.0.with(|entry| {
            if std::mem::take(&mut entry.readable) {
                return Poll::Ready(());
            }
            keep(&mut entry.reader, cx);
            Poll::Pending
        })
    }
}

pub(crate) struct Stream(Registered);

impl Stream {
    pub(super) fn new(epoll: &Rc<Epoll>, fd: OwnedFd) -> io::Result<Self> {
        Self::register(epoll, fd, false)
    }

    fn register(epoll: &Rc<Epoll>, fd: OwnedFd, connecting: bool) -> io::Result<Self> {
        let index = epoll.register(fd, connecting)?;
        let epoll = epoll.clone();
        Ok(Self(Registered { epoll, index }))
    }

    pub(super) fn fd(&self) -> RawFd {
        self.0.with(|entry| entry.fd.as_raw_fd())
    }

    pub(super) fn poll_recv(&self, room: usize, cx: &Context<'_>) -> Received {
        if self.0.with(|entry| entry.readable && entry.outbox.holds()) {
            // The held request is sent first, because bytes that are received before it could be taken for
            // its answer.
            self.release();
        }
        let buffers = &self.0.epoll.buffers;
        self.0.with(|entry| {
            while entry.readable {
                let mut buffer = buffers.take(room);
                let space = buffer.capacity();
                let received = recv(&entry.fd, spare_capacity(&mut buffer), RecvFlags::DONTWAIT);
                match received {
                    Ok((_, count)) if count > 0 => {
                        // A receive that did not fill the buffer has emptied the socket. But if an end was
                        // reported, another receive has to take that end, because no further event would
                        // report it.
                        entry.readable = count == space || entry.ended;
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
                        return Poll::Ready(Err(why.into()));
                    }
                }
                buffers.give(buffer);
            }
            keep(&mut entry.reader, cx);
            Poll::Pending
        })
    }

    pub(super) fn check_quiet(&self) -> bool {
        self.0.with(|entry| !entry.readable || entry.is_empty())
    }

    pub(super) fn has_ended(&self) -> bool {
        self.0.with(|entry| entry.ended)
    }

    pub(super) fn post(&self, bytes: Vec<u8>) -> bool {
        let Registered { epoll, index } = &self.0;
        let sockets = &mut *epoll.sockets.borrow_mut();
        let entry = sockets.at(*index);
        let posted = entry.post(bytes, &epoll.buffers);
        epoll.follow(sockets, *index, posted);
        if posted == Posted::Held {
            sockets.held.push(*index);
        }
        matches!(posted, Posted::Out | Posted::Held)
    }

    pub(super) fn release(&self) {
        let Registered { epoll, index } = &self.0;
        epoll.release_one(&mut epoll.sockets.borrow_mut(), *index);
    }

    pub(super) fn is_behind(&self) -> bool {
        self.0
            .with(|entry| entry.outbox.is_behind() || entry.outbox.has_failed())
    }

    pub(super) fn abandon(&self) {
        let Registered { epoll, index } = &self.0;
        let sockets = &mut *epoll.sockets.borrow_mut();
        let entry = sockets.at(*index);
        let was_behind = entry.outbox.is_behind();
        entry.outbox.fail(false, nix::errno::Errno::ECANCELED);
        if was_behind {
            epoll.ask_out(entry, *index, false);
            sockets.behind -= 1;
        }
    }

    pub(super) fn moved(&self) -> Rc<Cell<u64>> {
        self.0.with(|entry| entry.outbox.moved())
    }

    pub(super) fn has_much(&self) -> bool {
        self.0.with(|entry| entry.has_much())
    }

    pub(super) fn unsent(&self) -> Option<Unsent> {
        self.0.with(|entry| entry.outbox.unsent())
    }

    pub(super) fn poll_sent(&self, cx: &Context<'_>) -> Poll<Result<(), Unsent>> {
        self.release();
        self.0.with(|entry| entry.outbox.poll_sent(cx))
    }
}

pub(super) async fn connect_tcp(epoll: &Rc<Epoll>, address: SocketAddr) -> io::Result<Stream> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(family, SocketType::STREAM, flags, None)?;
    // Without this option, a small message may wait for the acknowledgement of the message before it (Nagle's
    // algorithm).
    set_tcp_nodelay(&fd, true)?;
    match connect(&fd, &address) {
        Ok(()) => return Stream::new(epoll, fd),
        Err(Errno::INPROGRESS | Errno::INTR) => {}
        Err(why) => return Err(why.into()),
    }
    // Epoll reports the end of the connect as writability, even if the connect has failed.
    let stream = Stream::register(epoll, fd, true)?;
    poll_fn(|cx| {
        stream.0.with(|entry| {
            if entry.writable {
                return Poll::Ready(());
            }
            keep(&mut entry.connector, cx);
            Poll::Pending
        })
    })
    .await;
    stream.0.with(|entry| {
        entry.connector = None;
        epoll.ask_out(entry, stream.0.index, false);
        socket_error(&entry.fd)
    })??;
    Ok(stream)
}
