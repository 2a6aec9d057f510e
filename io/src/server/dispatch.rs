//! Reads the bodies of requests that are not calls, and passes the requests on to `api`. It decides nothing
//! about functions or executions; `functions` and `executions` do. `serve` calls it.

use std::rc::Rc;

use nanofaas_core::memory::Charge;
use nanofaas_http1::framing::Framing;
use nanofaas_http1::head::Span;
use nanofaas_http1::media_type::{MediaType, media_type};
use nanofaas_http1::request::RequestHead;

use crate::api::executions::{self, WRONG_TOKEN};
use crate::api::functions;
use crate::http::error::HttpError;
use crate::http::response::{HEAD_ROOM, Response};
use crate::http::route::{ApiRoute, Verb, route};
use crate::invoke::charges::charge_for;
use crate::invoke::incoming::Incoming;
use crate::invoke::outgoing::{Outgoing, room_in_turn};
use crate::links::Links;
use crate::links::questions::{About, ClientQuestion, JobQuestion};
use crate::runtime::buffers::Buffers;
use crate::server::client_conn::{ClientConn, StopReading};
use crate::server::sending::invite;

/// The largest number of bytes that the default fields add to a description in the answer.
const DEFAULTS_LEN_MAX: usize = 2048;

/// Reads the body of a request that is not a call, and charges it to `charge`; fails if there is no memory.
async fn read_body(
    conn: &ClientConn,
    head: &RequestHead,
    max: u64,
    charge: &mut Charge,
) -> Result<Incoming, StopReading> {
    match head.framing {
        Framing::None => Ok(Incoming::new(conn.split(head.len), *head, 0)),
        Framing::Length(length) if length > max => {
            Err(HttpError::BodyTooLarge { bytes_max: max }.into())
        }
        Framing::Length(length) => {
            let due = charge_for(length);
            if due > charge.bytes() && !charge.grow(due - charge.bytes()) {
                return Err(HttpError::NoMemory.into());
            }
            invite(conn, head).await?;
            conn.sized(*head, length).await
        }
        Framing::Chunked => {
            invite(conn, head).await?;
            let mut held = 0;
            let grown = |bytes| {
                held += bytes;
                let fits = held <= charge.bytes() || charge.grow(held - charge.bytes());
                if fits {
                    Ok(())
                } else {
                    Err(HttpError::NoMemory)
                }
            };
            conn.chunked(*head, max, grown).await
        }
    }
}

/// Answers every request that is not a call. The answer to a change is charged to `outgoing` before the
/// change is made. If memory were missing only afterwards, the answer would say that nothing was done.
pub(crate) async fn other(
    conn: &ClientConn,
    head: &RequestHead,
    outgoing: &mut Outgoing,
) -> Result<Response, StopReading> {
    let thread = &conn.thread;
    // The path is copied, because the buffer changes while the body is read.
    let path = head.path.of(&conn.pending.borrow()).to_vec();
    let route = route(head.method, &path)?;
    if let ApiRoute::Complete { token, id } = route {
        return complete(conn, head, token, id).await;
    }
    let wants_json = matches!(
        route,
        ApiRoute::Functions(Verb::Post) | ApiRoute::Function(_, Verb::Put) | ApiRoute::Replicas(_)
    );
    if wants_json {
        let pending = conn.pending.borrow();
        let content_type = head.content_type.map(|span| span.of(&pending));
        if media_type(content_type) != MediaType::Json {
            return Err(HttpError::UnsupportedMediaType.into());
        }
        if head.content_encoding.is_some() {
            return Err(HttpError::Encoded.into());
        }
        if head.framing == Framing::None {
            return Err(HttpError::LengthRequired.into());
        }
    }
    let max = thread.config.body_bytes_max;
    let mut charge = thread.account.nothing();
    let incoming = read_body(conn, head, max, &mut charge).await?;
    if wants_json {
        let room = thread.account.charge(answer_to(incoming.body().len()));
        outgoing.charge = Some(room.ok_or(HttpError::NoMemory)?);
    }
    // A body on any other route is not used.
    let body = if wants_json || matches!(route, ApiRoute::PodReady { .. }) {
        incoming.body().to_vec()
    } else {
        Vec::new()
    };
    // Only calls end if the client sends a FIN after the complete request (contract 1.6). The client of
    // another request may just have nothing more to send, so its request is answered.
    respond(thread, &route, &incoming, body).await
}

/// Returns the charge for an answer that shows a function whose description has `description` bytes. Most
/// answers are at most twice as long as the description, plus the default fields. An answer that is longer,
/// because a number such as `1e15` is written out, waits for its memory.
fn answer_to(description: usize) -> u64 {
    Buffers::size_for(2 * description + DEFAULTS_LEN_MAX + HEAD_ROOM) as u64
}

