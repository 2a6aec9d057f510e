//! Calls that may outlive their client's wait: async calls, keyed calls and `Prefer` calls. Such a call runs
//! in a task of its own, its execution is stored, and clients may wait for its end. This module runs no
//! attempt; `drive` does. `serve` calls it, and the ticker's upkeep calls `expire`.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use nanofaas_core::call::{Deadline, End, goes_on_without_client};
use nanofaas_core::id::ExecutionId;
use nanofaas_core::memory::Charge;
use nanofaas_core::outcome::TimeLimit;
use nanofaas_core::ticket::Class;
use nanofaas_core::time::{Nanos, Uptime};

use crate::http::error::HttpError;
use crate::http::response::{Response, error_response};
use crate::invoke::admit::{end_record, enter, finish, record};
use crate::invoke::call::{SentTimestamp, ServedCall};
use crate::invoke::charges::WaitingBody;
use crate::invoke::drive;
use crate::invoke::incoming::Incoming;
use crate::invoke::join;
use crate::invoke::request::{AdmittedRequest, Answering};
use crate::links::Links;
use crate::links::questions::{JoinWaiter, NotJoined};
use crate::links::shards;
use crate::state::call_machine::CallMachine;
use crate::state::executions::{IdempotencyKey, StoredExecution};
use crate::state::idempotency::{Claim, fingerprint};

/// Admits a call, and returns the answer to its client: at once for an async call, otherwise after a wait.
pub(crate) async fn serve(
    thread: &Rc<Links>,
    mut admitted: AdmittedRequest,
    incoming: Incoming,
    detached: bool,
    answering: &Answering<'_>,
) -> Response {
    let id = thread.new_id();
    let key = match claim_key(thread, &admitted, &incoming, detached, id).await {
        Ok(key) => key,
        Err(response) => return *response,
    };
    let async_limit = TimeLimit::Async(thread.config.async_max_age_ms);
    let async_deadline = Deadline::after(admitted.arrived_at, async_limit);
    let deadline = if detached {
        async_deadline
    } else {
        admitted.deadline
    };
    let now = thread.now();
    let record = record(&admitted.entry, id, now, None);
    let stored = StoredExecution::new(record, deadline, key, detached);
    let class = if detached { Class::Async } else { Class::Sync };
    let begin = |call_id| stored.record.borrow_mut().call = Some(call_id);
    let life = match enter(thread, &admitted.entry, class, now, deadline, begin) {
        Ok(life) => life,
        Err(refused) => {
            if let Some(key) = stored.key.take() {
                shards::refuse_key(thread, key, id, &refused);
            }
            return error_response(&refused);
        }
    };
    // The execution is stored before the key's owner lets other calls join it, because a call that joins
    // looks for the stored execution.
    thread.executions.put(&stored);
    if let Some(key) = &*stored.key.borrow() {
        shards::admit_key(thread, key, id);
    }
    expire(thread, now);
    let trace_id = incoming.trace_id().map(Box::<[u8]>::from);
    let arrived_at = admitted.arrived_at;
    let call_id = life.call_id();
    // The answer is made before the call's task runs, so that it shows `queued` even if the call is granted
    // at once.
    let queued = join::accepted(&stored, trace_id.as_deref());
    let waiting = admitted.waiting.take();
    let answer_by = answer_by(&incoming, arrived_at);
    thread.event_loop.spawn(run_stored(
        thread.clone(),
        stored.clone(),
        life,
        (admitted.charge, waiting),
        incoming,
        arrived_at,
    ));
    if detached {
        return queued;
    }
    let over = wait_for_own(thread, &stored, answer_by, answering).await;
    if over {
        return join::result(thread, &stored, trace_id.as_deref(), arrived_at, false);
    }
    // The time of `Prefer: wait` has passed, or the client has left. A call that goes on has the async
    // deadline from now on.
    stored.detached.set(true);
    stored.deadline.set(async_deadline);
    let goes_on = goes_on_without_client(stored.key.borrow().is_some(), stored.joined.get());
    if answering.client.is_gone() && !goes_on {
        thread.calls.end(call_id, End::ClientLeft);
    }
    join::accepted(&stored, trace_id.as_deref())
}

/// Returns the time at which the client's wait ends, if the request has a `Prefer: wait`.
fn answer_by(incoming: &Incoming, arrived_at: Uptime) -> Option<Uptime> {
    let wait_s = incoming.head.prefer.wait_s()?;
    Some(arrived_at + Nanos::from_s(wait_s.into()))
}

