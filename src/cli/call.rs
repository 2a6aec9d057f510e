//! `invoke` and `enqueue`: build a request from the arguments and show the answer. Input and output are
//! passed through unchanged.

use std::fs::File;
use std::io::{self, Read};
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::client::{ANSWER_EXTRA, ApiClient, ApiRequest, ApiResponse};
use super::error::{ApiError, CliError};
use super::{ConnectArgs, execution, function, show};
use nanofaas_core::spec::bound::TIMEOUT_MS;

/// The longest input that is read, in bytes. The server's own limit is lower, unless an operator raises it.
const BODY_LEN_MAX: u64 = 64 * 1024 * 1024;

/// Call a function and wait for its result
///
/// The output goes to stdout unchanged; outcome, timing and execution id go to stderr.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nanofaas invoke word-stats '{\"text\": \"a b a\", \"topN\": 1}'\n  \
    nanofaas invoke word-stats @input.json\n  \
    nanofaas invoke mandelbrot '{}' > mandelbrot.png\n  \
    echo hello | nanofaas invoke echo - --content-type text/plain")]
pub(crate) struct InvokeArgs {
    #[command(flatten)]
    request: RequestArgs,
    /// The deadline of the whole call in milliseconds [default: the function's]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(timeout_range()))]
    timeout_ms: Option<u32>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Call a function without waiting for its result
#[derive(Debug, Args)]
pub(crate) struct EnqueueArgs {
    #[command(flatten)]
    request: RequestArgs,
    /// Wait for the call's end, and print the output as `invoke` does
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Args)]
struct RequestArgs {
    /// The function
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// The input: a JSON text, @FILE, or - for stdin [default: null]
    #[arg(allow_hyphen_values = true)]
    body: Option<String>,
    /// The type of the body; a body that is not JSON reaches the function unchanged
    #[arg(long, value_name = "TYPE", default_value = "application/json")]
    content_type: String,
    /// The body is the whole request ({"input": …, "metadata": …}), not the input alone
    #[arg(long)]
    raw: bool,
    /// A header to send (repeatable)
    #[arg(long, value_name = "NAME:VALUE", value_parser = parse_header)]
    header: Vec<(String, String)>,
    /// Sent as X-Trace-Id, and returned with the answer
    #[arg(long, value_name = "ID")]
    trace_id: Option<String>,
    /// A repeated call with the same key and body gets the first call's result
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

fn timeout_range() -> std::ops::RangeInclusive<i64> {
    i64::from(*TIMEOUT_MS.start())..=i64::from(*TIMEOUT_MS.end())
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("must be NAME:VALUE")?;
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(token) {
        return Err(format!("{name:?} is not the name of a header"));
    }
    if value.chars().any(char::is_control) {
        return Err("a header's value has no control characters".to_owned());
    }
    Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
}

impl RequestArgs {
    fn path(&self, verb: &str) -> String {
        format!("{}:{verb}", function::path(&self.name))
    }

