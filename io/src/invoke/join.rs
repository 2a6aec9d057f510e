//! Makes the answers to clients of stored executions, and lets a repeat of a keyed call wait for the end of
//! such an execution. A client that leaves ends only its own wait; `stored` decides whether the call ends.

use std::rc::Rc;
use std::task::Poll;

use nanofaas_core::id::ExecutionId;
use nanofaas_core::outcome::{ExecutionError, Stage};
use nanofaas_core::time::Uptime;

use crate::http::response::{EXECUTION_ID, Response};
use crate::invoke::invocation::Invocation;
use crate::links::Links;
use crate::links::questions::{JoinWaiter, NotJoined};
use crate::links::shards;
use crate::state::Tables;
use crate::state::executions::Found;
use crate::state::executions::StoredExecution;

/// Counts one waiting repeat in `StoredExecution::joined`, until the count is dropped.
pub(crate) struct JoinCount<'a>(&'a StoredExecution);

impl<'a> JoinCount<'a> {
    pub(crate) fn new(stored: &'a StoredExecution) -> Self {
        stored.joined.set(stored.joined.get() + 1);
        Self(stored)
    }
}

impl Drop for JoinCount<'_> {
    fn drop(&mut self) {
        self.0.joined.set(self.0.joined.get() - 1);
    }
}

/// Waits for the end of the execution until `deadline`; returns false if the deadline came first.
pub(crate) async fn until(thread: &Tables, stored: &StoredExecution, deadline: Uptime) -> bool {
    let alarm = thread.alarms.alarm();
    alarm.set(deadline);
    let mut over = stored.until_over();
    std::future::poll_fn(|cx| {
        if over.poll(cx) {
            return Poll::Ready(true);
        }
        alarm.poll(cx).map(|()| false)
    })
    .await
}

/// Makes the answer to a call that goes on without its client: the id and the state.
pub(crate) fn accepted(stored: &StoredExecution, trace_id: Option<&[u8]>) -> Response {
    let (id, status) = {
        let record = stored.record.borrow();
        (record.id.to_string(), record.status.as_str())
    };
    let body = format!("{{\"executionId\":\"{id}\",\"status\":\"{status}\"}}");
    let response = Response::accepted(body.into_bytes())
        .with("Location", format!("/v1/executions/{id}").as_bytes())
        .with(EXECUTION_ID, id.as_bytes());
    match trace_id {
        Some(trace_id) => response.with("X-Trace-Id", trace_id),
        None => response,
    }
}

/// Makes the answer to `:invoke` from the execution's present state.
pub(crate) fn result(
    thread: &Tables,
    stored: &StoredExecution,
    trace_id: Option<&[u8]>,
    arrived_at: Uptime,
    replay: bool,
) -> Response {
    let record = stored.record.borrow();
    let output = stored.output.borrow();
    let over = record.status.is_terminal();
    // If the execution still goes on, the waiter's own deadline has passed, and this error is the answer.
    let gone = ExecutionError::Timeout {
        stage: Stage::Queued,
        limit: None,
    };
    let result = match (output.as_deref(), &record.failure) {
        (_, Some(failure)) => Err(failure),
        (Some(output), None) => Ok(output),
        (None, None) => Err(&gone),
    };
    let total = thread.now().since(arrived_at);
    Invocation {
        id: record.id,
        status: record.status,
        result,
        waiter_timed_out: !over,
        trace_id,
        times: stored.times.get(),
        total,
        replay,
    }
    .response(output.as_ref())
}

/// Answers a repeat on the thread that owns the execution.
pub(crate) async fn answer(
    thread: &Rc<Links>,
    stored: &Rc<StoredExecution>,
    waiter: &JoinWaiter,
) -> Response {
    let trace_id = waiter.trace_id.as_deref();
    let state = || accepted(stored, trace_id).with("Idempotent-Replay", b"true");
    if waiter.enqueue {
        return state();
    }
    let _waiting = JoinCount::new(stored);
    let answer_by = waiter.answer_by.unwrap_or(waiter.deadline);
    let waits_until = answer_by.min(waiter.deadline);
    let is_over = until(thread, stored, waits_until).await;
    if !is_over && waits_until < waiter.deadline {
        return state();
    }
    result(thread, stored, trace_id, waiter.arrived_at, true)
}

/// Makes a repeat of a call wait for the execution, on the io thread that owns the execution.
pub(crate) async fn join_anywhere(
    thread: &Rc<Links>,
    id: ExecutionId,
    waiter: JoinWaiter,
) -> Result<Response, NotJoined> {
    if id.shard() == thread.id {
        return join(thread, id, &waiter).await;
    }
    shards::join(thread, id, waiter).await
}

pub(crate) async fn join(
    thread: &Rc<Links>,
    id: ExecutionId,
    waiter: &JoinWaiter,
) -> Result<Response, NotJoined> {
    match thread.executions.find(id) {
        Some(Found::Stored(stored)) => Ok(answer(thread, &stored, waiter).await),
        Some(Found::Plain(_)) | None => Err(NotJoined::Gone),
    }
}
