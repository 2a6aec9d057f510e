//! A connection over a Unix socket whose epoll entry waits for readability only. The kernel reports
//! a Unix socket as writable each time the peer reads. An entry that also waits for writability,
//! like that of tokio's own stream, wakes the pod one more time for every answer, which makes calls
//! slower. `server` makes such a stream for each connection, and `connection` serves over it.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

#[expect(unsafe_code, reason = "what it asks for is what a standard stream is")]
fn watch(stream: StdUnixStream, interest: Interest) -> io::Result<AsyncFd<StdUnixStream>> {
    // SAFETY: the stream owns its descriptor, never replaces it, and lives as long as the
    // `AsyncFd`.
    let watched = unsafe { AsyncFd::register_with_interest(stream, interest) };
    Ok(watched?)
}

pub(crate) struct Arrivals {
    stream: AsyncFd<StdUnixStream>,
    /// The entry that waits for writability, while the socket's buffer is full.
    room: Option<AsyncFd<StdUnixStream>>,
}

impl Arrivals {
    pub(crate) fn of(stream: UnixStream) -> io::Result<Self> {
        let stream = watch(stream.into_std()?, Interest::READABLE)?;
        Ok(Self { stream, room: None })
    }

    /// Calls `send` now, and again when the socket's buffer has space, until `send` succeeds or
    /// fails.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        mut send: impl FnMut(&StdUnixStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match send(self.stream.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => {
                    // The entry for writability would wake the pod at each of the peer's reads.
                    self.room = None;
                    return Poll::Ready(sent);
                }
            }
            let room = match &mut self.room {
                Some(room) => room,
                none => {
                    // epoll has one entry for each descriptor, so the second entry needs a
                    // duplicate.
                    let own = self.stream.get_ref().try_clone()?;
                    none.insert(watch(own, Interest::WRITABLE)?)
                }
            };
            ready!(room.poll_write_ready(cx))?.clear_ready();
        }
    }
}

impl AsyncRead for Arrivals {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.stream.poll_read_ready(cx))?;
            let room = buffer.initialize_unfilled();
            let asked = room.len();
            match ready.get_inner().read(room) {
                Ok(count) => {
                    if count > 0 && count < asked {
                        // A short read has emptied the socket's buffer, so the next read can wait
                        // for epoll. A read of 0 (the end) keeps the readiness, because the next
                        // read must return 0 again.
                        ready.clear_ready();
                    }
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Arrivals {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |mut stream| stream.write(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |mut stream| stream.write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.get_ref().shutdown(Shutdown::Write))
    }
}
