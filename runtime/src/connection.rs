//! One connection: reads its requests one after the other, and answers each of them. `pod` decides
//! whether the pod accepts a call. `server` calls `serve` for each connection.

mod reading;
mod streaming;
mod writing;

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep, sleep_until};

use crate::answer::{Echo, Extra};
use crate::call::{Context, HandlerCall};
use crate::error::Error;
use crate::handler::Running;
use crate::log;
use crate::output::Output;
use crate::pod::{PodPhase, RuntimePod};
use crate::request::{self, BadRequest, PodRequest, Route};
use crate::run;

use reading::read_more;

/// How long an idle connection is kept; the contract asks for 60 s at least. The platform closes an
/// idle connection after 30 s at most, so it sends no request while the pod closes.
const IDLE: Duration = Duration::from_secs(90);
const HEAD_WAIT: Duration = Duration::from_secs(10);
const BODY_WAIT: Duration = Duration::from_secs(60);
const WRITE_WAIT: Duration = Duration::from_secs(60);
/// The free space that a read needs in the buffer, in bytes.
const READ: usize = 8 * 1024;
/// The largest buffer that is kept for the next request, in bytes.
const BUFFER_KEPT: usize = 64 * 1024;
/// How many bytes of further requests are read while a call runs. If the buffer holds more, a
/// caller that leaves is noticed only after the call.
const AHEAD_MAX: usize = 64 * 1024;
/// A body up to this length, in bytes, is copied behind its head. A larger body is sent from its
/// own buffer.
const COPY_MAX: usize = 32 * 1024;
/// The deadline of a call without `X-Deadline-Ms`: 10 s more than the longest `timeoutMs`.
const DEADLINE_MAX: Duration = Duration::from_secs(310);
const METHOD_NOT_ALLOWED: &str = "METHOD_NOT_ALLOWED";
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

struct ServedConnection<S> {
    stream: S,
    pod: Arc<RuntimePod>,
    buffer: Vec<u8>,
    out: Vec<u8>,
    /// The `X-Execution-Id` of the current request, or empty.
    id: Vec<u8>,
    echo: Echo,
    /// Whether the current request is a HEAD, whose answer has no body.
    headless: bool,
    /// The timer of `IDLE`. It is reset only when it fires, so that requests do not pay for it.
    idle: Pin<Box<Sleep>>,
    last_use: Instant,
}

enum Stop {
    Gone,
    /// The request cannot be read. The connection closes after the answer.
    Refused(BadRequest),
}

/// The connection ends, without a further answer.
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

impl From<BadRequest> for Stop {
    fn from(refusal: BadRequest) -> Self {
        Self::Refused(refusal)
    }
}

/// A request's parsed head, and its bytes: the head, followed by the decoded body.
struct BufferedRequest {
    head: PodRequest,
    bytes: Vec<u8>,
}

enum CallEnd {
    Answer(Result<Output, Error>),
    Deadline,
    Left,
}

