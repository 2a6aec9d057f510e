//! Makes one run with a plan, a client and a watcher thread, and reads the CPU times at its beginning and
//! end. This module prints no result. The command line makes one run, and a comparison makes one run for each
//! turn under load.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::arrivals::ArrivalSequence;
use crate::client::LoadClient;
use crate::cpu::{CpuReading, CpuUsage};
use crate::load::{self, LoadSpec};
use crate::plan::RequestPlan;
use crate::tally::RunTally;
use crate::trace::TraceRows;
use crate::watcher::{CpuSample, WatchedProcess, Watcher};

/// Options of a run that are not part of the load.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setting {
    pub(crate) allow_remote: bool,
    pub(crate) quiet: bool,
    pub(crate) watched: Vec<WatchedProcess>,
    pub(crate) title: String,
}

pub(crate) struct RunResult {
    pub(crate) load: LoadSpec,
    pub(crate) tally: RunTally,
    pub(crate) samples: Vec<CpuSample>,
    pub(crate) watched: Vec<WatchedProcess>,
    /// The CPU time that was used within the measured time.
    pub(crate) cpu: CpuUsage,
}

#[expect(
    clippy::disallowed_methods,
    reason = "one message a second, and the load must not wait for its reader"
)]
pub(crate) fn run(load: &LoadSpec, setting: &Setting) -> Result<RunResult, String> {
    load.check()?;
    let mut load = load.clone();
    let rows = match &load.arrivals {
        Some(load::ArrivalPattern::Trace(trace)) => Some(TraceRows::read(&trace.file)?),
        _ => None,
    };
    if let (Some(rows), Some(load::ArrivalPattern::Trace(trace))) = (&rows, &load.arrivals) {
        // A trace gets no warm-up, because all of its rows are measured. The load ends with the last row, or
        // before it if `duration_s` is shorter.
        let last_ms = rows.rows.last().map_or(0.0, |row| row.start_ms);
        load.warm_up_s = 0.0;
        load.duration_s = load.duration_s.min(last_ms / 1000.0 / trace.speed + 0.001);
    }
    let names = rows
        .as_ref()
        .map(|rows| rows.names.clone())
        .unwrap_or_default();
    let plan = RequestPlan::new(&load, names, setting.allow_remote)?;
    let arrivals = ArrivalSequence::new(&load, rows)?;
    raise_descriptor_limit();

    let warm_up = Duration::from_secs_f64(load.warm_up_s);
    let length = warm_up + Duration::from_secs_f64(load.duration_s);
    let (sender, windows) = channel();
    let client = LoadClient::connect(&load, plan, arrivals, sender)?;
    let start = Instant::now();
    let watcher = Watcher {
        start,
        warm_up,
        length,
        watched: setting.watched.clone(),
        windows,
        quiet: setting.quiet,
        title: setting.title.clone(),
    };
    let drain = Duration::from_secs_f64(load.drain_s);
    let (tally, samples, cpu) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| watcher.watch());
        let counting = scope.spawn(|| {
            sleep_until(start + warm_up);
            let begin = CpuReading::read_all(&setting.watched);
            sleep_until(start + length);
            begin.until(&CpuReading::read_all(&setting.watched))
        });
        let tally = client.run(start, drain);
        let samples = watching.join().unwrap_or_default();
        (tally, samples, counting.join().unwrap_or_default())
    });
    Ok(RunResult {
        load,
        tally: tally?,
        samples,
        watched: setting.watched.clone(),
        cpu,
    })
}

fn sleep_until(at: Instant) {
    std::thread::sleep(at.saturating_duration_since(Instant::now()));
}

/// Raises the limit of open descriptors, because each connection takes a descriptor. If the limit stays too
/// low, the connects report that.
pub(crate) fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
