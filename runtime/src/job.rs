//! Job mode: runs the handler one time and reports the result to the platform. This module does not
//! listen. `serve` calls it if `CALLBACK_URL` is set.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nanofaas_http1::media_type::{MediaType, is_plain_json, media_type};
use tokio::time::{Instant, sleep_until};

use crate::announce::Birth;
use crate::answer::Echo;
use crate::call::{Context, HandlerCall};
use crate::client::{self, ClientError, ClientRequest, Url};
use crate::error::Error;
use crate::handler::{Handler, Init};
use crate::log;
use crate::output::{JSON, Output};
use crate::run;
use crate::server::{StopSignals, initialise};
use crate::settings::{Job, Payload};

const FETCH_WAIT: Duration = Duration::from_secs(30);
const CALLBACK_WAIT: Duration = Duration::from_secs(30);
/// The time limit of a Job whose settings have none.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Runs the Job. Returns 0 if the platform accepted the result or will never accept it, and 1 if
/// the result could not be reported. Returns 143 if SIGTERM or SIGINT came first; no result is then
/// reported, so the platform may run the call again.
pub(crate) async fn work(
    job: Job,
    handler: Arc<dyn Handler>,
    init: Option<Init>,
    mut birth: Birth,
) -> ExitCode {
    let mut signals = match StopSignals::new() {
        Ok(signals) => signals,
        Err(error) => {
            log::line("error", &format!("cannot start: {error}"), None, &[]);
            return ExitCode::FAILURE;
        }
    };
    // The limit counts from the start of the process.
    let since = birth.started.elapsed().unwrap_or_default();
    let timeout = job.timeout.unwrap_or(TIMEOUT_MAX);
    let deadline = Instant::now() + timeout.saturating_sub(since);
    let outcome = tokio::select! {
        outcome = outcome(&job, handler, init, &mut birth, deadline) => outcome,
        () = signals.come() => {
            let id = [("executionId", job.execution_id.as_str())];
            log::line("warn", "told to stop: the call is cut off", None, &id);
            return ExitCode::from(143);
        }
    };
    report(&job, outcome, &birth).await
}

async fn outcome(
    job: &Job,
    handler: Arc<dyn Handler>,
    init: Option<Init>,
    birth: &mut Birth,
    deadline: Instant,
) -> Result<Output, Error> {
    tokio::select! {
        // Log the error here, too, because the exit code only says whether the result was reported.
        result = initialise(init) => result.inspect_err(|error| {
            let id = [("executionId", job.execution_id.as_str())];
            log::line("error", &format!("the initialisation failed: {error}"), None, &id);
        })?,
        () = sleep_until(deadline) => return Err(Error::timeout()),
    }
    *birth = birth.ready_now();
    let input = fetch(&job.payload).await?;
    let (bytes, head) = request_bytes(job, &input);
    let json = media_type(Some(input.content_type.as_bytes())) == MediaType::Json;
    let left = deadline.saturating_duration_since(Instant::now());
    let call = Arc::new(HandlerCall::new(bytes, head, json, Some(left))?);
    let running = run::begin(&*handler, &call);
    let overrunning = Arc::default();
    let run = async {
        let output = run::finish(running, &call, &overrunning).await?;
        output.check()?.collected().await
    };
    let result = tokio::select! {
        // A result that is ready counts even if the deadline passes in the same poll.
        biased;
        result = run => result,
        () = sleep_until(deadline) => Err(Error::timeout()),
    };
    // A blocking handler may still run, and `Context::cancelled` must be true for it.
    call.cut_off();
    if let Err(error) = &result {
        log::line("error", &error.to_string(), Some(&Context::new(call)), &[]);
    }
    result
}

struct Fetched {
    content_type: String,
    content_encoding: Option<String>,
    body: Vec<u8>,
}

