//! One client's connection as whoever answers on it sees it: what came and was not taken, the next
//! head, its body, and whether the client is still there. It routes and answers nothing; `client` does.

use std::cell::{Cell, RefCell};
use std::net::Shutdown;
use std::rc::Rc;
use std::task::{Context, Poll};

use nanofaas_core::call::End;
use nanofaas_core::ticket::CallRef;

use crate::alarm::Alarm;
use crate::buffers::SMALL;
use crate::chunked::Chunked;
use crate::head::{Fault, Framing, HeadScan};
use crate::incoming::Incoming;
use crate::invoke::Client;
use crate::pending::Pending;
use crate::problem::Problem;
use crate::request::{Head, parse_head};
use crate::runtime::net::Socket;
use crate::share::Share;
use crate::thread::{Phase, Thread};

pub(crate) const SECOND_NS: u64 = 1_000_000_000;
const IDLE_NS_MAX: u64 = 75 * SECOND_NS;
const HEAD_NS_MAX: u64 = 10 * SECOND_NS;
/// A body that comes more slowly is not waited for.
const BODY_BYTES_PER_S: u64 = 16 * 1024;
/// What a client may send ahead of its answers.
pub(crate) const PIPELINED_MAX: usize = 64 * 1024;
/// A refused body up to this size is read and dropped, so that the connection lives on.
const SKIPPED_MAX: u64 = 256 * 1024;
const LARGE_READ: usize = 64 * 1024;
/// Bytes that a connection takes in before the others have their turn, and what a request counts as:
/// so at most 8 requests. Each is a system call on epoll, and a new connection's first call waits for
/// some four turns of all the others.
pub(crate) const SHARE: usize = 256 * 1024;
const REQUEST_SHARE: usize = SHARE / 8;
/// How often the end of a client that has sent too much ahead is looked for.
const END_LOOK_NS: u64 = SECOND_NS / 10;
/// An answer that the client does not read.
const WRITE_NS_MAX: u64 = 60 * SECOND_NS;

/// Which listener a connection came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// Clients; and pods too, where there is no other.
    Public { internal: bool },
    /// Pods alone.
    Internal,
}

/// What the reading and the serving half share.
pub(crate) struct Conn {
    pub(crate) thread: Rc<Thread>,
    pub(crate) port: Port,
    pub(crate) socket: Socket,
    pub(crate) pending: RefCell<Pending>,
    /// The reader stops while more than this is pending.
    pub(crate) room: Cell<usize>,
    pub(crate) read_size: Cell<usize>,
    pub(crate) eof: Cell<bool>,
    /// The reader has a reason to be asked again.
    pub(crate) kick: Cell<bool>,
    pub(crate) share: Share,
    /// The call that ends when the client leaves.
    pub(crate) serving: Cell<Option<CallRef>>,
    pub(crate) alarm: Alarm,
    /// For the end of a client that has sent much ahead; made for the first one.
    end_alarm: RefCell<Option<Alarm>>,
    /// An address of this machine alone: `Host` has to be one too.
    pub(crate) loopback: bool,
}

impl Client for Conn {
    fn serving(&self, place: Option<CallRef>) {
        self.serving.set(place);
        if let Some(place) = place
            && self.eof.get()
        {
            self.thread.calls.end(place, End::ClientLeft);
        }
    }

    fn poll_gone(&self) -> bool {
        self.eof.get()
    }
}

/// Why no further request is read.
pub(crate) enum Stop {
    /// The client left, or stayed idle.
    Quiet,
    Problem(Problem),
}

impl<P: Into<Problem>> From<P> for Stop {
    fn from(problem: P) -> Self {
        Self::Problem(problem.into())
    }
}

impl Conn {
    /// A connection from which nothing came yet.
    pub(crate) fn new(thread: Rc<Thread>, socket: Socket, port: Port, loopback: bool) -> Self {
        Self {
            alarm: thread.alarms.alarm(),
            thread,
            port,
            socket,
            pending: RefCell::default(),
            room: Cell::new(PIPELINED_MAX),
            read_size: Cell::new(SMALL),
            eof: Cell::new(false),
            kick: Cell::new(false),
            end_alarm: RefCell::default(),
            share: Share::default(),
            serving: Cell::new(None),
            loopback,
        }
    }

    /// Whether the client left before a call of its begins: its FIN may have come with the request, and
    /// the loop has not seen it yet.
    pub(crate) fn has_left(&self) -> bool {
        self.eof.get() || self.socket.has_ended()
    }

    /// Takes in what the client sent, as far as there is room for it and the share goes.
    pub(crate) fn poll_read(&self, cx: &Context<'_>) {
        self.poll_bytes(cx);
        if self.serving.get().is_some()
            && !self.eof.get()
            && self.pending.borrow().len() > self.room.get()
        {
            self.look_for_end(cx);
        }
    }

