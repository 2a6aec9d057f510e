//! `simulate`: shows how the platform would handle a trace of calls of one function. It needs no server:
//! `nanofaas-core` makes the decisions, on virtual time.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use nanofaas_core::spec::{Defaults, ExecutionMode, FunctionSpec, Platform};
use nanofaas_core::time::Nanos;
use nanofaas_simulate::{
    Percentiles, Setup, SimulationReport, Slice, Summary, TraceCall, VaryingTime, figure, read,
    simulate,
};

use super::error::CliError;
use super::{OutputForm, show};
use crate::files::{self, FunctionFile};

/// The longest start and the longest call that the arguments accept: a day, in milliseconds.
const MS_MAX: u64 = 86_400_000;

/// Show how a function would handle a trace of calls, without a server
///
/// The trace is CSV with a header line. Columns: at_ms (when the call arrives, in milliseconds
/// since the trace began, or a time like 2026-01-31T12:00:00.250Z), service_ms (how long it runs),
/// timeout_ms (its deadline; default: the function's timeoutMs), class (sync or async; default:
/// sync). Only at_ms is required. At most 1,000,000 calls in 31 days.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nanofaas simulate --function docs/simulate/function.yaml --trace docs/simulate/calls.csv \
    --start-ms 2000\n  \
    nanofaas simulate -f function.yaml -t calls.csv --service-ms 80 --plot simulation.svg\n\n\
    docs/simulate.md says what the figures mean.")]
