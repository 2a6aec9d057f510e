//! Sends answers whose body comes in pieces, and reads the body of a request in pieces. Both directions run
//! at the same time. `connection` calls this module for HTTP services and for streams that handlers return.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use nanofaas_http1::chunked::ChunkedDecoder;
use nanofaas_http1::framing::Framing;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, WriteHalf, split};
use tokio::time::{timeout, timeout_at};

use super::reading::read_more;
use super::{AHEAD_MAX, DEADLINE_MAX, Gone, ServedConnection};
use crate::answer::Echo;
use crate::call::{Context, HandlerCall};
use crate::error::Error;
use crate::log;
use crate::output::JSON;
use crate::pod::PodPhase;
use crate::request::PodRequest;
use crate::run::{caught, finish_polls};
use crate::service;
use crate::stream::{ByteSender, ByteStream, PipeBody, boxed, pipe};

/// The longest time for which no byte of a stream may move; it equals the largest `streamIdleMs`. This limit
/// is for a peer that, unlike the platform, does not end such a stream itself.
const MOVE_WAIT: Duration = Duration::from_secs(3600);
const LEFT: &str = "the caller closed the connection: the call is cut off";
/// The size, in bytes, at which the collected pieces are sent, even if more pieces are ready.
const SEND: usize = 16 * 1024;
/// Headers that this module sets itself, or that have a meaning for this connection alone.
const OWN: [&str; 6] = [
    "connection",
    "keep-alive",
    "transfer-encoding",
    "content-length",
    "trailer",
    "upgrade",
];