    fn sent(&self) -> Result<ApiRequest, CliError> {
        let body = self.body.as_deref().map(read_body).transpose()?;
        let body = if is_json(&self.content_type) {
            let input = body.unwrap_or_else(|| b"null".to_vec());
            check_json(&input, self.raw)?;
            if self.raw {
                input
            } else {
                [b"{\"input\":", &input[..], b"}"].concat()
            }
        } else {
            body.unwrap_or_default()
        };
        let mut headers = vec![("content-type".to_owned(), self.content_type.clone())];
        let named = [
            ("x-trace-id", &self.trace_id),
            ("idempotency-key", &self.idempotency_key),
        ];
        for (name, value) in named {
            headers.extend(value.iter().map(|value| (name.to_owned(), value.clone())));
        }
        headers.extend(self.header.iter().cloned());
        Ok(ApiRequest {
            headers,
            body: Some(body),
            longest: None,
        })
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn check_json(input: &[u8], raw: bool) -> Result<(), CliError> {
    let Err(error) = serde_json::from_slice::<IgnoredAny>(input) else {
        return Ok(());
    };
    let what = if raw { "the request" } else { "the input" };
    Err(CliError::Usage(format!(
        "{what} is not JSON ({error}): put a text into quotes ('\"hello\"'), \
         or send it as it is with --content-type text/plain"
    )))
}

/// Returns the contents of the file for `@FILE`, stdin for `-`, and else the argument itself.
fn read_body(argument: &str) -> Result<Vec<u8>, CliError> {
    let (name, reader): (&str, Box<dyn Read>) = match argument.strip_prefix('@') {
        _ if argument == "-" => ("stdin", Box::new(io::stdin())),
        Some(path) => {
            let file = File::open(path);
            let file = file.map_err(|error| CliError::Usage(format!("{path}: {error}")))?;
            (path, Box::new(file))
        }
        None => return Ok(argument.as_bytes().to_vec()),
    };
    let mut body = Vec::new();
    let read = reader.take(BODY_LEN_MAX + 1).read_to_end(&mut body);
    read.map_err(|error| CliError::Usage(format!("{name}: {error}")))?;
    if body.len() as u64 > BODY_LEN_MAX {
        let message = format!("{name}: a body is at most {BODY_LEN_MAX} bytes");
        return Err(CliError::Usage(message));
    }
    Ok(body)
}

/// An `InvocationResponse`. `output` keeps the bytes of the answer.
#[derive(Deserialize)]
struct InvocationResult<'a> {
    status: String,
    #[serde(borrow)]
    output: Option<&'a RawValue>,
    error: Option<CallError>,
}

#[derive(Deserialize)]
struct CallError {
    code: String,
    message: Option<String>,
}

impl CallError {
    fn report(&self) {
        let message = self.message.as_deref().unwrap_or("no message");
        eprintln!("{}: {}", show::plain(&self.code), show::plain(message));
    }
}

pub(super) fn invoke(command: &InvokeArgs) -> Result<(), CliError> {
    let client = command.connect.client()?;
    let mut sent = command.request.sent()?;
    let deadline = command.timeout_ms.unwrap_or(*TIMEOUT_MS.end());
    sent.longest = Some(Duration::from_millis(deadline.into()) + ANSWER_EXTRA);
    if let Some(ms) = command.timeout_ms {
        sent.headers
            .push(("x-timeout-ms".to_owned(), ms.to_string()));
    }
    let answer = client.send("POST", &command.request.path("invoke"), sent)?;
    if answer.status == 202 {
        return accepted(&answer, command.connect.wants_json());
    }
    // The server sets this header if the body is the function's raw output.
    let raw_state = answer.header("x-execution-status");
    if let Some(state) = raw_state {
        report_outcome(state, &answer);
        let content_type = answer
            .header("content-type")
            .unwrap_or("bytes of no named type");
        show::output(&answer.body, content_type)?;
        return execution::exit_of(state);
    }
    let Ok(envelope) = serde_json::from_slice::<InvocationResult<'_>>(&answer.body) else {
        return refused(&answer);
    };
    report_outcome(&envelope.status, &answer);
    if command.connect.wants_json() {
        show::json(&answer.body)?;
    } else if envelope.status == "success" {
        let output = envelope.output.map_or("null", RawValue::get);
        show::output(output.as_bytes(), "application/json")?;
    }
    if let Some(error) = &envelope.error {
        error.report();
    }
    execution::exit_of(&envelope.status)
}

fn refused(answer: &ApiResponse) -> Result<(), CliError> {
    if (200..300).contains(&answer.status) {
        let message = "the answer is not what a nanofaas server says: is --server right?";
        return Err(CliError::Connection(message.to_owned()));
    }
    let error = ApiError::read(answer);
    if let Some(reason) = answer.header("x-queue-reject-reason") {
        eprintln!("refused ({})", show::plain(reason));
    }
    Err(CliError::Refused(error))
}

fn report_outcome(state: &str, answer: &ApiResponse) {
    let mut parts = vec![format!("{state} ({})", answer.status)];
    let timing = show::timing(answer.header("server-timing"));
    parts.extend(Some(timing).filter(|timing| !timing.is_empty()));
    let id = answer.header("x-execution-id");
    parts.extend(id.map(|id| format!("execution {id}")));
    let trace = answer.header("x-trace-id");
    parts.extend(trace.map(|trace| format!("trace {trace}")));
    if answer.header("idempotent-replay").is_some() {
        parts.push("an earlier call's result".to_owned());
    }
    eprintln!("{}", show::plain(&parts.join(", ")));
}

pub(super) fn enqueue(command: &EnqueueArgs) -> Result<(), CliError> {
    let client = command.connect.client()?;
    let sent = command.request.sent()?;
    let answer = client.send("POST", &command.request.path("enqueue"), sent)?;
    if answer.status != 202 {
        return refused(&answer);
    }
    if !command.wait {
        return accepted(&answer, command.connect.wants_json());
    }
    let queued: Map<String, Value> = answer.json()?;
    let id = show::cell(queued.get("executionId").unwrap_or(&Value::Null));
    finish(&client, &id, command.connect.wants_json())
}

/// Shows the id of a call whose end this command does not await.
fn accepted(answer: &ApiResponse, wants_json: bool) -> Result<(), CliError> {
    if wants_json {
        return show::json(&answer.body);
    }
    let queued: Map<String, Value> = answer.json()?;
    let id = show::cell(queued.get("executionId").unwrap_or(&Value::Null));
    eprintln!(
        "{}: see it with `nanofaas status {id} --wait`",
        execution::state(&queued)
    );
    show::line(&id)
}

/// Waits for the end of an enqueued call, and shows its result as `invoke` does.
fn finish(client: &ApiClient, id: &str, wants_json: bool) -> Result<(), CliError> {
    let answer = execution::wait(client, id)?;
    if wants_json {
        show::json(&answer.body)?;
    }
    let execution: Map<String, Value> = answer.json()?;
    let state = execution::state(&execution);
    eprintln!("{}, execution {id}", show::plain(state));
    if state == "success" && !wants_json {
        let output = client
            .get(&format!("{}/output", execution::path(id)))?
            .accepted()?;
        let content_type = output.header("content-type").unwrap_or("application/json");
        show::output(&output.body, content_type)?;
    }
    let error = execution.get("error").cloned().unwrap_or(Value::Null);
    if let Ok(error) = serde_json::from_value::<CallError>(error) {
        error.report();
    }
    execution::exit_of(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let known = parse_header("X-A:  b: c ").expect("a header");
        assert_eq!(known, ("x-a".to_owned(), "b: c".to_owned()));
        for wrong in ["", "a", ":b", "a b:c", "a:b\r\nc:d", "ä:b"] {
            assert!(parse_header(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn json_by_its_content_type() {
        assert!(is_json("application/json") && is_json("Application/JSON; charset=utf-8"));
        assert!(!is_json("application/jsonl") && !is_json("text/plain"));
    }

    #[test]
    fn an_input_without_json_names_the_remedy() {
        assert!(check_json(b" {\"a\": [1]} ", false).is_ok());
        let Err(CliError::Usage(message)) = check_json(b"hello", false) else {
            panic!("hello is not JSON");
        };
        assert!(message.contains("--content-type text/plain"), "{message}");
        assert!(check_json(b"1 2", false).is_err() && check_json(b"", true).is_err());
    }
}
