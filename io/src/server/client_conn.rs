//! One client's connection, for the task that answers on it: the received bytes that were not taken yet, the
//! next head, its body, and whether the client is still there. It routes and answers nothing; `serve` does.

mod body;
mod stream;

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::task::{Context, Poll};

use nanofaas_core::call::End;
use nanofaas_core::memory::Charge;
use nanofaas_core::ticket::CallId;
use nanofaas_core::time::{Nanos, Uptime};
use nanofaas_http1::head::HeadScan;
use nanofaas_http1::request::{RequestHead, parse_request};

use crate::http::error::HttpError;
use crate::invoke::request::Client;
use crate::links::Links;
use crate::runtime::buffers::{LARGE, SMALL};
use crate::runtime::net::{Accepted, Socket};
use crate::runtime::phase::ShutdownPhase;
use crate::runtime::timers::Alarm;
use crate::server::pending_bytes::PendingBytes;
use crate::server::share::Share;
use crate::state::descriptors::IdleClient;

const IDLE_TIME_MAX: Nanos = Nanos::from_s(75);
const HEAD_WAIT_MAX: Nanos = Nanos::from_s(10);
/// The largest number of bytes that a client may send ahead of its answers. While more bytes are pending, the
/// reader stops.
pub(crate) const PIPELINED_MAX: usize = 64 * 1024;
/// The bytes that a connection takes in before the other connections are polled. Each request counts as
/// `REQUEST_SHARE` bytes more, so at most 8 requests are served in a row.
///
/// The limit is low, because each request costs a system call on epoll, and the first call of a new
/// connection waits for about four polls of every other connection.
pub(crate) const SHARE: usize = 256 * 1024;
const REQUEST_SHARE: usize = SHARE / 8;
/// How often `poll_for_end` checks whether the client has left, after this client has sent too much ahead.
const END_POLL: Nanos = Nanos::from_ms(100);

/// The listener that a connection came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListenerPort {
    /// The listener for clients. If `internal` is true, pods use it, too, because they have no listener of
    /// their own.
    Public { internal: bool },
    /// The listener that only pods use.
    Internal,
}

/// The body that the server is waiting for.
#[derive(Clone, Copy, Default)]
enum AwaitedBody {
    #[default]
    None,
    /// A body of known length. The number is the length of the whole request, with its head.
    Until(usize),
    Chunks,
    /// The body is passed through, one piece at a time.
    Stream,
}

/// One client's connection. The reader (`poll_read`) and the server (`serve`) share it.
pub(crate) struct ClientConn {
    pub(crate) thread: Rc<Links>,
    pub(crate) port: ListenerPort,
    pub(crate) socket: Socket,
    pub(crate) pending: RefCell<PendingBytes>,
    /// The reader stops while more bytes than this are pending.
    pub(crate) room: Cell<usize>,
    /// Whether the last receive filled its buffer.
    was_full: Cell<bool>,
    body: Cell<AwaitedBody>,
    /// The charge for an incomplete head, or for what the client sent ahead of its answers.
    ahead: RefCell<Option<Charge>>,
    pub(crate) eof: Cell<bool>,
    /// Whether the reader has to be polled again.
    pub(crate) kick: Cell<bool>,
    pub(crate) share: Share,
    /// The call that ends when the client leaves.
    pub(crate) serving: Cell<Option<CallId>>,
    pub(crate) alarm: Alarm,
    /// The timer of `poll_for_end`, which makes it at its first use.
    end_alarm: RefCell<Option<Alarm>>,
    /// Whether the connection came to a loopback address. If so, `Host` has to name this machine
    /// (`check_host`).
    pub(crate) loopback: bool,
    pub(crate) round_trip: Option<Nanos>,
    /// Since when the connection waits for a request; none while a request is being served.
    idle_from: Cell<Option<Uptime>>,
    /// How long the client waited to be accepted without sending anything; 0 if it has sent something.
    silent_for: Cell<Nanos>,
    /// Whether the client has sent a request.
    has_asked: Cell<bool>,
    /// The client's address, asked of the kernel when it is first needed; the inner value is none if the client has
    /// no address.
    peer: Cell<Option<Option<IpAddr>>>,
    /// The bytes that the outgoing answer holds in memory, and the time at which its request came.
    pub(crate) sending: Cell<(u64, Uptime)>,
}

