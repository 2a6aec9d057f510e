//! One attempt in a pod, over a keep-alive connection of this thread: sends the request and reads the answer.
//! It decides no retry; it reports whether the pod may have begun the attempt. `drive` runs it.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use nanofaas_core::descriptors;
use nanofaas_core::message::PodAddress;
use nanofaas_core::outcome::ExecutionError;
use nanofaas_core::spec::{Endpoint, ExecutionMode};
use nanofaas_core::ticket::{Grant, PodVerdict};
use nanofaas_core::time::{Nanos, Uptime};
use nanofaas_http1::response_head::ResponseHead;

use crate::http::output::{Labels, Output};
use crate::http::response::number;
use crate::invoke::attempt::{AttemptError, ChargedOutput, FinishedAttempt};
use crate::invoke::call::{SentTimestamp, ServedCall};
use crate::invoke::pod_answer::{Broken, Expected, Whole, read_answer};
use crate::invoke::pod_error;
use crate::links::{Links, bridge};
use crate::runtime::buffers::LARGE;
use crate::runtime::net::Unsent;
use crate::state::pod_conn::PodConn;
use crate::state::pod_pool::Owner;

/// A pod's answer with the code TIMEOUT counts as the call's own timeout if at most this much time is left.
/// The pod may reach the deadline early, because it counts whole milliseconds by its own clock.
const EARLY: Nanos = Nanos::from_ms(50);

/// How long an attempt waits before it connects again, if no descriptor was free for the connection.
const DESCRIPTOR: Nanos = Nanos::from_ms(5);

/// Runs the attempt in the pod that the grant names, or at the function's endpoint.
pub(crate) async fn run(call: &ServedCall<'_>, grant: &Grant) -> FinishedAttempt {
    let owner = match owner(call, grant) {
        Ok(owner) => owner,
        Err(why) => {
            let failure = ExecutionError::PodUnreachable(why);
            return FinishedAttempt::not_begun(failure, PodVerdict::Lost);
        }
    };
    let until = call.life.borrow().running_until();
    exchange(call, &owner, until, &call.timestamps).await
}

/// Returns where the call's connection leads: to the pod that the grant names, or to the function's endpoint.
pub(crate) fn owner(call: &ServedCall<'_>, grant: &Grant) -> Result<Owner, Arc<str>> {
    match grant.pod {
        Some(pod) => Ok(Owner::Pod(pod)),
        None => {
            let entry = call.entry();
            let endpoint = entry.endpoint.borrow();
            endpoint.clone().map(Owner::Endpoint)
        }
    }
}

/// Returns the address to which the owner's connections go.
fn address(call: &ServedCall<'_>, owner: &Owner) -> Result<Rc<PodAddress>, Arc<str>> {
    let thread = call.thread;
    match owner {
        Owner::Endpoint(address) => Ok(address.clone()),
        Owner::Pod(pod) => thread.pods.address(*pod).map_or_else(
            || {
                // Grants and messages have separate rings, so a grant may come before the message that
                // introduces its pod. The bridge sent that message before the pod was granted, so the message
                // is in its ring already.
                bridge::take_messages(thread);
                thread
                    .pods
                    .address(*pod)
                    .ok_or_else(|| "the pod is gone".into())
            },
            Ok,
        ),
    }
}

/// Returns how error messages name the pod.
pub(crate) fn named(call: &ServedCall<'_>, owner: &Owner) -> String {
    match address(call, owner) {
        Ok(address) => format!("the pod at {address}"),
        Err(_) => "the pod".to_owned(),
    }
}

/// Opens a connection within `connect_timeout_ms`. If no descriptor is free, which is no fault of the pod,
/// the attempt waits for one until the call is stopped.
async fn connect(thread: &Rc<Links>, address: &PodAddress) -> std::io::Result<PodConn> {
    let alarm = thread.alarms.alarm();
    loop {
        let timeout = Nanos::from_ms(thread.config.connect_timeout_ms);
        alarm.set(thread.now() + timeout);
        let opened = {
            let mut open = pin!(PodConn::open(&thread.runtime, address));
            poll_fn(|cx| {
                if let Poll::Ready(opened) = open.as_mut().poll(cx) {
                    return Poll::Ready(opened);
                }
                let late = || Err(std::io::ErrorKind::TimedOut.into());
                alarm.poll(cx).map(|()| late())
            })
            .await
        };
        match opened {
            Err(error) if descriptors::are_missing(&error) => {
                thread.free_descriptor();
                alarm.until(thread.now() + DESCRIPTOR).await;
            }
            opened => return opened,
        }
    }
}

