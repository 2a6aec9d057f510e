//! Turns a request into a call: admission at the head and after the body, the warm path of a plain call, and
//! the end of any call in metrics, ledger and record. It runs no attempt; `drive` does. Calls that may
//! outlive their client's wait are in `stored`. `serve` calls this module.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use nanofaas_core::admission::{self, AdmissionError};
use nanofaas_core::call::{Deadline, NotAdmitted};
use nanofaas_core::id::ExecutionId;
use nanofaas_core::metrics::{CallTime, RejectReason};
use nanofaas_core::outcome::{ExecutionError, TimeLimit};
use nanofaas_core::ticket::{CallId, Class};
use nanofaas_core::time::{Nanos, Uptime};
use nanofaas_http1::framing::Framing;
use nanofaas_http1::header_value::{parse_idempotency_key, parse_timeout_ms};
use nanofaas_http1::media_type::{MediaType, media_type};
use nanofaas_http1::request::RequestHead;

use crate::http::error::HttpError;
use crate::http::json;
use crate::http::response::{Heading, error_response};
use crate::invoke::call::{SentTimestamp, ServedCall};
use crate::invoke::charges::{self, charge_for};
use crate::invoke::drive::{self, Finished};
use crate::invoke::incoming::Incoming;
use crate::invoke::invocation::Invocation;
use crate::invoke::outgoing::{give_back, make_room, put_large};
use crate::invoke::request::{AdmittedRequest, Answering, InvocationMode};
use crate::links::Links;
use crate::runtime::phase::ShutdownPhase;
use crate::state::call_machine::CallMachine;
use crate::state::executions::{ExecutionRecord, Status};
use crate::state::functions::FunctionEntry;

/// The largest capacity that a thread's scratch buffer keeps between two answers, in bytes.
const SCRATCH_KEPT: usize = 64 * 1024;
/// An output of more bytes than this is not copied into its answer.
const COPIED_MAX: usize = 64 * 1024;

/// Does the part of admission that needs only the head: checks the rate and the function, and charges the
/// memory.
pub(crate) fn admit_head(
    thread: &Rc<Links>,
    name: &str,
    enqueue: bool,
    head: &RequestHead,
    head_bytes: &[u8],
    arrived_at: Uptime,
) -> Result<AdmittedRequest, HttpError> {
    let found = find(thread, name, arrived_at)?;
    let declared = match head.framing {
        Framing::Length(length) if length > thread.config.body_bytes_max => {
            return Err(HttpError::BodyTooLarge {
                bytes_max: thread.config.body_bytes_max,
            });
        }
        Framing::Length(length) => length,
        Framing::None => return Err(HttpError::LengthRequired),
        // The length is not known yet; `read_call` in `serve` charges each piece when it comes.
        Framing::Chunked => 0,
    };
    if head.content_encoding.is_some() {
        let content_type = head.content_type.map(|span| span.of(head_bytes));
        if media_type(content_type) == MediaType::Json {
            return Err(HttpError::Encoded);
        }
    }
    let spec = &found.function.spec;
    let limit = match head.timeout_ms {
        Some(span) => TimeLimit::Client(parse_timeout_ms(span.of(head_bytes))?),
        None => TimeLimit::Function(spec.timeout_ms),
    };
    if let Some(key) = head.idempotency_key {
        parse_idempotency_key(key.of(head_bytes))?;
    }
    let no_memory = || rejected(thread, &found, RejectReason::Memory, Nanos::ZERO);
    let waiting = charges::wait(thread, &found, declared).map_err(|_| no_memory())?;
    let due = charge_for(declared) + charges::copy_of(&found, declared);
    let charge = thread.account.charge(due);
    let charge = charge.ok_or_else(no_memory)?;
    Ok(AdmittedRequest {
        entry: found,
        charge,
        waiting,
        arrived_at,
        deadline: Deadline::after(arrived_at, limit),
        enqueue,
    })
}

/// Checks that the process serves calls, that the rate allows one more, and that the function exists. Returns
/// the function's entry.
#[inline]
pub(crate) fn find(
    thread: &Rc<Links>,
    name: &str,
    arrived_at: Uptime,
) -> Result<Rc<FunctionEntry>, HttpError> {
    if thread.phase.get() != ShutdownPhase::Serving {
        return Err(HttpError::ShuttingDown);
    }
    let entry = thread.function(name);
    // The rate limit is checked before the function's existence, so that requests for unknown functions
    // count, too.
    if let Err(wait) = thread.rate.take(arrived_at) {
        let reason = RejectReason::Rate;
        return Err(match &entry {
            Some(entry) => rejected(thread, entry, reason, wait),
            None => {
                thread.ledger().rejected_unknown.add();
                HttpError::Refused(AdmissionError::new(reason, wait))
            }
        });
    }
    entry.ok_or_else(|| thread.no_such(name))
}

