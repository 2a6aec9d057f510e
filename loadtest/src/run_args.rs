//! Defines the arguments of `run`, and makes the load that they describe. This module measures nothing.
//! `args` calls it one time.

use std::path::PathBuf;

use clap::Args;

use crate::args::OutputArgs;
use crate::load::{ArrivalPattern, DrawnFunctions, LoadSpec, RequestTarget, Trace};
use crate::report::RunReport;
use crate::run::{self, Setting};
use crate::watcher::WatchedProcess;
use crate::{cores, run_view};

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// http://127.0.0.1:8080/path or http+unix:///run/a.sock:/path. A blank and a number after a URL are its
    /// weight among several URLs, like 'http://127.0.0.1:8080/a 3'. A drawn name replaces {function} in a URL
    #[arg(required = true, value_name = "URL [WEIGHT]")]
    urls: Vec<String>,
    /// The number of connections to each address. In a closed loop, which has neither a rate nor a trace,
    /// each connection is a client
    #[arg(short, long, default_value_t = 1, value_name = "N")]
    connections: usize,
    /// Open loop: the number of requests a second, which are evenly spaced
    #[arg(short, long, value_name = "PER_S")]
    rate: Option<f64>,
    /// Open loop: the number of requests a second on average; they are sent at random times
    #[arg(long, value_name = "PER_S", conflicts_with = "rate")]
    poisson: Option<f64>,
    /// Open loop: requests at the times in this file (function,start_ms,duration_ms)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rate", "poisson", "functions_zipf"])]
    trace: Option<PathBuf>,
    /// Replays the trace this many times faster
    #[arg(long, default_value_t = 1.0, value_name = "TIMES", requires = "trace")]
    speed: f64,
    /// Seconds of warm-up before the measured time
    #[arg(long, default_value_t = 1.0, value_name = "S")]
    warm_up: f64,
    /// Seconds that are measured; with the warm-up at most 3600
    #[arg(short, long, value_name = "S", default_value_t = 10.0)]
    duration: f64,
    /// Seconds for which the client waits for missing answers after the measured time
    #[arg(long, default_value_t = 2.0, value_name = "S")]
    drain: f64,
    /// Seconds after which a request without an answer is an error
    #[arg(long, default_value_t = 10.0, value_name = "S")]
    timeout: f64,
    /// The method [default: POST with a body, else GET]
    #[arg(short = 'X', long)]
    method: Option<String>,
    /// A header, like 'content-type: text/plain'; repeatable
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The body; {duration_ms} in it is replaced by the duration of a trace's row
    #[arg(short = 'b', long, conflicts_with_all = ["body_file", "body_bytes"])]
    body: Option<String>,
    /// A file that holds the body
    #[arg(long, value_name = "FILE", conflicts_with = "body_bytes")]
    body_file: Option<PathBuf>,
    /// A generated body of this many bytes: {"input":"xx…"} for JSON, which is the default, else only letters
    #[arg(long, value_name = "N")]
    body_bytes: Option<usize>,
    /// Draws {function} among this many names by Zipf's law
    #[arg(long, value_name = "N")]
    functions_zipf: Option<u32>,
    /// The exponent of Zipf's law; with 0 all names are equally likely
    #[arg(
        long,
        default_value_t = 1.1,
        value_name = "S",
        requires = "functions_zipf"
    )]
    zipf_s: f64,
    /// The form of the names; the number of a name, from 0, replaces {}
    #[arg(
        long,
        default_value = "f{}",
        value_name = "NAME",
        requires = "functions_zipf"
    )]
    name_template: String,
    /// A status that is expected [default: 200 to 299]; repeatable
    #[arg(long, value_name = "STATUS")]
    expect: Vec<u16>,
    /// A status by which the server refuses load; such an answer is neither expected nor an error; repeatable
    #[arg(long, value_name = "STATUS")]
    refusal: Vec<u16>,
    /// Another seed draws other names, targets and times
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Never sleeps, so that send times are exact; the client then uses a whole core
    #[arg(long)]
    spin: bool,
    /// Runs the client on these cores only, like 0 or 2-3
    #[arg(long, value_name = "CORES")]
    cores: Option<String>,
    /// Reports the CPU time of a process and its descendants, like server=1234; repeatable
    #[arg(long, value_name = "NAME=PID")]
    watch: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
    /// Shows no progress
    #[arg(short, long)]
    quiet: bool,
    /// Allows targets on other machines, whose owners have to agree
    #[arg(long)]
    allow_remote: bool,
}

impl RunArgs {
    pub(crate) fn run(self) -> Result<(), String> {
        let load = self.load()?;
        let setting = Setting {
            allow_remote: self.allow_remote,
            quiet: self.quiet,
            watched: self.watched()?,
            title: String::new(),
        };
        if let Some(text) = &self.cores {
            cores::pin(&cores::parse(text)?)?;
        }
        let report = RunReport::new(&run::run(&load, &setting)?);
        self.output.write(
            &report,
            || run_view::html(&report),
            || run_view::print(&report),
        )
    }

    fn load(&self) -> Result<LoadSpec, String> {
        let has_body = self.body.is_some() || self.body_file.is_some() || self.body_bytes.is_some();
        let usual = if has_body { "POST" } else { "GET" };
        let headers: Vec<(String, String)> = self
            .headers
            .iter()
            .map(|header| {
                let (name, value) = header
                    .split_once(':')
                    .ok_or_else(|| format!("header {header:?}: write it as 'name: value'"))?;
                Ok((name.trim().to_owned(), value.trim().to_owned()))
            })
            .collect::<Result<_, String>>()?;
        let targets = self.urls.iter().map(|text| {
            let (url, weight) = text.split_once(' ').unwrap_or((text, "1"));
            let weight = weight
                .trim()
                .parse()
                .map_err(|_| format!("{text:?}: behind the URL's blank stands a weight"))?;
            Ok(RequestTarget {
                url: url.to_owned(),
                method: self.method.clone().unwrap_or_else(|| usual.to_owned()),
                headers: headers.clone(),
                weight,
                body: self.body.clone(),
                body_file: self.body_file.clone(),
                body_bytes: self.body_bytes,
            })
        });
        let trace = self.trace.clone().map(|file| {
            ArrivalPattern::Trace(Trace {
                file,
                speed: self.speed,
            })
        });
        Ok(LoadSpec {
            targets: targets.collect::<Result<_, String>>()?,
            connections: self.connections,
            arrivals: trace
                .or_else(|| self.rate.map(ArrivalPattern::Fixed))
                .or_else(|| self.poisson.map(ArrivalPattern::Poisson)),
            warm_up_s: self.warm_up,
            duration_s: self.duration,
            drain_s: self.drain,
            timeout_s: self.timeout,
            functions: self.functions_zipf.map(|count| DrawnFunctions {
                count,
                exponent: self.zipf_s,
                name: self.name_template.clone(),
            }),
            expect: self.expect.clone(),
            refusals: self.refusal.clone(),
            spin: self.spin,
            seed: self.seed,
        })
    }

    fn watched(&self) -> Result<Vec<WatchedProcess>, String> {
        self.watch
            .iter()
            .map(|text| {
                let (name, pid) = text.split_once('=').unwrap_or(("server", text));
                let pid = pid
                    .parse()
                    .map_err(|_| format!("--watch {text:?}: write it like server=1234"))?;
                Ok(WatchedProcess {
                    name: name.to_owned(),
                    pid,
                })
            })
            .collect()
    }
}
