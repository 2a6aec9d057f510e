//! A kept-alive connection of this io thread to a pod. A read stays armed on it: a pod that dies is
//! noticed at once by the call in it, and by the next one before anything is sent. The call itself
//! polls it, so an answer wakes one task. `pods` keeps idle ones; `pod` speaks over them.

use std::io::ErrorKind;
use std::rc::Rc;
use std::task::{Context, Poll};

use nanofaas_core::message::PodAddress;

use crate::buffers::SMALL;
use crate::runtime::net::{Socket, Unsent, connect_tcp, connect_unix};
use crate::thread::Thread;

/// A connection that carries answers in one read is read with small buffers; others with these.
const LARGE_READ: usize = 64 * 1024;
/// A pod on a Unix socket has more connections to accept than its queue holds: so long until another try.
const QUEUE_FULL_NS: u64 = 1_000_000;

/// A connection to a pod. Dropping it closes it, whatever is in flight.
pub(crate) struct Connection {
    socket: Socket,
    thread: Rc<Thread>,
    /// What came and was not taken.
    pub(crate) received: Vec<u8>,
    /// What a read has room for.
    room: usize,
    end: End,
    /// When the last request was out.
    out_ns: Option<u64>,
}

/// How the pod has ended its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    NotYet,
    InOrder,
    /// By a reset, or whatever else is no end of an answer.
    Broken,
}

impl Connection {
    /// Whether it can carry a call: open, and with nothing unread.
    pub(crate) fn is_fresh(&self) -> bool {
        self.end == End::NotYet && self.received.is_empty() && self.socket.is_quiet()
    }

    /// A call ended on it, and none has begun: what comes now spoils it.
    pub(crate) fn rest(&mut self) {
        self.room = SMALL;
        self.socket.rest();
    }

    /// Whether it can carry another call, as far as is known: open, and all of this one's is out.
    pub(crate) fn is_sound(&self) -> bool {
        self.end == End::NotYet && !self.socket.is_behind()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.end != End::NotYet
    }

    /// Whether the pod has ended its side as it does after a whole answer. A send that failed has ended both
    /// sides, which then looks the same.
    pub(crate) fn has_ended_in_order(&self) -> bool {
        self.end == End::InOrder && self.socket.unsent().is_none()
    }

    /// Sends all of `bytes`, as fast as the pod takes them.
    pub(crate) fn post(&mut self, bytes: Vec<u8>) {
        self.out_ns = self.socket.post(bytes).then(|| self.thread.now_ns());
    }

    /// When all that was posted was out.
    pub(crate) const fn out_ns(&self) -> Option<u64> {
        self.out_ns
    }

    /// Why what was sent did not go out after all.
    pub(crate) fn unsent(&self) -> Option<Unsent> {
        self.socket.unsent()
    }

    /// Notes when all is out.
    pub(crate) fn poll_sent(&mut self, cx: &Context<'_>) {
        if self.out_ns.is_none() && matches!(self.socket.poll_sent(cx), Poll::Ready(Ok(()))) {
            self.out_ns = Some(self.thread.now_ns());
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
            self.end = End::Broken;
            return;
        };
        if buffer.is_empty() {
            self.end = End::InOrder;
        }
        if buffer.len() == buffer.capacity() {
            self.room = LARGE_READ;
        }
        if self.received.capacity() == 0 {
            self.received = buffer;
        } else {
            self.received.extend_from_slice(&buffer);
            self.thread.buffers.give(buffer);
        }
    }

    pub(crate) async fn open(thread: &Rc<Thread>, address: &PodAddress) -> std::io::Result<Self> {
        let event_loop = &thread.event_loop;
        let socket = match address {
            PodAddress::Tcp(address) => connect_tcp(event_loop, *address).await?,
            PodAddress::Unix(path) => loop {
                match connect_unix(event_loop, path) {
                    Err(full) if full.kind() == ErrorKind::WouldBlock => {
                        let alarm = thread.alarms.alarm();
                        alarm.until(thread.now_ns() + QUEUE_FULL_NS).await;
                    }
                    connected => break connected?,
                }
            },
        };
        Ok(Self {
            socket,
            thread: thread.clone(),
            received: Vec::new(),
            room: SMALL,
            end: End::NotYet,
            out_ns: None,
        })
    }
}
