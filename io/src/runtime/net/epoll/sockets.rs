//! The state of each descriptor of the epoll loop: which events have come, and which bytes still have to be
//! sent. This module sends, peeks and closes; `epoll` waits for events and receives.

use std::os::fd::{AsRawFd, OwnedFd};
use std::task::Waker;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::runtime::buffers::{Buffers, SMALL};
use crate::runtime::net::outbox::{Posted, SocketOutbox};

pub(super) struct Entry {
    pub(super) fd: OwnedFd,
    /// Whether a receive may find something.
    pub(super) readable: bool,
    /// Whether the peer has ended its direction.
    pub(super) ended: bool,
    pub(super) writable: bool,
    /// Whether the events of writability are on.
    pub(super) armed_out: bool,
    pub(super) reader: Option<Waker>,
    pub(super) connector: Option<Waker>,
    pub(super) outbox: SocketOutbox,
}

impl Entry {
    pub(super) fn post(&mut self, bytes: Vec<u8>, buffers: &Buffers) -> Posted {
        let Self { fd, outbox, .. } = self;
        outbox.post(bytes, buffers, |bytes: &[u8]| send_now(fd, bytes))
    }

    pub(super) fn release(&mut self, buffers: &Buffers) -> Posted {
        let Self { fd, outbox, .. } = self;
        let posted = outbox.release(buffers, |bytes: &[u8]| send_now(fd, bytes));
        // The caller of `post` treats the held message as sent. If the message is not sent completely, the
        // task that receives is woken, because this task reports the failure.
        if posted != Posted::Out
            && let Some(waker) = &self.reader
        {
            waker.wake_by_ref();
        }
        posted
    }

    /// Sends more of the waiting bytes. Returns true if some are still left.
    pub(super) fn catch_up(&mut self, buffers: &Buffers) -> bool {
        let Self { fd, outbox, .. } = self;
        outbox.catch_up(buffers, |bytes: &[u8]| send_now(fd, bytes))
    }

    /// Returns whether a receive would find nothing, not even an end.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.peek(&mut [0; 1]), Err(Errno::AGAIN))
    }

    /// Returns whether a receive would find more than a small buffer has room for.
    pub(super) fn has_much(&self) -> bool {
        self.peek(&mut [0; SMALL + 1])
            .is_ok_and(|found| found > SMALL)
    }

    fn peek(&self, bytes: &mut [u8]) -> Result<usize, Errno> {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        loop {
            match recv(&self.fd, &mut *bytes, flags) {
                Err(Errno::INTR) => {}
                looked => return looked.map(|(found, _)| found),
            }
        }
    }
}

/// Sends by rustix, which makes the system call itself. The C library's `send` is a cancellation point, which
/// costs two locked instructions more.
fn send_now(fd: &OwnedFd, bytes: &[u8]) -> Result<usize, nix::errno::Errno> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    send(fd, bytes, flags).map_err(|why| nix::errno::Errno::from_raw(why.raw_os_error()))
}

#[derive(Default)]
pub(super) struct Sockets {
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    /// The number of sockets with bytes that the peer has not taken yet; a held message does not count.
    pub(super) behind: usize,
    /// The sockets with a message that is sent at the end of the iteration.
    pub(super) held: Vec<u32>,
}

impl Sockets {
    pub(super) fn put(&mut self, fd: OwnedFd) -> u32 {
        let outbox = SocketOutbox::new(fd.as_raw_fd());
        let entry = Some(Entry {
            fd,
            readable: false,
            ended: false,
            writable: false,
            armed_out: false,
            reader: None,
            connector: None,
            outbox,
        });
        if let Some(index) = self.free.pop() {
            self.entries[index as usize] = entry;
            return index;
        }
        self.entries.push(entry);
        u32::try_from(self.entries.len() - 1).expect("fewer sockets than 2^32")
    }

    /// Returns the entry of a socket that must exist.
    pub(super) fn at(&mut self, index: u32) -> &mut Entry {
        self.find(index)
            .expect("an entry is there while its socket is")
    }

    pub(super) fn find(&mut self, index: u32) -> Option<&mut Entry> {
        self.entries.get_mut(index as usize)?.as_mut()
    }

    /// Closes the socket. Bytes that were not sent are lost.
    pub(super) fn remove(&mut self, index: u32, buffers: &Buffers) {
        let Some(entry) = self.entries[index as usize].take() else {
            return;
        };
        if entry.outbox.is_behind() {
            self.behind -= 1;
        }
        entry.outbox.give_back(buffers);
        self.free.push(index);
    }
}
