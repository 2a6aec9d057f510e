//! One client's connection: bytes in, parsed in place; requests answered in order. A read stays
//! armed for the life of the connection, so a client that leaves is noticed at once and pipelined
//! requests are there when they are wanted. It routes and reads bodies; it decides no call.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use monoio::io::{AsyncReadRent, OwnedReadHalf, OwnedWriteHalf, Splitable};
use monoio::net::TcpStream;
use nanofaas_core::ticket::CallRef;
use nix::sys::socket::{Shutdown, shutdown};

use crate::alarm::Alarm;
use crate::buffers::SMALL;
use crate::calls::End;
use crate::chunked::Chunked;
use crate::execution_api::{self, About};
use crate::function_api;
use crate::head::{Fault, Framing, HeadScan};
use crate::incoming::Incoming;
use crate::invoke::{self, Answering, Client, Entrant, Manner};
use crate::outgoing::send_all;
use crate::problem::Problem;
use crate::reply::{self, Response, Wire, problem};
use crate::request::{Head, Method, parse_head};
use crate::rooms::Rooms;
use crate::route::{Route, Verb, route};
use crate::thread::{Phase, Thread};

const SECOND_NS: u64 = 1_000_000_000;
const IDLE_NS_MAX: u64 = 75 * SECOND_NS;
const HEAD_NS_MAX: u64 = 10 * SECOND_NS;
/// A body that comes more slowly is not waited for.
const BODY_BYTES_PER_S: u64 = 16 * 1024;
/// What a client may send ahead of its answers.
const PIPELINED_MAX: usize = 64 * 1024;
/// A refused body up to this size is read and dropped, so that the connection lives on.
const SKIPPED_MAX: u64 = 256 * 1024;
const LARGE_READ: usize = 64 * 1024;
/// An answer that the client does not read.
const WRITE_NS_MAX: u64 = 60 * SECOND_NS;
/// After the last answer, bytes that still come are read for so long: closing at once would reset
/// the connection, and the client might lose the answer.
const LINGER_NS: u64 = 2 * SECOND_NS;

/// Which listener a connection came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// Clients; and pods too, where there is no other.
    Public { internal: bool },
    /// Pods alone.
    Internal,
}

/// What the reading and the serving half share.
pub(crate) struct Conn {
    thread: Rc<Thread>,
    port: Port,
    fd: RawFd,
    /// Bytes that came and were not taken.
    pending: RefCell<Vec<u8>>,
    /// The reader stops while more than this is pending.
    room: Cell<usize>,
    read_size: Cell<usize>,
    eof: Cell<bool>,
    /// The reader has a reason to be asked again.
    kick: Cell<bool>,
    /// The call that ends when the client leaves.
    serving: Cell<Option<CallRef>>,
    alarm: Alarm,
    /// An address of this machine alone: `Host` has to be one too.
    loopback: bool,
}

impl Client for Conn {
    fn serving(&self, place: Option<CallRef>) {
        self.serving.set(place);
        if let Some(place) = place
            && self.eof.get()
        {
            self.thread.calls.end(place, End::Left);
        }
    }

    fn poll_gone(&self) -> bool {
        self.eof.get()
    }
}

/// Serves a connection to its end; `answer` answers each request, in a room.
pub(crate) async fn serve<F: Future<Output = Answered>>(
    thread: Rc<Thread>,
    stream: TcpStream,
    port: Port,
    rooms: Rc<Rooms<F>>,
    answer: impl Fn(Rc<Conn>, OwnedWriteHalf<TcpStream>, Head, u64) -> F,
) {
    let loopback = stream
        .local_addr()
        .is_ok_and(|address| address.ip().is_loopback());
    let conn = Rc::new(Conn {
        port,
        fd: stream.as_raw_fd(),
        pending: RefCell::default(),
        room: Cell::new(PIPELINED_MAX),
        read_size: Cell::new(SMALL),
        eof: Cell::new(false),
        kick: Cell::new(false),
        serving: Cell::new(None),
        alarm: thread.alarms.alarm(),
        loopback,
        thread,
    });
    conn.thread
        .connections
        .set(conn.thread.connections.get() + 1);
    let (read, write) = stream.into_split();
    {
        let mut reader = pin!(read_all(&conn, read));
        let mut server = pin!(answer_and_close(&conn, write, &rooms, answer));
        let mut reading = true;
        std::future::poll_fn(|cx| {
            loop {
                conn.kick.set(false);
                reading = reading && reader.as_mut().poll(cx).is_pending();
                if server.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                // The server made room that the reader waits for.
                if !(reading && conn.kick.get()) {
                    return Poll::Pending;
                }
            }
        })
        .await;
    }
    conn.thread.buffers.give(conn.pending.take());
    conn.thread
        .connections
        .set(conn.thread.connections.get() - 1);
}

