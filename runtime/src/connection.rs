//! One connection: requests in, one after the other, and answers out, each in one write.
//! It never decides whether the pod may take calls: `pod` does. Called by `server`.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Sleep, sleep, sleep_until, timeout, timeout_at};

use crate::answer::{Extra, put_head};
use crate::call::{Call, Context};
use crate::chunked::{ChunkFault, Chunked};
use crate::error::Error;
use crate::handler::Running;
use crate::log;
use crate::output::Output;
use crate::pod::{Phase, Place, Pod};
use crate::request::{self, BODY_BYTES_MAX, Framing, Head, Refusal, Route};
use crate::run;

/// The platform keeps idle connections for 30 s, and pods for at least 60 s.
const IDLE: Duration = Duration::from_secs(90);
const HEAD_WAIT: Duration = Duration::from_secs(10);
const BODY_WAIT: Duration = Duration::from_secs(60);
const WRITE_WAIT: Duration = Duration::from_secs(60);
/// Room for a read; a buffer that grew past `BUFFER_KEPT` is not kept for the next request.
const READ: usize = 8 * 1024;
const BUFFER_KEPT: usize = 64 * 1024;
/// Bytes of further requests that are read while a call runs. Beyond this the connection is not
/// read, so a caller that leaves is noticed only after the call.
const AHEAD_MAX: usize = 64 * 1024;
/// Larger bodies are not copied behind the head, but sent from their own buffer.
const COPY_MAX: usize = 32 * 1024;
/// The deadline of a call without `X-Deadline-Ms`: a little more than the longest `timeoutMs`.
const DEADLINE_MAX: Duration = Duration::from_secs(310);
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

struct Connection<S> {
    stream: S,
    pod: Arc<Pod>,
    /// Bytes that were read and not yet used.
    buffer: Vec<u8>,
    out: Vec<u8>,
    /// The `X-Execution-Id` of the request that is answered; empty where it has none.
    id: Vec<u8>,
    /// Reset only when it fires, so that a request costs no timer.
    idle: Pin<Box<Sleep>>,
    last_use: Instant,
}

/// Why there is no next request.
enum Stop {
    Gone,
    /// The request cannot be read; the connection closes after the answer.
    Refused(Refusal),
}

/// The connection ends without another answer.
struct Gone;

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A request's bytes: its head and its decoded body.
struct Request {
    head: Head,
    bytes: Vec<u8>,
}

/// How a call ended for this connection.
enum End {
    Answer(Result<Output, Error>),
    Deadline,
    Left,
}

