//! HTTP mode for a Job: starts the program, hands it the one call, and ends it. It never starts
//! it twice. Called by the runtime in Job mode.

use std::sync::Arc;
use std::time::Duration;

use nanofaas_runtime::client::{self, Answer, Request};
use nanofaas_runtime::{Context, Error, Handler, Input, Output, Running};
use serde_json::Value;

use crate::command::CommandLine;
use crate::group::{Groups, Strays};
use crate::supervise::{self, Address};
use crate::tail::Tail;

/// The call's own deadline comes first.
const CALL_WAIT: Duration = Duration::from_secs(3600);

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
    let answered = async {
        address.relayed_until_ready().await;
        ask(&address, input, context).await
    };
    let answer = tokio::select! {
        biased;
        answer = answered => answer?,
        ended = leader.ended() => {
            let program = line.program();
            let how = match ended? {
                nix::sys::wait::WaitStatus::Exited(_, code) => format!("status {code}"),
                other => format!("{other:?}"),
            };
            let said = tail.suffix();
            let message = format!("{program} ended before it answered ({how}){said}");
            return Err(Error::new(message));
        }
    };
    match answer.status {
        200..300 => output(answer),
        _ => Err(failure(&answer)),
    }
}

async fn ask(address: &Address, input: &Input, context: &Context) -> Result<Answer, Error> {
    let body = match input.is_json() {
        true => {
            let mut body = br#"{"input":"#.to_vec();
            body.extend_from_slice(input.bytes());
            let metadata = serde_json::to_string(&context.metadata())?;
            body.extend_from_slice(format!(r#","metadata":{metadata}}}"#).as_bytes());
            body
        }
        false => input.bytes().to_vec(),
    };
    let attempt = context.attempt().to_string();
    let left = context.remaining_ms().unwrap_or(0).to_string();
    let mut headers = vec![
        ("Content-Type", input.content_type()),
        ("X-Dispatch-Attempt", &attempt),
        ("X-Deadline-Ms", &left),
    ];
    headers.extend(context.execution_id().map(|id| ("X-Execution-Id", id)));
    headers.extend(context.trace_id().map(|id| ("X-Trace-Id", id)));
    let url = address.url("/invoke");
    Ok(client::request(&url, Request::post(&headers, &body), CALL_WAIT).await?)
}

fn output(answer: Answer) -> Result<Output, Error> {
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

/// `{"code","message"}`, `{"error":"text"}`, or whatever else the program said.
fn failure(answer: &Answer) -> Error {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
    let message = text("message").or_else(|| text("error"));
    let message = message.unwrap_or_else(|| format!("the program answered {}", answer.status));
    match text("code") {
        Some(code) => Error::with_code(code, message),
        None => Error::new(message),
    }
}
