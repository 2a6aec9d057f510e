//! Reads the command line and runs the command that it names. A wrong command line gives exit code 2.

mod allocator;
mod serve;
mod signals;
mod config;
mod cores;
mod log;
mod panics;
mod ports;
mod scheduler_thread;
mod bridge;
mod management;
mod metrics;
mod sample;

mod files;
mod cli;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A function-as-a-service platform in one small, very fast process
#[derive(Debug, Parser)]
#[command(name = "nanofaas", version, args_override_self = true)]
struct ProgramArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<config::ServeArgs>),

    /// Parent of all function processes of a `serve`, which starts it by itself
    #[command(hide = true)]
    Guard,

    #[command(flatten)]
    Client(cli::ClientCommand),
}

fn main() -> ExitCode {
    let line = match ProgramArgs::try_parse() {
        Ok(line) => line,
        Err(error) => return refuse(&error),
    };
    match line.command {
        Command::Serve(args) => serve::run(*args),
        Command::Guard => nanofaas_local_bridge::guard_main(),
        Command::Client(command) => cli::run(&command),
    }
}

fn refuse(error: &clap::Error) -> ExitCode {
    // There is no other place to report the failure.
    let _ = error.print();
    if let Some(variable) = config::name_the_variable(error) {
        eprintln!("\nThe value comes from the environment variable {variable}.");
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}