async fn read_all(conn: &Conn, mut half: OwnedReadHalf<TcpStream>) {
    loop {
        std::future::poll_fn(|_| {
            let full = conn.pending.borrow().len() > conn.room.get();
            if full { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        let buffer = conn.thread.buffers.take(conn.read_size.get());
        let (read, buffer) = half.read(buffer).await;
        if read.unwrap_or(0) == 0 {
            conn.thread.buffers.give(buffer);
            break;
        }
        if buffer.len() == buffer.capacity() {
            conn.read_size.set(LARGE_READ);
        }
        let mut pending = conn.pending.borrow_mut();
        if pending.capacity() == 0 {
            *pending = buffer;
        } else {
            pending.extend_from_slice(&buffer);
            conn.thread.buffers.give(buffer);
        }
    }
    conn.eof.set(true);
    if let Some(place) = conn.serving.get() {
        conn.thread.calls.end(place, End::Left);
    }
}

/// Why no further request is read.
enum Stop {
    /// The client left, or stayed idle.
    Quiet,
    Problem(Problem),
}

impl<P: Into<Problem>> From<P> for Stop {
    fn from(problem: P) -> Self {
        Self::Problem(problem.into())
    }
}

impl Conn {
    /// Waits until more than `seen` bytes are pending.
    async fn more(&self, seen: usize) -> Result<(), Late> {
        std::future::poll_fn(|cx: &mut Context<'_>| {
            if self.pending.borrow().len() > seen {
                return Poll::Ready(Ok(()));
            }
            if self.eof.get() {
                return Poll::Ready(Err(Late::Eof));
            }
            self.alarm.poll(cx).map(|()| Err(Late::Alarm))
        })
        .await
    }

    /// Lets the reader take up to `room` bytes ahead.
    fn set_room(&self, room: usize) {
        self.room.set(room);
        self.kick.set(true);
    }

    /// The next request's head.
    async fn head(&self) -> Result<(Head, u64), Stop> {
        let thread = &self.thread;
        let mut scan = HeadScan::default();
        let idle = self.pending.borrow().is_empty();
        self.alarm
            .set(thread.last_ns() + if idle { IDLE_NS_MAX } else { HEAD_NS_MAX });
        let mut begun = !idle;
        loop {
            let seen = {
                let pending = self.pending.borrow();
                if !pending.is_empty() {
                    if let Some(head) = parse_head(&pending, &mut scan)? {
                        let now_ns = thread.now_ns();
                        thread.active(now_ns);
                        thread.pace.request(now_ns);
                        return Ok((head, now_ns));
                    }
                    if !begun {
                        begun = true;
                        self.alarm.set(thread.last_ns() + HEAD_NS_MAX);
                    }
                }
                pending.len()
            };
            if thread.phase.get() == Phase::Stopping && !begun {
                return Err(Stop::Quiet);
            }
            match self.more(seen).await {
                Ok(()) => {}
                Err(Late::Alarm) if begun => {
                    let why = "the request's head did not come within 10 s; send it at once";
                    return Err(Problem::TooSlow(why).into());
                }
                Err(Late::Alarm | Late::Eof) => return Err(Stop::Quiet),
            }
        }
    }

    /// The request with its body of `length` bytes.
    async fn sized(&self, head: Head, length: u64) -> Result<Incoming, Stop> {
        let whole = head.len + length as usize;
        if self.pending.borrow().len() < whole {
            let slow_ns = length * SECOND_NS / BODY_BYTES_PER_S;
            self.alarm
                .set(self.thread.last_ns() + HEAD_NS_MAX + slow_ns);
            self.set_room(whole.max(PIPELINED_MAX));
            self.read_size
                .set(LARGE_READ.min(length as usize).max(self.read_size.get()));
            {
                let mut pending = self.pending.borrow_mut();
                let missing = whole - pending.len();
                pending.reserve(missing);
            }
            self.rest_of_body(whole).await?;
            self.set_room(PIPELINED_MAX);
        }
        Ok(Incoming::new(self.split(whole), head, length as usize))
    }

    async fn rest_of_body(&self, whole: usize) -> Result<(), Stop> {
        loop {
            let seen = self.pending.borrow().len();
            if seen >= whole {
                // The call's time in the queue begins now, not with its head.
                let _whole_ns = self.thread.now_ns();
                return Ok(());
            }
            self.body_bytes(seen).await?;
        }
    }

    async fn body_bytes(&self, seen: usize) -> Result<(), Stop> {
        match self.more(seen).await {
            Ok(()) => Ok(()),
            Err(Late::Eof) => Err(Stop::Quiet),
            Err(Late::Alarm) => {
                let why = "the body came at less than 16 KiB a second; send it faster";
                Err(Problem::TooSlow(why).into())
            }
        }
    }

    /// Takes the first `whole` bytes; what a client sent ahead stays.
    fn split(&self, whole: usize) -> Vec<u8> {
        let mut pending = self.pending.borrow_mut();
        if pending.len() == whole {
            return std::mem::take(&mut *pending);
        }
        let mut ahead = self.thread.buffers.take(pending.len() - whole);
        ahead.extend_from_slice(&pending[whole..]);
        pending.truncate(whole);
        std::mem::replace(&mut *pending, ahead)
    }

    /// The request with a body that comes in chunks, at most `max` bytes. `grown` hears of each
    /// piece and may refuse it.
    async fn chunked(
        &self,
        head: Head,
        max: u64,
        mut grown: impl FnMut(u64) -> Result<(), Problem>,
    ) -> Result<Incoming, Stop> {
        let head_bytes = self.split(head.len);
        let mut decoder = Chunked::default();
        let mut body = self.thread.buffers.take(SMALL);
        let began_ns = self.thread.last_ns();
        self.alarm.set(began_ns + HEAD_NS_MAX);
        loop {
            let before = body.len() as u64;
            let progress = {
                let pending = self.pending.borrow();
                decoder
                    .decode(&pending, &mut body, max as usize)
                    .map_err(|fault| match fault {
                        Fault::BodyTooLarge => Problem::BodyTooLarge { bytes_max: max },
                        fault => Problem::Http(fault),
                    })?
            };
            self.drop_bytes(progress.consumed);
            grown(body.len() as u64 - before)?;
            if progress.done {
                let _whole_ns = self.thread.now_ns();
                return Ok(Incoming::chunked(head_bytes, head, body));
            }
            // On average, from the beginning: a trickle does not get ahead of it.
            let slow_ns = body.len() as u64 * SECOND_NS / BODY_BYTES_PER_S;
            self.alarm.set(began_ns + HEAD_NS_MAX + slow_ns);
            let seen = self.pending.borrow().len();
            self.body_bytes(seen).await?;
        }
    }

    /// Forgets the first bytes.
    fn drop_bytes(&self, count: usize) {
        let mut pending = self.pending.borrow_mut();
        if count == pending.len() {
            self.thread.buffers.give(std::mem::take(&mut *pending));
        } else {
            pending.drain(..count);
        }
        self.kick.set(true);
    }

    /// Reads and drops the body of a refused request; false where the connection has to end.
    async fn skip(&self, head: &Head) -> bool {
        let length = match head.framing {
            Framing::None => 0,
            Framing::Length(length) => length,
            Framing::Chunked => return false,
        };
        if head.expect_continue || length > SKIPPED_MAX {
            return false;
        }
        self.drop_bytes(head.len);
        let mut left = length as usize;
        self.alarm.set(self.thread.last_ns() + HEAD_NS_MAX);
        while left > 0 {
            let some = left.min(self.pending.borrow().len());
            self.drop_bytes(some);
            left -= some;
            if left > 0 && self.more(0).await.is_err() {
                return false;
            }
        }
        true
    }
}

enum Late {
    Eof,
    Alarm,
}

/// Answers requests, and then ends the read that is still armed.
async fn answer_and_close<F: Future<Output = Answered>>(
    conn: &Rc<Conn>,
    mut write: OwnedWriteHalf<TcpStream>,
    rooms: &Rooms<F>,
    answer: impl Fn(Rc<Conn>, OwnedWriteHalf<TcpStream>, Head, u64) -> F,
) {
    let thread = &conn.thread;
    let last = loop {
        let (head, arrived_ns) = match conn.head().await {
            Ok(found) => found,
            Err(Stop::Quiet) => break None,
            Err(Stop::Problem(error)) => break Some(problem(&error)),
        };
        thread.answering.set(thread.answering.get() + 1);
        let answered = rooms
            .run(|| answer(conn.clone(), write, head, arrived_ns))
            .await;
        write = answered.write;
        let sent = send(conn, &mut write, answered.out).await;
        thread.answering.set(thread.answering.get() - 1);
        match answered.stays {
            Stays::Yes if sent => {}
            Stays::No if sent => {
                Box::pin(linger(conn)).await;
                break None;
            }
            Stays::Yes | Stays::No => break None,
        }
    };
    if let Some(last) = last {
        Box::pin(last_words(conn, &mut write, &last)).await;
    }
    // While a half is still there: once both are gone, the number may be another connection's.
    let _ = shutdown(conn.fd, Shutdown::Both);
}

/// What became of a request: the answer, to be sent by the half that it gives back.
pub(crate) struct Answered {
    write: OwnedWriteHalf<TcpStream>,
    out: Vec<u8>,
    stays: Stays,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stays {
    Yes,
    No,
}

/// Sends bytes; false where the client did not take them.
async fn send(conn: &Conn, write: &mut OwnedWriteHalf<TcpStream>, bytes: Vec<u8>) -> bool {
    if bytes.is_empty() {
        return true;
    }
    let mut sending = pin!(send_all(&conn.thread, conn.fd, write, bytes));
    let mut waits = false;
    let sent = std::future::poll_fn(|cx| {
        if let Poll::Ready((sent, bytes)) = sending.as_mut().poll(cx) {
            conn.thread.buffers.give(bytes);
            return Poll::Ready(sent.is_ok());
        }
        if !waits {
            waits = true;
            conn.alarm.set(conn.thread.last_ns() + WRITE_NS_MAX);
        }
        conn.alarm.poll(cx).map(|()| false)
    })
    .await;
    if !sent {
        let _ = shutdown(conn.fd, Shutdown::Both);
    }
    sent
}

/// The answer to bytes that are no request, and then the end.
async fn last_words(conn: &Conn, write: &mut OwnedWriteHalf<TcpStream>, response: &Response) {
    let mut out = conn.thread.buffers.take(SMALL);
    response.write(
        &mut out,
        Wire {
            keep_alive: false,
            old: false,
            head_only: false,
        },
    );
    if send(conn, write, out).await {
        linger(conn).await;
    }
}

/// Reads what still comes, for a while, before the connection is closed.
async fn linger(conn: &Conn) {
    let _ = shutdown(conn.fd, Shutdown::Write);
    conn.alarm.set(conn.thread.last_ns() + LINGER_NS);
    loop {
        let unread = conn.pending.borrow().len();
        conn.drop_bytes(unread);
        if conn.more(0).await.is_err() {
            return;
        }
    }
}

/// Routes and answers one request.
pub(crate) async fn answer(
    conn: Rc<Conn>,
    mut write: OwnedWriteHalf<TcpStream>,
    head: Head,
    arrived_ns: u64,
) -> Answered {
    let mut out = conn.thread.buffers.take(SMALL);
    let stays = answer_into(&conn, &mut write, &head, arrived_ns, &mut out).await;
    Answered { write, out, stays }
}

/// The answer is in `out`.
async fn answer_into(
    conn: &Conn,
    write: &mut OwnedWriteHalf<TcpStream>,
    head: &Head,
    arrived_ns: u64,
    out: &mut Vec<u8>,
) -> Stays {
    let thread = &conn.thread;
    let keep_alive = head.keep_alive && thread.phase.get() == Phase::Serving;
    let wire = Wire {
        keep_alive,
        old: head.minor == 0,
        head_only: head.method == Method::Head,
    };
    // The path is needed while the buffer goes on: a small copy off the warm path.
    let entrant = admit(conn, head, arrived_ns);
    let done = match entrant {
        Ok(Admitted::Call(mut entrant)) => match read_call(conn, write, head, &mut entrant).await {
            Ok(mut incoming) => {
                let mut answering = Answering {
                    client: conn,
                    alarm: &conn.alarm,
                    wire,
                    out,
                };
                match invoke::begin(&entrant, &mut incoming) {
                    Ok(Manner::Plain) => {
                        invoke::plain_call(thread, &entrant, &incoming, &mut answering).await;
                        thread.buffers.give(incoming.into_buffer());
                    }
                    Ok(Manner::Kept { detached }) => {
                        let answering = &mut answering;
                        let kept =
                            invoke::kept_call(thread, entrant, incoming, detached, answering);
                        Box::pin(kept).await;
                    }
                    Err(fault) => answering.send(&problem(&fault)),
                }
                return if keep_alive { Stays::Yes } else { Stays::No };
            }
            Err(stop) => Err(stop),
        },
        // Boxed, as everything off the warm path: an idle connection holds room for what is not.
        Ok(Admitted::Other) => Box::pin(other(conn, write, head)).await,
        Err(error) => {
            let skipped = conn.skip(head).await;
            let response = problem(&error);
            let stays = skipped && keep_alive && !response.closes();
            response.write(
                out,
                Wire {
                    keep_alive: stays,
                    ..wire
                },
            );
            return if stays { Stays::Yes } else { Stays::No };
        }
    };
    match done {
        Ok(response) => {
            response.write(out, wire);
            if keep_alive && !response.closes() {
                Stays::Yes
            } else {
                Stays::No
            }
        }
        Err(Stop::Quiet) => Stays::No,
        Err(Stop::Problem(error)) => {
            // Its body was not read to the end.
            problem(&error).write(
                out,
                Wire {
                    keep_alive: false,
                    ..wire
                },
            );
            Stays::No
        }
    }
}

enum Admitted {
    Call(Entrant),
    Other,
}

/// What the head alone decides: path, method, cross-site rules, and a call's first admission.
fn admit(conn: &Conn, head: &Head, arrived_ns: u64) -> Result<Admitted, Problem> {
    let pending = conn.pending.borrow();
    let route = route(head.method, head.path.of(&pending))?;
    let internal = matches!(
        route,
        Route::Complete { .. } | Route::Input { .. } | Route::PodReady { .. }
    );
    match conn.port {
        Port::Internal if !internal => return Err(Problem::NoSuchPath),
        Port::Public { internal: false } if internal => return Err(Problem::NoSuchPath),
        Port::Internal | Port::Public { .. } => {}
    }
    if head.origin.is_some() {
        let why = "requests of browsers from other sites are not taken; send no Origin header";
        return Err(Problem::Forbidden(why));
    }
    if conn.loopback
        && !internal
        && let Some(host) = head.host
        && !is_loopback(host.of(&pending))
    {
        let why = "while listening on loopback, Host has to be localhost or a loopback address";
        return Err(Problem::Forbidden(why));
    }
    let (name, enqueue) = match &route {
        Route::Invoke(name) => (name, false),
        Route::Enqueue(name) => (name, true),
        _ => return Ok(Admitted::Other),
    };
    let thread = &conn.thread;
    invoke::at_head(thread, name.as_str(), enqueue, head, &pending, arrived_ns).map(Admitted::Call)
}

/// Whether a `Host` value names this machine by a name that no stranger can give to an address.
fn is_loopback(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else {
        return false;
    };
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().is_some_and(|ip| ip == "::1");
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "127.0.0.1"
        || name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<std::net::Ipv4Addr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// Invites the body where the client waits for that.
async fn invite(
    conn: &Conn,
    write: &mut OwnedWriteHalf<TcpStream>,
    head: &Head,
) -> Result<(), Stop> {
    let whole = match head.framing {
        Framing::Length(length) => head.len + length as usize,
        Framing::Chunked => head.len + 1,
        Framing::None => 0,
    };
    if head.expect_continue && conn.pending.borrow().len() < whole {
        let sent = send(conn, write, reply::CONTINUE.to_vec()).await;
        return if sent { Ok(()) } else { Err(Stop::Quiet) };
    }
    Ok(())
}

async fn read_call(
    conn: &Conn,
    write: &mut OwnedWriteHalf<TcpStream>,
    head: &Head,
    entrant: &mut Entrant,
) -> Result<Incoming, Stop> {
    invite(conn, write, head).await?;
    let thread = &conn.thread;
    match head.framing {
        Framing::Length(length) => conn.sized(*head, length).await,
        Framing::Chunked => {
            let limit = thread.config.inflight_bytes;
            let Entrant { charge, known, .. } = entrant;
            let grown = |bytes| {
                let fits = charge.grow(bytes, limit);
                if fits {
                    Ok(())
                } else {
                    Err(invoke::out_of_memory(thread, known))
                }
            };
            conn.chunked(*head, thread.config.body_bytes_max, grown)
                .await
        }
        Framing::None => Err(Problem::LengthRequired.into()),
    }
}

/// Reads the body of a request that is not a call.
async fn read_body(
    conn: &Conn,
    write: &mut OwnedWriteHalf<TcpStream>,
    head: &Head,
    max: u64,
) -> Result<Incoming, Stop> {
    match head.framing {
        Framing::None => Ok(Incoming::new(conn.split(head.len), *head, 0)),
        Framing::Length(length) if length > max => {
            Err(Problem::BodyTooLarge { bytes_max: max }.into())
        }
        Framing::Length(length) => {
            invite(conn, write, head).await?;
            conn.sized(*head, length).await
        }
        Framing::Chunked => {
            invite(conn, write, head).await?;
            conn.chunked(*head, max, |_| Ok(())).await
        }
    }
}

/// Everything but calls.
async fn other(
    conn: &Conn,
    write: &mut OwnedWriteHalf<TcpStream>,
    head: &Head,
) -> Result<Response, Stop> {
    let thread = &conn.thread;
    let path = head.path.of(&conn.pending.borrow()).to_vec();
    let route = route(head.method, &path)?;
    if let Route::Complete { token, id } = route {
        return complete(conn, write, head, token, id).await;
    }
    let wants_json = matches!(
        route,
        Route::Functions(Verb::Post) | Route::Function(_, Verb::Put) | Route::Replicas(_)
    );
    if wants_json {
        let pending = conn.pending.borrow();
        let content_type = head.content_type.map(|span| span.of(&pending));
        if crate::field::media_type(content_type) != crate::field::MediaType::Json {
            return Err(Problem::UnsupportedMediaType.into());
        }
        if head.framing == Framing::None {
            return Err(Problem::LengthRequired.into());
        }
    }
    let max = thread.config.body_bytes_max;
    let incoming = read_body(conn, write, head, max).await?;
    let body = incoming.body().to_vec();
    let gone = std::future::poll_fn(|_| {
        if conn.poll_gone() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    });
    let answered = pin!(respond(thread, &route, &incoming, body));
    let mut answered = answered;
    let mut gone = pin!(gone);
    // A client that leaves a long poll takes it along; a change goes on by itself.
    let quits = matches!(route, Route::Execution(_, Verb::Get));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(response) = answered.as_mut().poll(cx) {
            return Poll::Ready(response);
        }
        if quits && gone.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Stop::Quiet));
        }
        Poll::Pending
    })
    .await
}

