//! One attempt of a JOB call: the bridge starts a process or a pod, which posts the result to the control
//! plane. This module starts nothing itself. `drive` runs the attempt; `api::executions` passes the result
//! on.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use nanofaas_core::cold_start::Phase;
use nanofaas_core::memory::Loose;
use nanofaas_core::message::{BridgeMessage, JobStart, Phases, ReadyTimestamps};
use nanofaas_core::outcome::ExecutionError;
use nanofaas_core::ticket::{Grant, PodVerdict};
use nanofaas_core::time::Nanos;
use nanofaas_http1::media_type::{MediaType, is_plain_json, media_type};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::http::error::HttpError;
use crate::http::output::{Labels, Output};
use crate::invoke::attempt::{AttemptError, ChargedOutput, FinishedAttempt};
use crate::invoke::call::ServedCall;
use crate::invoke::pod_error;
use crate::runtime::Runtime;
use crate::state::call_table::{JobAnswer, JobOutput, JobUpdate};
use crate::state::job_inputs::JobInput;

/// The longest body that a Job gets in its environment; a Job fetches a longer one. Linux allows at most 128
/// KiB for a variable, with its name and its final zero (`MAX_ARG_STRLEN`).
const INLINE_MAX: usize = 120 * 1024;

/// How much earlier than the control plane a Job may reach the deadline. The Job counts from the start of its
/// container, and the bridge sees that start later.
const EARLY: Nanos = Nanos::from_s(5);

const _: () = assert!("INVOCATION_PAYLOAD=".len() + INLINE_MAX < 128 * 1024);

/// A running attempt. When the value is dropped, however the attempt ended, the Job is stopped and its input
/// is removed.
struct RunningJob<'a> {
    call: &'a ServedCall<'a>,
    grant: &'a Grant,
    attempt: u32,
    /// The timestamps of the runtime's start, for the bridge.
    timestamps: Option<ReadyTimestamps>,
}

impl Drop for RunningJob<'_> {
    fn drop(&mut self) {
        let thread = self.call.thread;
        // The record shows how far the start came, also if the attempt was stopped.
        let seen = thread.calls.take_job_start(self.call.call_id);
        let phases = phases(thread, self.grant, &seen, self.timestamps);
        self.call.note(|record| record.start = Some(phases));
        thread.calls.forget_job(self.call.call_id);
        thread.inputs.borrow_mut().remove(&self.call.id.random());
        let stop = BridgeMessage::JobStop {
            call: self.call.call_id,
            attempt: self.attempt,
            timestamps: self.timestamps,
        };
        if thread.bridge.send(stop).is_err() {
            // A Job that is not stopped ends by its own deadline, which it got at its start.
            tracing::warn!(executionId = %self.call.id, "the bridge is too busy to stop a Job");
        }
    }
}

fn text(bytes: &[u8]) -> Box<str> {
    String::from_utf8_lossy(bytes).into()
}

fn order(call: &ServedCall<'_>, grant: &Grant, attempt: u32) -> JobStart {
    let thread = call.thread;
    let request = call.request;
    let now = thread.now();
    let json = request.input().is_some() && request.body().len() <= INLINE_MAX;
    let text_of_body = std::str::from_utf8(request.body());
    let payload = text_of_body
        .ok()
        .filter(|body| json && !body.contains('\0'))
        .map(Arc::<str>::from);
    // The input is kept even if the Job gets its payload in its environment, because a Job may always ask for
    // its input.
    let content_type = request
        .content_type()
        .unwrap_or(b"application/octet-stream");
    let input = Rc::new(JobInput {
        content_type: content_type.into(),
        content_encoding: request.content_encoding().map(Into::into),
        body: match &payload {
            Some(payload) => payload.clone().into(),
            None => request.body().into(),
        },
        attempt,
    });
    // The input is inserted before the bridge starts the Job, because the Job may ask for it at once.
    thread.inputs.borrow_mut().insert(call.id.random(), input);
    JobStart {
        call: grant.call,
        function: call.entry().function.clone(),
        execution_id: call.id.to_string().into(),
        attempt,
        trace_id: request.logged_trace_id().map(text),
        token: thread.tokens.issue(call.id, attempt).into(),
        payload,
        deadline_ms: call
            .life
            .borrow()
            .deadline()
            .since(now)
            .as_ns()
            .div_ceil(1_000_000),
    }
}

