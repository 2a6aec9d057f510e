//! Sends the answers of a connection, each in one write if the socket accepts the whole answer.
//! `connection` calls this module.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::reading::read_more;
use super::{COPY_MAX, Gone, METHOD_NOT_ALLOWED, ServedConnection, WRITE_WAIT, failure};
use crate::answer::{Extra, put_head};
use crate::call::{Context, HandlerCall};
use crate::error::Error;
use crate::log;
use crate::output::Output;
use crate::pod::{CallPermit, PodPhase};
use crate::request::{BODY_BYTES_MAX, BadRequest, PodRequest};

impl<S: AsyncRead + AsyncWrite + Unpin> ServedConnection<S> {
    /// Sends the output of a handler. `place` counts the call until the answer is sent, because a
    /// draining pod without calls may exit, and the answer would be lost.
    pub(super) async fn send_output(
        &mut self,
        head: &PodRequest,
        output: Output,
        call: &Arc<HandlerCall>,
        place: CallPermit,
    ) -> Result<bool, Gone> {
        let output = match output.check() {
            Ok(output) => output,
            Err(error) => {
                let context = Context::new(Arc::clone(call));
                log::line("error", &error.to_string(), Some(&context), &[]);
                return self.fail(head, &error, place).await;
            }
        };
        let output = match output.is_stream() {
            true => return self.send_stream(head, output.into_stream(), call).await,
            false => output,
        };
        let extra = Extra {
            content_type: output.content_type(),
            close: !head.keep || self.pod.phase() == PodPhase::Stopping,
            init_ms: self.pod.first_answer(),
            ..Extra::JSON
        };
        let body = output.bytes();
        self.send(200, body, &extra).await?;
        Ok(!extra.close)
    }

    /// Sends an error. `_place` is held until the answer is sent, as in `send_output`.
    pub(super) async fn fail(
        &mut self,
        head: &PodRequest,
        error: &Error,
        _place: CallPermit,
    ) -> Result<bool, Gone> {
        let extra = Extra {
            close: !head.keep || self.pod.phase() == PodPhase::Stopping,
            init_ms: self.pod.first_answer(),
            ..Extra::JSON
        };
        let (status, body) = (error.status, error.json(self.echo));
        self.send(status, body.as_bytes(), &extra).await?;
        Ok(!extra.close)
    }

    pub(super) async fn not_started(&mut self, head: &PodRequest, why: &str) -> Result<bool, Gone> {
        let extra = Extra {
            close: !head.keep,
            not_started: true,
            ..Extra::JSON
        };
        let body = failure("NOT_STARTED", why, self.echo);
        self.send(503, body.as_bytes(), &extra).await?;
        Ok(head.keep)
    }

    /// Answers a request that could not be read, and closes the connection. Before it closes the
    /// connection, it reads for 2 s at most, because the kernel resets a connection that is closed
    /// with unread bytes, and the caller could lose the answer.
    pub(super) async fn refuse(&mut self, refusal: &BadRequest) -> Result<(), Gone> {
        let allow = (refusal.status == 405).then(|| self.pod.methods.join(", "));
        let extra = Extra {
            close: true,
            allow: allow.as_deref(),
            ..Extra::JSON
        };
        let code = match refusal.status {
            405 => METHOD_NOT_ALLOWED,
            413 => "BODY_TOO_LARGE",
            _ => "BAD_REQUEST",
        };
        let body = failure(code, &refusal.message, self.echo);
        self.send(refusal.status, body.as_bytes(), &extra).await?;
        self.linger().await
    }

    /// Ends the connection after its last answer.
    pub(super) async fn linger(&mut self) -> Result<(), Gone> {
        self.stream.shutdown().await?;
        let rest = async {
            let mut read = 0;
            // A fast caller could send very many bytes within the time limit.
            while read < 2 * BODY_BYTES_MAX {
                self.buffer.clear();
                match read_more(&mut self.stream, &mut self.buffer).await {
                    Ok(count @ 1..) => read += count,
                    _ => break,
                }
            }
        };
        let _ = timeout(Duration::from_secs(2), rest).await;
        Ok(())
    }

    pub(super) async fn send(
        &mut self,
        status: u16,
        body: &[u8],
        extra: &Extra<'_>,
    ) -> Result<(), Gone> {
        self.out.clear();
        let extra = Extra {
            echo: self.echo,
            ..*extra
        };
        put_head(&mut self.out, status, body.len(), &self.id, &extra);
        let body = if self.headless { &[] } else { body };
        let rest = if body.len() <= COPY_MAX {
            self.out.extend_from_slice(body);
            &[]
        } else {
            body
        };
        let mut written = pin!(write_both(&mut self.stream, &self.out, rest));
        // The timer is made only if the socket does not accept everything at once.
        if let Poll::Ready(result) = poll_fn(|task| Poll::Ready(written.as_mut().poll(task))).await
        {
            return Ok(result?);
        }
        timeout(WRITE_WAIT, written).await.map_err(|_| Gone)??;
        Ok(())
    }
}

/// Writes head and body in as few writes as the socket allows.
async fn write_both<S: AsyncWrite + Unpin>(
    stream: &mut S,
    head: &[u8],
    body: &[u8],
) -> io::Result<()> {
    if body.is_empty() {
        return stream.write_all(head).await;
    }
    let (mut head, mut body) = (head, body);
    while !head.is_empty() {
        let slices = [IoSlice::new(head), IoSlice::new(body)];
        let count = stream.write_vectored(&slices).await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let of_head = count.min(head.len());
        head = &head[of_head..];
        body = &body[count - of_head..];
    }
    stream.write_all(body).await
}
