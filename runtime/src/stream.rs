//! Bodies that are received or sent in pieces: `pipe` connects a sender with a body, and any
//! `http_body::Body` becomes a `ByteStream`. This module uses no socket; `connection` reads and writes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::error::Error;

/// The largest number of pieces that wait in a pipe. The sender of a further piece waits for room.
const PIECES_MAX: usize = 4;

/// A body of any kind.
pub type ByteStream = Pin<Box<dyn Body<Data = Bytes, Error = Error> + Send>>;

/// The sending end of a pipe. Dropping the sender without `finish` is an error for the receiver, so
/// that a broken body is never taken for a complete one.
#[derive(Debug)]
pub struct ByteSender {
    pieces: mpsc::Sender<Bytes>,
    is_finished: Arc<AtomicBool>,
}

/// The receiving end of a pipe: a request's body, or a body that a handler returns.
#[derive(Debug)]
pub struct PipeBody {
    pieces: mpsc::Receiver<Bytes>,
    is_finished: Arc<AtomicBool>,
    has_failed: bool,
}

/// Makes a pipe. Each piece is passed on as it comes.
pub fn pipe() -> (ByteSender, PipeBody) {
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let is_finished = Arc::new(AtomicBool::new(false));
    let body = PipeBody {
        pieces: receiver,
        is_finished: Arc::clone(&is_finished),
        has_failed: false,
    };
    let sender = ByteSender {
        pieces: sender,
        is_finished,
    };
    (sender, body)
}

impl ByteSender {
    /// Sends one piece, and waits while the receiver is behind. Fails if the receiver is gone.
    pub async fn send(&self, piece: impl Into<Bytes>) -> Result<(), Error> {
        let sent = self.pieces.send(piece.into()).await;
        sent.map_err(|_| Error::new("nobody reads the stream any more"))
    }

    /// Sends one piece as `send` does, but blocks the thread instead of a task.
    pub fn send_blocking(&self, piece: impl Into<Bytes>) -> Result<(), Error> {
        let sent = self.pieces.blocking_send(piece.into());
        sent.map_err(|_| Error::new("nobody reads the stream any more"))
    }

    /// Ends the body.
    pub fn finish(self) {
        self.is_finished.store(true, Ordering::Release);
    }
}

impl PipeBody {
    /// Returns a body of these bytes.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        let (sender, body) = pipe();
        if !bytes.is_empty() {
            // An error is impossible, because the new pipe is empty and has a receiver.
            let _ = sender.pieces.try_send(bytes);
        }
        sender.finish();
        body
    }

    /// Returns the next piece; none at the end.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        std::future::poll_fn(|task| self.poll_piece(task)).await
    }

    fn poll_piece(&mut self, task: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let piece = ready!(self.pieces.poll_recv(task));
        if piece.is_none() && !self.has_failed && !self.is_finished.load(Ordering::Acquire) {
            self.has_failed = true;
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the body broke off");
            return Poll::Ready(Some(Err(error)));
        }
        Poll::Ready(piece.map(Ok))
    }
}

impl Body for PipeBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = ready!(self.poll_piece(task));
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }
}

/// A body with our types of data and errors.
struct Converted<B>(Pin<Box<B>>);

impl<B> Body for Converted<B>
where
    B: Body,
    B::Error: Into<Error>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(self.0.as_mut().poll_frame(task));
        Poll::Ready(frame.map(|frame| match frame {
            Ok(frame) => Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))),
            Err(error) => Err(error.into()),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

pub(crate) fn boxed<B>(body: B) -> ByteStream
where
    B: Body + Send + 'static,
    B::Error: Into<Error>,
{
    Box::pin(Converted(Box::pin(body)))
}

/// Reads a whole body.
pub(crate) async fn collect(mut body: ByteStream) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    while let Some(frame) = std::future::poll_fn(|task| body.as_mut().poll_frame(task)).await {
        if let Ok(data) = frame?.into_data() {
            all.extend_from_slice(&data);
        }
    }
    Ok(all)
}
