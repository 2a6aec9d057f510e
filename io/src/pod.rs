//! One call in a pod: a kept-alive connection of this thread's own, the request out, the answer in.
//! It decides no retry; it says whether the attempt can have begun. `call` runs it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use nanofaas_core::message::PodAddress;
use nanofaas_core::outcome::{Failure, Stage};
use nanofaas_core::retry::AttemptFailure;
use nanofaas_core::spec::ExecutionMode;
use nanofaas_core::ticket::{Grant, PodVerdict};

use crate::answer::AnswerHead;
use crate::call::{Attempt, Call};
use crate::connection::Connection;
use crate::output::Output;
use crate::pod_answer::{AnswerBytes, Broken, Expected, read_answer};
use crate::pods::Owner;
use crate::reply::number;
use crate::runtime::net::Unsent;
use crate::thread::Thread;

/// A pod's error text beyond this is cut.
const MESSAGE_MAX: usize = 16 * 1024;

/// When the request was out and the answer in.
#[derive(Default)]
pub(crate) struct Stamps {
    pub(crate) sent_ns: Cell<Option<u64>>,
}

/// Runs the call in the pod that the grant names, or at the function's endpoint.
pub(crate) async fn run(call: &Call<'_>, grant: &Grant) -> Attempt {
    let owner = match call.known().function.spec.execution_mode {
        ExecutionMode::Pool => match &*call.known().endpoint.borrow() {
            Ok(address) => Owner::Endpoint(address.clone()),
            Err(why) => {
                let failure = Failure::PodUnreachable(why.clone());
                return Attempt::not_begun(failure, PodVerdict::Lost);
            }
        },
        _ => Owner::Pod(grant.pod),
    };
    let until_ns = call.life.borrow().running_until_ns();
    exchange(call, &owner, until_ns, &call.stamps).await
}

/// Where the owner's connections go to.
fn address(call: &Call<'_>, owner: &Owner) -> Result<Rc<PodAddress>, Arc<str>> {
    let thread = call.thread;
    match owner {
        Owner::Endpoint(address) => Ok(address.clone()),
        Owner::Pod(pod) => thread.pods.address(*pod).map_or_else(
            || {
                // The grant was faster than the message that introduces the pod, which is there.
                crate::inbox::catch_up(thread);
                thread
                    .pods
                    .address(*pod)
                    .ok_or_else(|| "the pod is gone".into())
            },
            Ok,
        ),
    }
}

/// The request out, the answer in.
async fn exchange(call: &Call<'_>, owner: &Owner, deadline_ns: u64, stamps: &Stamps) -> Attempt {
    let thread = call.thread;
    let unreachable =
        |why: Arc<str>, verdict| Attempt::not_begun(Failure::PodUnreachable(why), verdict);
    let mut connection = match thread.pods.take(owner, thread.last_ns()) {
        Some(connection) => connection,
        None => {
            let address = match address(call, owner) {
                Ok(address) => address,
                Err(why) => return unreachable(why, PodVerdict::Lost),
            };
            match Box::pin(Connection::open(thread, &address)).await {
                Ok(connection) => {
                    // However long that took, the pod is told what is left now.
                    let _connected_ns = thread.now_ns();
                    if !connection.is_fresh() {
                        // What comes before the request is no answer to it.
                        let why = "the pod sent something, or closed, before it was asked";
                        return unreachable(why.into(), PodVerdict::Lost);
                    }
                    connection
                }
                Err(error) => {
                    let why = format!("no connection to the pod: {error}");
                    return unreachable(why.into(), PodVerdict::Lost);
                }
            }
        }
    };
    let undelivered = |Unsent { nothing, why }| {
        let why: Arc<str> = format!("the request could not be sent to the pod: {why}").into();
        if nothing {
            unreachable(why, PodVerdict::Lost)
        } else {
            lost(why, stamps)
        }
    };
    let execution_id = call.id.text();
    connection.post(write_request(call, &execution_id, deadline_ns));
    // The pod may begin from now on, though it may take a large request more slowly than it answers.
    let begun_ns = connection.out_ns().unwrap_or_else(|| thread.now_ns());
    stamps.sent_ns.set(Some(begun_ns));
    let expected = Expected {
        execution_id: &execution_id,
        bytes_max: thread.config.response_bytes_max as usize,
    };
    let answer = read_answer(&mut connection, &expected).await;
    stamps
        .sent_ns
        .update(|sent_ns| connection.out_ns().or(sent_ns));
    let answered_ns = thread.now_ns();
    match answer {
        Ok((buffer, head, body)) => {
            let exact = body.exact && head.keep_alive && connection.is_sound();
            let mut attempt = interpret(thread, buffer, &head, body);
            attempt.sent_ns = stamps.sent_ns.get();
            attempt.answered_ns = Some(answered_ns);
            if exact {
                thread.pods.give(owner, connection, answered_ns);
            }
            attempt
        }
        Err(Broken::Closed) => match connection.unsent() {
            Some(unsent) => undelivered(unsent),
            None => lost(
                "the pod closed the connection before it answered".into(),
                stamps,
            ),
        },
        Err(Broken::Foreign) => lost("the pod answered another call".into(), stamps),
        Err(Broken::TooLarge) => {
            let bytes_max = thread.config.response_bytes_max;
            failed(Failure::OutputTooLarge { bytes_max }, stamps)
        }
        Err(Broken::Nonsense(why)) => {
            let why = format!("the pod's answer is not sound HTTP: {why}");
            failed(Failure::BadOutput(why.into()), stamps)
        }
    }
}