impl Client for ClientConn {
    fn serving(&self, call_id: Option<CallId>) {
        self.serving.set(call_id);
        if let Some(call_id) = call_id
            && self.eof.get()
        {
            self.thread.calls.end(call_id, End::ClientLeft);
        }
    }

    fn is_gone(&self) -> bool {
        self.eof.get()
    }
}

impl IdleClient for ClientConn {
    fn idle_since(&self, now: Uptime, silent_for: Nanos) -> Option<Uptime> {
        let since = self.idle_from.get()?;
        let quiet_for = if self.has_asked.get() {
            Nanos::ZERO
        } else {
            silent_for
        };
        let is_idle = now >= since + quiet_for;
        let has_all = !self.socket.is_behind();
        (is_idle && has_all && self.pending.borrow().is_empty()).then_some(since)
    }

    fn leave(&self) {
        self.idle_from.set(None);
        self.alarm.set(self.thread.recent());
    }
}

/// Why no further request is read.
pub(crate) enum StopReading {
    /// The connection ends without an answer: the client left or was idle for too long, or the control plane
    /// stops.
    Quiet,
    Refused(HttpError),
}

impl<P: Into<HttpError>> From<P> for StopReading {
    fn from(error: P) -> Self {
        Self::Refused(error.into())
    }
}

impl ClientConn {
    /// Makes a connection on which nothing was received yet.
    pub(crate) fn new(thread: Rc<Links>, accepted: Accepted, port: ListenerPort) -> Self {
        Self {
            alarm: thread.alarms.alarm(),
            thread,
            port,
            socket: accepted.socket,
            pending: RefCell::default(),
            room: Cell::new(PIPELINED_MAX),
            was_full: Cell::new(false),
            body: Cell::default(),
            ahead: RefCell::default(),
            eof: Cell::new(false),
            kick: Cell::new(false),
            end_alarm: RefCell::default(),
            share: Share::default(),
            serving: Cell::new(None),
            loopback: accepted.is_loopback,
            round_trip: accepted.round_trip,
            idle_from: Cell::new(None),
            silent_for: Cell::new(accepted.silent_for),
            has_asked: Cell::new(false),
            peer: Cell::new(None),
            sending: Cell::default(),
        }
    }

    /// Returns whether the client has left already. It is called before the client's call begins. The socket
    /// is asked, because the client's FIN may have come with the request, and the event loop may not have
    /// seen the FIN yet.
    pub(crate) fn has_left(&self) -> bool {
        self.eof.get() || self.socket.has_ended()
    }

    /// Receives what the client sent, until there is no room for more or the connection's share is used up.
    pub(crate) fn poll_read(&self, cx: &Context<'_>) {
        self.poll_bytes(cx);
        if self.serving.get().is_some() && !self.eof.get() && !self.take_room() {
            self.poll_for_end(cx);
        }
    }

    /// Checks every `END_POLL` whether the client has left, while the reader stops because too much is
    /// pending.
    fn poll_for_end(&self, cx: &Context<'_>) {
        let mut alarm = self.end_alarm.borrow_mut();
        let alarm = alarm.get_or_insert_with(|| {
            let alarm = self.thread.alarms.alarm();
            alarm.set(self.thread.recent() + END_POLL);
            alarm
        });
        while alarm.poll(cx).is_ready() {
            if self.socket.has_ended() {
                return self.end();
            }
            alarm.set(self.thread.now() + END_POLL);
        }
    }

    /// Notes that the client has ended its direction, and ends the call that is being served.
    fn end(&self) {
        self.eof.set(true);
        if let Some(call_id) = self.serving.get() {
            self.thread.calls.end(call_id, End::ClientLeft);
        }
    }

