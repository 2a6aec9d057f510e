//! `list`, `get`, `delete`, `scale` and `cold-starts`: show the registered functions and change them. `apply`
//! registers functions.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::{Map, Value, json};

use super::client::{ApiRequest, segment};
use super::error::CliError;
use super::{ConnectArgs, show};

/// List the functions
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Show a function with all defaults filled in
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The function
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Delete functions; their queued calls end, running calls finish
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The functions
    #[arg(value_name = "NAME", required = true, value_parser = NonEmptyStringValueParser::new())]
    names: Vec<String>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Set how many pods a WARM function keeps even without calls
#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// The function
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// The new minReplicas; with 0 all pods stop when the function is idle
    replicas: u32,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Show a function's last cold starts, with the time of each phase
#[derive(Debug, Args)]
pub(crate) struct ColdStartsArgs {
    /// The function
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) fn path(name: &str) -> String {
    format!("/v1/functions/{}", segment(name))
}

pub(super) fn list(command: &ListArgs) -> Result<(), CliError> {
    let answer = command.connect.client()?.get("/v1/functions")?.accepted()?;
    if command.connect.wants_json() {
        return show::json(&answer.body);
    }
    let functions: Vec<Map<String, Value>> = answer.json()?;
    if functions.is_empty() {
        eprintln!("no functions yet: register some with `nanofaas apply -f FILE`");
        return Ok(());
    }
    let head = [
        "NAME",
        "MODE",
        "CONCURRENCY",
        "QUEUE",
        "TIMEOUT",
        "PODS",
        "RUNS",
    ];
    show::rows(&head, functions.iter().map(row).collect())
}

fn row(function: &Map<String, Value>) -> Vec<String> {
    let text = |name: &str| show::cell(function.get(name).unwrap_or(&Value::Null));
    let scaling = |name: &str| {
        function
            .get("scalingConfig")
            .and_then(|config| config.get(name))
    };
    let pods = match (scaling("minReplicas"), scaling("maxReplicas")) {
        (Some(min), Some(max)) if text("effectiveExecutionMode") == "WARM" => {
            format!("{min}-{max}")
        }
        _ => "-".to_owned(),
    };
    let local = function.get("local").and_then(|local| local.get("command"));
    let runs = [
        local,
        function.get("command"),
        function.get("endpointUrl"),
        function.get("image"),
    ]
    .into_iter()
    .flatten()
    .find(|value| !value.is_null() && value.as_array().is_none_or(|items| !items.is_empty()));
    vec![
        text("name"),
        text("executionMode"),
        text("concurrency"),
        text("queueSize"),
        format!("{} ms", text("timeoutMs")),
        pods,
        runs.map_or_else(|| "-".to_owned(), show::cell),
    ]
}

pub(super) fn get(command: &GetArgs) -> Result<(), CliError> {
    let answer = command
        .connect
        .client()?
        .get(&path(&command.name))?
        .accepted()?;
    if command.connect.wants_json() {
        return show::json(&answer.body);
    }
    show::fields(&answer.json()?, &nanofaas_core::spec::FIELDS)
}

pub(super) fn delete(command: &DeleteArgs) -> Result<(), CliError> {
    let client = command.connect.client()?;
    let mut refused = false;
    for name in &command.names {
        match client
            .send("DELETE", &path(name), ApiRequest::default())?
            .accepted()
        {
            Ok(_) => show::line(&format!("{name} deleted"))?,
            Err(error) => {
                eprint!("{}: ", show::plain(name));
                error.report();
                refused = true;
            }
        }
    }
    if refused { Err(CliError::Call) } else { Ok(()) }
}

pub(super) fn scale(command: &ScaleArgs) -> Result<(), CliError> {
    let path = format!("{}/replicas", path(&command.name));
    let body = json!({"replicas": command.replicas})
        .to_string()
        .into_bytes();
    let answer = command
        .connect
        .client()?
        .put_json(&path, body)?
        .accepted()?;
    if command.connect.wants_json() {
        return show::json(&answer.body);
    }
    let scaled: Map<String, Value> = answer.json()?;
    let replicas = show::cell(scaled.get("replicas").unwrap_or(&Value::Null));
    show::line(&format!("{} keeps {replicas} pods", command.name))
}

pub(super) fn cold_starts(command: &ColdStartsArgs) -> Result<(), CliError> {
    let path = format!("{}/cold-starts", path(&command.name));
    let answer = command.connect.client()?.get(&path)?.accepted()?;
    if command.connect.wants_json() {
        return show::json(&answer.body);
    }
    let body: Map<String, Value> = answer.json()?;
    let starts = body
        .get("coldStarts")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    if starts.is_empty() {
        eprintln!("{} had no cold start yet", command.name);
        return Ok(());
    }
    let phases = phases(starts);
    let heads = phases
        .iter()
        .map(|phase| format!("{} MS", phase.to_uppercase()));
    let head: Vec<String> = ["POD", "WANTED AT"]
        .map(str::to_owned)
        .into_iter()
        .chain(heads)
        .collect();
    let mut head: Vec<&str> = head.iter().map(String::as_str).collect();
    head.push("FAILURE");
    show::rows(
        &head,
        starts
            .iter()
            .map(|start| start_row(start, &phases))
            .collect(),
    )
}

/// Returns the names of all phases, in the order of their first occurrence.
fn phases(starts: &[Value]) -> Vec<&str> {
    let mut names = Vec::new();
    for phase in starts.iter().flat_map(phases_of) {
        let name = phase
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn phases_of(start: &Value) -> &[Value] {
    start
        .get("phases")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn start_row(start: &Value, phases: &[&str]) -> Vec<String> {
    let text = |name: &str| show::cell(start.get(name).unwrap_or(&Value::Null));
    let reached = |name: &str| {
        let phase = phases_of(start)
            .iter()
            .find(|phase| phase.get("name") == Some(&name.into()));
        show::cell(
            phase
                .and_then(|phase| phase.get("atMs"))
                .unwrap_or(&Value::Null),
        )
    };
    let mut row = vec![text("pod"), text("wantedAt")];
    row.extend(phases.iter().map(|name| reached(name)));
    row.push(text("failure"));
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cold_starts_have_a_column_for_every_phase() {
        let starts = [
            json!({"pod": "a", "wantedAt": "t", "failure": "no such image",
                   "phases": [{"name": "started", "atMs": 1.5}]}),
            json!({"pod": "b", "wantedAt": "u", "failure": null,
                   "phases": [{"name": "started", "atMs": 2}, {"name": "usable", "atMs": 9}]}),
        ];
        let names = phases(&starts);
        assert_eq!(names, ["started", "usable"]);
        assert_eq!(
            start_row(&starts[0], &names),
            ["a", "t", "1.5", "-", "no such image"]
        );
        assert_eq!(start_row(&starts[1], &names), ["b", "u", "2", "9", "-"]);
    }

    #[test]
    fn a_function_is_a_row() {
        let function = json!({
            "name": "f", "executionMode": "DEPLOYMENT", "effectiveExecutionMode": "WARM", "concurrency": 4, "queueSize": 9,
            "timeoutMs": 50, "scalingConfig": {"minReplicas": 0, "maxReplicas": 3},
            "local": {"command": []}, "command": ["a", "b"], "image": "i",
        });
        let function = function.as_object().expect("an object");
        assert_eq!(
            row(function),
            ["f", "DEPLOYMENT", "4", "9", "50 ms", "0-3", "a b"]
        );
    }
}
