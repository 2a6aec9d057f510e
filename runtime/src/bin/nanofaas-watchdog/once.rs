//! HTTP mode for a Job, which has one call: starts the program, sends it this call, and ends the
//! program. A program that ends is not restarted. The runtime calls this module as a handler.

use std::sync::Arc;
use std::time::Duration;

use nanofaas_runtime::client::{self, ClientAnswer, ClientError, ClientRequest};
use nanofaas_runtime::{Context, Error, Handler, Input, Output, Running};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::command::CommandLine;
use crate::group::{Groups, Strays};
use crate::supervise::{self, Address, LAST_WORDS};
use crate::tail::Tail;

/// The time limit of the request to the program. It is longer than the call's own deadline, so the deadline
/// ends the call.
const CALL_WAIT: Duration = Duration::from_secs(3600);
/// How long this module waits for the program's end after a connection broke. The kernel closes a
/// program's connections shortly before it reports the program's end.
const FATE_WAIT: Duration = Duration::from_millis(250);
const MESSAGE_BYTES_MAX: usize = 1024;

pub(crate) struct Once {
    line: Arc<CommandLine>,
}

impl Once {
    pub(crate) fn new(line: CommandLine) -> Self {
        Self {
            line: Arc::new(line),
        }
    }
}

impl Handler for Once {
    fn call(&self, input: Input, context: Context) -> Running {
        let line = Arc::clone(&self.line);
        Running::Future(Box::pin(async move { call(&line, &input, &context).await }))
    }
}

async fn call(line: &CommandLine, input: &Input, context: &Context) -> Result<Output, Error> {
    let groups = Groups::new(Strays::WithTheLast)?;
    let address = Address::private().map_err(Error::new)?;
    let tail = Tail::default();
    let mut leader = supervise::start(line, &groups, &address, &tail).map_err(Error::new)?;
    tokio::select! {
        biased;
        _ = address.relayed_until_ready() => {}
        ending = leader.ended() => {
            sleep(LAST_WORDS).await;
            let said = format!(" before it served{}", tail.suffix());
            return Err(ending.failed(&said));
        }
    }
    let answer = tokio::select! {
        biased;
        answer = ask(&address, input, context) => answer,
        ending = leader.ended() => {
            sleep(LAST_WORDS).await;
            return Err(ending.lost(&tail.suffix()));
        }
    };
    match answer {
        Ok(answer) if matches!(answer.status, 200..300) => output(answer),
        Ok(answer) => Err(failure(&answer)),
        Err(fault) => match timeout(FATE_WAIT, leader.ended()).await {
            Ok(ending) => {
                sleep(LAST_WORDS).await;
                Err(ending.lost(&tail.suffix()))
            }
            Err(_) => Err(unanswered(&fault)),
        },
    }
}

async fn ask(
    address: &Address,
    input: &Input,
    context: &Context,
) -> Result<ClientAnswer, ClientError> {
    let attempt = context.attempt().to_string();
    let left = context.remaining_ms().unwrap_or(0).to_string();
    let mut headers = vec![
        ("Content-Type", input.content_type()),
        ("X-Dispatch-Attempt", &attempt),
        ("X-Deadline-Ms", &left),
    ];
    let encoding = context.header("content-encoding");
    headers.extend(encoding.map(|encoding| ("Content-Encoding", encoding)));
    headers.extend(context.execution_id().map(|id| ("X-Execution-Id", id)));
    headers.extend(context.trace_id().map(|id| ("X-Trace-Id", id)));
    let url = address.url("/invoke");
    client::request(&url, ClientRequest::post(&headers, input.body()), CALL_WAIT).await
}

fn output(answer: ClientAnswer) -> Result<Output, Error> {
    match answer.content_type {
        Some(kind)
            if !kind
                .trim()
                .to_ascii_lowercase()
                .starts_with("application/json") =>
        {
            Ok(Output::raw(kind, answer.body))
        }
        _ => Output::json_bytes(answer.body),
    }
}

fn unanswered(fault: &ClientError) -> Error {
    match fault {
        ClientError::Answer(_) => Error::bad_output(format!("the program's answer: {fault}")),
        other => Error::pod_lost(format!("the program did not answer: {other}")),
    }
}

/// Returns the error of a call that the program answered with a status other than 2xx. Reads
/// `{"code","message"}`, `{"error":{"code","message"}}`, `{"error":"text"}` or `{"detail":"text"}`.
/// Any other text becomes the message.
fn failure(answer: &ClientAnswer) -> Error {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |value: &Value, name: &str| value.get(name)?.as_str().map(str::to_owned);
    let inner = body.get("error").filter(|error| error.is_object());
    let inner = inner.unwrap_or(&body);
    let message = ["message", "error", "detail"]
        .into_iter()
        .find_map(|name| text(inner, name));
    let message = message
        .or_else(|| plain(&answer.body))
        .unwrap_or_else(|| format!("the program answered {}", answer.status));
    match text(inner, "code") {
        Some(code) => Error::with_code(code, message),
        None => Error::new(message),
    }
}

/// Returns the beginning of a body that is text; none if it is not UTF-8 or only white space.
fn plain(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?.trim();
    let mut cut = text.len().min(MESSAGE_BYTES_MAX);
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    (cut > 0).then(|| text[..cut].to_owned())
}
