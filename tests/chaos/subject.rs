//! Observes the plane of a run from outside: whether it lives, its resources, its processes. This module
//! changes nothing in the plane; it can only end the process. `run`, `storm` and `soak` use it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nanofaas_testkit::control_plane::ControlPlane;
use nanofaas_testkit::wait::PATIENCE;
use nix::sys::signal::Signal;

use crate::tally::Tally;

#[derive(Clone, Copy, Debug)]
pub(crate) struct ControlPlaneForm {
    pub(crate) name: &'static str,
    pub(crate) flags: &'static [&'static str],
}

macro_rules! form {
    ($threads:literal, $scheduler:literal, $driver:literal) => {
        ControlPlaneForm {
            name: concat!($threads, "-", $scheduler, "-", $driver),
            flags: &[
                "--io-threads",
                $threads,
                "--scheduler",
                $scheduler,
                "--io-driver",
                $driver,
            ],
        }
    };
}

pub(crate) const FORMS: [ControlPlaneForm; 4] = [
    form!("1", "inline", "uring"),
    form!("4", "pinned", "epoll"),
    form!("1", "inline", "epoll"),
    form!("4", "pinned", "uring"),
];

pub(crate) struct Subject {
    pub(crate) plane: ControlPlane,
    pub(crate) tally: Arc<Tally>,
    /// The plane's descriptors at the time when it was ready.
    descriptors: Vec<String>,
}

impl Subject {
    pub(crate) fn start(form: ControlPlaneForm, more: &[&str], tally: &Arc<Tally>) -> Self {
        let mut subject = Self {
            plane: ControlPlane::start_in(form.flags, more),
            tally: tally.clone(),
            descriptors: Vec::new(),
        };
        subject.descriptors = subject.descriptors();
        subject
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.plane.exit_within(Duration::ZERO).is_none()
    }

    /// Waits until `look` succeeds. Records a fault if `look` does not succeed in time.
    pub(crate) fn eventually(&self, what: &str, mut look: impl FnMut() -> Result<(), String>) {
        // After a first fault, `look` may fail for the same reason, so the limit is then 5 s instead of a
        // minute.
        let sound = self.tally.wrongs() == 0;
        let end = Instant::now()
            + if sound {
                PATIENCE
            } else {
                Duration::from_secs(5)
            };
        loop {
            let Err(seen) = look() else { return };
            if Instant::now() > end || !self.is_alive() {
                self.tally.wrong(format!("not in time: {what}: {seen}"));
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn balance(&self) {
        self.eventually("nothing waits or runs, and the ledger balances", || {
            let metrics = self.plane.metrics();
            let of = |part: &str| metrics.sum(&format!("nanofaas_executions_{part}"), &[]);
            let parts = ["accepted", "finished", "waiting", "running"].map(of);
            let busy = parts[2] + parts[3];
            if busy == 0.0 && metrics.drift() == 0.0 {
                return Ok(());
            }
            Err(format!("accepted, finished, waiting, running: {parts:?}"))
        });
    }

    /// Sends a SIGTERM to the plane. The plane must then exit without a panic.
    pub(crate) fn stop(&self) {
        if !self.is_alive() {
            let how = self.plane.exit_within(Duration::ZERO);
            self.tally.wrong(format!("the plane died: {how:?}"));
        }
        self.plane.signal(Signal::SIGTERM);
        match self.plane.exit_within(PATIENCE) {
            Some(status) if status.success() => {}
            how => self.tally.wrong(format!("the plane ended with {how:?}")),
        }
        let lines = self.plane.log.lines();
        for line in lines.iter().filter(|line| line.contains("panicked")) {
            self.tally.wrong(line.chars().take(600).collect());
        }
    }

    /// Checks that the plane has no more descriptors than at the start. Call this function after all pods and
    /// clients have closed their connections.
    pub(crate) fn check_descriptors(&self) {
        self.eventually("descriptors are as at the start", || {
            let (then, now) = (&self.descriptors, self.descriptors());
            let is_new = |link: &&String| !then.contains(*link);
            let new: Vec<&String> = now.iter().filter(is_new).collect();
            if now.len() <= then.len() {
                return Ok(());
            }
            Err(format!(
                "{} and not {}, new are {new:?}",
                now.len(),
                then.len()
            ))
        });
    }

    pub(crate) fn print_log(&self) {
        let lines = self.plane.log.lines();
        let tail = &lines[lines.len().saturating_sub(8)..];
        println!("the plane's last lines:\n{}", tail.join("\n"));
    }

    /// Returns the targets of all descriptors of the plane. The target of a socket contains its number.
    pub(crate) fn descriptors(&self) -> Vec<String> {
        let folder = std::fs::read_dir(format!("/proc/{}/fd", self.plane.pid));
        let entries = folder.into_iter().flatten().map_while(Result::ok);
        let links = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        links
            .map(|link| link.to_string_lossy().into_owned())
            .collect()
    }

    pub(crate) fn children(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut parents = vec![self.plane.pid.to_string()];
        while let Some(parent) = parents.pop() {
            let tasks = std::fs::read_dir(format!("/proc/{parent}/task"));
            for task in tasks.into_iter().flatten().map_while(Result::ok) {
                let list = std::fs::read_to_string(task.path().join("children"));
                let list = list.unwrap_or_default();
                parents.extend(list.split_whitespace().map(str::to_owned));
            }
            found.push(parent);
        }
        found.split_off(1)
    }
}
