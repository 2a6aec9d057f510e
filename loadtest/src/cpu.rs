//! Computes the CPU time that the machine, this tool and the watched processes used between two moments. This
//! module judges nothing. A run reads the times at the beginning and end of its measured time, and the
//! watcher reads them ten times a second.

use std::time::Instant;

use crate::machine::{self, MachineCpu};
use crate::watcher::WatchedProcess;

/// The CPU time between two readings, in seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct CpuUsage {
    pub(crate) length_s: f64,
    pub(crate) machine_s: f64,
    pub(crate) steal_s: f64,
    pub(crate) load_s: f64,
    pub(crate) watched_s: Vec<f64>,
    /// The CPU time of the processes that are neither this tool nor watched.
    others_s: f64,
}

impl CpuUsage {
    /// Returns the CPU time of everything on the machine except the load tool and the watched servers. The
    /// kernel's sum misses short work, because it is sampled at each tick. The sum over processes misses
    /// ended processes that were not waited for, so the larger sum is used.
    pub(crate) fn foreign_s(&self) -> f64 {
        let rest_s = self.machine_s - self.load_s - self.watched_s.iter().sum::<f64>();
        rest_s.max(self.others_s)
    }
}

/// The CPU times that were used up to one moment.
pub(crate) struct CpuReading {
    pub(crate) at: Instant,
    machine: MachineCpu,
    load_s: f64,
    watched_s: Vec<f64>,
    others_s: f64,
}

impl CpuReading {
    pub(crate) fn read(watched: &[WatchedProcess]) -> Self {
        Self {
            at: Instant::now(),
            machine: MachineCpu::read(),
            load_s: machine::own_cpu_s(),
            watched_s: watched
                .iter()
                .map(|watched| machine::cpu_s(watched.pid))
                .collect(),
            others_s: 0.0,
        }
    }

    /// Reads what `read` reads, and also the CPU time of all other processes. The watcher does not use this,
    /// because reading all processes ten times a second would be too slow.
    pub(crate) fn read_all(watched: &[WatchedProcess]) -> Self {
        let pids: Vec<u32> = watched.iter().map(|watched| watched.pid).collect();
        Self {
            others_s: machine::others_cpu_s(&pids),
            ..Self::read(watched)
        }
    }

    pub(crate) fn until(&self, end: &Self) -> CpuUsage {
        CpuUsage {
            length_s: (end.at - self.at).as_secs_f64(),
            machine_s: end.machine.busy_s - self.machine.busy_s,
            steal_s: end.machine.steal_s - self.machine.steal_s,
            load_s: end.load_s - self.load_s,
            watched_s: end
                .watched_s
                .iter()
                .enumerate()
                // For a process that was started after the first reading, the first value is 0.
                .map(|(at, end)| (end - self.watched_s.get(at).unwrap_or(&0.0)).max(0.0))
                .collect(),
            others_s: (end.others_s - self.others_s).max(0.0),
        }
    }
}
