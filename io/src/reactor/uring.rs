//! A reactor's kernel side on io_uring. One system call a pass hands over sends, takes in what came and
//! waits. A receive stays armed and takes its buffer when something comes; where much comes it has one of its
//! own. A send that goes out whole, as nearly all do, makes no completion. Needs Linux 6.1 (deferred task work).
#![allow(unsafe_code)] // Handing a buffer to the kernel is a promise that the compiler cannot check.

use std::io;
use std::os::fd::AsRawFd;
use std::task::{Context, Poll};

use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::Direction;
use super::provided::{GROUP, Provided};
use super::sockets::{Backlog, End, Entry, Recv, Sockets, keep};
use crate::buffers::{Buffers, SMALL};

/// `IORING_RECVSEND_POLL_FIRST` of linux/io_uring.h.
const POLL_FIRST: u16 = 1;
/// `MSG_WAITALL`: a send that is cut short is an error, which makes a completion.
const WHOLE: u32 = 0x100;

/// What is received at once where much comes; a stream that has as much waiting is ended.
const LARGE: usize = 64 * 1024;
/// What one socket may have waiting for the end of the pass: a client that sends many requests at once, and
/// reads nothing, has no more answers made than that.
const PASSING_MAX: usize = 64 * 1024;

/// So many sends go out together while the pass goes on: the peers need not wait for its end.
const TOGETHER: usize = 8;

/// What an operation is, in the low byte of its number.
const NOTHING: u8 = 0;
const RECV: u8 = 1;
const SEND: u8 = 2;
const IN: u8 = 3;
const OUT: u8 = 4;
const HANGUP: u8 = 5;

/// Bytes that go out at the end of the pass.
struct Passing {
    index: u32,
    bytes: Vec<u8>,
    /// As the kernel says it, where they did not go out whole.
    result: Option<i32>,
    /// Posted to the same socket when the kernel had the others already.
    next: Vec<u8>,
}

pub(super) struct Uring {
    ring: IoUring,
    passing: Vec<Passing>,
    /// So many of them are the kernel's.
    handed_over: usize,
    /// Somebody waits for one of them to be out, which the kernel does not say.
    awaited: bool,
    completions: Vec<cqueue::Entry>,
    provided: Provided,
}

/// What an operation came to.
fn outcome(result: i32) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| Errno::from_raw_os_error(-result))
}

const fn number(index: u32, kind: u8) -> u64 {
    (index as u64) << 8 | kind as u64
}

