//! `status` and `cancel`: show an execution by its id, and wait for its end by long polls.

use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use indicatif::ProgressBar;
use serde_json::{Map, Value};

use super::client::{ANSWER_EXTRA, ApiClient, ApiRequest, ApiResponse, segment};
use super::error::CliError;
use super::{ConnectArgs, show};
use crate::files;

/// The length of one long poll. It is below the server's maximum, so that the shown state is recent.
const POLL: Duration = Duration::from_secs(20);

/// The fields of an execution, in the order in which they are shown.
const FIELDS: [&str; 10] = [
    "executionId",
    "function",
    "status",
    "attempt",
    "enqueuedAt",
    "startedAt",
    "finishedAt",
    "coldStart",
    "initDurationMs",
    "error",
];

/// Show the state of an execution
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The execution's id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,
    /// Wait for its end; then the exit code is 0 only after success
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Cancel an execution: a queued call never runs, a running call is interrupted
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// The execution's id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) fn path(id: &str) -> String {
    format!("/v1/executions/{}", segment(id))
}

pub(super) fn status(command: &StatusArgs) -> Result<(), CliError> {
    let client = command.connect.client()?;
    let answer = if command.wait {
        wait(&client, &command.id)?
    } else {
        client.get(&path(&command.id))?.accepted()?
    };
    let execution: Map<String, Value> = answer.json()?;
    if command.connect.wants_json() {
        show::json(&answer.body)?;
    } else {
        show::fields(&execution, &FIELDS)?;
    }
    if command.wait {
        exit_of(state(&execution))
    } else {
        Ok(())
    }
}

pub(super) fn cancel(command: &CancelArgs) -> Result<(), CliError> {
    let client = command.connect.client()?;
    let answer = client
        .send("DELETE", &path(&command.id), ApiRequest::default())?
        .accepted()?;
    if command.connect.wants_json() {
        return show::json(&answer.body);
    }
    let ended = answer.json::<Map<String, Value>>();
    let state = ended.as_ref().map_or("over", |execution| state(execution));
    match answer.status {
        200 => show::line(&format!("{} has already ended: {state}", command.id)),
        _ => show::line(&format!("{} is being cancelled", command.id)),
    }
}

/// Polls until the execution has ended. Every execution has a deadline in the server, so the wait has no
/// limit.
pub(super) fn wait(client: &ApiClient, id: &str) -> Result<ApiResponse, CliError> {
    let waited = Waited::begin(id);
    loop {
        let path = format!("{}?waitMs={}", path(id), POLL.as_millis());
        let sent = ApiRequest {
            longest: Some(POLL + ANSWER_EXTRA),
            ..ApiRequest::default()
        };
        let answer = client.send("GET", &path, sent)?.accepted()?;
        let execution: Map<String, Value> = answer.json()?;
        let state = state(&execution);
        if is_terminal(state) {
            return Ok(answer);
        }
        let attempt = show::cell(execution.get("attempt").unwrap_or(&Value::Null));
        waited.show(&format!("{state}, attempt {attempt}"));
    }
}

/// Shows on a terminal that the command waits; `None` if stderr is no terminal.
struct Waited(Option<ProgressBar>);

impl Waited {
    fn begin(id: &str) -> Self {
        let terminal = files::BuildProgress::has_terminal();
        Self(terminal.then(|| files::spinner(format!("waiting for {id}"))))
    }

    fn show(&self, text: &str) {
        if let Some(spinner) = &self.0 {
            spinner.set_message(text.to_owned());
        }
    }
}

impl Drop for Waited {
    fn drop(&mut self) {
        if let Some(spinner) = &self.0 {
            spinner.finish_and_clear();
        }
    }
}

pub(super) fn state(execution: &Map<String, Value>) -> &str {
    execution
        .get("status")
        .and_then(Value::as_str)
        .unwrap_or("unknown")
}

fn is_terminal(state: &str) -> bool {
    !matches!(state, "queued" | "running")
}

pub(super) fn exit_of(state: &str) -> Result<(), CliError> {
    if state == "success" {
        Ok(())
    } else {
        Err(CliError::Call)
    }
}
