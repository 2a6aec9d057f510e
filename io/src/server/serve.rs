//! Serves one client's connection: routes, reads and answers its requests, one after the other. The reader
//! (`client_conn`) goes on meanwhile, so that a client that leaves is noticed during its call, and a
//! pipelined request is already there when it is served. This module decides nothing about calls; `accept`
//! starts it.

#[cfg(test)]
mod tests;

use std::net::Shutdown;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use nanofaas_core::time::{Nanos, Uptime};
use nanofaas_http1::framing::Framing;
use nanofaas_http1::host::Host;
use nanofaas_http1::request::{FetchSite, Method, RequestHead};

use crate::forward::request::PREFIX;
use crate::http::error::HttpError;
use crate::http::response::{Heading, Response, Wire, error_response};
use crate::http::route::{ApiRoute, route};
use crate::invoke::admit;
use crate::invoke::charges;
use crate::invoke::incoming::Incoming;
use crate::invoke::outgoing::Outgoing;
use crate::invoke::request::{AdmittedRequest, Answering, InvocationMode};
use crate::invoke::stored;
use crate::runtime::buffers::SMALL;
use crate::runtime::phase::ShutdownPhase;
use crate::server::client_conn::{ClientConn, ListenerPort, SHARE, StopReading};
use crate::server::dispatch;
use crate::server::request_pool::RequestPool;
use crate::server::sending::{invite, send, send_outgoing};

/// How long the server continues to read after the last answer. If the server closed the connection with
/// bytes unread, the kernel would reset the connection, and the client might lose the answer.
const LINGER: Nanos = Nanos::from_s(2);

/// The pools of a listener: one for requests of `/fn/`, and one for all others. The pools are separate,
/// because every place of a pool is as large as the largest future that the pool runs.
pub(crate) struct RequestPools<F, G> {
    pub(crate) others: RequestPool<F>,
    pub(crate) forwards: RequestPool<G>,
}

impl<F, G> Default for RequestPools<F, G> {
    fn default() -> Self {
        Self {
            others: RequestPool::default(),
            forwards: RequestPool::default(),
        }
    }
}

/// Serves a connection to its end. `forward` answers a request of `/fn/`, and `answer` any other request,
/// each in a place of its pool.
pub(crate) async fn serve<F: Future<Output = Answered>, G: Future<Output = Answered>>(
    conn: ClientConn,
    pools: Rc<RequestPools<F, G>>,
    answer: impl Fn(Rc<ClientConn>, RequestHead, Uptime) -> F,
    forward: impl Fn(Rc<ClientConn>, RequestHead, Uptime) -> G,
) {
    let conn = Rc::new(conn);
    // The clock is read, because the idle time of the new connection is counted from `recent`.
    let _began_at = conn.thread.now();
    let client = Rc::downgrade(&conn);
    let _place = conn.thread.descriptors.place(client);
    {
        let mut server = pin!(answer_and_close(&conn, &pools, answer, forward));
        let event_loop = &conn.thread.event_loop;
        loop {
            let over = std::future::poll_fn(|cx| {
                conn.share.renew(SHARE);
                loop {
                    conn.kick.set(false);
                    conn.poll_read(cx);
                    if server.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(true);
                    }
                    if conn.share.is_used_up() {
                        return Poll::Ready(false);
                    }
                    // If the server has made room for the reader, it has set `kick`, and the reader is polled
                    // again.
                    if conn.eof.get() || !conn.kick.get() {
                        return Poll::Pending;
                    }
                }
            })
            .await;
            if over {
                break;
            }
            // The share is used up, so the other connections are polled before this one goes on.
            event_loop.yield_now().await;
        }
    }
    let left = conn.pending.take().into_buffer();
    conn.thread.buffers.give(left);
    // Many clients that leave at about the same time free much memory. The upkeep gives it back to the
    // system.
    conn.thread.upkeep.worked(conn.thread.recent());
}

/// Answers requests, and then ends the connection.
async fn answer_and_close<F: Future<Output = Answered>, G: Future<Output = Answered>>(
    conn: &Rc<ClientConn>,
    pools: &RequestPools<F, G>,
    answer: impl Fn(Rc<ClientConn>, RequestHead, Uptime) -> F,
    forward: impl Fn(Rc<ClientConn>, RequestHead, Uptime) -> G,
) {
    let thread = &conn.thread;
    let last = loop {
        let (head, arrived_at) = match conn.head().await {
            Ok(found) => found,
            Err(StopReading::Quiet) => break None,
            Err(StopReading::Refused(error)) => break Some(error_response(&error)),
        };
        // The request is counted until its answer is sent, because at shutdown the thread waits for its
        // answers.
        thread.answering.set(thread.answering.get() + 1);
        let is_forward = head.path.of(&conn.pending.borrow()).starts_with(PREFIX);
        let Answered { outgoing, stays } = if is_forward {
            let make = || forward(conn.clone(), head, arrived_at);
            pools.forwards.run(make).await
        } else {
            let make = || answer(conn.clone(), head, arrived_at);
            pools.others.run(make).await
        };
        let sent = send_outgoing(conn, outgoing, arrived_at).await;
        conn.end_answer();
        thread.answering.set(thread.answering.get() - 1);
        thread.upkeep.worked(thread.recent());
        match stays {
            AfterAnswer::Yes if sent => {}
            AfterAnswer::No if sent => {
                Box::pin(linger(conn)).await;
                break None;
            }
            AfterAnswer::Yes | AfterAnswer::No => break None,
        }
    };
    Box::pin(last_words(conn, last)).await;
    conn.socket.shutdown(Shutdown::Both);
}

