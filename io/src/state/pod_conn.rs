//! A kept-alive connection of this io thread to a pod. A receive stays armed on it: if the pod dies, the call
//! on it notices at once, and the next call notices before it sends anything. The call itself polls the
//! receive, so an answer wakes one task. `pod_pool` keeps idle connections; `to_pod` uses them.

use std::io::ErrorKind;
use std::rc::Rc;
use std::task::{Context, Poll};

use nanofaas_core::message::PodAddress;
use nanofaas_core::time::{Nanos, Uptime};

use crate::runtime::Runtime;
use crate::runtime::buffers::{LARGE, SMALL};
use crate::runtime::net::{Socket, Unsent, connect_tcp, connect_unix};

/// The pause before the next try, if the queue of a pod's Unix socket is full.
const QUEUE_FULL: Nanos = Nanos::from_ms(1);

/// A connection to a pod. Dropping it closes it, whatever is in flight.
pub(crate) struct PodConn {
    socket: Socket,
    runtime: Rc<Runtime>,
    /// Received bytes that were not taken yet.
    pub(crate) received: Vec<u8>,
    /// The buffer size of the next receive.
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
    /// The end is a reset or another error.
    Broken,
}

impl PodConn {
    /// Whether the connection can carry a call: it is open, and nothing is unread. The check also ends a task's
    /// wait, as `rest` does.
    pub(crate) fn check_fresh(&self) -> bool {
        self.end == ConnEnd::NotYet && self.received.is_empty() && self.socket.check_quiet()
    }

    /// Ends a call's use of the connection. Bytes that come before the next call make it unusable.
    pub(crate) fn rest(&mut self) {
        self.room = SMALL;
        self.socket.rest();
    }

    /// Whether the connection can carry another call, as far as is known: it is open, and the request of this
    /// call was sent completely.
    pub(crate) fn is_sound(&self) -> bool {
        self.end == ConnEnd::NotYet && self.sent_at.is_some() && !self.socket.is_behind()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.end != ConnEnd::NotYet
    }

    /// Whether the pod has ended its side as it does after a complete answer. The receive ends in the same way
    /// if a failed send has ended both sides, so that case is excluded.
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

    /// Sends `bytes`, which end with the next `piece` bytes of the body.
    fn post_piece(&mut self, bytes: Vec<u8>, piece: usize, body: &[u8]) {
        self.posted += piece;
        // The clock is read before the send, because on one core the pod may run, and answer, before the send
        // returns.
        let now = self.runtime.now();
        self.sent_at = (self.posted == body.len()).then_some(now);
        self.socket.post(bytes);
    }

    /// Makes room for this many more bytes of an answer.
    pub(crate) fn reserve(&mut self, more: usize) {
        let whole = self.received.len() + more;
        if whole > self.received.capacity() {
            let mut larger = self.runtime.buffers.take(whole);
            larger.extend_from_slice(&self.received);
            let smaller = std::mem::replace(&mut self.received, larger);
            self.runtime.buffers.give(smaller);
        }
    }

    /// When the last piece of the last request was posted; none if it was not posted yet.
    pub(crate) const fn sent_at(&self) -> Option<Uptime> {
        self.sent_at
    }

    /// Why posted bytes could not be sent, if they could not.
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

    /// Receives one buffer. A caller that needs more checks `received` first, and polls again.
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
        // A full buffer means that more is there, so the next receive is a large one.
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