/// Starts the Job, and waits until the Job posts its result or the bridge reports the Job's end. At the
/// deadline, `drive` drops this future.
pub(crate) async fn run(call: &ServedCall<'_>, grant: &Grant) -> FinishedAttempt {
    let thread = call.thread;
    let attempt = call.attempt();
    // `expect_job` is called before the bridge gets the order, because updates of a Job that is not expected
    // are dropped.
    thread.calls.expect_job(call.call_id, attempt);
    let mut running = RunningJob {
        call,
        grant,
        attempt,
        timestamps: None,
    };
    let start = Box::new(order(call, grant, attempt));
    if thread.bridge.send(BridgeMessage::Job(start)).is_err() {
        let why = "the bridge is too busy to start a Job";
        return FinishedAttempt::not_begun(
            ExecutionError::PodUnreachable(why.into()),
            PodVerdict::Healthy,
        );
    }
    let update = std::future::poll_fn(|_| {
        if let Some(since) = thread.calls.job_running_since(call.call_id) {
            call.life.borrow_mut().job_runs(since);
        }
        let held_up = thread.calls.job_held_up(call.call_id);
        call.life.borrow_mut().job_is_held_up(held_up);
        // This poll registers no waker, because `until_stopped` calls `poll_events`, which registers one for
        // the Job's updates.
        thread
            .calls
            .take_job(call.call_id)
            .map_or(Poll::Pending, Poll::Ready)
    })
    .await;
    let now = thread.now();
    let seen_at = thread.calls.job_running_since(call.call_id);
    let left = call.life.borrow().running_until().since(now);
    let Outcome { result, timestamps } = outcome(update, left);
    running.timestamps = timestamps;
    drop(running);
    // The runtime's timestamp is exact; the bridge may see the start a second late.
    let reported_at = timestamps
        .and_then(|timestamps| timestamps.started_at_ms)
        .map(|epoch_ms| thread.uptime_at(epoch_ms));
    let sent_at = reported_at.or(seen_at).unwrap_or(now);
    // The runtime's clock may be that of another machine, so its timestamp may be outside the attempt.
    let sent_at = sent_at.clamp(grant.granted_at, now);
    FinishedAttempt {
        answered_at: result.is_ok().then_some(now),
        result: result.map(|JobOutput { output, charge }| ChargedOutput {
            output,
            charge: thread.account.adopt(charge),
        }),
        verdict: PodVerdict::Healthy,
        sent_at: Some(sent_at),
        cold_start: false,
        init_ms: timestamps.and_then(init_ms),
        start: sent_at.since(grant.granted_at),
    }
}

/// Returns the time from the runtime's first instruction until it was ready, in milliseconds.
fn init_ms(timestamps: ReadyTimestamps) -> Option<u32> {
    let took_ms = timestamps
        .ready_at_ms?
        .checked_sub(timestamps.started_at_ms?)?;
    u32::try_from(took_ms).ok()
}

/// Returns the phases of the Job's start, sorted by time: those that the bridge saw, and those that the
/// runtime reported.
fn phases(
    thread: &Runtime,
    grant: &Grant,
    seen: &Phases,
    timestamps: Option<ReadyTimestamps>,
) -> Phases {
    let mut phases = seen.to_vec();
    for (phase, epoch_ms) in Phase::reported(timestamps.unwrap_or_default()) {
        let at = thread.uptime_at(epoch_ms);
        phases.push((phase.as_str(), at.since(grant.granted_at)));
    }
    phases.sort_by_key(|(_, at)| *at);
    phases.into()
}

