//! Reads from /proc the resources that the machine and its processes have used so far. This module keeps no
//! values, so a caller that needs a difference reads twice. The watcher reads ten times a second, and a run
//! reads at the beginning and end of its measured time.

use std::fs;

use procfs::process::{Process, Stat, all_processes};
use procfs::{CpuInfo, Current as _, CurrentSI as _, KernelStats, ticks_per_second};
use serde::Serialize;

/// The CPU time of all cores since the machine started, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MachineCpu {
    /// Time of user code, kernel and interrupts.
    pub(crate) busy_s: f64,
    /// Time that the hypervisor gave to other machines.
    pub(crate) steal_s: f64,
}

impl MachineCpu {
    pub(crate) fn read() -> Self {
        let Ok(KernelStats { total, .. }) = KernelStats::current() else {
            return Self::default();
        };
        // `guest` is not added, because `user` already includes it.
        let in_interrupts = total.irq.unwrap_or_default() + total.softirq.unwrap_or_default();
        Self {
            busy_s: seconds(total.user + total.nice + total.system + in_interrupts),
            steal_s: seconds(total.steal.unwrap_or_default()),
        }
    }
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / ticks_per_second() as f64
}

/// Returns the CPU time of a process and its descendants, in seconds. It includes children that have ended
/// and were reaped.
pub(crate) fn cpu_s(pid: u32) -> f64 {
    tree(pid).iter().filter_map(used_s).sum()
}

/// Returns the CPU time of the other processes, in seconds: all except this one, those in `except`, and the
/// descendants of those in `except`.
pub(crate) fn others_cpu_s(except: &[u32]) -> f64 {
    let trees = except.iter().copied().flat_map(tree);
    let mut own: Vec<i32> = trees.map(|process| process.pid).collect();
    own.push(std::process::id() as i32);
    let all = all_processes().into_iter().flatten().flatten();
    let others = all.filter(|process| !own.contains(&process.pid));
    others.filter_map(|process| used_s(&process)).sum()
}

/// Returns the CPU time of this process without its children, in seconds.
pub(crate) fn own_cpu_s() -> f64 {
    let stat = Process::myself().and_then(|process| process.stat());
    stat.map_or(0.0, |stat| seconds(stat.utime + stat.stime))
}

/// Returns the CPU time of a process and its reaped children, in seconds; `None` if the process has ended.
fn used_s(process: &Process) -> Option<f64> {
    let Stat {
        utime,
        stime,
        cutime,
        cstime,
        ..
    } = process.stat().ok()?;
    // `cutime` and `cstime` are the times of reaped children; the kernel defines them as signed.
    Some(seconds(utime + stime + (cutime + cstime).unsigned_abs()))
}

/// The memory of a process and its descendants. Shared pages are divided among the processes that map them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MemoryUse {
    pub(crate) bytes: u64,
    /// The part of `bytes` that belongs to no file.
    pub(crate) private_bytes: u64,
}

impl MemoryUse {
    pub(crate) fn of(pid: u32) -> Self {
        let mut sum = Self::default();
        let rollups = tree(pid).into_iter();
        let rollups = rollups.filter_map(|process| process.smaps_rollup().ok());
        for map in rollups.flat_map(|rollup| rollup.memory_map_rollup) {
            let bytes = |name| map.extension.map.get(name).copied().unwrap_or_default();
            sum += Self {
                bytes: bytes("Pss"),
                private_bytes: bytes("Pss_Anon"),
            };
        }
        sum
    }
}

impl std::ops::AddAssign for MemoryUse {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.private_bytes += other.private_bytes;
    }
}

/// Returns the process and those of its descendants that still exist.
fn tree(pid: u32) -> Vec<Process> {
    let mut pids = vec![pid];
    let mut found = Vec::new();
    while let Some(pid) = pids.pop() {
        let Ok(process) = Process::new(pid as i32) else {
            continue;
        };
        let threads = process.tasks().into_iter().flatten().flatten();
        pids.extend(threads.flat_map(|thread| thread.children().unwrap_or_default()));
        found.push(process);
    }
    found
}

/// Facts about the machine that a reader of a report must know.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MachineInfo {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
}

impl MachineInfo {
    pub(crate) fn read() -> Self {
        let info = CpuInfo::current().ok();
        let model = info.as_ref().and_then(|info| info.model_name(0));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: model.unwrap_or("unknown").to_owned(),
            cores: info.as_ref().map_or(0, CpuInfo::num_cores),
            kernel: kernel.trim().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn another_processs_cpu_is_seen_or_left_out() {
        let mut busy = std::process::Command::new("/bin/sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .expect("a shell");
        let count = || {
            (
                others_cpu_s(&[]),
                others_cpu_s(&[busy.id()]),
                cpu_s(busy.id()),
            )
        };
        let before = count();
        std::thread::sleep(Duration::from_millis(600));
        let after = count();
        busy.kill().and_then(|()| busy.wait()).expect("it ends");
        let (all, without, own) = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
        assert!(own > 0.1 && all > 0.9 * own, "{all} {own}");
        // The three values are read one after another, so they cannot agree exactly.
        assert!((all - without - own).abs() < 0.1, "{all} {without} {own}");
    }

    #[test]
    fn cpu_of_this_process_is_seen() {
        let before = (cpu_s(std::process::id()), MachineCpu::read().busy_s);
        let end = Instant::now() + Duration::from_millis(200);
        while Instant::now() < end {
            std::hint::black_box(MemoryUse::of(std::process::id()));
        }
        let used = cpu_s(std::process::id()) - before.0;
        assert!(used > 0.02, "{used}");
        assert!(MachineCpu::read().busy_s > before.1);
        let memory = MemoryUse::of(std::process::id());
        assert!(memory.bytes > memory.private_bytes && memory.private_bytes > 50_000);
    }
}
