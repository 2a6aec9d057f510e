//! Requests that are not calls: their bodies, and who answers them. It decides nothing about functions
//! or executions; `function_api` and `execution_api` do. `client` calls it.

use std::rc::Rc;

use crate::client::invite;
use crate::conn::{Conn, Stop};
use crate::execution_api::{self, About};
use crate::function_api;
use crate::head::Framing;
use crate::incoming::Incoming;
use crate::problem::Problem;
use crate::reply::Response;
use crate::request::Head;
use crate::route::{Route, Verb, route};
use crate::thread::Thread;

/// Reads the body of a request that is not a call.
async fn read_body(conn: &Conn, head: &Head, max: u64) -> Result<Incoming, Stop> {
    match head.framing {
        Framing::None => Ok(Incoming::new(conn.split(head.len), *head, 0)),
        Framing::Length(length) if length > max => {
            Err(Problem::BodyTooLarge { bytes_max: max }.into())
        }
        Framing::Length(length) => {
            invite(conn, head).await?;
            conn.sized(*head, length).await
        }
        Framing::Chunked => {
            invite(conn, head).await?;
            conn.chunked(*head, max, |_| Ok(())).await
        }
    }
}

/// Everything but calls.
pub(crate) async fn other(conn: &Conn, head: &Head) -> Result<Response, Stop> {
    let thread = &conn.thread;
    let path = head.path.of(&conn.pending.borrow()).to_vec();
    let route = route(head.method, &path)?;
    if let Route::Complete { token, id } = route {
        return complete(conn, head, token, id).await;
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
    let incoming = read_body(conn, head, max).await?;
    let body = incoming.body().to_vec();
    // A FIN after a whole request ends calls alone (contract 1.6): here the client may just have
    // nothing more to send, a change goes on by itself, and a long poll has a deadline of its own.
    respond(thread, &route, &incoming, body).await
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
    match read_body(conn, head, thread.config.response_bytes_max).await {
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