struct Outcome {
    result: Result<JobOutput, AttemptError>,
    /// The timestamps of the runtime's start, if the runtime sent them.
    timestamps: Option<ReadyTimestamps>,
}

/// Returns the outcome of an attempt that had `left` until its deadline.
fn outcome(update: JobUpdate, left: Nanos) -> Outcome {
    match update {
        JobUpdate::Answered(answer) => {
            let JobAnswer { result, timestamps } = *answer;
            let reported =
                |failure| AttemptError::reported(pod_error::at_deadline(failure, left, EARLY));
            Outcome {
                result: result.map_err(reported),
                timestamps,
            }
        }
        JobUpdate::Ended { failure, oom } => Outcome {
            result: Err(AttemptError::ended(failure, oom)),
            timestamps: None,
        },
        JobUpdate::Starting { .. } | JobUpdate::Refused(_) => {
            unreachable!("it is noted, not handed out")
        }
    }
}

/// The timestamps of a runtime; a timestamp that is missing or null is unknown.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RuntimeTimestamps {
    started_at: Option<f64>,
    loaded_at: Option<f64>,
    ready_at: Option<f64>,
}

impl From<RuntimeTimestamps> for ReadyTimestamps {
    fn from(timestamps: RuntimeTimestamps) -> Self {
        // No runtime started in 1970, so a 0 stands for a time that is not known.
        let ms = |timestamp: Option<f64>| timestamp.map(|ms| ms as u64).filter(|ms| *ms > 0);
        Self {
            started_at_ms: ms(timestamps.started_at),
            loaded_at_ms: ms(timestamps.loaded_at),
            ready_at_ms: ms(timestamps.ready_at),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JobResult<'a> {
    success: bool,
    #[serde(borrow, default)]
    output: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    // These are three fields, and not one flattened field, so that serde does not copy the other members.
    #[serde(default)]
    started_at: Option<f64>,
    #[serde(default)]
    loaded_at: Option<f64>,
    #[serde(default)]
    ready_at: Option<f64>,
}

/// Returns whether the body is a result object, and not an output with a content type of its own.
fn is_result(content_type: Option<&[u8]>) -> bool {
    media_type(content_type) == MediaType::None || is_plain_json(content_type)
}

/// Returns the failure of a call whose Job posted an unreadable result.
pub(crate) fn bad_result(why: &HttpError) -> ExecutionError {
    let why = match why {
        HttpError::BadRequest(why) => why.clone(),
        HttpError::Encoded => "its Content-Encoding must be left out".to_owned(),
        _ => "it cannot be read".to_owned(),
    };
    ExecutionError::BadOutput(format!("the Job's result was no result: {why}").into())
}

/// Reads the body that a Job posted. Fails if the body has the wrong form; the request is then refused, and
/// the Job may post another result.
pub(crate) fn read_result(
    content_type: Option<&[u8]>,
    content_encoding: Option<&[u8]>,
    body: Vec<u8>,
    charge: Loose,
) -> Result<JobAnswer, HttpError> {
    if !is_result(content_type) {
        let output = Output::labelled(Vec::new(), content_type, content_encoding, &body);
        return Ok(JobAnswer {
            result: output.map(|output| JobOutput { output, charge }),
            timestamps: None,
        });
    }
    if content_encoding.is_some() {
        return Err(HttpError::Encoded);
    }
    let result: JobResult<'_> = serde_json::from_slice(&body).map_err(|error| {
        let why = format!("the body must be {{success, output, error}}: {error}");
        HttpError::BadRequest(why)
    })?;
    let timestamps = Some(ReadyTimestamps::from(RuntimeTimestamps {
        started_at: result.started_at,
        loaded_at: result.loaded_at,
        ready_at: result.ready_at,
    }));
    if result.success {
        let output = result
            .output
            .map_or("null", RawValue::get)
            .as_bytes()
            .to_vec();
        let end = output.len();
        let output = Output::check(output, 0..end, Labels::default(), None);
        return Ok(JobAnswer {
            result: output.map(|output| JobOutput { output, charge }),
            timestamps,
        });
    }
    let error = result.error.map_or("null", RawValue::get);
    let unsaid = || "the Job failed and did not say why".to_owned();
    Ok(JobAnswer {
        result: Err(pod_error::read(error.as_bytes(), unsaid)),
        timestamps,
    })
}

