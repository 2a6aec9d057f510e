//! A connection on io_uring. At most one receive is in flight. The future that makes the receives lives as
//! long as the socket, because a receive that is dropped may already have taken bytes. Sends are system calls
//! that do not wait, because an operation would cost an entry of the ring, a completion and a wake-up. Small
//! messages are sent at the end of the iteration. Only bytes that the peer did not take at once are sent by
//! operations, in a task of their own.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream as StdStream;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use monoio::buf::IoBuf;
use monoio::io::{AsyncReadRent, AsyncWriteRent, OwnedWriteHalf, Splitable};
use monoio::net::{TcpStream, UnixStream};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};

use super::Uring;
use crate::runtime::buffers::SMALL;
use crate::runtime::net::outbox::{Posted, SocketOutbox};
use crate::runtime::net::{Received, Unsent, keep};

type ReceiveTask = Pin<Box<dyn Future<Output = ()>>>;

pub(crate) struct Stream {
    shared: Rc<StreamShared>,
    /// The future that receives. The task that uses the socket polls it, so that received bytes wake only
    /// that task.
    reader: RefCell<ReceiveTask>,
}

/// What the socket, its reader and its writer share.
pub(super) struct StreamShared {
    uring: Rc<Uring>,
    fd: RawFd,
    came: RefCell<Came>,
    /// The buffer size of the next receive.
    room: Cell<usize>,
    /// The iteration in which the receive that is in flight was pushed.
    received_in: Cell<u64>,
    outbox: RefCell<SocketOutbox>,
    /// The waker of the task that waits for bytes. A held message that was not sent wakes that task, too.
    reading: RefCell<Option<Waker>>,
    /// The writing half of the socket; none while `write_rest` uses it.
    writer: RefCell<Option<Writer>>,
    /// Whether the socket is counted in the loop's `behind`.
    is_counted: Cell<bool>,
}

/// The result of a receive that the task has not taken yet.
enum Came {
    Nothing,
    Bytes(Vec<u8>),
    /// The end, with an error if it was not orderly. Each later receive returns the end again.
    End(Option<Errno>),
}

enum Writer {
    Tcp(OwnedWriteHalf<TcpStream>),
    Unix(OwnedWriteHalf<UnixStream>),
}

impl Stream {
    /// Makes a stream of a connected descriptor of any kind. monoio's `UnixStream` can wrap a TCP descriptor,
    /// too, because a `UnixStream` only holds its descriptor.
    pub(in crate::runtime::net) fn new(uring: &Rc<Uring>, fd: OwnedFd) -> io::Result<Self> {
        let stream = UnixStream::from_std(StdStream::from(fd))?;
        let fd = stream.as_raw_fd();
        let (read, write) = stream.into_split();
        Ok(Self::over(uring, fd, read, Writer::Unix(write)))
    }

    pub(super) fn tcp(uring: &Rc<Uring>, stream: TcpStream) -> Self {
        let fd = stream.as_raw_fd();
        let (read, write) = stream.into_split();
        Self::over(uring, fd, read, Writer::Tcp(write))
    }

    fn over(
        uring: &Rc<Uring>,
        fd: RawFd,
        read: impl AsyncReadRent + 'static,
        writer: Writer,
    ) -> Self {
        let shared = Rc::new(StreamShared {
            uring: uring.clone(),
            fd,
            came: RefCell::new(Came::Nothing),
            room: Cell::new(SMALL),
            received_in: Cell::new(0),
            outbox: RefCell::new(SocketOutbox::new(fd)),
            reading: RefCell::new(None),
            writer: RefCell::new(Some(writer)),
            is_counted: Cell::new(false),
        });
        let reader = RefCell::new(Box::pin(receive(shared.clone(), read)) as ReceiveTask);
        Self { shared, reader }
    }

    pub(in crate::runtime::net) fn fd(&self) -> RawFd {
        self.shared.fd
    }

    /// Polls the receive that is in flight, or makes one if none is.
    fn poll_input(&self, waker: &Waker) {
        let cx = &mut Context::from_waker(waker);
        let _goes_on = self.reader.borrow_mut().as_mut().poll(cx);
    }

    pub(in crate::runtime::net) fn poll_recv(&self, room: usize, cx: &Context<'_>) -> Received {
        if let Some(came) = self.shared.take() {
            return Poll::Ready(came);
        }
        self.shared.room.set(room);
        self.poll_input(cx.waker());
        if let Some(came) = self.shared.take() {
            return Poll::Ready(came);
        }
        keep(&mut self.shared.reading.borrow_mut(), cx);
        Poll::Pending
    }

