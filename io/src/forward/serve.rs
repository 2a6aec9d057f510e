//! Serves a call of `/fn/` that was admitted by its head: queues the call, runs its attempts, records its
//! end, and makes the answer if the call failed before it had one. This module moves no byte of a body;
//! `exchange` does.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use nanofaas_core::call::{Deadline, Times};
use nanofaas_core::memory::Charge;
use nanofaas_core::outcome::ExecutionError;
use nanofaas_core::ticket::Class;
use nanofaas_core::time::Uptime;
use nanofaas_http1::framing::Framing;

use crate::forward::answer::{Added, refusal};
use crate::forward::client::ClientStream;
use crate::forward::exchange;
use crate::forward::forwarding::Forwarding;
use crate::forward::request::ForwardHead;
use crate::http::error::HttpError;
use crate::http::response::{Response, Wire};
use crate::invoke::admit::{end_record, enter, finish, record};
use crate::invoke::call::{SentTimestamp, ServedCall};
use crate::invoke::drive;
use crate::invoke::incoming::Incoming;
use crate::links::Links;
use crate::runtime::timers::Alarm;
use crate::state::functions::FunctionEntry;

/// A request of `/fn/` that was admitted by its head. The queue and the prediction may still refuse it.
pub(crate) struct AdmittedForward {
    pub(crate) entry: Rc<FunctionEntry>,
    /// The charge for the call's memory, which is held until the call has ended.
    pub(crate) _held: Charge,
    pub(crate) head: ForwardHead,
    pub(crate) arrived_at: Uptime,
    pub(crate) deadline: Deadline,
}

/// How a request was answered.
pub(crate) enum ForwardEnd {
    /// The answer was sent, and the connection can take another request.
    Stays,
    /// The answer was sent or cut, and the connection has to end.
    Ends,
    /// The platform's own answer, which the caller has to send.
    Own(Response),
}

/// Serves one request. `incoming` contains only its head; its body comes through `client`.
pub(crate) async fn serve(
    thread: &Rc<Links>,
    client: &dyn ClientStream,
    alarm: &Alarm,
    admitted: &AdmittedForward,
    incoming: &Incoming,
    wire: Wire,
) -> ForwardEnd {
    let entry = &admitted.entry;
    let id = thread.new_plain_id();
    let queued_at = thread.recent();
    let begin = |call_id| {
        let record = record(entry, id, queued_at, Some(call_id));
        thread.executions.put_plain(record);
    };
    let entered = enter(
        thread,
        entry,
        Class::Sync,
        queued_at,
        admitted.deadline,
        begin,
    );
    let life = match entered {
        Ok(life) => life,
        Err(refused) => {
            thread.executions.forget_plain(id);
            let response = refusal(&refused);
            // The body was not read, so its bytes must not be taken for the next request.
            let has_body = !matches!(incoming.head.framing, Framing::None | Framing::Length(0));
            return ForwardEnd::Own(if has_body {
                response.closing()
            } else {
                response
            });
        }
    };
    let call_id = life.call_id();
    client.begin_body();
    client.serving(Some(call_id));
    let call = ServedCall {
        waiting: RefCell::default(),
        thread,
        life: life.into(),
        call_id,
        id,
        arrived_at: admitted.arrived_at,
        stored: None,
        request: incoming,
        alarm,
        timestamps: SentTimestamp::default(),
        is_cold: Cell::new(false),
    };
    call.life.borrow_mut().begin_stream();
    let forwarding = Forwarding::new(client, admitted.head, incoming.head.framing, wire);
    let run = |grant| {
        let attempt = exchange::run(&call, &forwarding, grant);
        drive::run_attempt(&call, grant, attempt)
    };
    let finished = drive::serve_by(&call, run).await;
    client.serving(None);
    client.end_body();
    let now = thread.now();
    let status = finish(&call, &finished, now);
    thread.executions.with_plain(id, |record| {
        end_record(record, status, finished.result.as_ref().err(), now);
    });
    end(
        &call,
        &forwarding,
        finished.result.err(),
        finished.times,
        now,
    )
}

/// Returns what the client still gets after the call's end.
fn end(
    call: &ServedCall<'_>,
    forwarding: &Forwarding<'_>,
    failure: Option<ExecutionError>,
    times: Times,
    now: Uptime,
) -> ForwardEnd {
    let thread = call.thread;
    forwarding.upload.borrow_mut().forget(&thread.buffers);
    if forwarding.is_whole.get() {
        return if forwarding.stays.get() {
            ForwardEnd::Stays
        } else {
            ForwardEnd::Ends
        };
    }
    let failure = failure.expect("a call without a whole answer failed");
    if forwarding.has_head.get() {
        forwarding.client.cut(&failure.message());
        return ForwardEnd::Ends;
    }
    if let Some(fault) = forwarding.fault.take() {
        return ForwardEnd::Own(refusal(&HttpError::Http(fault)).closing());
    }
    let added = Added {
        id: call.id,
        request: call.request,
        times,
        total: now.since(call.arrived_at),
    };
    let response = added.failure(&failure);
    // If the body was not read to its end, it is unknown where the next request begins, so the connection has
    // to end.
    ForwardEnd::Own(if forwarding.upload.borrow().is_complete() {
        response
    } else {
        response.closing()
    })
}