impl Uring {
    pub(super) fn new(entries: u32, buffers: &Buffers) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .build(entries)?;
        // A ring that is named by its place spares a lookup at each entry; one by its descriptor will do.
        let _ = ring.submitter().register_ring_fd();
        let provided = Provided::new(&ring.submitter(), buffers)?;
        Ok(Self {
            ring,
            passing: Vec::new(),
            handed_over: 0,
            awaited: false,
            completions: Vec::new(),
            provided,
        })
    }

    pub(super) const fn is_settled(&self) -> bool {
        self.passing.is_empty()
    }

    /// Sends at the end of the pass, after what the socket was given before. False where that is so much
    /// that no more should come before it is out.
    pub(super) fn pass(
        &mut self,
        entry: &mut Entry,
        index: u32,
        bytes: Vec<u8>,
        buffers: &Buffers,
    ) -> bool {
        if let Some(at) = entry.passing {
            let passing = &mut self.passing[at as usize];
            let place = if (at as usize) < self.handed_over {
                &mut passing.next
            } else {
                &mut passing.bytes
            };
            place.extend_from_slice(&bytes);
            buffers.give(bytes);
            return passing.bytes.len() + passing.next.len() <= PASSING_MAX;
        }
        entry.passing = Some(self.passing.len() as u32);
        self.passing.push(Passing {
            index,
            bytes,
            result: None,
            next: Vec::new(),
        });
        true
    }

    /// Hands over what is to go out, if it is worth a system call already.
    pub(super) fn pass_on(&mut self, sockets: &mut Sockets) {
        if self.passing.len() >= self.handed_over + TOGETHER {
            self.hand_over(sockets);
            self.enter(0);
        }
    }

    /// Whoever waits for what is passing is to be woken at the end of the pass.
    pub(super) const fn await_passing(&mut self) {
        self.awaited = true;
    }

    /// What came, if anything did; nothing at all is the end. Else a receive is armed.
    pub(super) fn poll_recv(
        &mut self,
        entry: &mut Entry,
        index: u32,
        buffers: &Buffers,
        room: usize,
        cx: &Context<'_>,
    ) -> Poll<Result<Vec<u8>, Errno>> {
        if !entry.arrived.is_empty() {
            return Poll::Ready(Ok(std::mem::take(&mut entry.arrived)));
        }
        if let Some(result) = entry.ended {
            return Poll::Ready(outcome(result).map(|_| Vec::new()));
        }
        match std::mem::take(&mut entry.recv) {
            Recv::Done(mut buffer, result) => {
                let count = outcome(result);
                if let Ok(count) = count
                    && count > 0
                {
                    // SAFETY: the kernel has written so many bytes to it, from its beginning.
                    unsafe { buffer.set_len(count) };
                    return Poll::Ready(Ok(buffer));
                }
                buffers.give(buffer);
                return Poll::Ready(count.map(|_| Vec::new()));
            }
            Recv::Stream if room > SMALL || entry.end == End::Told => {
                entry.large |= room > SMALL;
                self.end_stream(entry, index);
            }
            Recv::None if room > SMALL || entry.large => {
                self.receive_once(entry, index, buffers.take(room.max(LARGE)));
            }
            // Others took all that were provided, or there is only the end to come.
            Recv::None if std::mem::take(&mut entry.starved) || entry.end == End::Told => {
                self.receive_once(entry, index, buffers.take(SMALL));
            }
            Recv::None => {
                let operation = opcode::RecvMulti::new(Fd(entry.fd.as_raw_fd()), GROUP)
                    .build()
                    .user_data(number(index, RECV));
                entry.recv = Recv::Stream;
                entry.in_flight += 1;
                self.push(&operation);
                self.watch(entry, index);
            }
            waits => entry.recv = waits,
        }
        keep(&mut entry.reader, cx);
        Poll::Pending
    }

    /// Whether nothing had come when the kernel was last asked. Only a receive that is armed makes the loop hear
    /// of what comes; where there is none, as between two receives into buffers of their own, the socket is
    /// looked at.
    pub(super) fn is_quiet(entry: &Entry) -> bool {
        let nothing = entry.arrived.is_empty() && entry.ended.is_none() && entry.end != End::Told;
        nothing
            && match entry.recv {
                Recv::Stream | Recv::Armed(_) => true,
                Recv::Done(..) => false,
                Recv::None | Recv::Ending => entry.is_empty(),
            }
    }

    /// A stream that is told of bytes and of the end at once takes the bytes and forgets the end: resets on
    /// TCP, any end on Unix sockets (seen on Linux 6.18). So the end is asked for apart.
    fn watch(&mut self, entry: &mut Entry, index: u32) {
        if entry.end != End::Unasked {
            return;
        }
        entry.end = End::Asked;
        let flags = PollFlags::RDHUP.bits().into();
        let operation = opcode::PollAdd::new(Fd(entry.fd.as_raw_fd()), flags)
            .build()
            .user_data(number(index, HANGUP));
        entry.in_flight += 1;
        self.push(&operation);
    }

    fn receive_once(&mut self, entry: &mut Entry, index: u32, mut buffer: Vec<u8>) {
        let operation = opcode::Recv::new(
            Fd(entry.fd.as_raw_fd()),
            buffer.as_mut_ptr(),
            u32::try_from(buffer.capacity()).unwrap_or(u32::MAX),
        )
        .ioprio(if entry.more { 0 } else { POLL_FIRST })
        .build()
        .user_data(number(index, RECV));
        entry.recv = Recv::Armed(buffer);
        entry.in_flight += 1;
        self.push(&operation);
    }

    fn end_stream(&mut self, entry: &mut Entry, index: u32) {
        entry.recv = Recv::Ending;
        self.cancel(number(index, RECV));
    }

    fn cancel(&mut self, operation: u64) {
        let cancel = opcode::AsyncCancel::new(operation)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(NOTHING.into());
        self.push(&cancel);
    }

    /// Asks to be told when the descriptor is ready.
    pub(super) fn ask(&mut self, entry: &mut Entry, index: u32, direction: Direction) {
        let (armed, flags, kind) = match direction {
            Direction::In => (&mut entry.armed_in, PollFlags::IN, IN),
            Direction::Out => (&mut entry.armed_out, PollFlags::OUT, OUT),
        };
        if std::mem::replace(armed, true) {
            return;
        }
        let operation = opcode::PollAdd::new(Fd(entry.fd.as_raw_fd()), flags.bits().into())
            .build()
            .user_data(number(index, kind));
        entry.in_flight += 1;
        self.push(&operation);
    }

    /// Takes back what was asked: a descriptor that is about to be closed may never be ready.
    pub(super) fn ask_no_more(&mut self, entry: &Entry, index: u32) {
        if matches!(entry.recv, Recv::Stream) {
            self.cancel(number(index, RECV));
        }
        if entry.end == End::Asked {
            self.cancel(number(index, HANGUP));
        }
        for (armed, kind) in [(entry.armed_in, IN), (entry.armed_out, OUT)] {
            if armed {
                self.cancel(number(index, kind));
            }
        }
    }

    fn push(&mut self, operation: &squeue::Entry) {
        // SAFETY: the buffer of a receive is the entry's, and that of a send is `passing`'s, until the
        // kernel says that it is done with it: a receive by its completion, a send when the entry to the
        // kernel that hands it over returns (it never waits). Neither is touched before, and a vector
        // that moves leaves its bytes where they are. The descriptor is open as long.
        while unsafe { self.ring.submission().push(operation) }.is_err() {
            self.enter(0);
        }
    }

    /// Hands over what is queued, and takes over what is completed, to be looked at later.
    fn enter(&mut self, want: usize) {
        match self.ring.submit_and_wait(want) {
            Ok(_) => {}
            // The kernel has no memory, or no room for completions: taking them makes some.
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::INTR | Errno::AGAIN | Errno::BUSY | Errno::NOMEM) => {}
                _ => panic!("io_uring cannot be entered: {error}"),
            },
        }
        self.completions.extend(self.ring.completion());
    }

    pub(super) fn turn(&mut self, sockets: &mut Sockets, buffers: &Buffers, wait: bool) {
        self.hand_over(sockets);
        let wait = wait && !std::mem::take(&mut self.awaited);
        if wait || self.has_work() {
            self.enter(usize::from(wait && self.completions.is_empty()));
            // A send's failure may wait for room among the completions.
            while self.is_unfinished() {
                self.enter(0);
            }
        }
        let mut completions = std::mem::take(&mut self.completions);
        for completion in completions.drain(..) {
            self.complete(sockets, buffers, &completion);
        }
        // Asking for room to send may have found more of them.
        if self.completions.is_empty() {
            self.completions = completions;
        }
        self.settle(sockets, buffers);
    }

    /// Whether the kernel has not taken everything, or not said everything.
    fn is_unfinished(&mut self) -> bool {
        let submission = self.ring.submission();
        !submission.is_empty() || submission.cq_overflow()
    }

    /// Whether an entry to the kernel would do anything.
    fn has_work(&mut self) -> bool {
        let submission = self.ring.submission();
        let queued = !submission.is_empty() || submission.taskrun() || submission.cq_overflow();
        drop(submission);
        queued || !self.ring.completion().is_empty()
    }

    fn hand_over(&mut self, sockets: &mut Sockets) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        for at in self.handed_over..self.passing.len() {
            let Passing { index, bytes, .. } = &self.passing[at];
            let fd = Fd(sockets.at(*index).fd.as_raw_fd());
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let operation = opcode::Send::new(fd, bytes.as_ptr(), length)
                .flags((flags.bits() | WHOLE) as i32)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(number(at as u32, SEND));
            self.push(&operation);
        }
        self.handed_over = self.passing.len();
    }

    fn complete(&mut self, sockets: &mut Sockets, buffers: &Buffers, completion: &cqueue::Entry) {
        let number = completion.user_data();
        let (index, kind) = ((number >> 8) as u32, number as u8);
        if kind == NOTHING {
            return;
        }
        if kind == SEND {
            self.passing[index as usize].result = Some(completion.result());
            return;
        }
        let entry = sockets.at(index);
        if kind == RECV {
            self.received(entry, index, completion, buffers);
            return sockets.release(index, buffers);
        }
        entry.in_flight -= 1;
        match kind {
            HANGUP => {
                entry.end = End::Told;
                if let Some(waker) = &entry.reader {
                    waker.wake_by_ref();
                }
            }
            IN => {
                entry.armed_in = false;
                entry.readable = true;
                if let Some(waker) = &entry.reader {
                    waker.wake_by_ref();
                }
            }
            _ => {
                entry.armed_out = false;
                entry.writable = true;
                if let Some(waker) = &entry.writer {
                    waker.wake_by_ref();
                }
                if !entry.dropped && sockets.catch_up(index, buffers) {
                    self.ask(sockets.at(index), index, Direction::Out);
                }
            }
        }
        sockets.release(index, buffers);
    }

    fn received(
        &mut self,
        entry: &mut Entry,
        index: u32,
        completion: &cqueue::Entry,
        buffers: &Buffers,
    ) {
        let (result, flags) = (completion.result(), completion.flags());
        entry.more = cqueue::sock_nonempty(flags);
        let over = !cqueue::more(flags);
        entry.in_flight -= u8::from(over);
        if let Some(waker) = &entry.reader {
            waker.wake_by_ref();
        }
        if let Recv::Armed(buffer) = &mut entry.recv {
            let buffer = std::mem::take(buffer);
            entry.recv = Recv::Done(buffer, result);
            return;
        }
        if over {
            entry.recv = Recv::None;
        }
        if let Some(chosen) = cqueue::buffer_select(flags) {
            let count = usize::try_from(result).unwrap_or(0);
            let bytes = self.provided.take(chosen, count, buffers);
            entry.large |= count == bytes.capacity();
            if entry.arrived.capacity() == 0 {
                entry.arrived = bytes;
            } else {
                entry.arrived.extend_from_slice(&bytes);
                buffers.give(bytes);
            }
        }
        match outcome(result) {
            Ok(1..) | Err(Errno::CANCELED) => {}
            Err(Errno::NOBUFS) => entry.starved = true,
            Ok(0) | Err(_) => entry.ended = Some(result),
        }
        // Who sends so much gets buffers of its own; who sends it in small pieces waits for its turn.
        if matches!(entry.recv, Recv::Stream) && (entry.large || entry.arrived.len() > LARGE) {
            self.end_stream(entry, index);
        }
    }

    /// The kernel is done with everything that was handed over in this pass.
    fn settle(&mut self, sockets: &mut Sockets, buffers: &Buffers) {
        let mut passing = std::mem::take(&mut self.passing);
        self.handed_over = 0;
        for Passing {
            index,
            bytes,
            result,
            next,
        } in passing.drain(..)
        {
            let entry = sockets.at(index);
            entry.passing = None;
            if let Some(waker) = &entry.writer {
                waker.wake_by_ref();
            }
            match result {
                None => buffers.give(bytes),
                Some(result) => self.cut_short(sockets, buffers, index, bytes, result),
            }
            if !next.is_empty() && sockets.send(index, next, buffers) {
                self.ask(sockets.at(index), index, Direction::Out);
            }
            if sockets.at(index).dropped {
                sockets.release(index, buffers);
            }
        }
        self.passing = passing;
    }

    #[cold]
    fn cut_short(
        &mut self,
        sockets: &mut Sockets,
        buffers: &Buffers,
        index: u32,
        bytes: Vec<u8>,
        result: i32,
    ) {
        let entry = sockets.at(index);
        let sent = match outcome(result) {
            Ok(sent) => sent,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(why) => {
                entry.fail(true, why);
                return buffers.give(bytes);
            }
        };
        if sent == bytes.len() {
            return buffers.give(bytes);
        }
        entry.backlog = Some(Box::new(Backlog { bytes, sent }));
        entry.wake_both();
        sockets.behind += 1;
        self.ask(sockets.at(index), index, Direction::Out);
    }
}