    pub(in crate::runtime::net) fn rest(&self) {
        // The next receive gets a small buffer, because thousands of sockets may be idle at once.
        self.shared.room.set(SMALL);
        // The task's own waker would keep the task's memory, so a waker that does nothing replaces it.
        self.shared.reading.take();
        self.poll_input(Waker::noop());
    }

    pub(in crate::runtime::net) fn check_quiet(&self) -> bool {
        self.rest();
        if self.shared.has_come() {
            return false;
        }
        let uring = &self.shared.uring;
        if uring.was_handed_over(self.shared.received_in.get()) {
            // With `DEFER_TASKRUN`, an end that has reached the socket makes a completion only when the loop
            // waits, and a busy loop may run for a while before it waits. The receive has taken nothing
            // before that wait, so the socket itself still shows the end. Without `DEFER_TASKRUN`, each
            // submission makes all completions.
            return !uring.is_deferred || is_empty(self.shared.fd);
        }
        // The receive is not submitted yet, so it has taken nothing, and the socket itself shows what came.
        // But if the ring was full, the receive may have been submitted early. In that case the kernel may
        // have filled its buffer already, so an empty socket proves nothing.
        !uring.may_have_been_full() && is_empty(self.shared.fd)
    }

    pub(in crate::runtime::net) fn has_ended(&self) -> bool {
        // The socket is asked, because the end may have come with the last bytes, and no receive that would
        // report the end is submitted yet.
        match peek(self.shared.fd) {
            Ok(0) => true,
            // The end may come after bytes that were not received yet. This case is rare, so its additional
            // system calls do not matter.
            Ok(_) => self.shared.uring.ends.has_come(self.shared.fd),
            Err(why) => why != Errno::EAGAIN,
        }
    }

    pub(in crate::runtime::net) fn post(&self, bytes: Vec<u8>) -> bool {
        let shared = &self.shared;
        let (fd, buffers) = (shared.fd, &shared.uring.buffers);
        let posted = shared
            .outbox
            .borrow_mut()
            .post(bytes, buffers, |bytes: &[u8]| send_now(fd, bytes));
        shared.follow(posted);
        if posted == Posted::Held {
            shared.uring.hold(shared);
        }
        matches!(posted, Posted::Out | Posted::Held)
    }

    pub(in crate::runtime::net) fn release(&self) {
        self.shared.release();
    }

    pub(in crate::runtime::net) fn is_behind(&self) -> bool {
        let outbox = self.shared.outbox.borrow();
        outbox.is_behind() || outbox.has_failed()
    }

    /// Ends both directions. Posted bytes that were not sent are lost.
    pub(in crate::runtime::net) fn abandon(&self) {
        let mut outbox = self.shared.outbox.borrow_mut();
        outbox.fail(false, Errno::ECANCELED);
        self.shared.settle();
    }

    pub(in crate::runtime::net) fn poll_freed(&self, cx: &Context<'_>) -> Poll<()> {
        if self.shared.writer.borrow().is_some() {
            return Poll::Ready(());
        }
        self.shared.outbox.borrow_mut().keep_waiter(cx);
        Poll::Pending
    }

    pub(in crate::runtime::net) fn moved(&self) -> Rc<Cell<u64>> {
        self.shared.outbox.borrow_mut().moved()
    }

    pub(in crate::runtime::net) fn has_much(&self) -> bool {
        peek_into(self.shared.fd, &mut [0; SMALL + 1]).is_ok_and(|found| found > SMALL)
    }

    pub(in crate::runtime::net) fn unsent(&self) -> Option<Unsent> {
        self.shared.outbox.borrow().unsent()
    }

    pub(in crate::runtime::net) fn poll_sent(&self, cx: &Context<'_>) -> Poll<Result<(), Unsent>> {
        self.shared.release();
        self.shared.outbox.borrow_mut().poll_sent(cx)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The drop of the stream makes at most two operations: one cancels the receive, and one closes the
        // descriptor. A count that is too high does no harm, because it only makes `check_quiet` more
        // careful.
        self.shared.uring.push(3);
        // `abandon` shuts the socket down, which ends a receive or a send that waits for the peer.
        self.abandon();
    }
}

