//! What a reactor knows of each descriptor: what is armed on it, what came, and what has still to go
//! out. A descriptor is closed once the kernel has no operation on it. Shared by both systems; it arms
//! nothing by itself.

use std::os::fd::OwnedFd;
use std::task::{Context, Waker};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use crate::buffers::Buffers;

/// A receive.
#[derive(Default)]
pub(super) enum Recv {
    #[default]
    None,
    /// Again and again, into buffers that the kernel chooses.
    Stream,
    /// The same, but the kernel was asked to end it.
    Ending,
    /// Once; the kernel has the buffer.
    Armed(Vec<u8>),
    /// It is over: so many bytes, or an error as a negative number.
    Done(Vec<u8>, i32),
}

/// A receive's end, which a stream may miss: what the kernel was asked of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    #[default]
    Unasked,
    Asked,
    /// It has come.
    Told,
}

/// What was not taken at once.
pub(super) struct Backlog {
    pub(super) bytes: Vec<u8>,
    pub(super) sent: usize,
}

/// Why nothing more goes out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failed {
    /// Not a byte of the message was taken.
    pub(super) nothing: bool,
    pub(super) why: Errno,
}

pub(super) struct Entry {
    pub(super) fd: OwnedFd,
    /// Its owner is gone.
    pub(super) dropped: bool,
    /// Operations that the kernel has.
    pub(super) in_flight: u8,
    pub(super) recv: Recv,
    /// What came of a stream and was not taken.
    pub(super) arrived: Vec<u8>,
    /// How the last stream of it ended: nothing, or an error as a negative number.
    pub(super) ended: Option<i32>,
    /// So much comes at once that it is received into buffers of its own.
    pub(super) large: bool,
    pub(super) end: End,
    /// There was no buffer left for it.
    pub(super) starved: bool,
    /// As far as is known, there is more to be read at once (io_uring), or the end (epoll).
    pub(super) more: bool,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// Whether readiness was asked for.
    pub(super) armed_in: bool,
    pub(super) armed_out: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// Where its bytes are among those that go out at the end of the pass.
    pub(super) passing: Option<u32>,
    pub(super) backlog: Option<Box<Backlog>>,
    pub(super) failed: Option<Failed>,
}

impl Entry {
    fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            dropped: false,
            in_flight: 0,
            recv: Recv::None,
            arrived: Vec::new(),
            ended: None,
            large: false,
            end: End::Unasked,
            starved: false,
            more: false,
            readable: false,
            writable: false,
            armed_in: false,
            armed_out: false,
            reader: None,
            writer: None,
            passing: None,
            backlog: None,
            failed: None,
        }
    }

    /// Nothing goes out any more; whoever reads hears of it too.
    pub(super) fn fail(&mut self, nothing: bool, why: Errno) {
        self.failed.get_or_insert(Failed { nothing, why });
        let _ = shutdown(&self.fd, Shutdown::Both);
        self.wake_both();
    }

    pub(super) fn wake_both(&self) {
        for waker in [&self.reader, &self.writer].into_iter().flatten() {
            waker.wake_by_ref();
        }
    }

    /// Whether a receive would find nothing, not even an end.
    pub(super) fn is_empty(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        loop {
            match recv(&self.fd, &mut [0; 1], flags) {
                Err(Errno::INTR) => {}
                looked => return matches!(looked, Err(Errno::AGAIN)),
            }
        }
    }

    /// Sends what the socket takes now, from `sent` on. What is left waits in the backlog.
    fn send_from(&mut self, bytes: Vec<u8>, mut sent: usize, buffers: &Buffers) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        while sent < bytes.len() {
            match send(&self.fd, &bytes[sent..], flags) {
                Ok(taken) => sent += taken,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.backlog = Some(Box::new(Backlog { bytes, sent }));
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
}

/// Keeps a waker, which costs nothing where it is the one of before.
pub(super) fn keep(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *place = Some(cx.waker().clone()),
    }
}

/// All descriptors of a reactor.
#[derive(Default)]
pub(super) struct Sockets {
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    /// Those with a backlog.
    pub(super) behind: usize,
}

impl Sockets {
    pub(super) fn put(&mut self, fd: OwnedFd) -> u32 {
        let entry = Some(Entry::new(fd));
        if let Some(index) = self.free.pop() {
            self.entries[index as usize] = entry;
            return index;
        }
        self.entries.push(entry);
        u32::try_from(self.entries.len() - 1).expect("fewer sockets than 2^32")
    }

    /// One that is known to be there.
    pub(super) fn at(&mut self, index: u32) -> &mut Entry {
        self.find(index)
            .expect("a socket is there while its owner or the kernel has it")
    }

    pub(super) fn find(&mut self, index: u32) -> Option<&mut Entry> {
        self.entries.get_mut(index as usize)?.as_mut()
    }

    /// Closes it, if nobody has anything to do with it any more.
    pub(super) fn release(&mut self, index: u32, buffers: &Buffers) {
        let entry = self.at(index);
        if !entry.dropped || entry.in_flight > 0 || entry.passing.is_some() {
            return;
        }
        if let Recv::Done(buffer, _) = std::mem::take(&mut entry.recv) {
            buffers.give(buffer);
        }
        buffers.give(std::mem::take(&mut entry.arrived));
        if entry.backlog.take().is_some() {
            self.behind -= 1;
        }
        self.entries[index as usize] = None;
        self.free.push(index);
    }

    /// Sends what the socket takes now, after what waits. True where a backlog began with it, for which
    /// room has to be asked.
    pub(super) fn send(&mut self, index: u32, bytes: Vec<u8>, buffers: &Buffers) -> bool {
        let entry = self.at(index);
        if entry.failed.is_some() {
            buffers.give(bytes);
            return false;
        }
        if let Some(backlog) = &mut entry.backlog {
            backlog.bytes.extend_from_slice(&bytes);
            buffers.give(bytes);
            return false;
        }
        entry.send_from(bytes, 0, buffers);
        let begun = entry.backlog.is_some();
        self.behind += usize::from(begun);
        begun
    }

    /// Goes on with a backlog, now that there may be room. True where some is left.
    pub(super) fn catch_up(&mut self, index: u32, buffers: &Buffers) -> bool {
        let entry = self.at(index);
        let Some(backlog) = entry.backlog.take() else {
            return false;
        };
        let Backlog { bytes, sent } = *backlog;
        entry.send_from(bytes, sent, buffers);
        if entry.backlog.is_some() {
            return true;
        }
        entry.wake_both();
        self.behind -= 1;
        false
    }
}
