//! A kept-alive connection of this io thread to a pod. A read stays armed on it: a pod that dies is
//! noticed at once by the call in it, and by the next one before anything is sent. The call itself
//! polls it, so an answer wakes one task. `pods` keeps idle ones; `pod` speaks over them.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;

use monoio::io::{AsyncReadRent, AsyncWriteRent, OwnedReadHalf, OwnedWriteHalf, Split, Splitable};
use monoio::net::{TcpStream, UnixStream};
use nanofaas_core::message::PodAddress;
use nix::sys::socket::{Shutdown, shutdown};

use crate::buffers::SMALL;
use crate::outgoing::{Unsent, send_all};
use crate::thread::Thread;

/// A connection that carries answers in one read is read with small buffers; others with these.
const LARGE_READ: usize = 64 * 1024;

enum WriteHalf {
    Tcp(OwnedWriteHalf<TcpStream>),
    Unix(OwnedWriteHalf<UnixStream>),
}

/// What the reading side and the call share of a connection.
struct Shared {
    fd: RawFd,
    received: RefCell<Vec<u8>>,
    closed: Cell<bool>,
    /// A call waits for an answer; bytes at any other time spoil the connection.
    busy: Cell<bool>,
}

/// A connection to a pod. Dropping it closes it, whatever is in flight.
pub(crate) struct Connection {
    shared: Rc<Shared>,
    write: WriteHalf,
    /// Reads to the end; polled by whoever has the connection.
    reading: Pin<Box<dyn Future<Output = ()>>>,
}

impl Connection {
    /// Whether it can carry a call: open, and with nothing unread.
    pub(crate) fn is_fresh(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll_read(cx);
        !self.shared.closed.get()
    }

    /// A call begins or ends on it; bytes that come in between spoil it.
    pub(crate) fn set_busy(&self, busy: bool) {
        self.shared.busy.set(busy);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.shared.closed.get()
    }

    /// What came and was not taken.
    pub(crate) fn received(&self) -> &RefCell<Vec<u8>> {
        &self.shared.received
    }

    /// Sends all of `bytes`, and gives the buffer back.
    pub(crate) async fn send(
        &mut self,
        thread: &Thread,
        bytes: Vec<u8>,
    ) -> (Result<(), Unsent>, Vec<u8>) {
        let fd = self.shared.fd;
        match &mut self.write {
            WriteHalf::Tcp(half) => send_all(thread, fd, half, bytes).await,
            WriteHalf::Unix(half) => send_all(thread, fd, half, bytes).await,
        }
    }

    /// Takes in what came.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) {
        if !self.shared.closed.get() && self.reading.as_mut().poll(cx).is_ready() {
            self.shared.closed.set(true);
        }
    }

    pub(crate) async fn open(thread: &Rc<Thread>, address: &PodAddress) -> std::io::Result<Self> {
        Ok(match address {
            PodAddress::Tcp(address) => {
                let stream = TcpStream::connect_addr(*address).await?;
                stream.set_nodelay(true)?;
                Self::over(thread, stream, WriteHalf::Tcp)
            }
            PodAddress::Unix(path) => {
                Self::over(thread, UnixStream::connect(path).await?, WriteHalf::Unix)
            }
        })
    }

    fn over<S>(
        thread: &Rc<Thread>,
        stream: S,
        half: impl FnOnce(OwnedWriteHalf<S>) -> WriteHalf,
    ) -> Self
    where
        S: AsRawFd + AsyncReadRent + AsyncWriteRent + Split + 'static,
    {
        let shared = Rc::new(Shared {
            fd: stream.as_raw_fd(),
            received: RefCell::default(),
            closed: Cell::new(false),
            busy: Cell::new(false),
        });
        let (read, write) = stream.into_split();
        let reading = receive(thread.clone(), read, shared.clone());
        Self {
            shared,
            write: half(write),
            reading: Box::pin(reading),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The read that is armed ends at once; an error means that the peer was faster.
        let _ = shutdown(self.shared.fd, Shutdown::Both);
    }
}

/// Reads a connection to its end.
async fn receive<S>(thread: Rc<Thread>, mut half: OwnedReadHalf<S>, shared: Rc<Shared>)
where
    S: AsyncReadRent + Split,
{
    let mut room = SMALL;
    loop {
        let buffer = thread.buffers.take(room);
        let (read, buffer) = half.read(buffer).await;
        let count = read.unwrap_or(0);
        if count == 0 || !shared.busy.get() {
            thread.buffers.give(buffer);
            break;
        }
        room = if count == buffer.capacity() {
            LARGE_READ
        } else {
            room
        };
        let mut received = shared.received.borrow_mut();
        if received.capacity() == 0 {
            *received = buffer;
        } else {
            received.extend_from_slice(&buffer);
            thread.buffers.give(buffer);
        }
    }
}
