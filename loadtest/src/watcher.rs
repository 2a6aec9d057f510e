//! Watches a run from beside it: CPU ten times a second, and the progress bar.
//! It never touches the client's sockets or figures; it hears of windows through a channel. `run`
//! starts its thread and waits for it.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::machine::{self, Machine};
use crate::show::duration;
use crate::tally::Window;

/// A process whose CPU is watched, with its descendants.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Watched {
    pub(crate) name: String,
    pub(crate) pid: u32,
}

/// CPU in a tenth of a second, in cores.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// Its middle, in seconds from the end of the warm-up.
    pub(crate) at_s: f64,
    /// Everything that ran on this machine.
    pub(crate) machine: f64,
    pub(crate) steal: f64,
    pub(crate) load: f64,
    /// In the order of the watched processes.
    pub(crate) watched: Vec<f64>,
}

pub(crate) struct Watcher {
    pub(crate) start: Instant,
    pub(crate) warm_up: Duration,
    /// Warm-up and duration.
    pub(crate) length: Duration,
    pub(crate) watched: Vec<Watched>,
    pub(crate) windows: Receiver<Window>,
    pub(crate) quiet: bool,
    /// What stands before the bar.
    pub(crate) title: String,
}

const PERIOD: Duration = Duration::from_millis(100);

struct Reading {
    at: Instant,
    machine: Machine,
    load_s: f64,
    watched_s: Vec<f64>,
}

impl Watcher {
    /// Ends with the client, which holds the other end of the channel.
    pub(crate) fn watch(self) -> Vec<Sample> {
        let bar = self.bar();
        let mut samples = Vec::new();
        let mut last = self.read();
        let mut due = last.at + PERIOD;
        loop {
            match self
                .windows
                .recv_timeout(due.saturating_duration_since(Instant::now()))
            {
                Ok(window) => self.show(&bar, &window),
                Err(RecvTimeoutError::Timeout) => {
                    let reading = self.read();
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

    fn read(&self) -> Reading {
        Reading {
            at: Instant::now(),
            machine: Machine::read(),
            load_s: machine::own_cpu_s(),
            watched_s: self
                .watched
                .iter()
                .map(|watched| machine::cpu_s(watched.pid))
                .collect(),
        }
    }

    fn sample(&self, last: &Reading, now: &Reading) -> Sample {
        let length_s = (now.at - last.at).as_secs_f64();
        let middle = last.at + (now.at - last.at) / 2;
        let watched = last.watched_s.iter().zip(&now.watched_s);
        Sample {
            at_s: middle.saturating_duration_since(self.start).as_secs_f64()
                - self.warm_up.as_secs_f64(),
            machine: (now.machine.busy_s - last.machine.busy_s) / length_s,
            steal: (now.machine.steal_s - last.machine.steal_s) / length_s,
            load: ((now.load_s - last.load_s) / length_s).max(0.0),
            watched: watched
                .map(|(last, now)| ((now - last) / length_s).max(0.0))
                .collect(),
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