    /// Returns whether the reader may read more now. Of a body that is passed on piece by piece, a piece is
    /// read only when no byte is pending. Pending bytes that belong to no body are charged if they are as
    /// long as a small buffer or longer; if there is no memory for the charge, further bytes stay unread in
    /// the kernel.
    #[inline]
    fn take_room(&self) -> bool {
        let pending = self.pending.borrow();
        if pending.len() > self.room.get() {
            return false;
        }
        let is_stream = matches!(self.body.get(), AwaitedBody::Stream);
        if pending.len() < SMALL && !is_stream {
            return true;
        }
        let is_of_body = match self.body.get() {
            AwaitedBody::None => false,
            AwaitedBody::Until(whole) => pending.len() < whole,
            AwaitedBody::Chunks => true,
            AwaitedBody::Stream => return pending.is_empty(),
        };
        is_of_body || self.charge_pending(&pending, SMALL)
    }

    /// Charges the buffer of the pending bytes, which belong to no body, and the next read of `next` bytes;
    /// false if there is no memory.
    fn charge_pending(&self, pending: &PendingBytes, next: usize) -> bool {
        self.charge(pending.held_bytes() + next as u64)
    }

    /// Enlarges `ahead`, the charge for bytes that are not a request yet, to `due` bytes; returns false if
    /// there is no memory.
    fn charge(&self, due: u64) -> bool {
        let mut ahead = self.ahead.borrow_mut();
        let ahead = ahead.get_or_insert_with(|| self.thread.account.nothing());
        due <= ahead.bytes() || ahead.grow(due - ahead.bytes())
    }

    /// Asks for another poll of the reader after an answer was sent or queued, because the reader may have
    /// held back the next request.
    pub(crate) fn end_answer(&self) {
        if self.ahead.borrow().is_some() {
            self.kick.set(true);
        }
    }

    /// Returns the size of the next receive's buffer. The buffer is held while the receive waits, so a large
    /// buffer is taken only if it can be filled: much of a body is missing, or the socket has more bytes than
    /// a small buffer takes.
    fn next_read(&self) -> usize {
        let missing = match self.body.get() {
            AwaitedBody::Until(whole) => whole.saturating_sub(self.pending.borrow().len()),
            AwaitedBody::None | AwaitedBody::Chunks | AwaitedBody::Stream => 0,
        };
        if missing > 0 {
            missing.clamp(SMALL, LARGE)
        } else if matches!(self.body.get(), AwaitedBody::Stream) {
            self.next_piece()
        } else if self.was_full.get() && self.socket.has_much() && self.take_large_room() {
            LARGE
        } else {
            SMALL
        }
    }

    /// Charges a large read; returns false if there is no memory. A chunked body needs no charge here,
    /// because `chunked` charges the body's buffer.
    fn take_large_room(&self) -> bool {
        matches!(self.body.get(), AwaitedBody::Chunks)
            || self.charge_pending(&self.pending.borrow(), LARGE)
    }

    fn poll_bytes(&self, cx: &Context<'_>) {
        while !self.eof.get() && !self.share.is_used_up() && self.take_room() {
            let Poll::Ready(read) = self.socket.poll_recv(self.next_read(), cx) else {
                return;
            };
            // The clock is read, because the deadlines of the requests in these bytes are counted from
            // `recent`.
            let _came_at = self.thread.now();
            let buffer = read.unwrap_or_default();
            if buffer.is_empty() {
                return self.end();
            }
            self.was_full.set(buffer.len() == buffer.capacity());
            self.share.take(buffer.len());
            self.pending
                .borrow_mut()
                .append(buffer, &self.thread.buffers);
        }
    }

    /// Waits until more than `seen` bytes are pending; fails if the client's bytes end or the alarm fires
    /// first.
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

    /// Waits for bytes of the next request, as `more` does. Fails if the last answer is not sent completely,
    /// because the next request may begin only after that.
    async fn more_in_turn(&self, seen: usize) -> Result<(), Late> {
        std::future::poll_fn(|cx| {
            if self.socket.is_behind() {
                return Poll::Ready(Err(Late::Behind));
            }
            self.poll_more(seen, cx)
        })
        .await
    }

    /// Waits while the connection's share is used up. `serve` then yields, and renews the share at the next
    /// poll.
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