impl StreamShared {
    pub(super) fn release(self: &Rc<Self>) {
        let (fd, buffers) = (self.fd, &self.uring.buffers);
        let posted = self
            .outbox
            .borrow_mut()
            .release(buffers, |bytes: &[u8]| send_now(fd, bytes));
        if posted != Posted::Out
            // The caller of `post` treats the held message as sent. If the message is not sent completely,
            // the task that receives is woken, because this task reports the failure.
            && let Some(waker) = &*self.reading.borrow()
        {
            waker.wake_by_ref();
        }
        self.follow(posted);
    }

    /// Starts the task that sends the rest, if the socket did not take all of a message.
    fn follow(self: &Rc<Self>, posted: Posted) {
        if posted == Posted::Begun
            && let Some(writer) = self.writer.take()
        {
            self.uring.behind.set(self.uring.behind.get() + 1);
            self.is_counted.set(true);
            monoio::spawn(write_rest(self.clone(), writer));
        }
    }

    fn has_come(&self) -> bool {
        !matches!(*self.came.borrow(), Came::Nothing)
    }

    fn take_waiting(&self) -> Option<(Vec<u8>, usize)> {
        self.outbox.borrow_mut().take()
    }

    /// Takes this socket out of the loop's `behind`, because nothing is left to send or nothing can be sent.
    fn settle(&self) {
        if self.is_counted.take() {
            self.uring.behind.set(self.uring.behind.get() - 1);
        }
    }

    fn take(&self) -> Option<io::Result<Vec<u8>>> {
        let came = &mut *self.came.borrow_mut();
        match came {
            Came::Nothing => None,
            Came::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                *came = Came::Nothing;
                Some(Ok(bytes))
            }
            Came::End(None) => Some(Ok(Vec::new())),
            Came::End(Some(why)) => Some(Err((*why).into())),
        }
    }
}

fn send_now(fd: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
    send(fd, bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
}

/// Returns how many bytes a receive would find: 0 at an end, otherwise 1, because only one byte is looked at.
/// No byte is taken.
fn peek(fd: RawFd) -> Result<usize, Errno> {
    peek_into(fd, &mut [0; 1])
}

fn peek_into(fd: RawFd, bytes: &mut [u8]) -> Result<usize, Errno> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    loop {
        match recv(fd, bytes, flags) {
            Err(Errno::EINTR) => {}
            looked => return looked,
        }
    }
}

/// Returns whether a receive would find nothing, not even an end.
fn is_empty(fd: RawFd) -> bool {
    matches!(peek(fd), Err(Errno::EAGAIN))
}

/// Receives one buffer after the other. The next receive is made only after the result of the last one was
/// taken.
async fn receive(shared: Rc<StreamShared>, mut half: impl AsyncReadRent) {
    let uring = shared.uring.clone();
    loop {
        let buffer = uring.buffers.take(shared.room.get());
        shared.received_in.set(uring.push(1));
        let (received, buffer) = half.read(buffer).await;
        let came = match received {
            Ok(1..) => Came::Bytes(buffer),
            Ok(0) => {
                uring.buffers.give(buffer);
                Came::End(None)
            }
            Err(why) => {
                uring.buffers.give(buffer);
                match Errno::try_from(why) {
                    Ok(Errno::EINTR | Errno::EAGAIN) => continue,
                    why => Came::End(Some(why.unwrap_or(Errno::EIO))),
                }
            }
        };
        shared.came.replace(came);
        poll_fn(|_| {
            if shared.has_come() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }
}

/// Sends the waiting bytes until none are left or a send fails.
async fn write_rest(shared: Rc<StreamShared>, mut writer: Writer) {
    let uring = shared.uring.clone();
    while let Some((mut bytes, mut sent)) = shared.take_waiting() {
        while sent < bytes.len() {
            uring.push(1);
            let piece = bytes.slice(sent..);
            let (written, piece) = match &mut writer {
                Writer::Tcp(half) => half.write(piece).await,
                Writer::Unix(half) => half.write(piece).await,
            };
            bytes = piece.into_inner();
            match written {
                Ok(taken) => {
                    sent += taken;
                    shared.outbox.borrow().note_moved(taken);
                }
                Err(why) => match Errno::try_from(why) {
                    Ok(Errno::EINTR | Errno::EAGAIN) => {}
                    why => {
                        let why = why.unwrap_or(Errno::EIO);
                        shared.outbox.borrow_mut().fail(sent == 0, why);
                        break;
                    }
                },
            }
        }
        uring.buffers.give(bytes);
    }
    shared.settle();
    shared.writer.replace(Some(writer));
    shared.outbox.borrow().wake();
}