async fn respond(
    thread: &Rc<Links>,
    route: &ApiRoute<'_>,
    incoming: &Incoming,
    body: Vec<u8>,
) -> Result<Response, StopReading> {
    Ok(match route {
        ApiRoute::Functions(Verb::Post) => functions::register(thread, None, body).await,
        ApiRoute::Functions(_) => functions::list(thread),
        ApiRoute::Function(name, Verb::Put) => {
            functions::register(thread, Some(name.as_str()), body).await
        }
        ApiRoute::Function(name, Verb::Delete) => functions::remove(thread, name.as_str()).await,
        ApiRoute::Function(name, _) => functions::show(thread, name.as_str()),
        ApiRoute::Replicas(name) => functions::scale(thread, name.as_str(), body).await,
        ApiRoute::ColdStarts(name) => functions::cold_starts(thread, name.as_str()).await,
        ApiRoute::Execution(id, Verb::Delete) => {
            executions::answer_anywhere(thread, *id, About::OfClient(ClientQuestion::Cancel)).await
        }
        ApiRoute::Execution(id, _) => {
            let wait_ms = wait_ms(incoming)?;
            executions::answer_anywhere(
                thread,
                *id,
                About::OfClient(ClientQuestion::Status { wait_ms }),
            )
            .await
        }
        ApiRoute::Output(id) => {
            executions::answer_anywhere(thread, *id, About::OfClient(ClientQuestion::Output)).await
        }
        ApiRoute::Input { token, id } => {
            let about = About::OfJob {
                token: (*token).into(),
                question: JobQuestion::Input,
            };
            executions::answer_anywhere(thread, *id, about).await
        }
        ApiRoute::PodReady { token, pod } => {
            let address = incoming.head.query.map(|query| {
                nanofaas_http1::header_value::query_address(
                    query.of(incoming.head_bytes()),
                    "address",
                )
            });
            let address = address.transpose()?.flatten();
            functions::pod_ready(thread, token, pod.as_str(), address, body).await
        }
        ApiRoute::OpenApi => {
            let body = thread.config.openapi.as_bytes().to_vec();
            Response::bytes((&b"application/yaml"[..]).into(), body)
        }
        ApiRoute::Invoke(_)
        | ApiRoute::Enqueue(_)
        | ApiRoute::Complete { .. }
        | ApiRoute::Forward(..) => {
            unreachable!("calls and results were routed before")
        }
    })
}

fn wait_ms(incoming: &Incoming) -> Result<u64, HttpError> {
    let Some(query) = incoming.head.query else {
        return Ok(0);
    };
    let asked =
        nanofaas_http1::header_value::query_number(query.of(incoming.head_bytes()), "waitMs")?;
    let asked = u64::from(asked.unwrap_or(0));
    if asked > nanofaas_core::limits::WAIT_MS_MAX {
        return Err(HttpError::BadRequest(
            "waitMs must be 0 to 60000".to_owned(),
        ));
    }
    Ok(asked)
}

/// Charges a Job's result. If there is no memory, the result waits in line, because a call waits for it.
async fn room(conn: &ClientConn, length: u64) -> Result<Charge, StopReading> {
    let room = room_in_turn(&conn.thread, &conn.alarm, charge_for(length)).await;
    room.ok_or_else(|| HttpError::NoMemory.into())
}

/// Takes a Job's result. A result over the limit is not read, but ends the call.
async fn complete(
    conn: &ClientConn,
    head: &RequestHead,
    token: &[u8],
    id: nanofaas_core::id::ExecutionId,
) -> Result<Response, StopReading> {
    let thread = &conn.thread;
    if head.framing == Framing::None {
        return Err(HttpError::LengthRequired.into());
    }
    let (content_type, content_encoding) = {
        let pending = conn.pending.borrow();
        let value = |span: Option<Span>| span.map(|span| Box::from(span.of(&pending)));
        (value(head.content_type), value(head.content_encoding))
    };
    // The token is checked before the body is read, so that a request with a wrong token takes no memory.
    if thread.tokens.verify(id, token).is_none() {
        return Err(HttpError::Forbidden(WRONG_TOKEN).into());
    }
    let ask = |body| About::OfJob {
        token: token.into(),
        question: JobQuestion::Complete {
            content_type,
            content_encoding,
            body,
        },
    };
    let max = thread.config.response_bytes_max;
    let mut charge = match head.framing {
        Framing::Length(length) if length <= max => room(conn, length).await?,
        Framing::Chunked => room(conn, max).await?,
        Framing::Length(_) | Framing::None => thread.account.nothing(),
    };
    match read_body(conn, head, max, &mut charge).await {
        Ok(incoming) => {
            let body = incoming.into_body();
            charge.cut_to(body.capacity() as u64);
            let about = ask(Some((body, charge.into_loose())));
            Ok(executions::answer_anywhere(thread, id, about).await)
        }
        Err(StopReading::Refused(HttpError::BodyTooLarge { .. })) => {
            Ok(executions::answer_anywhere(thread, id, ask(None))
                .await
                .closing())
        }
        Err(stop) => Err(stop),
    }
}
