//! Finds out whether the kernel's OOM killer sent a SIGKILL, by the counter of OOM kills of the control
//! plane's cgroup. If there is no such counter, no kill counts as an OOM kill. `bridge` refreshes the watch;
//! the tasks of pods and Jobs ask it about their processes.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

/// The counter of OOM kills, and the number of kills that were discarded or attributed to a process.
pub(crate) struct OomWatch {
    file: Option<PathBuf>,
    accounted: Cell<u64>,
    refreshed: Cell<u64>,
}

impl OomWatch {
    /// Finds the counter of this process's cgroup, which the function processes share.
    pub(crate) fn new() -> Self {
        let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let files = cgroups.lines().filter_map(counter);
        Self::of(files.into_iter().find(|file| kills(file).is_some()))
    }

    fn of(file: Option<PathBuf>) -> Self {
        let watch = Self {
            file,
            accounted: Cell::new(0),
            refreshed: Cell::new(0),
        };
        watch.accounted.set(watch.count());
        watch.refresh();
        watch
    }

    /// If there is no counter, `is_guilty` is always false.
    pub(crate) const fn has_counter(&self) -> bool {
        self.file.is_some()
    }

    fn count(&self) -> u64 {
        self.file.as_deref().and_then(kills).unwrap_or(0)
    }

    /// Discards the kills before the last refresh that were not attributed to a process. Such a kill usually
    /// hit a worker that a pod started. Later kills are kept, because the ends of their processes may not
    /// have been reported yet.
    pub(crate) fn refresh(&self) {
        let last = self.refreshed.replace(self.count());
        self.accounted.set(last.max(self.accounted.get()));
    }

    /// Returns whether the OOM killer ended a process. Call this one time, directly after its end, for each
    /// process that ended by a SIGKILL which this control plane did not send. Each counted kill is attributed
    /// to one process.
    pub(crate) fn is_guilty(&self) -> bool {
        let more = self.count() > self.accounted.get();
        if more {
            self.accounted.set(self.accounted.get() + 1);
        }
        more
    }
}

/// Returns the counter's file for a line of /proc/self/cgroup: `0::/path` (version 2) or `4:memory:/path`
/// (version 1).
fn counter(line: &str) -> Option<PathBuf> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let path = path.trim_start_matches('/');
    let root = Path::new("/sys/fs/cgroup");
    if controllers.is_empty() {
        Some(root.join(path).join("memory.events"))
    } else if controllers.split(',').any(|name| name == "memory") {
        Some(root.join("memory").join(path).join("memory.oom_control"))
    } else {
        None
    }
}

fn kills(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kernel_kill_is_blamed_once() {
        let file = std::env::temp_dir().join(format!("oom-{}", std::process::id()));
        fs::write(&file, "low 0\noom 9\noom_kill 3\n").expect("ours");
        let watch = OomWatch::of(Some(file.clone()));
        assert!(!watch.is_guilty());
        fs::write(&file, "low 0\noom 9\noom_kill 5\n").expect("ours");
        assert!(watch.is_guilty() && watch.is_guilty());
        assert!(!watch.is_guilty());
        fs::write(&file, "oom_kill 6\n").expect("ours");
        watch.refresh();
        watch.refresh();
        assert!(!watch.is_guilty());
        fs::write(&file, "oom_kill 7\n").expect("ours");
        watch.refresh();
        assert!(watch.is_guilty(), "the end is reported after a refresh");
        fs::remove_file(&file).expect("ours");
        assert!(!OomWatch::of(None).is_guilty());
    }

    #[test]
    fn both_kinds_of_cgroups_are_found() {
        let path = |line| counter(line).map(|path| path.display().to_string());
        let new = path("0::/user.slice/a.scope");
        assert_eq!(
            new.as_deref(),
            Some("/sys/fs/cgroup/user.slice/a.scope/memory.events")
        );
        let old = path("9:memory:/docker/1:2");
        assert_eq!(
            old.as_deref(),
            Some("/sys/fs/cgroup/memory/docker/1:2/memory.oom_control")
        );
        assert_eq!(path("3:cpu,cpuacct:/"), None);
    }
}
