//! Watches a run on a thread of its own: it reads CPU times ten times a second and shows the progress bar.
//! The watcher never touches the client's sockets or figures; it receives the client's windows through a
//! channel. `run` starts the thread and waits for its end.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use nanofaas_plot::show::duration;
use serde::Serialize;

use crate::cpu::CpuReading;
use crate::tally::Window;

/// A process whose CPU time is watched, together with that of its descendants.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct WatchedProcess {
    pub(crate) name: String,
    pub(crate) pid: u32,
}

/// The CPU use in a tenth of a second, in cores.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CpuSample {
    /// The middle of this tenth of a second, in seconds from the end of the warm-up.
    pub(crate) at_s: f64,
    /// The CPU use of everything that ran on this machine.
    pub(crate) machine: f64,
    pub(crate) steal: f64,
    pub(crate) load: f64,
    /// The CPU use of each watched process, in the order of `Watcher::watched`.
    pub(crate) watched: Vec<f64>,
}

pub(crate) struct Watcher {
    pub(crate) start: Instant,
    pub(crate) warm_up: Duration,
    /// The length of the warm-up and the measured time together.
    pub(crate) length: Duration,
    pub(crate) watched: Vec<WatchedProcess>,
    pub(crate) windows: Receiver<Window>,
    pub(crate) quiet: bool,
    /// The text in front of the progress bar.
    pub(crate) title: String,
}

const PERIOD: Duration = Duration::from_millis(100);

impl Watcher {
    /// Watches until the client drops the other end of the channel.
    pub(crate) fn watch(self) -> Vec<CpuSample> {
        let bar = self.bar();
        let mut samples = Vec::new();
        let mut last = CpuReading::read(&self.watched);
        let mut due = last.at + PERIOD;
        loop {
            match self
                .windows
                .recv_timeout(due.saturating_duration_since(Instant::now()))
            {
                Ok(window) => self.show(&bar, &window),
                Err(RecvTimeoutError::Timeout) => {
                    let reading = CpuReading::read(&self.watched);
                    samples.push(self.sample(&last, &reading));
                    due = reading.at + PERIOD;
                    last = reading;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        bar.finish_and_clear();
        samples
    }

    fn sample(&self, last: &CpuReading, now: &CpuReading) -> CpuSample {
        let cpu = last.until(now);
        let cores = |cpu_s: f64| (cpu_s / cpu.length_s).max(0.0);
        let middle = last.at + (now.at - last.at) / 2;
        CpuSample {
            at_s: middle.saturating_duration_since(self.start).as_secs_f64()
                - self.warm_up.as_secs_f64(),
            machine: cores(cpu.machine_s),
            steal: cores(cpu.steal_s),
            load: cores(cpu.load_s),
            watched: cpu.watched_s.iter().map(|cpu_s| cores(*cpu_s)).collect(),
        }
    }

    fn bar(&self) -> ProgressBar {
        if self.quiet {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{prefix} [{elapsed_precise}] {bar:28} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(self.length.as_millis() as u64).with_style(style);
        bar.set_prefix(self.title.clone());
        bar
    }

    fn show(&self, bar: &ProgressBar, window: &Window) {
        let length_s = (window.end_ns - window.begin_ns) as f64 / 1e9;
        bar.set_position(window.end_ns / 1_000_000);
        let warming = if u128::from(window.end_ns) <= self.warm_up.as_nanos() {
            ", warming up"
        } else {
            ""
        };
        bar.set_message(format!(
            "{:.0}/s  p50 {}  p99 {}  errors {}{warming}",
            window.answers as f64 / length_s,
            duration(window.p50_ns as f64),
            duration(window.p99_ns as f64),
            window.errors,
        ));
    }
}
