//! One run: a plan, a client, a watcher beside it, and CPU read at its two ends.
//! It prints no result. The command line calls it once, a comparison for every round.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::arrivals::Arrivals;
use crate::client::Client;
use crate::cpu::{Counter, Cpu};
use crate::load::{self, Load};
use crate::plan::Plan;
use crate::tally::Tally;
use crate::trace::Rows;
use crate::watcher::{Sample, Watched, Watcher};

/// How a run is made, beside the load itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setting {
    pub(crate) allow_remote: bool,
    pub(crate) quiet: bool,
    pub(crate) watched: Vec<Watched>,
    pub(crate) title: String,
}

/// What a run brought.
pub(crate) struct Run {
    pub(crate) load: Load,
    pub(crate) tally: Tally,
    pub(crate) samples: Vec<Sample>,
    pub(crate) watched: Vec<Watched>,
    /// CPU within the measured time.
    pub(crate) cpu: Cpu,
}

#[expect(
    clippy::disallowed_methods,
    reason = "one message a second, and the load must not wait for its reader"
)]
pub(crate) fn run(load: &Load, setting: &Setting) -> Result<Run, String> {
    load.check()?;
    let mut load = load.clone();
    let rows = match &load.arrivals {
        Some(load::Arrivals::Trace(trace)) => Some(Rows::read(&trace.file)?),
        _ => None,
    };
    if let (Some(rows), Some(load::Arrivals::Trace(trace))) = (&rows, &load.arrivals) {
        // Its rows are the load: nothing warms up, and it ends with the last one at the latest.
        let last_ms = rows.rows.last().map_or(0.0, |row| row.start_ms);
        load.warm_up_s = 0.0;
        load.duration_s = load.duration_s.min(last_ms / 1000.0 / trace.speed + 0.001);
    }
    let names = rows
        .as_ref()
        .map(|rows| rows.names.clone())
        .unwrap_or_default();
    let plan = Plan::new(&load, names, setting.allow_remote)?;
    let arrivals = Arrivals::new(&load, rows)?;
    raise_descriptor_limit();

    let warm_up = Duration::from_secs_f64(load.warm_up_s);
    let length = warm_up + Duration::from_secs_f64(load.duration_s);
    let (sender, windows) = channel();
    let client = Client::connect(&load, plan, arrivals, sender)?;
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
            let begin = Counter::read_all(&setting.watched);
            sleep_until(start + length);
            begin.until(&Counter::read_all(&setting.watched))
        });
        let tally = client.run(start, drain);
        let samples = watching.join().unwrap_or_default();
        (tally, samples, counting.join().unwrap_or_default())
    });
    Ok(Run {
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

/// Thousands of connections take as many descriptors; where the limit stays, connecting says so.
pub(crate) fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