/// Opens a new connection on which nothing was received. The error says why there is none.
pub(crate) async fn open(call: &ServedCall<'_>, owner: &Owner) -> Result<PodConn, Arc<str>> {
    let thread = call.thread;
    let address = address(call, owner)?;
    let connection = connect(thread, &address)
        .await
        .map_err(|error| format!("no connection to the pod at {address}: {error}"))?;
    // The clock is read, because connecting took time, and `X-Deadline-Ms` is computed from `recent`.
    let _connected_at = thread.now();
    if !connection.check_fresh() {
        // Bytes that came before the request cannot be its answer.
        let pod = named(call, owner);
        return Err(format!("{pod} sent something, or closed, before it was asked").into());
    }
    Ok(connection)
}

async fn exchange(
    call: &ServedCall<'_>,
    owner: &Owner,
    deadline: Uptime,
    timestamps: &SentTimestamp,
) -> FinishedAttempt {
    let thread = call.thread;
    let unreachable = |why: Arc<str>, verdict| {
        FinishedAttempt::not_begun(ExecutionError::PodUnreachable(why), verdict)
    };
    let request = call.request.body();
    let mut connection = match thread.pods.take(owner, thread.recent()) {
        Some(connection) => connection,
        None => match Box::pin(open(call, owner)).await {
            Ok(connection) => connection,
            Err(why) => return unreachable(why, PodVerdict::Lost),
        },
    };
    let failed =
        |error, verdict| FinishedAttempt::unanswered(error, verdict, timestamps.sent_at.get());
    let lost = |why: Arc<str>| {
        let error = AttemptError::pod_lost(ExecutionError::PodLost(why));
        failed(error, PodVerdict::Lost)
    };
    let undelivered = |Unsent { nothing, why }| {
        let pod = named(call, owner);
        let why: Arc<str> = format!("the request could not be sent to {pod}: {why}").into();
        if nothing {
            unreachable(why, PodVerdict::Lost)
        } else {
            lost(why)
        }
    };
    let execution_id = call.id.text();
    connection.post(write_request(call, &execution_id, deadline), request);
    // From here the pod may run the call. The pod may even answer before it has received all of a large
    // request.
    let begun_at = connection.sent_at().unwrap_or_else(|| thread.recent());
    timestamps.sent_at.set(Some(begun_at));
    let expected = Expected {
        execution_id: &execution_id,
        bytes_max: thread.config.response_bytes_max as usize,
        request,
        thread,
    };
    let answer = read_answer(&mut connection, &expected).await;
    timestamps
        .sent_at
        .update(|sent_at| connection.sent_at().or(sent_at));
    let answered_at = thread.now();
    match answer {
        Ok(whole) => {
            // The connection is kept only if the pod keeps it open, the request was sent completely, and no
            // byte came after the answer.
            let is_exact = whole.body.exact && whole.head.keep_alive && connection.is_sound();
            let keep_alive_s = whole.head.keep_alive_s;
            let (cold_start, init_ms) = (whole.head.cold_start, whole.head.init_duration_ms);
            let (result, verdict) = interpret(call, owner, whole);
            if is_exact {
                thread
                    .pods
                    .give(owner, connection, keep_alive_s, answered_at);
            }
            FinishedAttempt {
                result,
                verdict,
                sent_at: timestamps.sent_at.get(),
                answered_at: Some(answered_at),
                cold_start,
                init_ms,
                start: Nanos::ZERO,
            }
        }
        Err(Broken::Closed) => match connection.unsent() {
            Some(unsent) => undelivered(unsent),
            None => lost("the pod closed the connection before it answered".into()),
        },
        Err(Broken::Foreign) => lost("the pod answered another call".into()),
        Err(Broken::TooLarge) => {
            let bytes_max = thread.config.response_bytes_max;
            let error = AttemptError::last(ExecutionError::output_too_large(bytes_max));
            failed(error, PodVerdict::Healthy)
        }
        Err(Broken::Nonsense(why)) => {
            let why = format!("the pod's answer is not sound HTTP: {why}");
            let error = AttemptError::last(ExecutionError::BadOutput(why.into()));
            failed(error, PodVerdict::Healthy)
        }
    }
}

/// The bytes that suffice for the head of a request, if its client sent no long header values.
const REQUEST_ROOM: usize = 768;