async fn respond(
    thread: &Rc<Thread>,
    route: &Route<'_>,
    incoming: &Incoming,
    body: Vec<u8>,
) -> Result<Response, Stop> {
    Ok(match route {
        Route::Functions(Verb::Post) => function_api::register(thread, None, body).await,
        Route::Functions(_) => function_api::list(thread),
        Route::Function(name, Verb::Put) => {
            function_api::register(thread, Some(name.as_str()), body).await
        }
        Route::Function(name, Verb::Delete) => function_api::remove(thread, name.as_str()).await,
        Route::Function(name, _) => function_api::show(thread, name.as_str()),
        Route::Replicas(name) => function_api::scale(thread, name.as_str(), body).await,
        Route::ColdStarts(name) => function_api::cold_starts(thread, name.as_str()).await,
        Route::Execution(id, Verb::Delete) => {
            execution_api::answer_anywhere(thread, *id, About::Cancel).await
        }
        Route::Execution(id, _) => {
            let wait_ms = wait_ms(incoming)?;
            execution_api::answer_anywhere(thread, *id, About::Status { wait_ms }).await
        }
        Route::Output(id) => execution_api::answer_anywhere(thread, *id, About::Output).await,
        Route::Input { token, id } => {
            let about = About::Input {
                token: (*token).into(),
            };
            execution_api::answer_anywhere(thread, *id, about).await
        }
        Route::PodReady { token, pod } => {
            let address = incoming.head.query.map(|query| {
                crate::field::query_address(query.of(incoming.head_bytes()), "address")
            });
            let address = address.transpose()?.flatten();
            function_api::pod_ready(thread, token, pod.as_str(), address, body).await
        }
        Route::OpenApi => {
            let body = thread.config.openapi.as_bytes().to_vec();
            Response::bytes((&b"application/yaml"[..]).into(), body)
        }
        Route::Invoke(_) | Route::Enqueue(_) | Route::Complete { .. } => {
            unreachable!("calls and results were routed before")
        }
    })
}