async fn fetch(payload: &Payload) -> Result<Fetched, Error> {
    let url = match payload {
        Payload::Here(text) => {
            return Ok(Fetched {
                content_type: JSON.into(),
                content_encoding: None,
                body: text.clone().into_bytes(),
            });
        }
        Payload::At(url) => url,
    };
    let failed = |why: &dyn std::fmt::Display| {
        Error::with_code(
            "INPUT_UNAVAILABLE",
            format!("cannot read the call's input: {why}"),
        )
    };
    let url = Url::parse(url).map_err(|fault| failed(&fault))?;
    match client::request_persistently(&url, ClientRequest::GET, FETCH_WAIT).await {
        Ok(answer) if answer.status == 200 => {
            let unnamed = || "application/octet-stream".to_owned();
            Ok(Fetched {
                content_type: answer.content_type.unwrap_or_else(unnamed),
                content_encoding: answer.content_encoding,
                body: answer.body,
            })
        }
        Ok(answer) => Err(failed(&format!("the platform answered {}", answer.status))),
        Err(fault) => Err(failed(&fault)),
    }
}

/// Returns the request as a warm pod would receive it, and the length of its head.
fn request_bytes(job: &Job, input: &Fetched) -> (Vec<u8>, usize) {
    let (content_type, body) = (&input.content_type, &input.body);
    let mut head = format!("POST /invoke HTTP/1.1\r\nContent-Type: {content_type}\r\n");
    if let Some(encoding) = &input.content_encoding {
        head += &format!("Content-Encoding: {encoding}\r\n");
    }
    head += &format!("X-Execution-Id: {}\r\n", job.execution_id);
    head += &format!("X-Dispatch-Attempt: {}\r\n", job.attempt);
    if let Some(trace_id) = &job.trace_id {
        head += &format!("X-Trace-Id: {trace_id}\r\n");
    }
    head += "\r\n";
    let length = head.len();
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    (bytes, length)
}

/// Posts the result, success or error. Returns 0 if the platform accepted the result or will never
/// accept it, and 1 for any other answer.
pub(crate) async fn report(job: &Job, outcome: Result<Output, Error>, birth: &Birth) -> ExitCode {
    let (content_type, body) = match outcome {
        Ok(output) if !is_plain_json(Some(output.content_type().as_bytes())) => {
            (output.content_type().to_owned(), output.bytes().to_vec())
        }
        outcome => (JSON.to_owned(), result_json(outcome, birth)),
    };
    let url = format!("{}/{}:complete", job.callback_url, job.execution_id);
    let sent = async {
        let url = Url::parse(&url)?;
        let headers = [("Content-Type", content_type.as_str())];
        let result = ClientRequest::post(&headers, &body);
        client::request_persistently(&url, result, CALLBACK_WAIT).await
    };
    // The URL holds a token, so it is never logged.
    let why = match sent.await {
        Ok(answer) if answer.status < 300 => return ExitCode::SUCCESS,
        Ok(answer) => {
            let message = format!("the platform refused the result: {}", answer.status);
            let id = [("executionId", job.execution_id.as_str())];
            log::line("warn", &message, None, &id);
            // With any other status, the platform would also refuse the result of a new attempt.
            let undone = matches!(answer.status, 408 | 429 | 500..);
            return ExitCode::from(u8::from(undone));
        }
        Err(ClientError::Url(_)) => "CALLBACK_URL must be an http:// URL".to_owned(),
        Err(fault) => fault.to_string(),
    };
    let id = [("executionId", job.execution_id.as_str())];
    log::line(
        "error",
        &format!("cannot report the result: {why}"),
        None,
        &id,
    );
    ExitCode::FAILURE
}

/// Returns `{success, output, error, startedAt, loadedAt, readyAt}`. The output's JSON is copied
/// and not re-encoded.
fn result_json(outcome: Result<Output, Error>, birth: &Birth) -> Vec<u8> {
    // Bytes that are not JSON could forge the other fields.
    let outcome = outcome.and_then(|output| Output::json_bytes(output.bytes().to_vec()));
    let mut body = match &outcome {
        Ok(output) => {
            let mut body = br#"{"success":true,"output":"#.to_vec();
            body.extend_from_slice(output.bytes());
            body.extend_from_slice(br#","error":null"#);
            body
        }
        Err(error) => {
            let error = error.json(Echo::ExecutionId);
            format!(r#"{{"success":false,"output":null,"error":{error}"#).into_bytes()
        }
    };
    for (name, value) in birth.fields() {
        body.extend_from_slice(format!(r#","{name}":{value}"#).as_bytes());
    }
    body.push(b'}');
    body
}