/// Serves one connection until it ends. It ends when the caller closes it, is idle for too long or
/// sends a request that cannot be read, and after an answer with `Connection: close`.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, pod: Arc<RuntimePod>) {
    let mut connection = ServedConnection {
        stream,
        pod,
        buffer: Vec::with_capacity(READ),
        out: Vec::new(),
        id: Vec::new(),
        echo: Echo::ExecutionId,
        headless: false,
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

impl<S: AsyncRead + AsyncWrite + Unpin> ServedConnection<S> {
    /// Answers the request. Returns true if the connection can serve another one.
    async fn answer(&mut self, request: BufferedRequest) -> Result<bool, Gone> {
        let head = request.head;
        // The platform must start no call on a connection of a stopping pod.
        let close = !head.keep || self.pod.phase() == PodPhase::Stopping;
        let (status, body, allow) = match head.route {
            _ if self.is_served(&head) => return self.serve_http(head, request.bytes).await,
            Route::Http if !self.pod.takes_method(request::method(&request.bytes)) => {
                let body = failure(METHOD_NOT_ALLOWED, "see Allow", self.echo);
                (405, body, Some(self.pod.methods.join(", ")))
            }
            Route::Invoke | Route::Http => return self.invoke(head, request.bytes).await,
            Route::Health => {
                let (status, body) = self.pod.health();
                (status, body.to_owned(), None)
            }
            Route::NotFound => {
                let message = "only POST /invoke and GET /health are here";
                (404, failure("NOT_FOUND", message, self.echo), None)
            }
            Route::NotAllowed(allow) => {
                let body = failure(METHOD_NOT_ALLOWED, "see Allow", self.echo);
                (405, body, Some(allow.to_owned()))
            }
        };
        let extra = Extra {
            close,
            allow: allow.as_deref(),
            ..Extra::JSON
        };
        self.send(status, body.as_bytes(), &extra).await?;
        Ok(!close)
    }

    /// Returns whether an HTTP service serves the request.
    fn is_served(&self, head: &PodRequest) -> bool {
        matches!(head.route, Route::Invoke | Route::Http) && self.pod.handler.service().is_some()
    }

    async fn invoke(&mut self, head: PodRequest, bytes: Vec<u8>) -> Result<bool, Gone> {
        let place = match self.pod.admit() {
            Ok(place) => place,
            Err(why) => return self.not_started(&head, why).await,
        };
        let call = match head.route {
            Route::Http => HandlerCall::http(bytes, &head),
            _ => HandlerCall::new(bytes, head.len, head.json, head.left),
        };
        let call = match call {
            Ok(call) => Arc::new(call),
            Err(error) => return self.fail(&head, &error, place).await,
        };
        let end = match run::begin(&*self.pod.handler, &call) {
            Running::Ended(result) => CallEnd::Answer(result),
            running => self.attend(running, &call).await,
        };
        let kept = match end {
            CallEnd::Answer(Ok(output)) => self.send_output(&head, output, &call, place).await?,
            CallEnd::Answer(Err(error)) => {
                let context = Context::new(Arc::clone(&call));
                // Only status 500 means a fault of the function itself.
                let level = if error.status == 500 { "error" } else { "warn" };
                log::line(level, &error.to_string(), Some(&context), &[]);
                self.fail(&head, &error, place).await?
            }
            CallEnd::Deadline => {
                let error = Error::timeout();
                log::line("warn", error.message(), Some(&Context::new(call)), &[]);
                return self.fail(&head, &error, place).await;
            }
            CallEnd::Left => {
                let message = "the caller closed the connection: the call is cut off";
                log::line("warn", message, Some(&Context::new(call)), &[]);
                return Err(Gone);
            }
        };
        self.recycle(call);
        Ok(kept)
    }

    /// Waits until the call ends, its deadline passes or its caller leaves. In the last two cases
    /// the call is stopped.
    async fn attend(&mut self, running: Running, call: &Arc<HandlerCall>) -> CallEnd {
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
                    // A result that is ready is sent even if the deadline passes in the same poll.
                    biased;
                    result = &mut ended => break CallEnd::Answer(result),
                    () = &mut deadline => break CallEnd::Deadline,
                    read = read_more(&mut self.stream, &mut self.buffer), if ahead => {
                        // Bytes belong to the next request. The end of the stream or an error means
                        // that the caller has left.
                        if !matches!(read, Ok(1..)) {
                            break CallEnd::Left;
                        }
                    }
                }
            }
        };
        if blocking && !matches!(end, CallEnd::Answer(_)) {
            // Count the call before `cut_off` sets the mark, because the handler's thread
            // decrements the count when it sees the mark.
            overrunning.fetch_add(1, Ordering::AcqRel);
            if !call.cut_off() {
                overrunning.fetch_sub(1, Ordering::AcqRel);
            }
        }
        end
    }

    fn recycle(&mut self, call: Arc<HandlerCall>) {
        // A `buffer` with bytes of the next request cannot be replaced.
        if !self.buffer.is_empty() {
            return;
        }
        // A handler that kept its `Input` or `Context` still uses the buffer.
        if let Some(call) = Arc::into_inner(call) {
            let mut bytes = call.into_bytes();
            if bytes.capacity() <= BUFFER_KEPT {
                bytes.clear();
                self.buffer = bytes;
            }
        }
    }
}

fn failure(code: &'static str, message: &str, echo: Echo) -> String {
    Error::with_code(code, message).json(echo)
}
