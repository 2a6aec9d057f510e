//! The process: reads the command line and runs what it names.

mod cli;
mod files;

use std::process::ExitCode;

use clap::Parser;

/// A function-as-a-service platform in one small, very fast process
#[derive(Debug, Parser)]
#[command(name = "nanofaas", version)]
struct Line {
    #[command(subcommand)]
    command: cli::Command,
}

fn main() -> ExitCode {
    cli::run(&Line::parse().command)
}