pub(crate) struct SimulateArgs {
    /// A function file with one function, in the form that `apply` reads
    #[arg(short, long, value_name = "FILE")]
    function: PathBuf,
    /// The calls
    #[arg(short, long, value_name = "FILE")]
    trace: PathBuf,
    /// How long a call runs if its line has no service_ms, in milliseconds
    #[arg(long = "service-ms", value_name = "MS", value_parser = milliseconds)]
    service: Option<Nanos>,
    /// How long the start of a pod, or of a Job, takes, in milliseconds; `never`: only the pods of
    /// minReplicas exist
    #[arg(long = "start-ms", value_name = "MS", default_value = "1000", value_parser = start)]
    start: PodStart,
    /// By how much starts, and times from --service-ms, may be shorter or longer, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(0..=100))]
    spread: u8,
    /// Also draw a plot into this SVG file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// How to show the result: for people, or as JSON
    #[arg(short, long, value_enum, default_value_t, value_name = "FORM")]
    output: OutputForm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PodStart {
    Never,
    Takes(Nanos),
}

fn milliseconds(text: &str) -> Result<Nanos, String> {
    let number = text.parse::<f64>().ok();
    let known = number.filter(|ms| (0.0..=MS_MAX as f64).contains(ms));
    let ms = known.ok_or_else(|| format!("must be a number from 0 to {MS_MAX}"))?;
    Ok(Nanos::from_ns((ms * 1e6).round() as u64))
}

fn start(text: &str) -> Result<PodStart, String> {
    if text == "never" {
        return Ok(PodStart::Never);
    }
    let time = milliseconds(text).map_err(|fault| format!("{fault}, or `never`"))?;
    Ok(PodStart::Takes(time))
}

pub(super) fn run(command: &SimulateArgs) -> Result<(), CliError> {
    let function =
        files::read_one(&command.function).map_err(|error| CliError::Usage(error.to_string()))?;
    let spec = spec(&function)?;
    if let Some(plot) = &command.plot {
        keep_input(plot, &[&function.path, &command.trace])?;
    }
    let about = |time| VaryingTime {
        time,
        spread_percent: command.spread,
    };
    let start = match command.start {
        PodStart::Never if spec.execution_mode == ExecutionMode::Job => {
            let message = "a JOB function has a start for each call: --start-ms must be a number";
            return Err(CliError::Usage(message.to_owned()));
        }
        PodStart::Never => None,
        PodStart::Takes(time) => Some(about(time)),
    };
    let calls = calls(&command.trace, command.service.map(about))?;
    let report = simulate(&Setup {
        spec,
        calls,
        before: 0,
        start,
    });
    if let Some(path) = &command.plot {
        let unwritable =
            |error: std::io::Error| CliError::Usage(format!("{}: {error}", path.display()));
        fs::write(path, figure(&report).svg()).map_err(unwritable)?;
    }
    match command.output {
        OutputForm::Json => {
            let json = serde_json::to_vec(&report);
            show::json(&json.map_err(|error| CliError::Usage(error.to_string()))?)
        }
        OutputForm::Table => print(&report),
    }
}

/// Refuses a plot that would overwrite an input file.
fn keep_input(plot: &Path, inputs: &[&Path]) -> Result<(), CliError> {
    // A file may have several names, so compare device and inode. Only regular files count, because a
    // terminal or a pipe cannot be overwritten.
    let file = |path: &Path| {
        let seen = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some((seen.dev(), seen.ino()))
    };
    let Some(written) = file(plot) else {
        return Ok(());
    };
    match inputs.iter().find(|input| file(input) == Some(written)) {
        None => Ok(()),
        Some(input) => {
            let (plot, input) = (plot.display(), input.display());
            let message = format!("--plot {plot} would overwrite {input}: name another file");
            Err(CliError::Usage(message))
        }
    }
}

fn calls(path: &Path, service: Option<VaryingTime>) -> Result<Vec<TraceCall>, CliError> {
    let trace = path.display();
    let unreadable = |error: std::io::Error| CliError::Usage(format!("{trace}: {error}"));
    let file = File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_dir() {
        let message = format!("{trace}: is a folder; a trace is one file");
        return Err(CliError::Usage(message));
    }
    read(file, service).map_err(|error| CliError::Usage(format!("{trace}: {error}")))
}

/// Returns the spec with the defaults of `serve`. The platform makes no difference to a simulation.
fn spec(function: &FunctionFile) -> Result<FunctionSpec, CliError> {
    for ignored in function.ignored() {
        eprintln!("warning: {}", show::plain(&ignored));
    }
    let platform = match function.draft.get("image") {
        Some(_) => Platform::Kubernetes,
        None => Platform::Local,
    };
    FunctionSpec::resolve(&function.draft, &Defaults::DEFAULT, platform).map_err(|faults| {
        let lines: Vec<String> = faults.iter().map(|fault| function.locate(fault)).collect();
        CliError::Usage(lines.join("\n"))
    })
}

fn print(report: &SimulationReport) -> Result<(), CliError> {
    show::rows(&[], summary(report))?;
    show::line("")?;
    let head: Vec<&str> = COLUMNS
        .iter()
        .filter(|column| column.is_shown(report))
        .map(|column| column.name)
        .collect();
    let row = |slice: &Slice| {
        let columns = COLUMNS.iter().filter(|column| column.is_shown(report));
        columns.map(|column| (column.of)(slice)).collect()
    };
    show::rows(&head, report.rows.iter().map(row).collect())
}

struct TableColumn {
    name: &'static str,
    /// `Some(true)` shows the column only for functions with pods, `Some(false)` only for functions without
    /// pods.
    pods: Option<bool>,
    of: fn(&Slice) -> String,
}

impl TableColumn {
    fn is_shown(&self, report: &SimulationReport) -> bool {
        self.pods.is_none_or(|pods| pods == report.has_pods)
    }
}

const fn always(name: &'static str, of: fn(&Slice) -> String) -> TableColumn {
    let pods = None;
    TableColumn { name, pods, of }
}

const fn where_pods(pods: bool, name: &'static str, of: fn(&Slice) -> String) -> TableColumn {
    let pods = Some(pods);
    TableColumn { name, pods, of }
}

const COLUMNS: [TableColumn; 12] = [
    always("FROM", |slice| time(slice.from_ms)),
    always("CALLS", |slice| slice.calls.to_string()),
    always("REFUSED", |slice| slice.refused.to_string()),
    always("FAILED", |slice| slice.failed.to_string()),
    always("WAIT P50", |slice| or_dash(slice.wait_p50_ms)),
    always("WAIT P99", |slice| or_dash(slice.wait_p99_ms)),
    always("WAITING", |slice| slice.waiting.to_string()),
    where_pods(false, "RUNNING", |slice| slice.running.to_string()),
    where_pods(false, "SLOTS", |slice| slice.slots.to_string()),
    where_pods(true, "PODS UP", |slice| slice.pods_up.to_string()),
    where_pods(true, "STARTING", |slice| slice.pods_starting.to_string()),
    where_pods(true, "STARTS", |slice| slice.starts.to_string()),
];

fn summary(report: &SimulationReport) -> Vec<Vec<String>> {
    let all = &report.summary;
    let share = |part: usize| format!("{part} ({:.1} %)", 100.0 * part as f64 / all.calls as f64);
    let mut rows = vec![
        vec![
            "function".to_owned(),
            format!("{} ({})", report.function, report.execution_mode),
        ],
        vec![
            "calls".to_owned(),
            format!("{} in {}", all.calls, time(all.duration_ms)),
        ],
        vec!["made it".to_owned(), share(all.made_it)],
        vec![
            "with perfect knowledge".to_owned(),
            all.made_it_with_perfect_knowledge
                .map_or_else(|why| why.to_string(), share),
        ],
        vec!["refused".to_owned(), parts(all.refused(), &refusals(all))],
        vec![
            "let in and failed".to_owned(),
            parts(all.let_in_and_failed(), &failures(all)),
        ],
        vec!["wait".to_owned(), percentiles(&all.wait_ms)],
        vec!["total".to_owned(), percentiles(&all.total_ms)],
        vec![
            "slots in use".to_owned(),
            all.slot_utilisation.map_or_else(|| "-".to_owned(), percent),
        ],
    ];
    if report.has_pods {
        let pods = format!(
            "{} started, {} at once at most, {:.1} pod-seconds",
            all.starts, all.pods_max, all.pod_seconds
        );
        rows.push(vec!["pods".to_owned(), pods]);
    }
    rows
}

fn refusals(all: &Summary) -> [(&'static str, usize); 3] {
    [
        ("depth", all.refused_depth),
        ("est_wait", all.refused_est_wait),
        ("memory", all.refused_memory),
    ]
}

fn failures(all: &Summary) -> [(&'static str, usize); 4] {
    [
        ("timed out queued", all.timed_out_queued),
        ("timed out starting", all.timed_out_starting),
        ("timed out running", all.timed_out_running),
        ("no pod could be started", all.failed_cold_start),
    ]
}

/// Returns a sum as a text, with its parts that are not zero.
fn parts(sum: usize, parts: &[(&str, usize)]) -> String {
    let named = parts.iter().filter(|(_, count)| *count > 0);
    let named: Vec<String> = named
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    if named.is_empty() {
        sum.to_string()
    } else {
        format!("{sum}: {}", named.join(", "))
    }
}

fn percent(part: f64) -> String {
    format!("{:.1} %", 100.0 * part)
}

fn percentiles(of: &Percentiles) -> String {
    let [p50, p90, p99, max] = [of.p50, of.p90, of.p99, of.max].map(or_dash);
    format!("p50 {p50}, p90 {p90}, p99 {p99}, max {max}")
}

fn or_dash(ms: Option<f64>) -> String {
    ms.map_or_else(|| "-".to_owned(), time)
}

fn time(ms: f64) -> String {
    match ms {
        0.0 => "0".to_owned(),
        ms if ms < 1000.0 => format!("{} ms", short(ms)),
        ms => format!("{} s", short(ms / 1000.0)),
    }
}

/// Returns a number with at most three decimals and no zeros at its end.
fn short(number: f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