/// Counts a refused call, and returns the error.
pub(crate) fn rejected(
    thread: &Links,
    entry: &FunctionEntry,
    reason: RejectReason,
    wait: Nanos,
) -> HttpError {
    refuse(thread, entry, AdmissionError::new(reason, wait))
}

/// Checks a JSON body, and returns how the call is served.
pub(crate) fn begin(
    admitted: &AdmittedRequest,
    incoming: &mut Incoming,
) -> Result<InvocationMode, HttpError> {
    read_envelope(incoming)?;
    let prefer = incoming.head.prefer;
    // If a request has both `respond-async` and `wait`, only the `wait` counts.
    let detached = admitted.enqueue || (prefer.respond_async && prefer.wait_s().is_none());
    let keyed = incoming.head.idempotency_key.is_some();
    Ok(if detached || keyed || prefer.wait_s().is_some() {
        InvocationMode::Stored { detached }
    } else {
        InvocationMode::Plain
    })
}

fn read_envelope(incoming: &mut Incoming) -> Result<(), HttpError> {
    if media_type(incoming.content_type()) == MediaType::Json {
        let envelope = json::envelope(incoming.body())?;
        incoming.set_input(envelope.input);
    }
    Ok(())
}

fn refuse(thread: &Links, entry: &FunctionEntry, refusal: AdmissionError) -> HttpError {
    entry.metrics(thread).rejected[refusal.reason as usize].add();
    HttpError::Refused(refusal)
}

/// Puts a call into its function's queue, or refuses it. `begin` prepares the call's record, and runs before
/// the call can be granted, because a grant needs the record.
pub(crate) fn enter(
    thread: &Links,
    entry: &Rc<FunctionEntry>,
    class: Class,
    now: Uptime,
    deadline: Deadline,
    begin: impl FnOnce(CallId),
) -> Result<CallMachine, HttpError> {
    let function = &entry.function;
    let Some(call_id) = thread.calls.open(function.lane) else {
        return Err(refuse(
            thread,
            entry,
            AdmissionError::new(RejectReason::Memory, Nanos::ZERO),
        ));
    };
    let admitted = CallMachine::admit(thread, entry.clone(), call_id, class, now, deadline);
    let (life, ticket) = match admitted {
        Ok(admitted) => admitted,
        Err(not_admitted) => {
            thread.calls.close(call_id, &thread.entries);
            return Err(match not_admitted {
                NotAdmitted::Refused(refusal) => refuse(thread, entry, refusal),
                NotAdmitted::FunctionRemoved => {
                    HttpError::NoSuchFunction(function.name().to_string())
                }
            });
        }
    };
    begin(call_id);
    if !thread.submit(ticket, &function.stats) {
        life.turned_away(thread);
        thread.calls.close(call_id, &thread.entries);
        let wait = admission::predicted_wait(&function.stats, class, now);
        return Err(refuse(
            thread,
            entry,
            AdmissionError::new(RejectReason::Depth, wait),
        ));
    }
    // The call is counted only now, because a refused call must not be counted as enqueued or accepted.
    entry.metrics(thread).enqueue.add();
    thread.ledger().accepted.add();
    Ok(life)
}

pub(crate) fn record(
    entry: &Rc<FunctionEntry>,
    id: ExecutionId,
    enqueued_at: Uptime,
    call: Option<CallId>,
) -> ExecutionRecord {
    ExecutionRecord {
        id,
        entry: entry.clone(),
        status: Status::Queued,
        attempt: 0,
        enqueued_at,
        started_at: None,
        finished_at: None,
        cold_start: false,
        init_ms: None,
        start: None,
        failure: None,
        call,
    }
}