/// What the head of a streamed answer depends on besides the response.
struct StreamHead {
    id: Vec<u8>,
    echo: Echo,
    headless: bool,
    /// Whether the client uses HTTP/1.0, which has no chunks.
    is_old: bool,
    close: bool,
    init_ms: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Framed {
    Nothing,
    Length(u64),
    Chunks,
    UntilClose,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ServedConnection<S> {
    /// Serves a call with an HTTP service. `bytes` contains the head; the body is in the buffer, or has not
    /// come yet.
    pub(super) async fn serve_http(
        &mut self,
        head: PodRequest,
        bytes: Vec<u8>,
    ) -> Result<bool, Gone> {
        let place = match self.pod.admit() {
            Ok(place) => place,
            Err(why) => {
                let kept = self.not_started(&head, why).await?;
                return Ok(kept && head.framing == Framing::None);
            }
        };
        if self.buffer.is_empty() {
            self.go_on(&head).await?;
        }
        let call = match HandlerCall::http(bytes, &head) {
            Ok(call) => Arc::new(call),
            Err(error) => return self.fail(&head, &error, place).await.map(|_| false),
        };
        let (sender, body) = pipe();
        let pod = Arc::clone(&self.pod);
        let answer = async {
            let request = service::request(&call, body)?;
            let service = pod.handler.service();
            let service = service.ok_or_else(|| Error::new("the handler is no service"))?;
            let begun = caught(|| service.serve(request))?;
            let deadline = call
                .deadline()
                .unwrap_or_else(|| Instant::now() + DEADLINE_MAX);
            let answered = timeout_at(deadline.into(), finish_polls(begun)).await;
            answered.unwrap_or_else(|_| Err(Error::timeout()))
        };
        let kept = self
            .stream(&head, (head.framing, sender), answer, &call)
            .await;
        drop(place);
        kept
    }

    /// Sends a stream that a plain handler returned.
    pub(super) async fn send_stream(
        &mut self,
        head: &PodRequest,
        answer: Response<ByteStream>,
        call: &Arc<HandlerCall>,
    ) -> Result<bool, Gone> {
        let (sender, _) = pipe();
        let answer = std::future::ready(Ok(answer));
        self.stream(head, (Framing::None, sender), answer, call)
            .await
    }

    /// Reads the request's body and sends the answer, until the answer is sent or the caller leaves.
    async fn stream(
        &mut self,
        head: &PodRequest,
        (framing, sender): (Framing, ByteSender),
        answer: impl Future<Output = Result<Response<ByteStream>, Error>>,
        call: &Arc<HandlerCall>,
    ) -> Result<bool, Gone> {
        let wire = StreamHead {
            id: std::mem::take(&mut self.id),
            echo: self.echo,
            headless: self.headless,
            is_old: head.is_old,
            close: !head.keep || self.pod.phase() == PodPhase::Stopping,
            init_ms: self.pod.first_answer(),
        };
        let is_whole = AtomicBool::new(false);
        let (mut reader, mut writer) = split(&mut self.stream);
        let up = upload(&mut reader, &mut self.buffer, framing, sender, &is_whole);
        let down = async {
            let answer = answer.await.unwrap_or_else(|error| {
                let level = if error.status == 500 { "error" } else { "warn" };
                log::line(
                    level,
                    &error.to_string(),
                    Some(&Context::new(Arc::clone(call))),
                    &[],
                );
                failed(&error, wire.echo)
            });
            write_answer(&mut writer, &mut self.out, &wire, answer).await
        };
        let sent = tokio::select! {
            // The request's body is polled first. If all of it has come, the connection is kept, even if the
            // answer is ready in the same poll.
            biased;
            () = up => Err(Error::new(LEFT)),
            sent = down => sent,
        };
        match sent {
            Ok(stays) if is_whole.load(Ordering::Relaxed) => Ok(stays && !wire.close),
            Ok(_) => self.linger().await.map(|()| false),
            Err(error) => {
                let context = Context::new(Arc::clone(call));
                log::line("warn", &error.to_string(), Some(&context), &[]);
                call.cut_off();
                Err(Gone)
            }
        }
    }
}

fn failed(error: &Error, echo: Echo) -> Response<ByteStream> {
    let body = PipeBody::whole(Bytes::from(error.json(echo)));
    let mut answer = Response::new(boxed(body));
    *answer.status_mut() = StatusCode::from_u16(error.status).unwrap_or_default();
    let json = HeaderValue::from_static(JSON);
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    answer
}

/// Passes the body's pieces to `sender` as they come, and then waits until the caller leaves.
async fn upload(
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    framing: Framing,
    sender: ByteSender,
    is_whole: &AtomicBool,
) {
    let (mut decoder, mut left) = (
        ChunkedDecoder::default(),
        match framing {
            Framing::Length(length) => length,
            _ => 0,
        },
    );
    loop {
        let mut piece = Vec::new();
        let done = match framing {
            Framing::None => true,
            Framing::Length(_) => {
                let count = left.min(buffer.len() as u64) as usize;
                piece.extend(buffer.drain(..count));
                left -= count as u64;
                left == 0
            }
            Framing::Chunked => {
                let Ok(decoded) = decoder.decode(buffer, &mut piece, usize::MAX) else {
                    return;
                };
                buffer.drain(..decoded.consumed);
                decoded.done
            }
        };
        let undecoded = buffer.len();
        if !piece.is_empty() {
            let sent = tokio::select! {
                biased;
                sent = sender.send(piece) => sent,
                () = left_ahead(reader, buffer) => return,
            };
            // A handler that dropped the body does not need the rest.
            if sent.is_err() && !done {
                break;
            }
        }
        if done {
            is_whole.store(true, Ordering::Relaxed);
            sender.finish();
            break;
        }
        // `left_ahead` may have read the rest of the body already.
        if buffer.len() > undecoded {
            continue;
        }
        if !matches!(read_more(reader, buffer).await, Ok(1..)) {
            return;
        }
    }
    left_ahead(reader, buffer).await;
}

/// Reads and keeps the bytes that come, until the caller leaves. If the buffer is full, the caller's end is
/// noticed only after the call.
async fn left_ahead(reader: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) {
    while buffer.len() < AHEAD_MAX {
        if !matches!(read_more(reader, buffer).await, Ok(1..)) {
            return;
        }
    }
    std::future::pending().await
}

/// Sends the answer. Returns whether the connection can carry another one. An error means that the
/// answer is cut.
async fn write_answer<S: AsyncWrite>(
    writer: &mut WriteHalf<S>,
    out: &mut Vec<u8>,
    wire: &StreamHead,
    answer: Response<ByteStream>,
) -> Result<bool, Error> {
    let (head, mut body) = answer.into_parts();
    let announced = length_of(&head.headers)?.or_else(|| body.size_hint().exact());
    let framed = match (head.status.as_u16(), announced) {
        (..200, _) => {
            return Err(Error::bad_output(
                "an answer cannot have a status below 200",
            ));
        }
        (204 | 304, _) => Framed::Nothing,
        _ if wire.headless => Framed::Nothing,
        (_, Some(length)) => Framed::Length(length),
        _ if wire.is_old => Framed::UntilClose,
        _ => Framed::Chunks,
    };
    out.clear();
    put_head(out, wire, head.status, &head.headers, announced, framed);
    let mut sent = 0;
    if framed != Framed::Nothing {
        loop {
            let mut next = poll_fn(|task| Poll::Ready(poll_piece(&mut body, task))).await;
            if next.is_pending() || out.len() >= SEND {
                // The collected pieces are sent before the wait for the next piece.
                flush(writer, out).await?;
            }
            if next.is_pending() {
                next = Poll::Ready(poll_fn(|task| poll_piece(&mut body, task)).await);
            }
            let Poll::Ready(Some(piece)) = next else {
                break;
            };
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    flush(writer, out).await?;
                    return Err(error);
                }
            };
            sent += piece.len() as u64;
            if matches!(framed, Framed::Length(length) if sent > length) {
                return Err(Error::bad_output(
                    "the body is longer than its Content-Length",
                ));
            }
            put_piece(out, &piece, framed);
        }
    }
    if matches!(framed, Framed::Length(length) if sent < length) {
        flush(writer, out).await?;
        return Err(Error::bad_output(
            "the body is shorter than its Content-Length",
        ));
    }
    if framed == Framed::Chunks {
        out.extend_from_slice(b"0\r\n\r\n");
    }
    flush(writer, out).await?;
    Ok(framed != Framed::UntilClose)
}