fn wait_ms(incoming: &Incoming) -> Result<u64, Problem> {
    let Some(query) = incoming.head.query else {
        return Ok(0);
    };
    let asked = crate::field::query_number(query.of(incoming.head_bytes()), "waitMs")?;
    let asked = u64::from(asked.unwrap_or(0));
    if asked > nanofaas_core::limits::WAIT_MS_MAX {
        return Err(Problem::BadRequest("waitMs must be 0 to 60000".to_owned()));
    }
    Ok(asked)
}

/// A Job's result: over its limit it still ends the call.
async fn complete(
    conn: &Conn,
    write: &mut OwnedWriteHalf<TcpStream>,
    head: &Head,
    token: &[u8],
    id: nanofaas_core::id::ExecutionId,
) -> Result<Response, Stop> {
    let thread = &conn.thread;
    if head.framing == Framing::None {
        return Err(Problem::LengthRequired.into());
    }
    let content_type: Option<Box<[u8]>> = {
        let pending = conn.pending.borrow();
        head.content_type.map(|span| span.of(&pending).into())
    };
    let token: Box<[u8]> = token.into();
    match read_body(conn, write, head, thread.config.response_bytes_max).await {
        Ok(incoming) => {
            let body = Some(incoming.body().to_vec());
            let about = About::Complete {
                token,
                content_type,
                body,
            };
            Ok(execution_api::answer_anywhere(thread, id, about).await)
        }
        Err(Stop::Problem(Problem::BodyTooLarge { .. })) => {
            let about = About::Complete {
                token,
                content_type,
                body: None,
            };
            Ok(execution_api::answer_anywhere(thread, id, about)
                .await
                .closing())
        }
        Err(stop) => Err(stop),
    }
}