/// Waits for the end of the client's own call; returns false if the client's wait ends or the client leaves
/// first.
async fn wait_for_own(
    thread: &Links,
    stored: &StoredExecution,
    answer_by: Option<Uptime>,
    answering: &Answering<'_>,
) -> bool {
    let alarm = thread.alarms.alarm();
    if let Some(answer_by) = answer_by {
        alarm.set(answer_by);
    }
    let mut over = stored.until_over();
    poll_fn(|cx| {
        if over.poll(cx) {
            return Poll::Ready(true);
        }
        if answering.client.is_gone() {
            return Poll::Ready(false);
        }
        alarm.poll(cx).map(|()| false)
    })
    .await
}

/// Claims the call's key for `id`; returns none if the call has no key. If the call must not run, the error
/// is the answer to its client, for example the result of the call that has the key.
async fn claim_key(
    thread: &Rc<Links>,
    admitted: &AdmittedRequest,
    incoming: &Incoming,
    enqueue: bool,
    id: ExecutionId,
) -> Result<Option<IdempotencyKey>, Box<Response>> {
    let Some(key) = incoming.idempotency_key() else {
        return Ok(None);
    };
    let key: IdempotencyKey = (admitted.entry.function.lane, key.into());
    let (content_type, content_encoding) = (incoming.content_type(), incoming.content_encoding());
    let body = fingerprint(content_type, content_encoding, incoming.body());
    let deadline = admitted.deadline.at;
    loop {
        let response = match shards::claim(thread, &key, body, id, deadline).await {
            Some(Claim::Run { key, .. }) => return Ok(Some(*key)),
            Some(Claim::Join(holder)) => {
                let waiter = JoinWaiter {
                    trace_id: incoming.trace_id().map(Into::into),
                    deadline,
                    answer_by: answer_by(incoming, admitted.arrived_at),
                    enqueue,
                    arrived_at: admitted.arrived_at,
                };
                match join::join_anywhere(thread, holder, waiter).await {
                    Ok(response) => response,
                    // The execution that held the key was dropped after the claim was answered. The key was
                    // released before the execution's io thread answered `Gone`. Claim the key again, because
                    // it is now free, or another execution holds it.
                    Err(NotJoined::Gone) if thread.now() < deadline => continue,
                    Err(NotJoined::Gone | NotJoined::Busy) => error_response(&HttpError::Busy),
                }
            }
            Some(Claim::Mismatch) => error_response(&HttpError::KeyMismatch),
            Some(Claim::Refused(why)) => error_response(&why),
            None => error_response(&HttpError::Busy),
        };
        return Err(Box::new(response));
    }
}

/// Runs a stored call to its end, in a task of its own.
async fn run_stored(
    thread: Rc<Links>,
    stored: Rc<StoredExecution>,
    life: CallMachine,
    (charge, waiting): (Charge, Option<WaitingBody>),
    incoming: Incoming,
    arrived_at: Uptime,
) {
    let alarm = thread.alarms.alarm();
    let id = stored.record.borrow().id;
    let call = ServedCall {
        thread: &thread,
        call_id: life.call_id(),
        life: life.into(),
        id,
        arrived_at,
        stored: Some(stored.clone()),
        request: &incoming,
        alarm: &alarm,
        waiting: RefCell::new(waiting),
        timestamps: SentTimestamp::default(),
        is_cold: Cell::new(false),
    };
    let finished = drive::serve(&call).await;
    let now = thread.now();
    let status = finish(&call, &finished, now);
    drop(charge);
    stored.times.set(finished.times);
    end_record(
        &mut stored.record.borrow_mut(),
        status,
        finished.result.as_ref().err(),
        now,
    );
    // A call that never ran has done nothing, so a repeat with its key may run.
    if finished.never_ran
        && let Some(key) = stored.key.take()
    {
        shards::release_key(&thread, key, id);
    }
    // From here on the store's budget counts the output, so the output's own charge is dropped.
    let output = finished.result.ok().map(|answer| answer.output);
    thread.executions.finished(&stored, output, now);
    stored.announce();
    expire(&thread, now);
}

/// Drops the executions whose time is over and, while the byte budget is exceeded, the oldest ones; releases
/// their keys. If another thread has the oldest execution, that thread is asked to drop it.
pub(crate) fn expire(thread: &Links, now: Uptime) {
    let older = thread.executions.expire(now, |gone, early| {
        if early {
            thread.ledger().evicted.add();
        }
        if let Some(key) = gone.key.take() {
            shards::release_key(thread, key, gone.record.borrow().id);
        }
    });
    if let Some(older) = older {
        shards::ask_to_drop(thread, older);
    }
}

/// Drops the oldest finished execution of the process, which belongs to this thread. Another thread has asked
/// for this, because the byte budget is exceeded.
pub(crate) fn drop_oldest(thread: &Links) {
    // The request is acknowledged before `expire`, so that a thread that exceeds the budget afterwards can
    // ask again.
    thread.executions.acknowledge_budget();
    expire(thread, thread.now());
}
