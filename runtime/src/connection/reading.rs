//! Reads the requests of a connection one after the other, each as a head and its decoded body. The
//! only bytes that this module sends are `100 Continue`. `connection` calls it.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use nanofaas_http1::chunked::ChunkedDecoder;
use nanofaas_http1::framing::Framing;
use nanofaas_http1::head::HeadScan;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{timeout, timeout_at};

use super::{
    BODY_WAIT, BufferedRequest, CONTINUE, Gone, HEAD_WAIT, IDLE, READ, ServedConnection, Stop,
    WRITE_WAIT,
};
use crate::request::{self, BODY_BYTES_MAX, BadRequest, PodRequest, Route};

impl<S: AsyncRead + AsyncWrite + Unpin> ServedConnection<S> {
    pub(super) async fn request(&mut self) -> Result<BufferedRequest, Stop> {
        let head = self.head().await?;
        if self.is_served(&head) {
            let bytes = self.take(head.len);
            return Ok(BufferedRequest { head, bytes });
        }
        head.check_length()?;
        if head.expects_continue
            && head.route == Route::Http
            && !self.pod.takes_method(request::method(&self.buffer))
        {
            // The answer comes in place of `100 Continue`, so the caller need not send the body.
            return Err(Stop::Refused(BadRequest {
                status: 405,
                message: "see Allow".to_owned(),
            }));
        }
        let bytes = match head.framing {
            Framing::None => self.take(head.len),
            Framing::Length(length) => {
                // The cast keeps the value, because `parse` has limited the length.
                let whole = head.len + length as usize;
                if self.buffer.len() < whole {
                    let rest = timeout(BODY_WAIT, self.read_to(whole, &head));
                    rest.await.map_err(|_| Gone)??;
                }
                self.take(whole)
            }
            Framing::Chunked => {
                let body = timeout(BODY_WAIT, self.chunked_body(&head));
                body.await.map_err(|_| Gone)??
            }
        };
        Ok(BufferedRequest { head, bytes })
    }

    async fn head(&mut self) -> Result<PodRequest, Stop> {
        self.id.clear();
        self.headless = false;
        if self.buffer.is_empty() {
            self.fill_or_idle().await?;
        }
        let (mut until, mut scan) = (None, HeadScan::default());
        loop {
            let parsed = request::parse(&self.buffer, &mut scan);
            // Every answer needs the id, and the call takes the buffer, so copy the id.
            let id = request::id(&parsed, &self.buffer);
            // If `parsed` is an error, the answer has the request's id, too.
            self.id.extend_from_slice(id.unwrap_or_default());
            self.echo = request::echo(&parsed, &self.buffer);
            if let Some(head) = parsed? {
                self.headless = head.headless;
                return Ok(head);
            }
            let now = tokio::time::Instant::now();
            // The limit begins with the first bytes, because the connection may have been idle
            // before.
            let until = *until.get_or_insert(now + HEAD_WAIT);
            timeout_at(until, self.fill()).await.map_err(|_| Gone)??;
        }
    }

    async fn read_to(&mut self, whole: usize, head: &PodRequest) -> Result<(), Gone> {
        // A caller that already sent a part of the body does not wait for `100 Continue` (RFC 9110
        // §10.1.1).
        if self.buffer.len() == head.len {
            self.go_on(head).await?;
        }
        // The length is known, so the buffer grows at most one time.
        self.buffer.reserve_exact(whole - self.buffer.len());
        while self.buffer.len() < whole {
            self.fill().await?;
        }
        Ok(())
    }

    /// Takes the first `whole` bytes out of the buffer. The later bytes belong to the next request.
    fn take(&mut self, whole: usize) -> Vec<u8> {
        if self.buffer.len() == whole {
            return std::mem::take(&mut self.buffer);
        }
        let ahead = self.buffer.split_off(whole);
        std::mem::replace(&mut self.buffer, ahead)
    }

    async fn chunked_body(&mut self, head: &PodRequest) -> Result<Vec<u8>, Stop> {
        let mut bytes = self.buffer[..head.len].to_vec();
        self.buffer.drain(..head.len);
        if self.buffer.is_empty() {
            self.go_on(head).await?;
        }
        let mut decoder = ChunkedDecoder::default();
        // `bytes` begins with the head.
        let bytes_max = head.len + BODY_BYTES_MAX;
        loop {
            let decoded = decoder.decode(&self.buffer, &mut bytes, bytes_max);
            let decoded = decoded.map_err(BadRequest::from)?;
            self.buffer.drain(..decoded.consumed);
            if decoded.done {
                return Ok(bytes);
            }
            self.fill().await?;
        }
    }

    pub(super) async fn go_on(&mut self, head: &PodRequest) -> Result<(), Gone> {
        if head.expects_continue {
            let sent = timeout(WRITE_WAIT, self.stream.write_all(CONTINUE));
            sent.await.map_err(|_| Gone)??;
        }
        Ok(())
    }

    async fn fill(&mut self) -> Result<(), Gone> {
        let count = read_more(&mut self.stream, &mut self.buffer).await?;
        (count > 0).then_some(()).ok_or(Gone)
    }

    /// Fills the buffer between two requests. Fails when the connection has been idle for `IDLE`.
    async fn fill_or_idle(&mut self) -> Result<(), Gone> {
        let Self {
            stream,
            buffer,
            idle,
            last_use,
            ..
        } = self;
        let mut read = pin!(read_more(stream, buffer));
        let count = poll_fn(|task| {
            if let Poll::Ready(read) = read.as_mut().poll(task) {
                return Poll::Ready(read.map_err(Gone::from));
            }
            // The timer is reset here and not at each request, which would be slower.
            while idle.as_mut().poll(task).is_ready() {
                let until = *last_use + IDLE;
                if Instant::now() >= until {
                    return Poll::Ready(Err(Gone));
                }
                idle.as_mut().reset(until.into());
            }
            Poll::Pending
        })
        .await?;
        (count > 0).then_some(()).ok_or(Gone)
    }
}

/// Reads the available bytes and returns their number; 0 means that the peer has closed the
/// connection. If the future is dropped, no bytes are lost.
pub(super) async fn read_more<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
) -> io::Result<usize> {
    if buffer.capacity() - buffer.len() < READ / 4 {
        buffer.reserve(READ);
    }
    stream.read_buf(buffer).await
}
