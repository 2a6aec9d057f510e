//! One attempt of a JOB call: the bridge starts a process or pod for it, and its result comes back
//! as a callback over HTTP. It starts nothing itself. `call` runs it; `execution_api` brings results.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use nanofaas_core::cold_start::Phase;
use nanofaas_core::message::{BridgeMessage, JobStart, Phases, ReadyStamps};
use nanofaas_core::outcome::Failure;
use nanofaas_core::retry::AttemptFailure;
use nanofaas_core::ticket::{Grant, PodVerdict};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::call::{Attempt, Call};
use crate::calls::{JobAnswer, JobNews};
use crate::field::{MediaType, media_type};
use crate::output::Output;
use crate::pod::{function_error, kind_of};
use crate::thread::Thread;

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
    grant: &'a Grant,
    attempt: u32,
    /// What the bridge is told of how it came up.
    stamps: Option<ReadyStamps>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let thread = self.call.thread;
        // Also of an attempt that was stopped the record says how far its start came.
        let seen = thread.calls.take_job_start(self.call.place);
        let phases = phases(thread, self.grant, &seen, self.stamps);
        self.call.note(|record| {
            record.start = Some(phases);
            record.cold_start = true;
        });
        thread.calls.expect_job(self.call.place, 0);
        thread.inputs.borrow_mut().remove(&self.call.id.random());
        let stop = BridgeMessage::JobStop {
            call: self.call.place,
            attempt: self.attempt,
            stamps: self.stamps,
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
            .life
            .borrow()
            .deadline_ns()
            .saturating_sub(now_ns)
            .div_ceil(1_000_000),
    }
}

/// Runs the attempt and waits for its callback, its end, or the deadline.
pub(crate) async fn run(call: &Call<'_>, grant: &Grant) -> Attempt {
    let thread = call.thread;
    let attempt = call.attempt();
    thread.calls.expect_job(call.place, attempt);
    let mut running = Running {
        call,
        grant,
        attempt,
        stamps: None,
    };
    let start = Box::new(order(call, grant, attempt));
    if thread.bridge.send(BridgeMessage::Job(start)).is_err() {
        let why = "the bridge is too busy to start a Job";
        return Attempt::not_begun(Failure::PodUnreachable(why.into()), PodVerdict::Healthy);
    }
    let news = std::future::poll_fn(|_| {
        if let Some(since_ns) = thread.calls.job_running_ns(call.place) {
            call.life.borrow_mut().job_runs(since_ns);
        }
        // The call's own place wakes the task.
        thread
            .calls
            .take_job(call.place)
            .map_or(Poll::Pending, Poll::Ready)
    })
    .await;
    let now_ns = thread.now_ns();
    let seen_ns = thread.calls.job_running_ns(call.place);
    let (result, failure, stamps) = outcome(news);
    running.stamps = stamps;
    drop(running);
    // Its own word is exact; what the bridge saw may be a second late.
    let stamped_ns = stamps
        .filter(|stamps| stamps.started_at_ms > 0)
        .map(|stamps| thread.process_ns(stamps.started_at_ms));
    let sent_ns = stamped_ns.or(seen_ns).unwrap_or(now_ns);
    let sent_ns = sent_ns.clamp(grant.granted_ns, now_ns);
    Attempt {
        answered_ns: result.is_ok().then_some(now_ns),
        result,
        failure,
        verdict: PodVerdict::Healthy,
        sent_ns: Some(sent_ns),
        cold_start: true,
        init_ms: stamps.and_then(init_ms),
        start_ns: sent_ns - grant.granted_ns,
    }
}

/// From the runtime's first instruction to a loaded handler.
fn init_ms(stamps: ReadyStamps) -> Option<u32> {
    let took_ms = stamps.ready_at_ms.checked_sub(stamps.started_at_ms)?;
    u32::try_from(took_ms).ok()
}

/// How the Job came up: what the bridge saw, and what its runtime stamped.
fn phases(thread: &Thread, grant: &Grant, seen: &Phases, stamps: Option<ReadyStamps>) -> Phases {
    let mut phases = seen.to_vec();
    for (phase, epoch_ms) in Phase::stamped(stamps.unwrap_or_default()) {
        let at_ns = thread.process_ns(epoch_ms);
        phases.push((phase.as_str(), at_ns.saturating_sub(grant.granted_ns)));
    }
    phases.sort_by_key(|(_, at_ns)| *at_ns);
    phases.into()
}

type Outcome = (Result<Output, Failure>, AttemptFailure, Option<ReadyStamps>);

fn outcome(news: JobNews) -> Outcome {
    match news {
        JobNews::Answered(answer) => {
            let JobAnswer { result, stamps } = *answer;
            let kind = result.as_ref().err().map_or(AttemptFailure::Final, kind_of);
            (result, kind, stamps)
        }
        JobNews::Ended { failure, oom } => {
            let kind = match kind_of(&failure) {
                AttemptFailure::Lost { .. } => AttemptFailure::Lost { oom },
                kind => kind,
            };
            (Err(failure), kind, None)
        }
        JobNews::Starting { .. } => unreachable!("a start is noted, not handed out"),
    }
}

/// What a runtime stamped; what is left out is not known.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Stamps {
    started_at: f64,
    loaded_at: f64,
    ready_at: f64,
}

impl From<Stamps> for ReadyStamps {
    fn from(said: Stamps) -> Self {
        Self {
            started_at_ms: said.started_at as u64,
            loaded_at_ms: said.loaded_at as u64,
            ready_at_ms: said.ready_at as u64,
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
    // Not one flattened field: serde would copy the others to find them.
    #[serde(default)]
    started_at: f64,
    #[serde(default)]
    loaded_at: f64,
    #[serde(default)]
    ready_at: f64,
}

/// What a callback's body says; a fault of its form is an error of the request.
pub(crate) fn read_result(content_type: Option<&[u8]>, body: Vec<u8>) -> Result<JobAnswer, String> {
    if !matches!(media_type(content_type), MediaType::Json | MediaType::None) {
        let content_type = content_type.unwrap_or_default();
        let mut buffer = content_type.to_vec();
        buffer.extend_from_slice(&body);
        let end = buffer.len();
        let head = 0..content_type.len();
        return Ok(JobAnswer {
            result: Output::check(buffer, head.end..end, head, None),
            stamps: None,
        });
    }
    let said: JobResult<'_> = serde_json::from_slice(&body)
        .map_err(|error| format!("the body must be {{success, output, error}}: {error}"))?;
    let stamps = Some(ReadyStamps::from(Stamps {
        started_at: said.started_at,
        loaded_at: said.loaded_at,
        ready_at: said.ready_at,
    }));
    if said.success {
        let output = said
            .output
            .map_or("null", RawValue::get)
            .as_bytes()
            .to_vec();
        let end = output.len();
        return Ok(JobAnswer {
            result: Output::check(output, 0..end, 0..0, None),
            stamps,
        });
    }
    let error = said.error.map_or("{}", RawValue::get);
    let error: Arc<str> = if error.starts_with('"') {
        format!("{{\"error\":{error}}}").into()
    } else {
        error.into()
    };
    Ok(JobAnswer {
        result: Err(function_error(500, error.as_bytes())),
        stamps,
    })
}
