//! Answers one request of `/fn/`: checks its head, serves the call, and decides whether the connection stays
//! open. The function's answer is sent while it comes; only an answer of the platform itself is returned to
//! the caller, which sends it.

use std::rc::Rc;

use nanofaas_core::time::Uptime;
use nanofaas_http1::request::{Method, RequestHead};

use crate::forward::admit::admit_head;
use crate::forward::answer::refusal;
use crate::forward::serve::{self, AdmittedForward, ForwardEnd};
use crate::http::error::HttpError;
use crate::http::response::{Response, Wire};
use crate::http::route::{ApiRoute, route};
use crate::invoke::incoming::Incoming;
use crate::invoke::outgoing::Outgoing;
use crate::runtime::buffers::SMALL;
use crate::runtime::phase::ShutdownPhase;
use crate::server::client_conn::ClientConn;
use crate::server::serve::{AfterAnswer, Answered, check_host, check_listener};

pub(crate) async fn answer(
    conn: Rc<ClientConn>,
    head: RequestHead,
    arrived_at: Uptime,
) -> Answered {
    let thread = &conn.thread;
    let wire = Wire {
        keep_alive: head.keep_alive && thread.phase.get() == ShutdownPhase::Serving,
        old: head.minor == 0,
        head_only: head.method == Method::Head,
    };
    match admit(&conn, &head, arrived_at) {
        Ok(_) if conn.has_left() => Answered {
            outgoing: Outgoing::default(),
            stays: AfterAnswer::No,
        },
        Ok(admitted) => {
            let incoming = Incoming::new(conn.split(head.len), head, 0);
            let end = serve::serve(thread, &*conn, &conn.alarm, &admitted, &incoming, wire).await;
            thread.buffers.give(incoming.into_buffer());
            match end {
                ForwardEnd::Stays => Answered {
                    outgoing: Outgoing::default(),
                    stays: AfterAnswer::Yes,
                },
                ForwardEnd::Ends => Answered {
                    outgoing: Outgoing::default(),
                    stays: AfterAnswer::No,
                },
                ForwardEnd::Own(response) => own(&conn, response, wire),
            }
        }
        Err(error) => {
            let response = refusal(&error);
            let keep_alive = wire.keep_alive && Box::pin(conn.skip(&head)).await;
            own(&conn, response, Wire { keep_alive, ..wire })
        }
    }
}

fn own(conn: &ClientConn, response: Response, wire: Wire) -> Answered {
    let mut outgoing = Outgoing {
        out: conn.thread.buffers.take(SMALL),
        ..Outgoing::default()
    };
    let stays = wire.keep_alive && !response.closes();
    outgoing.put(&conn.thread, response, wire);
    Answered {
        outgoing,
        stays: if stays {
            AfterAnswer::Yes
        } else {
            AfterAnswer::No
        },
    }
}

fn admit(
    conn: &ClientConn,
    head: &RequestHead,
    arrived_at: Uptime,
) -> Result<AdmittedForward, HttpError> {
    check_listener(conn, false)?;
    let pending = conn.pending.borrow();
    check_host(conn, head, &pending, |host| host.is_local())?;
    let ApiRoute::Forward(name, name_len) = route(head.method, head.path.of(&pending))? else {
        return Err(HttpError::NoSuchPath);
    };
    admit_head(
        &conn.thread,
        name.as_str(),
        name_len,
        head,
        &pending,
        arrived_at,
    )
}
