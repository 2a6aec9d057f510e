//! The reading half of a connection. Its bytes are passed on to the other side as they come, so a
//! body need not fit into memory. This module parses no head. `forward` uses it.

use std::io;

use nanofaas_http1::chunked::ChunkedDecoder;
use nanofaas_http1::response_head::ResponseBody;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::{tcp, unix};

const READ: usize = 16 * 1024;

pub(super) struct Source<R> {
    stream: R,
    pub(super) buffer: Vec<u8>,
    /// Whether the peer may leave at any time. If true, a write of this source's bytes fails when the peer
    /// has left, and a reset counts as the end.
    pub(super) heeds_leaving: bool,
}

pub(super) trait PeerStream: AsyncRead + Unpin {
    /// Waits until the peer has ended its direction. Bytes before that end may be unread.
    fn left(&self) -> impl Future<Output = ()> + Send;
}

impl PeerStream for unix::ReadHalf<'_> {
    async fn left(&self) {
        // A Unix socket has no priority data, so only the peer's end wakes this task.
        while let Ok(ready) = self.ready(Interest::PRIORITY).await {
            if ready.is_read_closed() {
                return;
            }
        }
    }
}

impl PeerStream for tcp::ReadHalf<'_> {
    /// Never returns, because the last bytes of a program that ends must reach the platform.
    async fn left(&self) {
        std::future::pending().await
    }
}

fn ended() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

impl<R: PeerStream> Source<R> {
    pub(super) fn new(stream: R) -> Self {
        Self {
            stream,
            buffer: Vec::with_capacity(READ),
            heeds_leaving: false,
        }
    }

    /// Reads the available bytes and returns their number; 0 means that the stream has ended. If
    /// the future is dropped, no bytes are lost.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(READ / 4);
        match self.stream.read_buf(&mut self.buffer).await {
            // The kernel resets a Unix connection whose peer left bytes unread.
            Err(_) if self.heeds_leaving => Ok(0),
            read => read,
        }
    }

    pub(super) async fn pass(
        &mut self,
        count: usize,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        tokio::select! {
            // The write is polled first, because it nearly always ends at once.
            biased;
            written = to.write_all(&self.buffer[..count]) => written?,
            () = self.stream.left(), if self.heeds_leaving => return Err(ended()),
        }
        self.buffer.drain(..count);
        Ok(())
    }

    pub(super) async fn pass_all(&mut self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        loop {
            self.pass(self.buffer.len(), to).await?;
            if self.fill().await? == 0 {
                return to.shutdown().await;
            }
        }
    }

    /// Passes all bytes on as chunks until the stream ends. A stream that ends with an error gets
    /// no last chunk, so that the receiver detects a cut body.
    pub(super) async fn pass_in_chunks(
        &mut self,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        loop {
            if !self.buffer.is_empty() {
                to.write_all(format!("{:x}\r\n", self.buffer.len()).as_bytes())
                    .await?;
                self.pass(self.buffer.len(), to).await?;
                to.write_all(b"\r\n").await?;
            }
            if self.fill().await? == 0 {
                return to.write_all(b"0\r\n\r\n").await;
            }
        }
    }

    /// Passes one body on. The error `UnexpectedEof` means that the source ended within the body or
    /// sent a malformed chunk. Any other error may come from either connection.
    pub(super) async fn pass_body(
        &mut self,
        body: ResponseBody,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        match body {
            ResponseBody::None => Ok(()),
            ResponseBody::Length(mut left) => loop {
                let count = left.min(self.buffer.len() as u64);
                self.pass(count as usize, to).await?;
                left -= count;
                if left == 0 {
                    return Ok(());
                }
                if self.fill().await? == 0 {
                    return Err(ended());
                }
            },
            ResponseBody::Chunked => {
                let mut decoder = ChunkedDecoder::default();
                loop {
                    // The bytes are passed on as they are; the decoder only finds the end of the
                    // body.
                    let decoded = decoder.skip(&self.buffer).map_err(|_| ended())?;
                    self.pass(decoded.consumed, to).await?;
                    if decoded.done {
                        return Ok(());
                    }
                    if self.fill().await? == 0 {
                        return Err(ended());
                    }
                }
            }
            ResponseBody::UntilClose => loop {
                self.pass(self.buffer.len(), to).await?;
                if self.fill().await? == 0 {
                    return Ok(());
                }
            },
        }
    }
}
