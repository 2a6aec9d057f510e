//! A kept-alive connection of this io thread to a pod. A read stays armed on it: a pod that dies is
//! noticed at once by the call in it, and by the next one before anything is sent. The call itself
//! polls it, so an answer wakes one task. `pod_pool` keeps idle ones; `to_pod` speaks over them.

use std::io::ErrorKind;
use std::rc::Rc;
use std::task::{Context, Poll};

use nanofaas_core::message::PodAddress;
use nanofaas_core::time::{Nanos, Uptime};

use crate::runtime::Runtime;
use crate::runtime::buffers::{LARGE, SMALL};
use crate::runtime::net::{Socket, Unsent, connect_tcp, connect_unix};

/// A pod on a Unix socket has more connections to accept than its queue holds: so long until another try.
const QUEUE_FULL: Nanos = Nanos::from_ms(1);

/// A connection to a pod. Dropping it closes it, whatever is in flight.
pub(crate) struct PodConn {
    socket: Socket,
    runtime: Rc<Runtime>,
    /// What came and was not taken.
    pub(crate) received: Vec<u8>,
    /// What a read has room for.
    room: usize,
    end: ConnEnd,
    /// How much of the last request's body was posted.
    posted: usize,
    /// When the last piece of the last request was posted.
    sent_at: Option<Uptime>,
}

/// How the pod has ended its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnEnd {
    NotYet,
    InOrder,
    /// By a reset, or whatever else is no end of an answer.
    Broken,
}

impl PodConn {
    /// Whether it can carry a call: open, and with nothing unread. It rests from then on.
    pub(crate) fn check_fresh(&self) -> bool {
        self.end == ConnEnd::NotYet && self.received.is_empty() && self.socket.check_quiet()
    }

    /// A call ended on it, and none has begun: what comes now spoils it.
    pub(crate) fn rest(&mut self) {
        self.room = SMALL;
        self.socket.rest();
    }

    /// Whether it can carry another call, as far as is known: open, and all of this one's is out.
    pub(crate) fn is_sound(&self) -> bool {
        self.end == ConnEnd::NotYet && self.sent_at.is_some() && !self.socket.is_behind()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.end != ConnEnd::NotYet
    }

    /// Whether the pod has ended its side as it does after a whole answer. A send that failed has ended both
    /// sides, which then looks the same.
    pub(crate) fn has_ended_in_order(&self) -> bool {
        self.end == ConnEnd::InOrder && self.socket.unsent().is_none()
    }

    /// Sends a request, a piece of a large body at a time, as fast as the pod takes it. `head` has room for
    /// the body, or for a piece of it.
    pub(crate) fn post(&mut self, mut head: Vec<u8>, body: &[u8]) {
        let piece = body.len().min(head.capacity() - head.len());
        head.extend_from_slice(&body[..piece]);
        self.posted = 0;
        self.post_piece(head, piece, body);
    }

    /// `bytes` end with the next `piece` bytes of the body.
    fn post_piece(&mut self, bytes: Vec<u8>, piece: usize, body: &[u8]) {
        self.posted += piece;
        // Read before the send: on one core the pod may have run, and answered, when that returns.
        let now = self.runtime.now();
        self.sent_at = (self.posted == body.len()).then_some(now);
        self.socket.post(bytes);
    }

    /// Room for so many more bytes of an answer.
    pub(crate) fn reserve(&mut self, more: usize) {
        let whole = self.received.len() + more;
        if whole > self.received.capacity() {
            let mut larger = self.runtime.buffers.take(whole);
            larger.extend_from_slice(&self.received);
            let smaller = std::mem::replace(&mut self.received, larger);
            self.runtime.buffers.give(smaller);
        }
    }

    /// When the last piece of the last request was posted, once it was.
    pub(crate) const fn sent_at(&self) -> Option<Uptime> {
        self.sent_at
    }

    /// Why what was sent did not go out after all.
    pub(crate) fn unsent(&self) -> Option<Unsent> {
        self.socket.unsent()
    }

    /// Sends more of the request's `body`, as far as the pod takes it.
    pub(crate) fn poll_sent(&mut self, body: &[u8], cx: &Context<'_>) {
        while self.sent_at.is_none() && matches!(self.socket.poll_sent(cx), Poll::Ready(Ok(()))) {
            let left = &body[self.posted..];
            let length = left.len().min(LARGE);
            let mut piece = self.runtime.buffers.take(length);
            piece.extend_from_slice(&left[..length]);
            self.post_piece(piece, length, body);
        }
    }

    /// Takes in what came, a buffer of it: who wants more looks at it first, and asks again.
    pub(crate) fn poll_read(&mut self, cx: &Context<'_>) {
        if self.is_closed() {
            return;
        }
        let Poll::Ready(read) = self.socket.poll_recv(self.room, cx) else {
            return;
        };
        let Ok(buffer) = read else {
            self.end = ConnEnd::Broken;
            return;
        };
        if buffer.is_empty() {
            self.end = ConnEnd::InOrder;
        }
        if buffer.len() == buffer.capacity() {
            self.room = LARGE;
        }
        if self.received.capacity() == 0 {
            self.received = self.runtime.buffers.fitted(buffer);
        } else {
            self.received.extend_from_slice(&buffer);
            self.runtime.buffers.give(buffer);
        }
    }

    pub(crate) async fn open(runtime: &Rc<Runtime>, address: &PodAddress) -> std::io::Result<Self> {
        let event_loop = &runtime.event_loop;
        let socket = match address {
            PodAddress::Tcp(address) => connect_tcp(event_loop, *address).await?,
            PodAddress::Unix(path) => loop {
                match connect_unix(event_loop, path) {
                    Err(full) if full.kind() == ErrorKind::WouldBlock => {
                        let alarm = runtime.alarms.alarm();
                        alarm.until(runtime.now() + QUEUE_FULL).await;
                    }
                    connected => break connected?,
                }
            },
        };
        Ok(Self {
            socket,
            runtime: runtime.clone(),
            received: Vec::new(),
            room: SMALL,
            end: ConnEnd::NotYet,
            posted: 0,
            sent_at: None,
        })
    }
}
