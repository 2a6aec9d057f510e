//! Makes load over HTTP/1.1 and measures how long answers take. The tool is independent of the servers that
//! it measures; it shares only the plotting (`nanofaas-plot`) with them. Exit code 2 means that the command
//! line was wrong.

mod args;
mod run_args;
mod address;
mod load;
mod trace;
mod plan;
mod body;
mod arrivals;

mod run;
mod client;
mod pool;
mod connection;
mod wire;
mod tally;
mod watcher;
mod cpu;
mod machine;
mod cores;

mod report;
mod table;
mod page;
mod run_view;

mod compare;
mod scenario;
mod goal;
mod contender;
mod variables;
mod running;
mod process;
mod ask;
mod first;
mod speed;
mod figures;
mod comparison;
mod comparison_view;
mod footprint;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match args::ToolArgs::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nanofaas-loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}
