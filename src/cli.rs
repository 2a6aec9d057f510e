//! The commands beside `serve`: each is one or a few requests to a running `nanofaas serve`, but for
//! `simulate`, which needs none. They never look into the server's process or files; what they know they
//! know from the API. `main` parses them and calls `run`. Exit code 0: it worked; 1: the call, or the request,
//! failed; 2: wrong use, or no server.

mod apply;
mod call;
mod client;
mod execution;
mod failure;
mod function;
mod show;
mod simulate;

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use client::Client;
use failure::Failure;

/// A command beside `serve`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Apply(apply::Apply),
    List(function::List),
    Get(function::Get),
    Delete(function::Delete),
    Invoke(call::Invoke),
    Enqueue(call::Enqueue),
    Status(execution::Status),
    Cancel(execution::Cancel),
    Scale(function::Scale),
    ColdStarts(function::ColdStarts),
    Simulate(simulate::Simulate),
}

/// Where the server is, and how to show what it says.
#[derive(Clone, Debug, Args)]
struct Connect {
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
    output: Form,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    #[default]
    Table,
    Json,
}

impl Connect {
    fn client(&self) -> Result<Client, Failure> {
        Client::new(&self.server)
    }

    fn wants_json(&self) -> bool {
        self.output == Form::Json
    }
}

/// Runs a command to its end and says on stderr what went wrong.
pub(crate) fn run(command: &Command) -> ExitCode {
    let ended = match command {
        Command::Apply(command) => apply::run(command),
        Command::List(command) => function::list(command),
        Command::Get(command) => function::get(command),
        Command::Delete(command) => function::delete(command),
        Command::Invoke(command) => call::invoke(command),
        Command::Enqueue(command) => call::enqueue(command),
        Command::Status(command) => execution::status(command),
        Command::Cancel(command) => execution::cancel(command),
        Command::Scale(command) => function::scale(command),
        Command::ColdStarts(command) => function::cold_starts(command),
        Command::Simulate(command) => simulate::run(command),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.say();
            failure.exit_code()
        }
    }
}

#[cfg(test)]
mod tests;
