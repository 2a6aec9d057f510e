//! Waiting for an execution that has a task of its own: the client that made a keyed or `Prefer`
//! call waits here, and so do the clients that repeat it. A client that leaves ends only its own
//! wait; `stored` decides whether the call ends.

use std::rc::Rc;
use std::task::Poll;

use nanofaas_core::outcome::{Failure, Stage};
use nanofaas_core::time::Uptime;

use crate::http::response::{EXECUTION_ID, Response};
use crate::invoke::invocation::Invocation;
use crate::shard::thread::Thread;
use crate::state::executions::Kept;

/// A repeat of a keyed call.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) trace_id: Option<Box<[u8]>>,
    /// When the repeat needs an answer.
    pub(crate) deadline: Uptime,
    /// When the repeat takes the state instead of the result, if its `Prefer: wait` says so.
    pub(crate) answer_by: Option<Uptime>,
    /// The repeat is an `:enqueue`, or prefers to be: it wants the state at once.
    pub(crate) enqueue: bool,
    pub(crate) arrived_at: Uptime,
}

/// Counts one waiting client in `Kept::followers`, until it is dropped.
pub(crate) struct Waiting<'a>(&'a Kept);

impl<'a> Waiting<'a> {
    pub(crate) fn new(kept: &'a Kept) -> Self {
        kept.followers.set(kept.followers.get() + 1);
        Self(kept)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.followers.set(self.0.followers.get() - 1);
    }
}

/// Waits for the end of the execution until `deadline`; false where the deadline came first.
pub(crate) async fn until(thread: &Thread, kept: &Kept, deadline: Uptime) -> bool {
    let alarm = thread.alarms.alarm();
    alarm.set(deadline);
    let mut over = kept.until_over();
    std::future::poll_fn(|cx| {
        if over.poll(cx) {
            return Poll::Ready(true);
        }
        alarm.poll(cx).map(|()| false)
    })
    .await
}

/// The answer to a call that goes on without its client: the id and the state.
pub(crate) fn accepted(kept: &Kept, trace_id: Option<&[u8]>) -> Response {
    let (id, status) = {
        let record = kept.record.borrow();
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

/// The answer to `:invoke`, for the execution's present state.
pub(crate) fn result(
    thread: &Thread,
    kept: &Kept,
    trace_id: Option<&[u8]>,
    arrived_at: Uptime,
    replay: bool,
) -> Response {
    let record = kept.record.borrow();
    let output = kept.output.borrow();
    let over = record.status.is_terminal();
    let gone = Failure::Timeout {
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
        follower_timed_out: !over,
        trace_id,
        times: kept.times.get(),
        total,
        replay,
    }
    .response(output.as_ref())
}

/// Answers a repeat on the thread that owns the execution.
pub(crate) async fn answer(thread: &Rc<Thread>, kept: &Rc<Kept>, follower: &Follower) -> Response {
    let trace_id = follower.trace_id.as_deref();
    let state = || accepted(kept, trace_id).with("Idempotent-Replay", b"true");
    if follower.enqueue {
        return state();
    }
    let _waiting = Waiting::new(kept);
    let answer_by = follower.answer_by.unwrap_or(follower.deadline);
    let waits_until = answer_by.min(follower.deadline);
    let is_over = until(thread, kept, waits_until).await;
    if !is_over && waits_until < follower.deadline {
        return state();
    }
    result(thread, kept, trace_id, follower.arrived_at, true)
}
