//! `apply`: reads function files, runs their build lines, and registers each function. The server checks the
//! fields, because only the server knows its platform. `apply` shows each fault at the field's line of the
//! file.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use nanofaas_core::spec::{FieldError, FunctionDraft};
use serde_json::Value;

use super::client::{ApiClient, ApiResponse};
use super::error::{ApiError, CliError};
use super::{ConnectArgs, function, show};
use crate::files::{self, BuildProgress, FunctionFile};

/// Register functions from files, or replace them
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nanofaas apply -f functions/word-stats/function.yaml\n  \
    nanofaas apply -f functions/\n  \
    sed s/v1/v2/ function.yaml | nanofaas apply -f -")]
pub(crate) struct ApplyArgs {
    /// A file, a folder whose function files are read, or - for stdin (repeatable)
    #[arg(short, long = "file", value_name = "PATH", required = true)]
    file: Vec<PathBuf>,
    /// Do not run the functions' build lines (they run only if the server is on this machine)
    #[arg(long)]
    no_build: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) fn run(command: &ApplyArgs) -> Result<(), CliError> {
    let client = command.connect.client()?;
    let functions = read(&command.file)?;
    for function in &functions {
        for ignored in function.ignored() {
            eprintln!("warning: {ignored}");
        }
    }
    let builds = client.is_loopback() && !command.no_build;
    let mut failed = 0;
    for function in &functions {
        match apply(&client, function, builds)? {
            Some(applied) if command.connect.wants_json() => show::json(&applied.answer.body)?,
            Some(applied) => {
                let name = function.draft.name().unwrap_or_default();
                show::line(&format!("{name} {}", applied.done()))?;
            }
            None => failed += 1,
        }
    }
    if failed == 0 {
        return Ok(());
    }
    eprintln!("{failed} of {} functions were not applied", functions.len());
    Err(CliError::Call)
}

fn read(paths: &[PathBuf]) -> Result<Vec<FunctionFile>, CliError> {
    let (stdin, on_disk): (Vec<_>, Vec<_>) = paths
        .iter()
        .cloned()
        .partition(|path| path.as_os_str() == "-");
    let mut functions =
        files::read(&on_disk).map_err(|error| CliError::Usage(error.to_string()))?;
    if !stdin.is_empty() {
        let usage = |error: io::Error| CliError::Usage(format!("stdin: {error}"));
        let mut text = String::new();
        let mut stdin = io::stdin().take(files::FILE_LEN_MAX + 1);
        stdin.read_to_string(&mut text).map_err(usage)?;
        let here = std::env::current_dir().map_err(usage)?;
        let read = files::read_text(Path::new("stdin"), &text, &here);
        functions.extend(read.map_err(CliError::Usage)?);
    }
    Ok(functions)
}

struct Applied {
    /// The function before this command. `None` if there was no such function, or if the server did not
    /// return it.
    before: Option<Value>,
    answer: ApiResponse,
}

impl Applied {
    /// Returns kubectl's word for what happened to the function.
    fn done(&self) -> &'static str {
        let after = without_status(serde_json::from_slice(&self.answer.body).ok());
        match self.answer.status {
            201 => "created",
            _ if after.is_some() && after == self.before => "unchanged",
            _ => "configured",
        }
    }
}

/// A status changes without an `apply`, so it must not count as a change.
fn without_status(function: Option<Value>) -> Option<Value> {
    let mut function = function?;
    function.as_object_mut()?.remove("status");
    Some(function)
}

/// Registers one function. Returns `None` after a fault or a refusal; the reason is then printed.
fn apply(
    client: &ApiClient,
    function: &FunctionFile,
    builds: bool,
) -> Result<Option<Applied>, CliError> {
    let mut faults = function.draft.faults().to_vec();
    if function.draft.name().is_none_or(str::is_empty) {
        faults.push(FieldError::new("name", "is required, as a text"));
    }
    if !faults.is_empty() {
        for fault in &faults {
            eprintln!("{}", show::plain(&function.locate(fault)));
        }
        return Ok(None);
    }
    if builds && let Err(failed) = build(function) {
        eprintln!("{}", show::plain(&failed));
        return Ok(None);
    }
    let name = function.draft.name().unwrap_or_default();
    let body = serde_json::to_vec(&function.draft)
        .map_err(|error| CliError::Usage(format!("{name}: {error}")))?;
    let path = function::path(name);
    let before = client.get(&path)?.accepted().ok();
    let before = without_status(before.and_then(|answer| answer.json().ok()));
    let answer = client.put_json(&path, body)?;
    if (200..300).contains(&answer.status) {
        warn(function, &answer);
        return Ok(Some(Applied { before, answer }));
    }
    report_refusal(function, &ApiError::read(&answer));
    Ok(None)
}

/// Prints the server's warnings, except those about unknown fields that `run` has already printed.
fn warn(function: &FunctionFile, answer: &ApiResponse) {
    let unknown = function.draft.unknown_fields();
    let reported: Vec<String> = unknown
        .iter()
        .map(|field| FunctionDraft::ignored(field))
        .collect();
    for warning in answer.warnings() {
        if !reported.contains(&warning) {
            eprintln!(
                "warning: {}: {}",
                show::plain(&function.place()),
                show::plain(&warning)
            );
        }
    }
}

fn build(function: &FunctionFile) -> Result<(), String> {
    let mut report = |line: &str| eprintln!("{}", show::plain(line));
    let mut progress = if BuildProgress::has_terminal() {
        BuildProgress::Spinner
    } else {
        BuildProgress::Lines(&mut report)
    };
    files::build(&function.draft, &mut progress).map_err(|error| error.to_string())
}

fn report_refusal(function: &FunctionFile, error: &ApiError) {
    if error.details.is_empty() {
        let name = function.draft.name().unwrap_or_default();
        eprint!("{}: ", show::plain(name));
        return error.report();
    }
    for detail in &error.details {
        let (field, message) = detail.split_once(": ").unwrap_or(("function", detail));
        eprintln!(
            "{}",
            show::plain(&function.locate(&FieldError::new(field, message)))
        );
    }
    error.report_hint();
}
