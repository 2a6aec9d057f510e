//! Writes the series `process_*`: the kernel's figures of this process, under the names that Prometheus's own
//! clients use. A figure that cannot be read is left out.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};

use super::text::MetricsPage;

#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessMetrics {
    pub(crate) started: SystemTime,
}

impl ProcessMetrics {
    pub(super) fn write(self, page: &mut MetricsPage) {
        if let Some(seconds) = cpu_seconds() {
            let help = "CPU time of user and system.";
            page.one("process_cpu_seconds_total", "counter", help, seconds);
        }
        if let Ok(status) = procfs::process::Process::myself().and_then(|this| this.status()) {
            let memory = [
                (
                    "process_resident_memory_bytes",
                    status.vmrss,
                    "Memory in RAM.",
                ),
                (
                    "process_virtual_memory_bytes",
                    status.vmsize,
                    "Address space.",
                ),
            ];
            for (name, kib, help) in memory {
                if let Some(kib) = kib {
                    page.one(name, "gauge", help, kib * 1024);
                }
            }
            page.one("process_threads", "gauge", "Threads.", status.threads);
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // The listing itself holds one descriptor open. procfs's `fd_count` also counts `.` and `..` on
            // kernels before 6.2.
            let open = open.count().saturating_sub(1);
            page.one("process_open_fds", "gauge", "Open file descriptors.", open);
        }
        if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let help = "Most file descriptors that may be open.";
            page.one("process_max_fds", "gauge", help, soft);
        }
        if let Ok(since) = self.started.duration_since(UNIX_EPOCH) {
            let help = "When the process began, since the epoch.";
            page.one(
                "process_start_time_seconds",
                "gauge",
                help,
                since.as_secs_f64(),
            );
        }
    }
}

fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let both = usage.user_time() + usage.system_time();
    Some(both.tv_sec() as f64 + both.tv_usec() as f64 / 1e6)
}