/// The answer that is to be sent, and whether the connection stays open afterwards.
pub(crate) struct Answered {
    pub(super) outgoing: Outgoing,
    pub(super) stays: AfterAnswer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterAnswer {
    Yes,
    No,
}

/// Sends `response`, if there is one, as the answer to bytes that are no request. Waits until all bytes are
/// sent.
async fn last_words(conn: &ClientConn, response: Option<Response>) {
    if let Some(response) = response {
        let mut out = conn.thread.buffers.take(SMALL);
        let wire = Wire {
            keep_alive: false,
            old: false,
            head_only: false,
        };
        response.write(&mut out, &Heading::of(&conn.thread, wire));
        if send(conn, out).await {
            linger(conn).await;
        }
    }
    conn.sent().await;
}

/// Reads and drops the bytes that still come, for at most `LINGER`, before the connection is closed.
async fn linger(conn: &ClientConn) {
    if !conn.sent().await {
        return;
    }
    conn.socket.shutdown(Shutdown::Write);
    conn.alarm.set(conn.thread.recent() + LINGER);
    loop {
        let unread = conn.pending.borrow().len();
        conn.drop_bytes(unread);
        if conn.more(0).await.is_err() {
            return;
        }
    }
}

/// Routes and answers one request that is not of `/fn/`.
pub(crate) async fn answer(
    conn: Rc<ClientConn>,
    head: RequestHead,
    arrived_at: Uptime,
) -> Answered {
    let mut outgoing = Outgoing {
        out: conn.thread.buffers.take(SMALL),
        ..Outgoing::default()
    };
    let stays = answer_into(&conn, &head, arrived_at, &mut outgoing).await;
    Answered { outgoing, stays }
}

/// Answers one request into `outgoing`; returns whether the connection stays open.
async fn answer_into(
    conn: &ClientConn,
    head: &RequestHead,
    arrived_at: Uptime,
    outgoing: &mut Outgoing,
) -> AfterAnswer {
    let thread = &conn.thread;
    let keep_alive = head.keep_alive && thread.phase.get() == ShutdownPhase::Serving;
    let wire = Wire {
        keep_alive,
        old: head.minor == 0,
        head_only: head.method == Method::Head,
    };
    let admitted = admit(conn, head, arrived_at);
    let done = match admitted {
        Ok(Admitted::Call(mut admitted)) => match read_call(conn, head, &mut admitted).await {
            Ok(mut incoming) => {
                let mut answering = Answering {
                    client: conn,
                    alarm: &conn.alarm,
                    wire,
                    outgoing,
                };
                match admit::begin(&admitted, &mut incoming) {
                    // The client's FIN has already come, so the call is not begun. The FIN is checked before
                    // admission, because the inline scheduler would grant the call before the event loop sees
                    // the FIN. The connection ends, because the client would take the answer to a later
                    // request for the answer to this call.
                    Ok(mode) if conn.has_left() && !mode.outlives_client(&incoming) => {
                        thread.buffers.give(incoming.into_buffer());
                        return AfterAnswer::No;
                    }
                    Ok(InvocationMode::Plain) => {
                        let answered =
                            admit::plain_call(thread, &mut admitted, &incoming, &mut answering);
                        answered.await;
                        thread.buffers.give(incoming.into_buffer());
                    }
                    Ok(InvocationMode::Stored { detached }) => {
                        let stored =
                            stored::serve(thread, admitted, incoming, detached, &answering);
                        let response = Box::pin(stored).await;
                        let put =
                            answering
                                .outgoing
                                .put_in_turn(thread, &conn.alarm, response, wire);
                        Box::pin(put).await;
                    }
                    Err(fault) => answering.outgoing.put(thread, error_response(&fault), wire),
                }
                return if keep_alive {
                    AfterAnswer::Yes
                } else {
                    AfterAnswer::No
                };
            }
            Err(stop) => Err(stop),
        },
        // The future is boxed, because every place of the pool has room for all futures that are not boxed,
        // and this one is not needed on the warm path.
        Ok(Admitted::Other) => Box::pin(dispatch::other(conn, head, outgoing)).await,
        Err(error) => {
            let skipped = conn.skip(head).await;
            let response = error_response(&error);
            let stays = skipped && keep_alive && !response.closes();
            let wire = Wire {
                keep_alive: stays,
                ..wire
            };
            outgoing.put(thread, response, wire);
            return if stays {
                AfterAnswer::Yes
            } else {
                AfterAnswer::No
            };
        }
    };
    match done {
        Ok(response) => {
            let closes = response.closes();
            if outgoing.charge.is_some() {
                Box::pin(outgoing.put_in_turn(thread, &conn.alarm, response, wire)).await;
            } else {
                outgoing.put(thread, response, wire);
            }
            if keep_alive && !closes {
                AfterAnswer::Yes
            } else {
                AfterAnswer::No
            }
        }
        Err(StopReading::Quiet) => AfterAnswer::No,
        Err(StopReading::Refused(error)) => {
            // The body was not read to its end, so it is unknown where the next request begins, and the
            // connection ends.
            let wire = Wire {
                keep_alive: false,
                ..wire
            };
            outgoing.put(thread, error_response(&error), wire);
            AfterAnswer::No
        }
    }
}

enum Admitted {
    Call(AdmittedRequest),
    Other,
}

/// Makes the checks that need only the head: path, method, listener, `Origin`, `Sec-Fetch-Site`, `Host`, and
/// the first part of a call's admission.
fn admit(conn: &ClientConn, head: &RequestHead, arrived_at: Uptime) -> Result<Admitted, HttpError> {
    let pending = conn.pending.borrow();
    let route = route(head.method, head.path.of(&pending))?;
    let internal = matches!(
        route,
        ApiRoute::Complete { .. } | ApiRoute::Input { .. } | ApiRoute::PodReady { .. }
    );
    check_listener(conn, internal)?;
    // A browser sends `Origin` with a request of a page of another site. Such a page must not call functions.
    if head.origin.is_some() {
        let why = "requests of browsers from other sites are not taken; send no Origin header";
        return Err(HttpError::Forbidden(why));
    }
    // A page that a function serves has this process's origin, so its browser sends no `Origin` with a GET.
    // But the browser sends `Sec-Fetch-Site`, which shows that the request comes from a page.
    if matches!(head.fetch_site, FetchSite::SameOrigin | FetchSite::Foreign) {
        let why = "requests of web pages are not taken here; send no Sec-Fetch-Site header";
        return Err(HttpError::Forbidden(why));
    }
    if !internal {
        check_host(conn, head, &pending, |host| host.is_loopback())?;
    }
    let (name, enqueue) = match &route {
        ApiRoute::Invoke(name) => (name, false),
        ApiRoute::Enqueue(name) => (name, true),
        _ => return Ok(Admitted::Other),
    };
    let thread = &conn.thread;
    admit::admit_head(thread, name.as_str(), enqueue, head, &pending, arrived_at)
        .map(Admitted::Call)
}

/// Checks that the connection's listener serves the request's path. `internal` is true for the paths of Jobs
/// and pods.
pub(super) fn check_listener(conn: &ClientConn, internal: bool) -> Result<(), HttpError> {
    match conn.port {
        ListenerPort::Internal if !internal => Err(HttpError::NoSuchPath),
        ListenerPort::Public { internal: false } if internal => Err(HttpError::NoSuchPath),
        ListenerPort::Internal | ListenerPort::Public { .. } => Ok(()),
    }
}

/// Checks `Host` if the connection came to a loopback address, because the name of a page may have been made
/// to resolve to such an address (DNS rebinding). The browser then sends that name as `Host`.
pub(super) fn check_host(
    conn: &ClientConn,
    head: &RequestHead,
    bytes: &[u8],
    is_own: fn(Host<'_>) -> bool,
) -> Result<(), HttpError> {
    if conn.loopback
        && let Some(host) = head.host
        && !Host::parse(host.of(bytes)).is_some_and(is_own)
    {
        let why = "while listening on loopback, Host has to be localhost or a loopback address";
        return Err(HttpError::Forbidden(why));
    }
    Ok(())
}

async fn read_call(
    conn: &ClientConn,
    head: &RequestHead,
    admitted: &mut AdmittedRequest,
) -> Result<Incoming, StopReading> {
    invite(conn, head).await?;
    let thread = &conn.thread;
    let incoming = match head.framing {
        Framing::Length(length) => conn.sized(*head, length).await?,
        Framing::Chunked => {
            let AdmittedRequest { charge, entry, .. } = admitted;
            let grown = |bytes| {
                if charge.grow(bytes) {
                    Ok(())
                } else {
                    Err(charges::out_of_memory(thread, entry))
                }
            };
            conn.chunked(*head, thread.config.body_bytes_max, grown)
                .await?
        }
        Framing::None => return Err(HttpError::LengthRequired.into()),
    };
    let AdmittedRequest {
        entry,
        charge,
        waiting,
        ..
    } = admitted;
    charges::settle(thread, entry, charge, waiting, &incoming)?;
    Ok(incoming)
}
