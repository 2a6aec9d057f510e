//! CPU that the machine, this tool and the watched processes used between two moments.
//! It decides nothing about it. Runs read it at their begin and end, the watcher ten times a second.

use std::time::Instant;

use crate::machine::{self, Machine};
use crate::watcher::Watched;

/// CPU time in seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) length_s: f64,
    pub(crate) machine_s: f64,
    pub(crate) steal_s: f64,
    pub(crate) load_s: f64,
    pub(crate) watched_s: Vec<f64>,
}

impl Cpu {
    /// What ran on the machine and was neither the load nor a watched server.
    pub(crate) fn foreign_s(&self) -> f64 {
        (self.machine_s - self.load_s - self.watched_s.iter().sum::<f64>()).max(0.0)
    }
}

/// What had been used at one moment.
pub(crate) struct Counter {
    pub(crate) at: Instant,
    machine: Machine,
    load_s: f64,
    watched_s: Vec<f64>,
}

impl Counter {
    pub(crate) fn read(watched: &[Watched]) -> Self {
        Self {
            at: Instant::now(),
            machine: Machine::read(),
            load_s: machine::own_cpu_s(),
            watched_s: watched
                .iter()
                .map(|watched| machine::cpu_s(watched.pid))
                .collect(),
        }
    }

    pub(crate) fn until(&self, end: &Self) -> Cpu {
        Cpu {
            length_s: (end.at - self.at).as_secs_f64(),
            machine_s: end.machine.busy_s - self.machine.busy_s,
            steal_s: end.machine.steal_s - self.machine.steal_s,
            load_s: end.load_s - self.load_s,
            watched_s: self
                .watched_s
                .iter()
                .zip(&end.watched_s)
                .map(|(begin, end)| (end - begin).max(0.0))
                .collect(),
        }
    }
}
