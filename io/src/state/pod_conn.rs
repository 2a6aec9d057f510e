//! A kept-alive connection of this io thread to a pod. A receive stays armed on the connection. If the pod
//! ends, a running call's wait therefore ends at once, and a later call detects the end before it sends
//! anything. The call's own task polls the receive, so an answer wakes only one task. `pod_pool` keeps idle
//! connections; `to_pod` uses them.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::rc::Rc;
use std::task::{Context, Poll};

use nanofaas_core::message::PodAddress;
use nanofaas_core::time::{Nanos, Uptime};

use crate::runtime::Runtime;
use crate::runtime::buffers::{LARGE, SMALL};
use crate::runtime::net::{Socket, Unsent, connect_tcp, connect_unix};

/// How long `open` waits before it tries again, if the queue of a pod's Unix socket is full.
const QUEUE_FULL: Nanos = Nanos::from_ms(1);

/// A connection to a pod. Dropping this value closes the connection, even while bytes are in flight.
pub(crate) struct PodConn {
    socket: Socket,
    runtime: Rc<Runtime>,
    /// Received bytes that were not taken yet.
    pub(crate) received: Vec<u8>,
    /// The buffer size of the next receive.
    room: usize,
    end: ConnEnd,
    /// How many bytes of the last request's body were posted.
    posted: usize,
    /// When the last piece of the last request was posted; none before that.
    sent_at: Option<Uptime>,
}

/// Whether and how the pod has ended its side of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnEnd {
    NotYet,
    InOrder,
    /// The connection ended with a reset or another error.
    Broken,
}

impl PodConn {
    /// Returns whether the connection can carry a call: it is open, and no byte of it is unread. The check
    /// also ends a task's wait, as `rest` does.
    pub(crate) fn check_fresh(&self) -> bool {
        self.end == ConnEnd::NotYet && self.received.is_empty() && self.socket.check_quiet()
    }

    /// Ends a call's use of the connection. If bytes come before the next call, the connection cannot be used
    /// again.
    pub(crate) fn rest(&mut self) {
        self.room = SMALL;
        self.socket.rest();
    }

    /// Returns whether the connection is open and the request of the present call was sent completely. If
    /// not, the connection cannot carry another call.
    pub(crate) fn is_sound(&self) -> bool {
        self.end == ConnEnd::NotYet && self.sent_at.is_some() && !self.socket.is_behind()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.end != ConnEnd::NotYet
    }

    /// Returns whether the pod has ended its side without an error, as after a complete answer. A failed send
    /// also ends the receive without an error, but in that case the result is false.
    pub(crate) fn has_ended_in_order(&self) -> bool {
        self.end == ConnEnd::InOrder && self.socket.unsent().is_none()
    }

    /// Posts a request. `head` has spare room for the whole body or for its first piece. `poll_sent` posts
    /// the other pieces as fast as the pod takes them.
    pub(crate) fn post(&mut self, mut head: Vec<u8>, body: &[u8]) {
        let piece = body.len().min(head.capacity() - head.len());
        head.extend_from_slice(&body[..piece]);
        self.posted = 0;
        self.post_piece(head, piece, body);
    }

    /// Posts `bytes`, which end with the next `piece` bytes of the body.
    fn post_piece(&mut self, bytes: Vec<u8>, piece: usize, body: &[u8]) {
        self.posted += piece;
        // The clock is read before the send, because on one core the pod may run and answer before the send
        // returns.
        let now = self.runtime.now();
        self.sent_at = (self.posted == body.len()).then_some(now);
        self.socket.post(bytes);
    }

    /// Posts a part of a request whose body is passed through. `is_last` is whether this part completes the
    /// request.
    pub(crate) fn post_part(&mut self, bytes: Vec<u8>, is_last: bool) {
        let now = self.runtime.now();
        self.sent_at = is_last.then_some(now);
        self.socket.post(bytes);
    }

    /// Returns whether the pod has not taken some posted bytes yet.
    pub(crate) fn is_behind(&self) -> bool {
        self.socket.is_behind()
    }

    /// Wakes the task when the pod has taken all posted bytes.
    pub(crate) fn poll_taken(&self, cx: &Context<'_>) {
        let _taken = self.socket.poll_sent(cx);
    }

    /// Ends the direction to the pod, after everything that was posted.
    pub(crate) fn end_request(&self) {
        self.socket.shutdown(Shutdown::Write);
    }

    /// Receives one buffer, if `received` is empty. The buffer is made for at most `bytes_max` bytes.
    pub(crate) fn poll_part(&mut self, bytes_max: usize, cx: &Context<'_>) {
        if self.received.is_empty() {
            self.poll_more(bytes_max, cx);
        }
    }

    /// Receives one more buffer, made for at most `bytes_max` bytes. After a buffer that was not filled, the
    /// next one is small, because a receive holds its buffer while the pod sends nothing.
    pub(crate) fn poll_more(&mut self, bytes_max: usize, cx: &Context<'_>) {
        let before = self.received.len();
        let room = self.room.min(bytes_max);
        self.room = room;
        self.poll_read(cx);
        let came = self.received.len() - before;
        if came > 0 && came < room {
            self.room = SMALL;
        }
    }

    /// Returns how many bytes the pod's socket has sent, counted from the first call of this function on.
    pub(crate) fn moved(&self) -> u64 {
        self.socket.moved().get()
    }

    pub(crate) fn take_received(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.received)
    }

    /// Makes room in `received` for `more` bytes of an answer.
    pub(crate) fn reserve(&mut self, more: usize) {
        let whole = self.received.len() + more;
        if whole > self.received.capacity() {
            let mut larger = self.runtime.buffers.take(whole);
            larger.extend_from_slice(&self.received);
            let smaller = std::mem::replace(&mut self.received, larger);
            self.runtime.buffers.give(smaller);
        }
    }

    /// Returns when the last piece of the last request was posted; none if it was not posted yet.
    pub(crate) const fn sent_at(&self) -> Option<Uptime> {
        self.sent_at
    }

    /// Returns why posted bytes could not be sent, if they could not.
    pub(crate) fn unsent(&self) -> Option<Unsent> {
        self.socket.unsent()
    }

    /// Posts more pieces of the request's `body`, each as soon as the piece before it is sent.
    pub(crate) fn poll_sent(&mut self, body: &[u8], cx: &Context<'_>) {
        while self.sent_at.is_none() && matches!(self.socket.poll_sent(cx), Poll::Ready(Ok(()))) {
            let left = &body[self.posted..];
            let length = left.len().min(LARGE);
            let mut piece = self.runtime.buffers.take(length);
            piece.extend_from_slice(&left[..length]);
            self.post_piece(piece, length, body);
        }
    }

    /// Receives at most one buffer into `received`. A caller that needs more bytes has to poll again, because
    /// a poll that received bytes does not store the task's waker.
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
        // A full buffer suggests that more bytes have come, so the next receive gets a large buffer.
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
