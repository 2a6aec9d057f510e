//! One attempt of a JOB call: the bridge starts a process or pod for it, and its result comes back
//! as a callback over HTTP. It starts nothing itself. `call` runs it; `execution_api` brings results.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use nanofaas_core::message::{BridgeMessage, JobStart};
use nanofaas_core::outcome::Failure;
use nanofaas_core::retry::AttemptFailure;
use nanofaas_core::ticket::{Grant, PodVerdict};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::call::{Attempt, Call, Cut};
use crate::calls::JobNews;
use crate::field::{MediaType, media_type};
use crate::output::Output;
use crate::pod::{function_error, kind_of};

/// Larger envelopes are fetched by the Job: an environment has little room.
const INLINE_MAX: usize = 32 * 1024;

/// A body that a Job may fetch.
pub(crate) struct Input {
    pub(crate) content_type: Box<[u8]>,
    pub(crate) body: Box<[u8]>,
    /// The attempt that may fetch it.
    pub(crate) attempt: u32,
}

/// Ends the attempt in every case: the Job is stopped and its body forgotten.
struct Running<'a> {
    call: &'a Call<'a>,
    attempt: u32,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let thread = self.call.thread;
        thread.calls.expect_job(self.call.place, 0);
        thread.inputs.borrow_mut().remove(&self.call.id.random());
        let stop = BridgeMessage::JobStop {
            call: self.call.place,
            attempt: self.attempt,
        };
        if thread.bridge.send(stop).is_err() {
            // The Job ends by its own deadline, which it was given at its start.
            tracing::warn!(executionId = %self.call.id, "the bridge is too busy to stop a Job");
        }
    }
}

fn text(bytes: &[u8]) -> Box<str> {
    String::from_utf8_lossy(bytes).into()
}

fn order(call: &Call<'_>, grant: &Grant, attempt: u32) -> JobStart {
    let thread = call.thread;
    let request = call.request;
    let now_ns = thread.now_ns();
    let json = request.input().is_some() && request.body().len() <= INLINE_MAX;
    let body = std::str::from_utf8(request.body())
        .ok()
        .filter(|body| json && !body.contains('\0'));
    // Also what the Job is handed: a Job may always ask for its input.
    let content_type = request
        .content_type()
        .unwrap_or(b"application/octet-stream");
    let input = Rc::new(Input {
        content_type: content_type.into(),
        body: request.body().into(),
        attempt,
    });
    thread.inputs.borrow_mut().insert(call.id.random(), input);
    JobStart {
        call: grant.call,
        function: call.known().function.clone(),
        execution_id: call.id.to_string().into(),
        attempt,
        trace_id: request.trace_id().map(text),
        token: thread.tokens.issue(call.id, attempt).into(),
        payload: body.map(Into::into),
        deadline_ms: call
            .deadline_ns()
            .saturating_sub(now_ns)
            .div_ceil(1_000_000),
    }
}

/// Runs the attempt and waits for its callback, its end, or the deadline.
pub(crate) async fn run(call: &Call<'_>, grant: &Grant) -> Attempt {
    let thread = call.thread;
    let attempt = call.attempt.get();
    thread.calls.expect_job(call.place, attempt);
    let running = Running { call, attempt };
    let start = Box::new(order(call, grant, attempt));
    if thread.bridge.send(BridgeMessage::Job(start)).is_err() {
        let why = "the bridge is too busy to start a Job";
        return Attempt::not_begun(Failure::PodUnreachable(why.into()), PodVerdict::Healthy);
    }
    let deadline = || match thread.calls.job_started_ns(call.place) {
        Some(started_ns) => call.attempt_deadline_ns(started_ns),
        // Until it runs, its own time does not; the bridge bounds the start.
        None => call.deadline_ns(),
    };
    let news = std::future::poll_fn(|cx| {
        if let Some(news) = thread.calls.take_job(call.place) {
            return Poll::Ready(Ok(news));
        }
        call.poll_cut(cx, deadline).map(Err)
    })
    .await;
    let now_ns = thread.now_ns();
    let started_ns = thread.calls.job_started_ns(call.place);
    drop(running);
    let (result, failure) = outcome(news, started_ns.is_some());
    let sent_ns = Some(started_ns.unwrap_or(now_ns));
    let start_ns = sent_ns.map_or(0, |at_ns| at_ns.saturating_sub(grant.granted_ns));
    let answered_ns = result.is_ok().then_some(now_ns);
    let (verdict, cold_start, init_ms) = (PodVerdict::Healthy, true, None);
    Attempt {
        result,
        failure,
        verdict,
        sent_ns,
        answered_ns,
        cold_start,
        init_ms,
        start_ns,
    }
}

fn outcome(news: Result<JobNews, Cut>, started: bool) -> (Result<Output, Failure>, AttemptFailure) {
    match news {
        Ok(JobNews::Answered(answer)) => {
            let failure = (*answer).as_ref().err();
            let kind = failure.map_or(AttemptFailure::Final, kind_of);
            (*answer, kind)
        }
        Ok(JobNews::Ended { failure, oom }) => {
            let kind = match kind_of(&failure) {
                AttemptFailure::Lost { .. } => AttemptFailure::Lost { oom },
                kind => kind,
            };
            (Err(failure), kind)
        }
        Ok(JobNews::Started { .. }) => unreachable!("a start is noted, not handed out"),
        Err(cut) => {
            let (mut failure, kind, _) = crate::call::cut_off(cut, started);
            if !started && failure == Failure::Timeout(nanofaas_core::outcome::Stage::Running) {
                failure = Failure::Timeout(nanofaas_core::outcome::Stage::Starting);
            }
            (Err(failure), kind)
        }
    }
}

#[derive(Deserialize)]
struct JobResult<'a> {
    success: bool,
    #[serde(borrow, default)]
    output: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// What a callback's body says; a fault of its form is an error of the request.
pub(crate) fn read_result(
    content_type: Option<&[u8]>,
    body: Vec<u8>,
) -> Result<Result<Output, Failure>, String> {
    if !matches!(media_type(content_type), MediaType::Json | MediaType::None) {
        let content_type = content_type.unwrap_or_default();
        let mut buffer = content_type.to_vec();
        buffer.extend_from_slice(&body);
        let end = buffer.len();
        return Ok(Output::check(
            buffer,
            content_type.len()..end,
            0..content_type.len(),
            None,
        ));
    }
    let said: JobResult<'_> = serde_json::from_slice(&body)
        .map_err(|error| format!("the body must be {{success, output, error}}: {error}"))?;
    if said.success {
        let output = said
            .output
            .map_or("null", RawValue::get)
            .as_bytes()
            .to_vec();
        let end = output.len();
        return Ok(Output::check(output, 0..end, 0..0, None));
    }
    let error = said.error.map_or("{}", RawValue::get);
    let error: Arc<str> = if error.starts_with('"') {
        format!("{{\"error\":{error}}}").into()
    } else {
        error.into()
    };
    Ok(Err(function_error(500, error.as_bytes())))
}