/// Writes the head of the request for the pod. The buffer has room for the body, too, or for a piece of a
/// large body.
fn write_request(call: &ServedCall<'_>, execution_id: &[u8], deadline: Uptime) -> Vec<u8> {
    let thread = call.thread;
    let incoming = call.request;
    let head = &incoming.head;
    let from = incoming.head_bytes();
    let body = incoming.body();
    let mut out = thread.buffers.take((REQUEST_ROOM + body.len()).min(LARGE));
    let entry = call.entry();
    let spec = &entry.function.spec;
    let is_pool = spec.execution_mode == ExecutionMode::Pool;
    let endpoint = spec.endpoint_url.as_ref().filter(|_| is_pool);
    out.extend_from_slice(b"POST ");
    out.extend_from_slice(endpoint.map_or("/invoke", Endpoint::path).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    out.extend_from_slice(&entry.host);
    out.extend_from_slice(b"\r\nContent-Type: ");
    out.extend_from_slice(
        incoming
            .content_type()
            .unwrap_or(b"application/octet-stream"),
    );
    if let Some(content_encoding) = incoming.content_encoding() {
        out.extend_from_slice(b"\r\nContent-Encoding: ");
        out.extend_from_slice(content_encoding);
    }
    let mut line = |name: &[u8], value: &[u8]| {
        out.extend_from_slice(name);
        out.extend_from_slice(value);
    };
    line(b"\r\nX-Execution-Id: ", execution_id);
    let passed_on = [
        (&b"\r\nX-Trace-Id: "[..], head.trace_id),
        (b"\r\ntraceparent: ", head.traceparent),
        (b"\r\ntracestate: ", head.tracestate),
        (b"\r\nIdempotency-Key: ", head.idempotency_key),
    ];
    for (name, span) in passed_on {
        if let Some(span) = span {
            line(name, span.of(from));
        }
    }
    let left_ns = deadline.since(thread.recent()).as_ns();
    // The remaining time is rounded up, so that the pod does not read 0 before the deadline.
    let left_ms = left_ns.div_ceil(Nanos::from_ms(1).as_ns());
    for (name, value) in [
        (&b"\r\nContent-Length: "[..], body.len() as u64),
        (b"\r\nX-Dispatch-Attempt: ", u64::from(call.attempt())),
        (b"\r\nX-Deadline-Ms: ", left_ms),
    ] {
        out.extend_from_slice(name);
        number(&mut out, value);
    }
    out.extend_from_slice(b"\r\n\r\n");
    out
}

/// Turns an answer into the attempt's result, and into a verdict on the pod.
fn interpret(
    call: &ServedCall<'_>,
    owner: &Owner,
    whole: Whole,
) -> (Result<ChargedOutput, AttemptError>, PodVerdict) {
    let Whole {
        buffer,
        head,
        body,
        charge,
    } = whole;
    let labels = Labels {
        content_type: head.content_type,
        content_encoding: head.content_encoding,
    };
    let (buffer, range, own_head) = match body.chunked {
        Some(chunks) => (chunks, 0..body.length, Some(buffer)),
        None => (buffer, head.len..head.len + body.length, None),
    };
    if (200..300).contains(&head.status) {
        let result = Output::check(buffer, range, labels, own_head)
            .map(|output| ChargedOutput { output, charge })
            .map_err(AttemptError::last);
        return (result, PodVerdict::Healthy);
    }
    let (error, verdict) = if head.status == 503 && head.not_started {
        let pod = named(call, owner);
        let why = format!("{pod} says that it cannot take the call now");
        let failure = ExecutionError::PodUnreachable(why.into());
        (AttemptError::not_begun(failure), PodVerdict::Lost)
    } else {
        let head_bytes = own_head.as_deref().unwrap_or(&buffer);
        let failure = function_failure(&head, head_bytes, &buffer[range]);
        let until = call.life.borrow().running_until();
        let left = until.since(call.thread.now());
        let failure = pod_error::at_deadline(failure, left, EARLY);
        (AttemptError::reported(failure), PodVerdict::Healthy)
    };
    call.thread.buffers.give(buffer);
    (Err(error), verdict)
}

/// Returns the failure that a function describes in an answer other than 2xx.
fn function_failure(head: &ResponseHead, head_bytes: &[u8], body: &[u8]) -> ExecutionError {
    let status = head.status;
    // An encoded body is not decoded here, so it counts as empty.
    let body = if head.content_encoding.is_none() {
        body
    } else {
        &[]
    };
    let unsaid = || format!("the function answered with status {status}");
    let mut failure = pod_error::read(body, unsaid);
    if let ExecutionError::Handler(reported) = &mut failure
        && status == 429
    {
        let retry_after = head.retry_after.map(|span| span.of(head_bytes));
        Arc::make_mut(reported).retry_after = retry_after.and_then(passed_on);
    }
    failure
}

/// Returns a header's value for the client; none if the value is empty, longer than 64 bytes, or not plain
/// ASCII.
fn passed_on(value: &[u8]) -> Option<Arc<str>> {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    let is_fine = !value.is_empty() && value.len() <= 64 && value.iter().all(is_plain);
    let text = str::from_utf8(value).ok().filter(|_| is_fine);
    text.map(Into::into)
}