#[cfg(test)]
mod tests {
    use nanofaas_core::shard::ShardId;

    use super::*;
    use crate::http::output::Form;
    use nanofaas_core::memory::{Account, ThreadAccount};
    use nanofaas_core::metrics::ThreadLedger;
    use nanofaas_core::retry::AttemptFailure;

    fn read(
        content_type: &str,
        encoding: Option<&str>,
        body: &str,
    ) -> Result<JobAnswer, HttpError> {
        let encoding = encoding.map(str::as_bytes);
        let content_type = Some(content_type.as_bytes());
        read_result(content_type, encoding, body.into(), charge())
    }

    fn charge() -> Loose {
        let account = Account::new(0, std::iter::empty());
        let ledgers = [ThreadLedger::default()].into();
        ThreadAccount::new(account, ShardId::new(0), ledgers)
            .nothing()
            .into_loose()
    }

    fn output(answer: Result<JobAnswer, HttpError>) -> Option<Output> {
        let answer = answer.ok()?.result.ok()?;
        Some(answer.output)
    }

    #[test]
    fn a_typed_output_is_told_from_a_result() {
        let result = r#"{"success":true,"output":{"a":1}}"#;
        let unlabelled = output(read("application/json; charset=utf-8", None, result));
        assert_eq!(
            unlabelled.as_ref().map(Output::bytes),
            Some(&b"{\"a\":1}"[..])
        );
        let json = output(read("application/a+json", None, result)).expect("JSON of its own type");
        assert_eq!(json.form, Form::Json);
        assert_eq!(json.bytes(), result.as_bytes());
        assert_eq!(json.content_type(), Some(&b"application/a+json"[..]));
        let html = output(read("text/html", Some("gzip"), "bytes")).expect("it passes untouched");
        assert_eq!(html.content_encoding(), Some(&b"gzip"[..]));
        let encoded = read("application/json", Some("gzip"), result);
        assert!(matches!(encoded, Err(HttpError::Encoded)));
        let encoded = read("text/plain", Some("gzip"), "bytes");
        let failed = encoded.ok().and_then(|answer| answer.result.err());
        assert!(matches!(failed, Some(ExecutionError::BadOutput(_))));
    }

    #[test]
    fn a_result_without_timestamps_has_no_start() {
        let init = |timestamps: &str| {
            let body = format!("{{\"success\":true{timestamps}}}");
            let answer = read("application/json", None, &body).expect("a result");
            answer.timestamps.and_then(init_ms)
        };
        assert_eq!(init(""), None);
        assert_eq!(init(r#","startedAt":0,"readyAt":0"#), None);
        assert_eq!(init(r#","readyAt":1700000000000"#), None);
        let both = r#","startedAt":1700000000000,"readyAt":1700000000250"#;
        assert_eq!(init(both), Some(250));
    }

    #[test]
    fn a_lost_worker_is_retried_unless_oom() {
        let kind = |error: &str| {
            let body = format!("{{\"success\":false,\"error\":{error}}}");
            let answer = read("application/json", None, &body).expect("a result");
            let outcome = outcome(JobUpdate::Answered(Box::new(answer)), Nanos::ZERO);
            outcome.result.err().map(|error| error.kind())
        };
        let lost = |oom| Some(AttemptFailure::Lost { oom: Some(oom) });
        assert_eq!(kind(r#"{"code":"POD_LOST","message":"m"}"#), lost(false));
        assert_eq!(kind(r#"{"code":"OOM","message":"m"}"#), lost(true));
        assert_eq!(kind(r#""words""#), Some(AttemptFailure::Handler));
        assert_eq!(kind("null"), Some(AttemptFailure::Handler));
    }
}