    /// While so much waits that nothing more is read, the client's end is looked for now and then.
    fn look_for_end(&self, cx: &Context<'_>) {
        let mut alarm = self.end_alarm.borrow_mut();
        let alarm = alarm.get_or_insert_with(|| {
            let alarm = self.thread.alarms.alarm();
            alarm.set(self.thread.last_ns() + END_LOOK_NS);
            alarm
        });
        while alarm.poll(cx).is_ready() {
            if self.socket.has_ended() {
                return self.end();
            }
            alarm.set(self.thread.now_ns() + END_LOOK_NS);
        }
    }

    /// The client sends nothing more.
    fn end(&self) {
        self.eof.set(true);
        if let Some(place) = self.serving.get() {
            self.thread.calls.end(place, End::ClientLeft);
        }
    }

    fn poll_bytes(&self, cx: &Context<'_>) {
        while !self.eof.get()
            && !self.share.is_used_up()
            && self.pending.borrow().len() <= self.room.get()
        {
            let Poll::Ready(read) = self.socket.poll_recv(self.read_size.get(), cx) else {
                return;
            };
            let buffer = read.unwrap_or_default();
            if buffer.is_empty() {
                return self.end();
            }
            // The next receive may stay armed for long: only one that follows a full one has much room.
            let is_full = buffer.len() == buffer.capacity();
            self.read_size.set(if is_full { LARGE_READ } else { SMALL });
            self.share.take(buffer.len());
            self.pending
                .borrow_mut()
                .append(buffer, &self.thread.buffers);
        }
    }