fn lost(why: Arc<str>, stamps: &Stamps) -> Attempt {
    Attempt {
        failure: AttemptFailure::Lost { oom: false },
        verdict: PodVerdict::Lost,
        ..failed(Failure::PodLost(why), stamps)
    }
}

fn failed(failure: Failure, stamps: &Stamps) -> Attempt {
    Attempt {
        result: Err(failure),
        failure: AttemptFailure::Final,
        verdict: PodVerdict::Healthy,
        sent_ns: stamps.sent_ns.get(),
        answered_ns: None,
        cold_start: false,
        init_ms: None,
        start_ns: 0,
    }
}

/// The request as the pod gets it.
fn write_request(call: &Call<'_>, execution_id: &[u8], deadline_ns: u64) -> Vec<u8> {
    let thread = call.thread;
    let incoming = call.request;
    let head = &incoming.head;
    let from = incoming.head_bytes();
    let body = incoming.body();
    let mut out = thread.buffers.take(768 + body.len());
    let known = call.known();
    let spec = &known.function.spec;
    let path = match &spec.endpoint_url {
        Some(endpoint) if spec.execution_mode == ExecutionMode::Pool => endpoint.path(),
        _ => "/invoke",
    };
    out.extend_from_slice(b"POST ");
    out.extend_from_slice(path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nHost: function\r\nContent-Type: ");
    out.extend_from_slice(
        incoming
            .content_type()
            .unwrap_or(b"application/octet-stream"),
    );
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
    let left_ms = deadline_ns
        .saturating_sub(thread.last_ns())
        .div_ceil(1_000_000);
    for (name, value) in [
        (&b"\r\nContent-Length: "[..], body.len() as u64),
        (b"\r\nX-Dispatch-Attempt: ", u64::from(call.attempt())),
        (b"\r\nX-Deadline-Ms: ", left_ms),
    ] {
        out.extend_from_slice(name);
        number(&mut out, value);
    }
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(body);
    out
}

/// What an answer means.
fn interpret(thread: &Thread, buffer: Vec<u8>, head: &AnswerHead, body: AnswerBytes) -> Attempt {
    let content_type = head
        .content_type
        .map_or(0..0, |span| span.start()..span.end());
    let (buffer, range, own_head) = match body.chunked {
        Some(chunks) => (chunks, 0..body.length, Some(buffer)),
        None => (buffer, head.len..head.len + body.length, None),
    };
    let (result, failure, verdict) = if (200..300).contains(&head.status) {
        let output = Output::check(buffer, range, content_type, own_head);
        (output, AttemptFailure::Final, PodVerdict::Healthy)
    } else {
        let bytes = &buffer[range];
        let outcome = if head.status == 503 && head.not_started {
            let why = "the pod says that it cannot take the call now";
            (
                Failure::PodUnreachable(why.into()),
                AttemptFailure::NotBegun,
                PodVerdict::Lost,
            )
        } else {
            let failure = function_error(head.status, bytes);
            let kind = kind_of(&failure);
            (failure, kind, PodVerdict::Healthy)
        };
        thread.buffers.give(buffer);
        (Err(outcome.0), outcome.1, outcome.2)
    };
    Attempt {
        result,
        failure,
        verdict,
        sent_ns: None,
        answered_ns: None,
        cold_start: head.cold_start,
        init_ms: head.init_duration_ms,
        start_ns: 0,
    }
}

#[derive(Default, serde::Deserialize)]
struct PodError {
    error: Option<String>,
    code: Option<String>,
    message: Option<String>,
}

/// The function's own error.
pub(crate) fn function_error(status: u16, body: &[u8]) -> Failure {
    let said: PodError = simd_json::from_slice(&mut body.to_vec()).unwrap_or_default();
    let sound = |code: &String| {
        let fine = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        !code.is_empty() && code.len() <= 64 && code.chars().all(fine)
    };
    let code = said
        .code
        .filter(sound)
        .unwrap_or_else(|| "HANDLER_ERROR".to_owned());
    let mut message = said
        .message
        .or(said.error)
        .unwrap_or_else(|| format!("the function answered with status {status}"));
    if message.len() > MESSAGE_MAX {
        let end = (0..=MESSAGE_MAX)
            .rev()
            .find(|at| message.is_char_boundary(*at))
            .unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    // Its clock began a little later than ours, and may still be the first to run out.
    if code == "TIMEOUT" {
        return Failure::Timeout(Stage::Running);
    }
    let (code, message) = (code.into(), message.into());
    Failure::Handler { code, message }
}

/// What an answer's failure means for a retry.
pub(crate) fn kind_of(failure: &Failure) -> AttemptFailure {
    match failure {
        Failure::Handler { code, .. } if &**code == "OOM" => AttemptFailure::Lost { oom: true },
        Failure::Handler { .. } => AttemptFailure::Handler,
        Failure::Timeout(_) => AttemptFailure::TimedOut,
        Failure::PodLost(_) => AttemptFailure::Lost { oom: false },
        Failure::PodUnreachable(_) => AttemptFailure::NotBegun,
        Failure::BadOutput(_)
        | Failure::OutputTooLarge { .. }
        | Failure::ColdStart(_)
        | Failure::Cancelled
        | Failure::FunctionRemoved
        | Failure::Shutdown => AttemptFailure::Final,
    }
}