    /// Lets the reader go on until more than `room` bytes are pending.
    pub(crate) fn set_room(&self, room: usize) {
        self.room.set(room);
        self.kick.set(true);
    }

    /// Waits for the next request's head, and returns it with the time at which the request began.
    pub(crate) async fn head(&self) -> Result<(RequestHead, Uptime), StopReading> {
        let thread = &self.thread;
        let mut scan = HeadScan::default();
        let idle = self.pending.borrow().is_empty();
        // A request that was sent ahead begins only when the last answer is sent.
        if !idle && !self.sent().await {
            return Err(StopReading::Quiet);
        }
        self.alarm
            .set(thread.recent() + if idle { IDLE_TIME_MAX } else { HEAD_WAIT_MAX });
        let mut begun = !idle;
        let mut has_come = false;
        if idle {
            let silent_for = self.silent_for.take();
            let since = thread.recent().saturating_sub(silent_for);
            self.idle_from.set(Some(since));
        }
        if self.share.is_used_up() {
            self.own_turn().await;
        }
        loop {
            let seen = {
                let pending = self.pending.borrow();
                if !pending.is_empty() {
                    if let Some(head) = parse_request(&pending, &mut scan)? {
                        if pending.len() <= head.whole() {
                            // All pending bytes belong to this request, which has a charge of its own. The
                            // charge for bytes sent ahead therefore ends.
                            self.ahead.take();
                        }
                        self.share.take(REQUEST_SHARE);
                        self.idle_from.set(None);
                        self.has_asked.set(true);
                        // If bytes of this request came during this wait, the clock was read when they came.
                        // A request that was sent ahead begins now, so the clock is read now.
                        let now = if has_come {
                            thread.recent()
                        } else {
                            thread.now()
                        };
                        thread.active(now);
                        // The thread beats here, too, because it may do much work before it reads its bell.
                        thread.ledger().beat.beat(now);
                        return Ok((head, now));
                    }
                    if !begun {
                        begun = true;
                        self.alarm.set(thread.recent() + HEAD_WAIT_MAX);
                    }
                    if pending.len() >= SMALL {
                        if !self.charge_pending(&pending, SMALL) {
                            return Err(HttpError::NoMemory.into());
                        }
                        self.kick.set(true);
                    }
                }
                pending.len()
            };
            if thread.phase.get() == ShutdownPhase::Stopping && !begun {
                return Err(StopReading::Quiet);
            }
            match self.more_in_turn(seen).await {
                Ok(()) => has_come = true,
                Err(Late::Behind) if self.sent().await => {
                    let patience = if begun { HEAD_WAIT_MAX } else { IDLE_TIME_MAX };
                    self.alarm.set(thread.recent() + patience);
                }
                Err(Late::Alarm) if begun => {
                    let why = "the request's head did not come within 10 s; send it at once";
                    return Err(HttpError::TooSlow(why).into());
                }
                Err(Late::Alarm | Late::Eof | Late::Behind) => return Err(StopReading::Quiet),
            }
        }
    }

    /// Takes the first `whole` bytes. The bytes behind them, which the client sent ahead, stay.
    pub(crate) fn split(&self, whole: usize) -> Vec<u8> {
        let mut pending = self.pending.borrow_mut();
        if pending.len() > self.room.get() {
            // The reader may have stopped because there was no room. This function makes room, so the reader
            // has to be polled again.
            self.kick.set(true);
        }
        let taken = pending.split(whole, &self.thread.buffers);
        drop(pending);
        let left = self.pending.borrow();
        let mut ahead = self.ahead.borrow_mut();
        if let Some(charge) = &mut *ahead {
            self.kick.set(true);
            if left.len() < SMALL {
                *ahead = None;
            } else {
                charge.cut_to(left.held_bytes());
            }
        }
        taken
    }

    pub(crate) fn drop_bytes(&self, count: usize) {
        let mut pending = self.pending.borrow_mut();
        pending.skip(count, &self.thread.buffers);
        self.kick.set(true);
    }
}

pub(crate) enum Late {
    Eof,
    Alarm,
    /// The bytes that were posted to the socket are not all sent yet.
    Behind,
}
