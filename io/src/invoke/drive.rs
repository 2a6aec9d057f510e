//! Drives one call: executes the steps that the call's state machine (`core/src/call.rs`) returns, and
//! reports events to the machine. It does not decide whether a call is tried again or how the call ends, and
//! it touches no client's socket. `admit` runs it in the client's task, `stored` in a task of the call's own.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use nanofaas_core::call::{Step, Times};
use nanofaas_core::event::Event;
use nanofaas_core::outcome::ExecutionError;
use nanofaas_core::spec::ExecutionMode;
use nanofaas_core::ticket::{Done, Grant, PodId};

use crate::invoke::attempt::{ChargedOutput, FinishedAttempt};
use crate::invoke::call::ServedCall;
use crate::invoke::{to_job, to_local, to_pod};
use crate::state::call_machine::CallMachine;
use crate::state::executions::Status;

/// How a call ended. `T` is what its successful attempt returned.
pub(crate) struct Finished<T = ChargedOutput> {
    pub(crate) result: Result<T, ExecutionError>,
    pub(crate) times: Times,
    /// True if it is certain that the function did not begin in any attempt.
    pub(crate) never_ran: bool,
}

/// Serves a call to its end. Admission has already counted the call in the queue depth of its lane.
pub(crate) fn serve<'a>(call: &'a ServedCall<'_>) -> impl Future<Output = Finished> + 'a {
    // This is no async function, because each further future copies the output one more time.
    serve_by(call, move |grant| run_in_its_mode(call, grant))
}

/// Serves an admitted call to its end. `run` makes each attempt, with `run_attempt`.
pub(crate) async fn serve_by<T, F: Future<Output = Option<T>>>(
    call: &ServedCall<'_>,
    run: impl Fn(Grant) -> F,
) -> Finished<T> {
    let thread = call.thread;
    let mut answer = None;
    loop {
        match call.step() {
            Step::Wait => match awaited_pod(call) {
                None => poll_fn(|cx| call.poll_events(cx)).await,
                Some(pod) => Box::pin(wait_for_pod_end(call, pod)).await,
            },
            Step::Run(grant) => answer = run(grant).await,
            Step::Stop => unreachable!("an attempt that is stopped was running"),
            Step::Release(done) => release(call, done),
            Step::Queue(ticket) => {
                call.entry().metrics(thread).retry.add();
                thread.schedule(Event::Ticket(ticket), ticket.queued_at);
            }
            Step::Over => break,
        }
    }
    let life = call.life.borrow();
    if life.is_owed_a_grant() {
        give_back_grant(call);
    }
    let outcome = life.outcome().cloned().expect("it is over");
    Finished {
        result: outcome.map(|()| answer.expect("a success has an output")),
        times: *life.times(),
        never_ran: life.never_ran(),
    }
}

fn awaited_pod(call: &ServedCall<'_>) -> Option<PodId> {
    call.life.borrow().awaited_pod()
}

/// Waits until the pod's end is known, or until another event comes.
async fn wait_for_pod_end(call: &ServedCall<'_>, pod: PodId) {
    let thread = call.thread;
    let mut ended = thread.pods.until_ended(pod);
    poll_fn(|cx| {
        if let Some(end) = ended.poll(cx) {
            let mut life = call.life.borrow_mut();
            life.pod_ended(Some(&end), thread.now(), thread);
            return Poll::Ready(());
        }
        call.poll_events(cx)
    })
    .await
}

/// Frees the slot of an ended attempt. The client gets its answer only afterwards, so that the client's next
/// call finds the slot free.
fn release(call: &ServedCall<'_>, done: Done) {
    let thread = call.thread;
    thread.schedule(Event::Done(done), thread.recent());
    if call.life.borrow().outcome().is_none() {
        call.note(|record| record.status = Status::Queued);
    }
}

/// Gives back the slot of a grant that the call did not take before its end. If the grant has not come yet,
/// the slot is given back when the grant comes.
fn give_back_grant(call: &ServedCall<'_>) {
    let thread = call.thread;
    match thread.calls.take_grant(call.call_id) {
        Some(grant) => {
            thread.schedule(Event::Done(CallMachine::give_back(&grant)), thread.recent())
        }
        None => thread.calls.orphan(call.call_id),
    }
}