/// Serves until the caller closes, idles too long, or something unreadable comes.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, pod: Arc<Pod>) {
    let mut connection = Connection {
        stream,
        pod,
        buffer: Vec::with_capacity(READ),
        out: Vec::new(),
        id: Vec::new(),
        idle: Box::pin(sleep(IDLE)),
        last_use: Instant::now(),
    };
    loop {
        let kept = match connection.request().await {
            Ok(request) => connection.answer(request).await,
            Err(Stop::Refused(refusal)) => connection.refuse(&refusal).await.map(|()| false),
            Err(Stop::Gone) => return,
        };
        match kept {
            Ok(true) => connection.last_use = Instant::now(),
            Ok(false) | Err(Gone) => return,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    // --- in ---

    async fn request(&mut self) -> Result<Request, Stop> {
        let head = self.head().await?;
        let bytes = match head.framing {
            Framing::Length(length) => {
                let whole = head.len + length;
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
        Ok(Request { head, bytes })
    }

    async fn head(&mut self) -> Result<Head, Stop> {
        self.id.clear();
        if self.buffer.is_empty() {
            self.fill_or_idle().await?;
        }
        let mut until = None;
        loop {
            let parsed = request::parse(&self.buffer);
            // Copied, because every answer needs the id and the call takes the buffer.
            let id = request::id(&parsed, &self.buffer);
            self.id.extend_from_slice(id.unwrap_or_default());
            if let Some(head) = parsed? {
                return Ok(head);
            }
            let now = tokio::time::Instant::now();
            let until = *until.get_or_insert(now + HEAD_WAIT);
            timeout_at(until, self.fill()).await.map_err(|_| Gone)??;
        }
    }

    async fn read_to(&mut self, whole: usize, head: &Head) -> Result<(), Gone> {
        if self.buffer.len() == head.len {
            self.go_on(head).await?;
        }
        self.buffer.reserve_exact(whole - self.buffer.len());
        while self.buffer.len() < whole {
            self.fill().await?;
        }
        Ok(())
    }

    /// Takes the first `whole` bytes; the bytes after them belong to the next request.
    fn take(&mut self, whole: usize) -> Vec<u8> {
        if self.buffer.len() == whole {
            return std::mem::take(&mut self.buffer);
        }
        let ahead = self.buffer.split_off(whole);
        std::mem::replace(&mut self.buffer, ahead)
    }

    async fn chunked_body(&mut self, head: &Head) -> Result<Vec<u8>, Stop> {
        let mut bytes = self.buffer[..head.len].to_vec();
        self.buffer.drain(..head.len);
        if self.buffer.is_empty() {
            self.go_on(head).await?;
        }
        let mut chunked = Chunked::new(BODY_BYTES_MAX);
        loop {
            let used = chunked.take(&self.buffer, &mut bytes);
            let used = used.map_err(|fault| match fault {
                ChunkFault::TooLarge => request::TOO_LARGE,
                ChunkFault::Malformed(message) => Refusal::new(400, message),
            })?;
            self.buffer.drain(..used);
            if chunked.done() {
                return Ok(bytes);
            }
            self.fill().await?;
        }
    }

    async fn go_on(&mut self, head: &Head) -> Result<(), Gone> {
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

    /// `fill` between two requests.
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

    // --- what was asked ---

    /// Whether the connection goes on.
    async fn answer(&mut self, request: Request) -> Result<bool, Gone> {
        let head = request.head;
        let close = !head.keep || self.pod.phase() == Phase::Stopping;
        let (status, body, allow) = match head.route {
            Route::Invoke => return self.invoke(head, request.bytes).await,
            Route::Health => {
                let (status, body) = self.pod.health();
                (status, body.to_owned(), None)
            }
            Route::NotFound => {
                let message = "only POST /invoke and GET /health are here";
                (404, failure("NOT_FOUND", message), None)
            }
            Route::NotAllowed(allow) => {
                let body = failure("METHOD_NOT_ALLOWED", "see Allow");
                (405, body, Some(allow))
            }
        };
        let extra = Extra {
            close,
            allow,
            ..Extra::JSON
        };
        let sent = if head.headless { "" } else { &body }.as_bytes();
        self.send(status, body.len(), sent, &extra).await?;
        Ok(!close)
    }

    async fn invoke(&mut self, head: Head, bytes: Vec<u8>) -> Result<bool, Gone> {
        let place = match self.pod.admit() {
            Ok(place) => place,
            Err(why) => return self.not_started(&head, why).await,
        };
        let call = match Call::new(bytes, head.len, head.json, head.left) {
            Ok(call) => Arc::new(call),
            Err(error) => return self.fail(&head, &error, place).await,
        };
        let end = match run::begin(&*self.pod.handler, &call) {
            Running::Ended(result) => End::Answer(result),
            running => self.attend(running, &call).await,
        };
        let kept = match end {
            End::Answer(Ok(output)) => self.send_output(&head, output, &call, place).await?,
            End::Answer(Err(error)) => {
                let context = Context::new(Arc::clone(&call));
                let level = if error.status == 500 { "error" } else { "warn" };
                log::line(level, &error.to_string(), Some(&context), &[]);
                self.fail(&head, &error, place).await?
            }
            End::Deadline => {
                let error = Error::timeout();
                log::line("warn", error.message(), Some(&Context::new(call)), &[]);
                return self.fail(&head, &error, place).await;
            }
            End::Left => {
                let message = "the caller closed the connection: the call is cut off";
                log::line("warn", message, Some(&Context::new(call)), &[]);
                return Err(Gone);
            }
        };
        self.recycle(call);
        Ok(kept)
    }

    /// Waits until the call ends, its deadline passes or its caller leaves; the latter two stop it.
    async fn attend(&mut self, running: Running, call: &Arc<Call>) -> End {
        let overrunning = Arc::clone(&self.pod.overrunning);
        let blocking = matches!(running, Running::Blocking(_));
        let deadline = call
            .deadline()
            .unwrap_or_else(|| Instant::now() + DEADLINE_MAX);
        let mut deadline = pin!(sleep_until(deadline.into()));
        let end = {
            let mut ended = pin!(run::finish(running, call, &overrunning));
            loop {
                let ahead = self.buffer.len() < AHEAD_MAX;
                tokio::select! {
                    biased;
                    result = &mut ended => break End::Answer(result),
                    () = &mut deadline => break End::Deadline,
                    read = read_more(&mut self.stream, &mut self.buffer), if ahead => {
                        if !matches!(read, Ok(1..)) {
                            break End::Left;
                        }
                    }
                }
            }
        };
        if blocking && !matches!(end, End::Answer(_)) {
            // Counted before `cut_off` sets the mark, because the handler's thread decrements the
            // count as soon as it sees the mark.
            overrunning.fetch_add(1, Ordering::AcqRel);
            if !call.cut_off() {
                overrunning.fetch_sub(1, Ordering::AcqRel);
            }
        }
        end
    }

    /// The request's buffer serves the next one.
    fn recycle(&mut self, call: Arc<Call>) {
        if !self.buffer.is_empty() {
            return;
        }
        if let Some(call) = Arc::into_inner(call) {
            let mut bytes = call.into_bytes();
            if bytes.capacity() <= BUFFER_KEPT {
                bytes.clear();
                self.buffer = bytes;
            }
        }
    }

    // --- out ---

    async fn send_output(
        &mut self,
        head: &Head,
        output: Output,
        call: &Arc<Call>,
        place: Place,
    ) -> Result<bool, Gone> {
        let output = match output.check() {
            Ok(output) => output,
            Err(error) => {
                let context = Context::new(Arc::clone(call));
                log::line("error", &error.to_string(), Some(&context), &[]);
                return self.fail(head, &error, place).await;
            }
        };
        let extra = Extra {
            content_type: output.content_type(),
            close: !head.keep || self.pod.phase() == Phase::Stopping,
            init_ms: self.pod.first_answer(),
            ..Extra::JSON
        };
        let body = output.bytes();
        self.send(200, body.len(), body, &extra).await?;
        Ok(!extra.close)
    }

    async fn fail(&mut self, head: &Head, error: &Error, _place: Place) -> Result<bool, Gone> {
        let extra = Extra {
            close: !head.keep || self.pod.phase() == Phase::Stopping,
            init_ms: self.pod.first_answer(),
            ..Extra::JSON
        };
        let (status, body) = (error.status, error.json());
        self.send(status, body.len(), body.as_bytes(), &extra)
            .await?;
        Ok(!extra.close)
    }

    async fn not_started(&mut self, head: &Head, why: &str) -> Result<bool, Gone> {
        let extra = Extra {
            close: !head.keep,
            not_started: true,
            ..Extra::JSON
        };
        let body = failure("NOT_STARTED", why);
        self.send(503, body.len(), body.as_bytes(), &extra).await?;
        Ok(head.keep)
    }

    /// Answers a request that could not be read, and closes the connection. Before the close it
    /// reads for 2 s at most what the caller still sends: a close with unread bytes resets the
    /// connection, and the caller could lose the answer.
    async fn refuse(&mut self, refusal: &Refusal) -> Result<(), Gone> {
        let extra = Extra {
            close: true,
            ..Extra::JSON
        };
        let code = match refusal.status {
            413 => "BODY_TOO_LARGE",
            _ => "BAD_REQUEST",
        };
        let body = failure(code, refusal.message);
        let (status, length) = (refusal.status, body.len());
        self.send(status, length, body.as_bytes(), &extra).await?;
        self.stream.shutdown().await?;
        let rest = async {
            let mut read = 0;
            while read < 2 * BODY_BYTES_MAX {
                self.buffer.clear();
                match read_more(&mut self.stream, &mut self.buffer).await {
                    Ok(count @ 1..) => read += count,
                    _ => break,
                }
            }
        };
        // A caller that still sends after this time is cut off.
        let _ = timeout(Duration::from_secs(2), rest).await;
        Ok(())
    }

    async fn send(
        &mut self,
        status: u16,
        length: usize,
        body: &[u8],
        extra: &Extra<'_>,
    ) -> Result<(), Gone> {
        self.out.clear();
        put_head(&mut self.out, status, length, &self.id, extra);
        let rest = if body.len() <= COPY_MAX {
            self.out.extend_from_slice(body);
            &[]
        } else {
            body
        };
        let mut written = pin!(write_both(&mut self.stream, &self.out, rest));
        // Usually the socket takes everything at once. So the timer is made only if it does not.
        if let Poll::Ready(result) = poll_fn(|task| Poll::Ready(written.as_mut().poll(task))).await
        {
            return Ok(result?);
        }
        timeout(WRITE_WAIT, written).await.map_err(|_| Gone)??;
        Ok(())
    }
}

fn failure(code: &'static str, message: &str) -> String {
    Error::with_code(code, message).json()
}

/// Reads the bytes that are available; 0 means that the peer has closed. No bytes are lost when the
/// future is dropped.
async fn read_more<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
) -> io::Result<usize> {
    if buffer.capacity() - buffer.len() < READ / 4 {
        buffer.reserve(READ);
    }
    stream.read_buf(buffer).await
}

/// Writes both in as few writes as the socket allows.
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
