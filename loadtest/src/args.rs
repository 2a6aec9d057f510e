//! Defines the command line, its subcommands and their arguments, and writes the files of results. This
//! module measures nothing. `main` calls it one time.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::compare::{self, CompareOptions};
use crate::contender::Contender;
use crate::run_args::RunArgs;
use crate::running::Installation;
use crate::scenario::Scenario;
use crate::trace::TraceShape;
use crate::{comparison_view, cores, footprint};

/// Load over HTTP/1.1, measured from the intended send time of each request
///
/// The client is one thread. On a 2-core EPYC virtual machine, at 64 connections, it needs 7.6 µs for a
/// request of 256 bytes over TCP, and 3.5 µs over a Unix socket. One core is therefore saturated at about
/// 130,000 requests a second over TCP and 280,000 over a Unix socket. A run warns if the client used over 90
/// % of a core. The tool calls only this machine unless --allow-remote is given.
#[derive(Debug, Parser)]
#[command(name = "nanofaas-loadtest", version, max_term_width = 100)]
pub(crate) struct ToolArgs {
    #[command(subcommand)]
    command: ToolCommand,
}

#[derive(Debug, Subcommand)]
enum ToolCommand {
    /// Makes load on one or more URLs and reports the result
    Run(Box<RunArgs>),
    /// Runs contenders in turns, round by round, and shows medians and paired ratios
    Compare(CompareArgs),
    /// Starts a contender several times and measures its time to ready, its idle memory, and the memory of
    /// idle connections
    Footprint(FootprintArgs),
    /// Writes a generated trace with heavy-tailed popularity, bursts and log-normal durations
    Trace(TraceArgs),
}

#[derive(Debug, Args)]
struct CompareArgs {
    /// The scenario: a file of loadtest/scenarios, or your own
    #[arg(value_name = "FILE")]
    scenario: PathBuf,
    /// The number of rounds, instead of the number in the file
    #[arg(short, long, value_name = "N")]
    rounds: Option<usize>,
    /// How many seconds of each run are measured, instead of the duration in the file
    #[arg(short, long, value_name = "S")]
    duration: Option<f64>,
    /// Seconds of warm-up of each run, instead of the warm-up in the file
    #[arg(long, value_name = "S")]
    warm_up: Option<f64>,
    /// Counts only rounds in which no round trip of a cache line between two cores takes longer than this, in
    /// nanoseconds
    #[arg(long, value_name = "NS")]
    way_ns: Option<f64>,
    #[command(flatten)]
    programs: Programs,
    /// Also counts rounds in which the machine was disturbed. This is useful to try a scenario out, but not
    /// for published figures
    #[arg(long)]
    keep_disturbed: bool,
    #[command(flatten)]
    output: OutputArgs,
    /// Shows no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
struct FootprintArgs {
    /// The contender: a file of loadtest/contenders, or your own
    #[arg(value_name = "FILE")]
    contender: PathBuf,
    /// How many times the contender is started
    #[arg(short, long, value_name = "N", default_value_t = 5)]
    times: usize,
    /// The number of idle connections that are held open
    #[arg(short, long, value_name = "N", default_value_t = 1000)]
    connections: usize,
    #[command(flatten)]
    programs: Programs,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// The folders of the contenders' programs.
#[derive(Debug, Args)]
struct Programs {
    /// The folder of the repository
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    root: PathBuf,
    /// The folder of the release binaries [default: target/release in the repository]
    #[arg(long, value_name = "FOLDER")]
    bin: Option<PathBuf>,
}

impl Programs {
    fn installation(&self) -> Result<Installation, String> {
        let absolute = |path: &Path| {
            path.canonicalize()
                .map_err(|error| format!("{}: {error}", path.display()))
        };
        let root = absolute(&self.root)?;
        let bin = match &self.bin {
            Some(bin) => absolute(bin)?,
            None => root.join("target/release"),
        };
        Ok(Installation {
            root,
            bin,
            cores: cores::allowed(),
        })
    }
}

#[derive(Debug, Args)]
struct TraceArgs {
    /// The file for the trace
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    shape: TraceShape,
}

impl ToolArgs {
    pub(crate) fn run(self) -> Result<(), String> {
        match self.command {
            ToolCommand::Run(args) => args.run(),
            ToolCommand::Compare(args) => args.run(),
            ToolCommand::Footprint(args) => args.run(),
            ToolCommand::Trace(args) => args.run(),
        }
    }
}

impl CompareArgs {
    fn run(self) -> Result<(), String> {
        let mut scenario = Scenario::read(&self.scenario)?;
        if let Some(rounds) = self.rounds {
            scenario.rounds = rounds;
        }
        scenario.disturbance.way_ns = self.way_ns.or(scenario.disturbance.way_ns);
        for (field, seconds) in [("duration_s", self.duration), ("warm_up_s", self.warm_up)] {
            if let Some(seconds) = seconds {
                scenario.last(field, seconds);
            }
        }
        scenario.check()?;
        let options = CompareOptions {
            installation: self.programs.installation()?,
            quiet: self.quiet,
            keep_disturbed: self.keep_disturbed,
        };
        let home = self.scenario.parent().unwrap_or_else(|| Path::new("."));
        let comparison = compare::compare(&scenario, home, &options)?;
        self.output.write(
            &comparison,
            || comparison_view::html(&comparison),
            || comparison_view::print(&comparison),
        )?;
        if comparison.rounds.is_empty() {
            return Err("no round counts; make the machine quiet and run it again".to_owned());
        }
        Ok(())
    }
}

impl FootprintArgs {
    fn run(self) -> Result<(), String> {
        let contender = Contender::read(&self.contender)?;
        let installation = self.programs.installation()?;
        let footprint =
            footprint::measure(&contender, &installation, self.times, self.connections)?;
        if self.json {
            let text = serde_json::to_string(&footprint).map_err(|error| error.to_string())?;
            println!("{text}");
        } else {
            footprint.print();
        }
        Ok(())
    }
}

impl TraceArgs {
    fn run(self) -> Result<(), String> {
        let rows = self.shape.make()?;
        rows.write(&self.file)
            .map_err(|error| format!("cannot write {}: {error}", self.file.display()))?;
        println!(
            "{}: {} calls of {} functions",
            self.file.display(),
            rows.rows.len(),
            rows.names.len()
        );
        Ok(())
    }
}

/// The destinations of a result.
#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// Writes the result to this file as JSON; with - to the standard output, without the tables
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes a page with plots to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl OutputArgs {
    pub(crate) fn write(
        &self,
        result: &impl Serialize,
        page: impl FnOnce() -> String,
        print: impl FnOnce(),
    ) -> Result<(), String> {
        if let Some(path) = &self.json {
            let text = serde_json::to_string(result).map_err(|error| error.to_string())?;
            write(path, &text)?;
        }
        if let Some(path) = &self.html {
            write(path, &page())?;
        }
        if self.json.as_deref() != Some(Path::new("-")) {
            print();
        }
        Ok(())
    }
}

/// Writes a result to a file, or to the standard output if `path` is `-`.
fn write(path: &Path, text: &str) -> Result<(), String> {
    if path == Path::new("-") {
        println!("{text}");
        return Ok(());
    }
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