/// Serves a plain call, which ends when its client stops waiting: the warm path. However the call ends, its
/// answer is in `answering.outgoing` when this function returns.
pub(crate) async fn plain_call(
    thread: &Rc<Links>,
    admitted: &mut AdmittedRequest,
    incoming: &Incoming,
    answering: &mut Answering<'_>,
) {
    let waiting = admitted.waiting.take();
    let entry = &admitted.entry;
    let id = thread.new_plain_id();
    let queued_at = thread.recent();
    // The record has to exist before the call can begin, because with the inline scheduler `enter` may grant
    // the call at once.
    let begin = |call_id| {
        thread
            .executions
            .put_plain(record(entry, id, queued_at, Some(call_id)))
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
            let (outgoing, wire) = (&mut *answering.outgoing, answering.wire);
            return outgoing.put(thread, error_response(&refused), wire);
        }
    };
    let call_id = life.call_id();
    answering.client.serving(Some(call_id));
    let call = ServedCall {
        waiting: RefCell::new(waiting),
        thread,
        life: life.into(),
        call_id,
        id,
        arrived_at: admitted.arrived_at,
        stored: None,
        request: incoming,
        alarm: answering.alarm,
        timestamps: SentTimestamp::default(),
        is_cold: Cell::new(false),
    };
    let finished = drive::serve(&call).await;
    // The client is detached before `finish` frees the call's place in the call table. A client that was
    // detached later could end another call that gets this place.
    answering.client.serving(None);
    let now = thread.now();
    let status = finish(&call, &finished, now);
    thread.executions.with_plain(id, |record| {
        end_record(record, status, finished.result.as_ref().err(), now);
    });
    let invocation = Invocation {
        id,
        status,
        result: finished.result.as_ref().map(|answer| &answer.output),
        waiter_timed_out: false,
        trace_id: incoming.trace_id(),
        times: finished.times,
        total: now.since(admitted.arrived_at),
        replay: false,
    };
    let (outgoing, wire) = (&mut *answering.outgoing, answering.wire);
    let (out, heading) = (&mut outgoing.out, &Heading::of(thread, wire));
    let around = match invocation.result {
        Ok(output) if output.bytes().len() > COPIED_MAX => {
            Some(invocation.write_before(output, out, heading))
        }
        result => {
            make_room(thread, out, result.map_or(0, |output| output.bytes().len()));
            let scratch = &mut *thread.scratch.borrow_mut();
            invocation.write(out, scratch, heading);
            scratch.shrink_to(SCRATCH_KEPT);
            None
        }
    };
    match (finished.result, around) {
        (Ok(answer), Some(around)) => put_large(thread, answer, around, outgoing, wire),
        (Ok(answer), None) => {
            give_back(thread, answer.output);
            outgoing.charge = Some(answer.charge);
        }
        (Err(_), _) => {}
    }
}

pub(crate) fn end_record(
    record: &mut ExecutionRecord,
    status: Status,
    failure: Option<&ExecutionError>,
    now: Uptime,
) {
    record.status = status;
    record.failure = failure.cloned();
    record.finished_at = Some(now);
    record.call = None;
}

/// Ends a call in the metrics, in the ledger and in the call table; returns its final status.
pub(crate) fn finish<T>(call: &ServedCall<'_>, finished: &Finished<T>, now: Uptime) -> Status {
    let thread = call.thread;
    let entry = call.entry();
    let metrics = entry.metrics(thread);
    let status = match &finished.result {
        Ok(_) => {
            metrics.success.add();
            Status::Success
        }
        Err(failure) => {
            let status = Status::of(failure);
            if status == Status::Timeout {
                metrics.timeout.add()
            } else {
                metrics.error.add()
            }
            log_failure(call, failure);
            status
        }
    };
    let times = &finished.times;
    metrics.record(CallTime::QueueWait, times.queue);
    if !times.start.is_zero() {
        metrics.record(CallTime::StartWait, times.start);
    }
    if call.attempt() > 0 {
        if call.is_cold.get() {
            metrics.cold_start.add();
        } else {
            metrics.warm_start.add();
        }
        metrics.record(CallTime::Dispatch, times.dispatch);
        metrics.record(CallTime::Handler, times.function);
    }
    metrics.record(CallTime::E2e, now.since(call.arrived_at));
    thread.ledger().finished.add();
    thread.calls.close(call.call_id, &thread.entries);
    status
}

fn log_failure(call: &ServedCall<'_>, failure: &ExecutionError) {
    use nanofaas_core::outcome::Blame;
    let entry = call.entry();
    let (function, attempt) = (entry.function.name(), call.attempt());
    let trace = call
        .request
        .logged_trace_id()
        .map(String::from_utf8_lossy)
        .unwrap_or_default();
    let (id, code, message) = (call.id, failure.code(), failure.message());
    match failure.blame() {
        Blame::Client => tracing::debug!(
            executionId = %id, function = %function, traceId = %trace, attempt, code, "{message}"
        ),
        Blame::Function | Blame::Pod | Blame::Cluster | Blame::Plane => tracing::warn!(
            executionId = %id, function = %function, traceId = %trace, attempt, code, "{message}"
        ),
    }
}