/// Runs one attempt as the function's mode says, and reports its end to the state machine.
async fn run_in_its_mode(call: &ServedCall<'_>, grant: Grant) -> Option<ChargedOutput> {
    begin(call, &grant);
    let mode = call.entry().function.spec.execution_mode;
    let done = match mode {
        ExecutionMode::Local => until_stopped(call, to_local::echo(call)).await,
        ExecutionMode::Job => Box::pin(until_stopped(call, to_job::run(call, &grant))).await,
        ExecutionMode::Warm | ExecutionMode::Pool => {
            until_stopped(call, to_pod::run(call, &grant)).await
        }
    };
    ended(call, &grant, done)
}

/// Runs one attempt, and reports its end to the state machine.
pub(crate) async fn run_attempt<T>(
    call: &ServedCall<'_>,
    grant: Grant,
    attempt: impl Future<Output = FinishedAttempt<T>>,
) -> Option<T> {
    begin(call, &grant);
    let done = until_stopped(call, attempt).await;
    ended(call, &grant, done)
}

/// Reports the end of an attempt, which is none if the attempt was stopped. Returns the attempt's output.
#[inline(always)]
fn ended<T>(call: &ServedCall<'_>, grant: &Grant, done: Option<FinishedAttempt<T>>) -> Option<T> {
    let thread = call.thread;
    let Some(attempt) = done else {
        let (sent_at, now) = (call.timestamps.sent_at.get(), thread.now());
        let mut life = call.life.borrow_mut();
        life.stopped(sent_at, now, thread);
        return None;
    };
    note_start(call, grant, &attempt);
    // If the attempt was answered, the thread read its clock when the answer came, so the last reading is
    // exact enough.
    let now = if attempt.answered_at.is_some() {
        thread.recent()
    } else {
        thread.now()
    };
    let mut life = call.life.borrow_mut();
    life.attempted(attempt.report(), now, thread);
    attempt.result.ok()
}

/// Polls an attempt until it ends or the state machine stops it.
async fn until_stopped<T>(call: &ServedCall<'_>, attempt: impl Future<Output = T>) -> Option<T> {
    let mut attempt = pin!(attempt);
    poll_fn(|cx| {
        // The attempt is polled first, so that an answer that has come counts even if the call is ended in
        // the same poll.
        if let Poll::Ready(done) = attempt.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        // Several events may have come; the last poll finds none and registers the task's wakers.
        while call.poll_events(cx).is_ready() {
            if call.step() == Step::Stop {
                return Poll::Ready(None);
            }
        }
        Poll::Pending
    })
    .await
}

fn begin(call: &ServedCall<'_>, grant: &Grant) {
    call.waiting.take();
    let attempt = call.attempt();
    let entry = call.entry();
    entry.metrics(call.thread).dispatch.add();
    let is_job = entry.function.spec.execution_mode == ExecutionMode::Job;
    let is_cold = call.is_cold.get() || is_job || !grant.start.is_zero();
    call.is_cold.set(is_cold);
    call.timestamps.sent_at.set(None);
    call.note(|record| {
        record.status = Status::Running;
        record.attempt = attempt;
        record.started_at.get_or_insert(grant.granted_at);
        record.cold_start = is_cold;
    });
}

/// Writes into the record how the pod started, if the attempt waited for that start.
fn note_start<T>(call: &ServedCall<'_>, grant: &Grant, attempt: &FinishedAttempt<T>) {
    let has_started = attempt.cold_start || !grant.start.is_zero();
    if has_started {
        let pods = &call.thread.pods;
        let start = grant.pod.and_then(|pod| pods.take_start(pod));
        call.note(|record| record.start = start.or_else(|| record.start.take()));
        call.is_cold.set(true);
    }
    // If the attempt waited for no start and reported no `init_ms`, both fields stay as they are.
    if has_started || attempt.init_ms.is_some() {
        call.note(|record| {
            record.cold_start = call.is_cold.get();
            record.init_ms = record.init_ms.or(attempt.init_ms);
        });
    }
}
