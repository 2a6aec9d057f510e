//! Runs the commands other than `serve` and `guard`. All of them except `simulate` send requests to a running
//! `nanofaas serve`, and use only its API. `main` parses the commands and calls `run`. The exit code is 0
//! after success, 1 if the call or the request failed, and 2 if the command line is wrong or the server
//! cannot be reached.

mod apply;
mod call;
mod client;
mod execution;
mod error;
mod function;
mod show;
mod simulate;

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use client::ApiClient;
use error::CliError;

#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    Apply(apply::ApplyArgs),
    List(function::ListArgs),
    Get(function::GetArgs),
    Delete(function::DeleteArgs),
    Invoke(call::InvokeArgs),
    Enqueue(call::EnqueueArgs),
    Status(execution::StatusArgs),
    Cancel(execution::CancelArgs),
    Scale(function::ScaleArgs),
    ColdStarts(function::ColdStartsArgs),
    Simulate(simulate::SimulateArgs),
}

/// The server's address, and how to show its answers.
#[derive(Clone, Debug, Args)]
struct ConnectArgs {
    /// Address of the server
    #[arg(
        long,
        env = "NANOFAAS_SERVER",
        default_value = "http://127.0.0.1:8080",
        value_name = "URL"
    )]
    server: String,

    /// How to show the answer: for people, or as the server's JSON
    #[arg(short, long, value_enum, default_value_t, value_name = "FORM")]
    output: OutputForm,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum OutputForm {
    #[default]
    Table,
    Json,
}

impl ConnectArgs {
    fn client(&self) -> Result<ApiClient, CliError> {
        ApiClient::new(&self.server)
    }

    fn wants_json(&self) -> bool {
        self.output == OutputForm::Json
    }
}

pub(crate) fn run(command: &ClientCommand) -> ExitCode {
    let ended = match command {
        ClientCommand::Apply(command) => apply::run(command),
        ClientCommand::List(command) => function::list(command),
        ClientCommand::Get(command) => function::get(command),
        ClientCommand::Delete(command) => function::delete(command),
        ClientCommand::Invoke(command) => call::invoke(command),
        ClientCommand::Enqueue(command) => call::enqueue(command),
        ClientCommand::Status(command) => execution::status(command),
        ClientCommand::Cancel(command) => execution::cancel(command),
        ClientCommand::Scale(command) => function::scale(command),
        ClientCommand::ColdStarts(command) => function::cold_starts(command),
        ClientCommand::Simulate(command) => simulate::run(command),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.report();
            error.exit_code()
        }
    }
}

#[cfg(test)]
mod tests;