type NextPiece = Option<Result<Bytes, Error>>;

/// Polls the body until a frame with data comes. Trailers are dropped.
fn poll_piece(body: &mut ByteStream, task: &mut std::task::Context<'_>) -> Poll<NextPiece> {
    loop {
        let frame = match caught(|| body.as_mut().poll_frame(task)) {
            Ok(Poll::Ready(frame)) => frame,
            Ok(Poll::Pending) => return Poll::Pending,
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if !data.is_empty() => return Poll::Ready(Some(Ok(data))),
                _ => {}
            },
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(None),
        }
    }
}

fn put_piece(out: &mut Vec<u8>, piece: &[u8], framed: Framed) {
    if framed == Framed::Chunks {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
    }
    out.extend_from_slice(piece);
    if framed == Framed::Chunks {
        out.extend_from_slice(b"\r\n");
    }
}

async fn flush<S: AsyncWrite>(writer: &mut WriteHalf<S>, out: &mut Vec<u8>) -> Result<(), Error> {
    let mut written = pin!(writer.write_all(out));
    // The timer is made only if the socket does not accept everything at once.
    let first = poll_fn(|task| Poll::Ready(written.as_mut().poll(task))).await;
    let written = match first {
        Poll::Ready(written) => written,
        Poll::Pending => {
            let late = |_| Err(std::io::ErrorKind::TimedOut.into());
            timeout(MOVE_WAIT, written).await.unwrap_or_else(late)
        }
    };
    written.map_err(|error| Error::new(format!("the caller left: {error}")))?;
    out.clear();
    Ok(())
}

fn length_of(headers: &HeaderMap) -> Result<Option<u64>, Error> {
    let Some(value) = headers.get(header::CONTENT_LENGTH) else {
        return Ok(None);
    };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    let wrong = || Error::bad_output("Content-Length must be a whole number");
    length.map(Some).ok_or_else(wrong)
}

fn put_head(
    out: &mut Vec<u8>,
    wire: &StreamHead,
    status: StatusCode,
    headers: &HeaderMap,
    announced: Option<u64>,
    framed: Framed,
) {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut line = |name: &str, value: &[u8]| {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    };
    line(&format!("HTTP/1.1 {} {reason}", status.as_u16()), b"");
    let is_own = |name: &HeaderName| {
        OWN.contains(&name.as_str()) || wire.echo.name().eq_ignore_ascii_case(name.as_str())
    };
    for (name, value) in headers.iter().filter(|(name, _)| !is_own(name)) {
        line(&format!("{name}: "), value.as_bytes());
    }
    match (framed, announced) {
        (Framed::Length(length), _) => line("Content-Length: ", length.to_string().as_bytes()),
        // The answer to a HEAD, or a 304, may announce the length that the body would have.
        (Framed::Nothing, Some(length)) if status != StatusCode::NO_CONTENT => {
            line("Content-Length: ", length.to_string().as_bytes());
        }
        (Framed::Chunks, _) => line("Transfer-Encoding: ", b"chunked"),
        _ => {}
    }
    if let Some(init_ms) = wire.init_ms {
        line("X-Cold-Start: ", b"true");
        line("X-Init-Duration-Ms: ", init_ms.to_string().as_bytes());
    }
    if wire.close {
        line("Connection: ", b"close");
    }
    if !wire.id.is_empty() {
        wire.echo.put(out, &wire.id);
    }
    out.extend_from_slice(b"\r\n");
}
