//! What the machine and its processes have used so far, read from /proc.
//! It changes nothing and keeps nothing: a caller that needs a difference reads twice. The watcher
//! reads ten times a second, a round at its begin and end.

use std::fs;

use serde::Serialize;

/// CPU time of all cores, in seconds since the machine started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Machine {
    /// User, system and interrupts.
    pub(crate) busy_s: f64,
    /// What the hypervisor gave to others.
    pub(crate) steal_s: f64,
}

impl Machine {
    pub(crate) fn read() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let fields: Vec<f64> = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .map_while(|field| field.parse().ok())
            .collect();
        let field = |at: usize| fields.get(at).copied().unwrap_or_default() / ticks_per_s();
        // user nice system idle iowait irq softirq steal; guests are within user.
        Self {
            busy_s: field(0) + field(1) + field(2) + field(5) + field(6),
            steal_s: field(7),
        }
    }
}

/// CPU time of a process and all of its descendants, in seconds; what was reaped stays counted.
pub(crate) fn cpu_s(pid: u32) -> f64 {
    tree(pid)
        .into_iter()
        .filter_map(stat)
        // utime, stime and the same two of children that were waited for.
        .map(|fields| (10..14).filter_map(|at| number(&fields, at)).sum::<f64>())
        .sum::<f64>()
        / ticks_per_s()
}

/// CPU time of every process but this one and those in `except` with their descendants, in seconds.
pub(crate) fn others_cpu_s(except: &[u32]) -> f64 {
    let mut own: Vec<u32> = except.iter().copied().flat_map(tree).collect();
    own.push(std::process::id());
    let Ok(entries) = fs::read_dir("/proc") else {
        return 0.0;
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| !own.contains(pid))
        .filter_map(stat)
        .map(|fields| (10..14).filter_map(|at| number(&fields, at)).sum::<f64>())
        .sum::<f64>()
        / ticks_per_s()
}

/// CPU time of this process without what it started, in seconds.
pub(crate) fn own_cpu_s() -> f64 {
    let fields = stat(std::process::id()).unwrap_or_default();
    (10..12).filter_map(|at| number(&fields, at)).sum::<f64>() / ticks_per_s()
}

/// Memory that a process and its descendants hold; what is shared is split among its holders.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) bytes: u64,
    /// Without the pages of files, such as the program's own.
    pub(crate) private_bytes: u64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> Self {
        let mut sum = Self::default();
        for pid in tree(pid) {
            let path = format!("/proc/{pid}/smaps_rollup");
            let text = fs::read_to_string(path).unwrap_or_default();
            sum += Self {
                bytes: kib(&text, "Pss:"),
                private_bytes: kib(&text, "Pss_Anon:"),
            };
        }
        sum
    }
}

impl std::ops::AddAssign for Memory {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.private_bytes += other.private_bytes;
    }
}

/// The bytes on the line that begins with `name`.
fn kib(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
    number.unwrap_or(0) * 1024
}

/// The process and its descendants.
fn tree(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
            continue;
        };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
        }
    }
    found
}

/// The fields of /proc/PID/stat behind the name, which may hold blanks and brackets.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    // The state is field 3 of proc(5); it is dropped, so that utime (14) is at 10.
    Some(rest.split_whitespace().skip(1).map(str::to_owned).collect())
}

fn number(fields: &[String], at: usize) -> Option<f64> {
    fields.get(at)?.parse().ok()
}

/// Linux tells user space 100 ticks a second on every architecture that Rust runs on.
fn ticks_per_s() -> f64 {
    100.0
}

/// What a reader of a report has to know of the machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Kind {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
}

impl Kind {
    pub(crate) fn read() -> Self {
        let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = text
            .lines()
            .find(|line| line.starts_with("model name"))
            .and_then(|line| line.split_once(':'))
            .map_or("unknown", |(_, name)| name.trim());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: model.to_owned(),
            cores: text
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            kernel: kernel.trim().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn cpu_of_another_process_is_seen_and_can_be_left_out() {
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
        // Read one after another, so not to the tick.
        assert!((all - without - own).abs() < 0.1, "{all} {without} {own}");
    }

    #[test]
    fn cpu_of_this_process_is_seen() {
        let before = (cpu_s(std::process::id()), Machine::read().busy_s);
        let end = Instant::now() + Duration::from_millis(200);
        while Instant::now() < end {
            std::hint::black_box(Memory::of(std::process::id()));
        }
        let used = cpu_s(std::process::id()) - before.0;
        assert!(used > 0.02, "{used}");
        assert!(Machine::read().busy_s > before.1);
        let memory = Memory::of(std::process::id());
        assert!(memory.bytes > memory.private_bytes && memory.private_bytes > 50_000);
    }
}
