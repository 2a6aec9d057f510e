//! Finds the cores that the process may use, and gives some threads a core of their own. `serve` detects the
//! cores before any thread is pinned, because a pinned thread would see only its own core.

use std::thread::available_parallelism;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::config::SchedulerDriver;

#[derive(Clone, Debug)]
pub(crate) struct Cores {
    allowed: Vec<usize>,
    /// How many of these CPUs the process may use at once. A quota may allow less than all of them.
    pub(crate) count: usize,
}

/// The CPUs to which threads are pinned. If there are too few cores, no thread is pinned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pinning {
    pub(crate) io: Vec<usize>,
    pub(crate) scheduler: Option<usize>,
}

impl Cores {
    /// Reads the CPUs of the calling thread, which must not be pinned.
    pub(crate) fn detect() -> Self {
        let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
        let in_set = |cpu: &usize| set.is_set(*cpu).unwrap_or(false);
        let allowed: Vec<usize> = (0..CpuSet::count()).filter(in_set).collect();
        let count = available_parallelism().map_or(1, usize::from);
        Self { allowed, count }
    }

    /// Reserves a core for each io thread and for the pinned scheduler. At least one core is left for the
    /// bridge, the functions and the kernel.
    pub(crate) fn plan(&self, io_threads: usize, scheduler: SchedulerDriver) -> Pinning {
        let pinned = scheduler == SchedulerDriver::Pinned;
        let threads = io_threads + usize::from(pinned);
        // Under a quota, other processes may be pinned to the same cores. With fewer than four cores, the
        // functions would get too few of them.
        let whole = self.allowed.len() == self.count && self.count >= 4;
        if !whole || threads + 1 > self.count {
            return Pinning::default();
        }
        let mut own = self.allowed[1..].iter().copied();
        Pinning {
            io: own.by_ref().take(io_threads).collect(),
            scheduler: own.next().filter(|_| pinned),
        }
    }
}

pub(crate) fn pin(cpu: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use SchedulerDriver::{Inline, Pinned};

    fn cores(allowed: &[usize], count: usize) -> Cores {
        Cores {
            allowed: allowed.to_vec(),
            count,
        }
    }

    #[test]
    fn each_thread_gets_an_allowed_core() {
        let plan = cores(&[3, 5, 7, 9], 4).plan(2, Pinned);
        assert_eq!((plan.io, plan.scheduler), (vec![5, 7], Some(9)));
        let plan = cores(&[0, 1, 2, 3], 4).plan(1, Inline);
        assert_eq!((plan.io, plan.scheduler), (vec![1], None));
    }

    #[test]
    fn with_too_few_cores_nobody_is_pinned() {
        assert_eq!(cores(&[0, 1], 2).plan(1, Inline), Pinning::default());
        assert_eq!(cores(&[0, 1], 2).plan(2, Pinned), Pinning::default());
        assert_eq!(cores(&[0, 1, 2, 3], 4).plan(3, Pinned), Pinning::default());
    }

    #[test]
    fn under_a_quota_nobody_is_pinned() {
        let all: Vec<usize> = (0..64).collect();
        assert_eq!(cores(&all, 8).plan(6, Pinned), Pinning::default());
    }

    #[test]
    fn a_pinned_thread_sees_its_core_only() {
        let before = Cores::detect();
        assert!(before.count >= 1 && before.allowed.len() >= before.count);
        let last = *before.allowed.last().expect("a core");
        let seen = std::thread::spawn(move || {
            pin(last).expect("an allowed core");
            Cores::detect()
        });
        assert_eq!(seen.join().expect("no panic").allowed, [last]);
    }
}