    /// Waits until all that was posted is out; false where the client does not take it.
    pub(crate) async fn sent(&self) -> bool {
        let mut waits = false;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(sent) = self.socket.poll_sent(cx) {
                return Poll::Ready(sent.is_ok());
            }
            if !waits {
                waits = true;
                self.alarm.set(self.thread.last_ns() + WRITE_NS_MAX);
            }
            self.alarm.poll(cx).map(|()| {
                // Whoever asks again need not wait as long again.
                self.socket.shutdown(Shutdown::Both);
                false
            })
        })
        .await
    }

    /// Waits until more than `seen` bytes are pending.
    pub(crate) async fn more(&self, seen: usize) -> Result<(), Late> {
        std::future::poll_fn(|cx| self.poll_more(seen, cx)).await
    }

    fn poll_more(&self, seen: usize, cx: &Context<'_>) -> Poll<Result<(), Late>> {
        if self.pending.borrow().len() > seen {
            return Poll::Ready(Ok(()));
        }
        if self.eof.get() {
            return Poll::Ready(Err(Late::Eof));
        }
        self.alarm.poll(cx).map(|()| Err(Late::Alarm))
    }

    /// The same between two requests: no other is begun before the last one's answer is out.
    async fn more_in_turn(&self, seen: usize) -> Result<(), Late> {
        std::future::poll_fn(|cx| {
            if self.socket.is_behind() {
                return Poll::Ready(Err(Late::Behind));
            }
            self.poll_more(seen, cx)
        })
        .await
    }

    /// Waits while the connection's share is used up; its task gives way then.
    async fn own_turn(&self) {
        std::future::poll_fn(|_| {
            if self.share.is_used_up() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }

    /// Lets the reader take up to `room` bytes ahead.
    pub(crate) fn set_room(&self, room: usize) {
        self.room.set(room);
        self.kick.set(true);
    }

    /// The next request's head.
    pub(crate) async fn head(&self) -> Result<(Head, u64), Stop> {
        let thread = &self.thread;
        let mut scan = HeadScan::default();
        let idle = self.pending.borrow().is_empty();
        // A request that was sent ahead begins once the last answer is out.
        if !idle && !self.sent().await {
            return Err(Stop::Quiet);
        }
        self.alarm
            .set(thread.last_ns() + if idle { IDLE_NS_MAX } else { HEAD_NS_MAX });
        let mut begun = !idle;
        if self.share.is_used_up() {
            self.own_turn().await;
        }
        loop {
            let seen = {
                let pending = self.pending.borrow();
                if !pending.is_empty() {
                    if let Some(head) = parse_head(&pending, &mut scan)? {
                        self.share.take(REQUEST_SHARE);
                        let now_ns = thread.now_ns();
                        thread.active(now_ns);
                        return Ok((head, now_ns));
                    }
                    if !begun {
                        begun = true;
                        self.alarm.set(thread.last_ns() + HEAD_NS_MAX);
                    }
                }
                pending.len()
            };
            if thread.phase.get() == Phase::Stopping && !begun {
                return Err(Stop::Quiet);
            }
            match self.more_in_turn(seen).await {
                Ok(()) => {}
                Err(Late::Behind) if self.sent().await => {
                    let patience_ns = if begun { HEAD_NS_MAX } else { IDLE_NS_MAX };
                    self.alarm.set(thread.last_ns() + patience_ns);
                }
                Err(Late::Alarm) if begun => {
                    let why = "the request's head did not come within 10 s; send it at once";
                    return Err(Problem::TooSlow(why).into());
                }
                Err(Late::Alarm | Late::Eof | Late::Behind) => return Err(Stop::Quiet),
            }
        }
    }

    /// The request with its body of `length` bytes.
    pub(crate) async fn sized(&self, head: Head, length: u64) -> Result<Incoming, Stop> {
        let whole = head.len + length as usize;
        if self.pending.borrow().len() < whole {
            let slow_ns = length * SECOND_NS / BODY_BYTES_PER_S;
            self.alarm
                .set(self.thread.last_ns() + HEAD_NS_MAX + slow_ns);
            self.set_room(whole.max(PIPELINED_MAX));
            self.read_size
                .set(LARGE_READ.min(length as usize).max(self.read_size.get()));
            {
                let mut pending = self.pending.borrow_mut();
                let missing = whole - pending.len();
                pending.reserve(missing);
            }
            self.rest_of_body(whole).await?;
            self.set_room(PIPELINED_MAX);
        }
        Ok(Incoming::new(self.split(whole), head, length as usize))
    }

    pub(crate) async fn rest_of_body(&self, whole: usize) -> Result<(), Stop> {
        loop {
            let seen = self.pending.borrow().len();
            if seen >= whole {
                // The call's time in the queue begins now, not with its head.
                let _whole_ns = self.thread.now_ns();
                return Ok(());
            }
            self.body_bytes(seen).await?;
        }
    }

    pub(crate) async fn body_bytes(&self, seen: usize) -> Result<(), Stop> {
        match self.more(seen).await {
            Ok(()) => Ok(()),
            Err(Late::Eof | Late::Behind) => Err(Stop::Quiet),
            Err(Late::Alarm) => {
                let why = "the body came at less than 16 KiB a second; send it faster";
                Err(Problem::TooSlow(why).into())
            }
        }
    }

    /// Takes the first `whole` bytes; what a client sent ahead stays.
    pub(crate) fn split(&self, whole: usize) -> Vec<u8> {
        let mut pending = self.pending.borrow_mut();
        if pending.len() > self.room.get() {
            // The reader waits for the room that is made here.
            self.kick.set(true);
        }
        pending.split(whole, &self.thread.buffers)
    }

    /// The request with a body that comes in chunks, at most `max` bytes. `grown` hears of each
    /// piece and may refuse it.
    pub(crate) async fn chunked(
        &self,
        head: Head,
        max: u64,
        mut grown: impl FnMut(u64) -> Result<(), Problem>,
    ) -> Result<Incoming, Stop> {
        let head_bytes = self.split(head.len);
        let mut decoder = Chunked::default();
        let mut body = self.thread.buffers.take(SMALL);
        let began_ns = self.thread.last_ns();
        self.alarm.set(began_ns + HEAD_NS_MAX);
        loop {
            let before = body.len() as u64;
            let progress = {
                let pending = self.pending.borrow();
                decoder
                    .decode(&pending, &mut body, max as usize)
                    .map_err(|fault| match fault {
                        Fault::BodyTooLarge => Problem::BodyTooLarge { bytes_max: max },
                        fault => Problem::Http(fault),
                    })?
            };
            self.drop_bytes(progress.consumed);
            grown(body.len() as u64 - before)?;
            if progress.done {
                let _whole_ns = self.thread.now_ns();
                return Ok(Incoming::chunked(head_bytes, head, body));
            }
            // On average, from the beginning: a trickle does not get ahead of it.
            let slow_ns = body.len() as u64 * SECOND_NS / BODY_BYTES_PER_S;
            self.alarm.set(began_ns + HEAD_NS_MAX + slow_ns);
            let seen = self.pending.borrow().len();
            self.body_bytes(seen).await?;
        }
    }

    /// Forgets the first bytes.
    pub(crate) fn drop_bytes(&self, count: usize) {
        let mut pending = self.pending.borrow_mut();
        pending.skip(count, &self.thread.buffers);
        self.kick.set(true);
    }

    /// Reads and drops the body of a refused request; false where the connection has to end.
    pub(crate) async fn skip(&self, head: &Head) -> bool {
        let length = match head.framing {
            Framing::None => 0,
            Framing::Length(length) => length,
            Framing::Chunked => return false,
        };
        if head.expect_continue || length > SKIPPED_MAX {
            return false;
        }
        self.drop_bytes(head.len);
        let mut left = length as usize;
        self.alarm.set(self.thread.last_ns() + HEAD_NS_MAX);
        while left > 0 {
            let some = left.min(self.pending.borrow().len());
            self.drop_bytes(some);
            left -= some;
            if left > 0 && self.more(0).await.is_err() {
                return false;
            }
        }
        true
    }
}

pub(crate) enum Late {
    Eof,
    Alarm,
    /// Of what was posted, not everything is out.
    Behind,
}
