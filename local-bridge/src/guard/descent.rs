//! Reads from /proc which process descends from which, and kills descendants of this process. The guard and
//! the control plane use this module.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getsid};

/// The largest number of passes over the processes to kill. A process that still runs after the last pass
/// hangs in the kernel.
const PASSES_MAX: u32 = 400;

/// The first pauses are short, because most processes end at once.
fn pause(pass: u32) -> Duration {
    Duration::from_millis(u64::from(pass + 1).min(100))
}

/// Returns the children of this process, also adopted ones.
pub(crate) fn children() -> Vec<Pid> {
    let me = getpid();
    match listed_children(me) {
        Some(children) => children,
        // This kernel has no /proc/PID/task/TID/children, so read the parent of every process.
        None => descent().remove(&me).unwrap_or_default(),
    }
}

fn listed_children(of: Pid) -> Option<Vec<Pid>> {
    let mut children = Vec::new();
    for task in fs::read_dir(format!("/proc/{of}/task")).ok()?.flatten() {
        let list = fs::read_to_string(task.path().join("children")).ok()?;
        let pids = list
            .split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok());
        children.extend(pids.map(Pid::from_raw));
    }
    Some(children)
}

fn descent() -> HashMap<Pid, Vec<Pid>> {
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(pid) = pid else { continue };
        if let Some(parent) = parent(pid) {
            let pid = Pid::from_raw(pid);
            children.entry(parent).or_default().push(pid);
        }
    }
    children
}

fn parent(pid: i32) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name stands in brackets and may contain brackets, so search the last one.
    let rest = &stat[stat.rfind(')')? + 1..];
    let parent = rest.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Pid::from_raw(parent))
}

/// Returns a process and all its descendants.
fn family(of: Pid, children: &HashMap<Pid, Vec<Pid>>) -> Vec<Pid> {
    let mut family = vec![of];
    let mut at = 0;
    while let Some(pid) = family.get(at).copied() {
        family.extend(children.get(&pid).into_iter().flatten());
        at += 1;
    }
    family
}

pub(crate) fn family_of(pid: Pid) -> Vec<Pid> {
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(pid) = found.get(at).copied() {
        let Some(children) = listed_children(pid) else {
            // The process is gone, or the kernel has no /proc/PID/task/TID/children.
            return family(found[0], &descent());
        };
        found.extend(children);
        at += 1;
    }
    found
}

#[expect(
    clippy::disallowed_methods,
    reason = "the guard has one thread and no timer"
)]
pub(crate) fn end_all() -> bool {
    let me = getpid();
    for pass in 0..PASSES_MAX {
        for pid in family(me, &descent()).into_iter().skip(1) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Err(Errno::ECHILD) => return true,
                Ok(WaitStatus::StillAlive) => break,
                _ => {}
            }
        }
        std::thread::sleep(pause(pass));
    }
    false
}

/// Kills the children that this process inherited from a dead guard, and their descendants. An inherited
/// child is in another session than this process, because a guard begins a session of its own. Returns false
/// if some did not end.
pub(crate) async fn end_inherited() -> bool {
    let ours = getsid(None).ok();
    for pass in 0..PASSES_MAX {
        let inherited = |pid: &Pid| getsid(Some(*pid)).ok() != ours;
        let inherited: Vec<Pid> = children().into_iter().filter(inherited).collect();
        if inherited.is_empty() {
            return true;
        }
        let descent = descent();
        for child in inherited {
            for pid in family(child, &descent) {
                let _ = kill(pid, Signal::SIGKILL);
            }
            let _ = waitpid(child, Some(WaitPidFlag::WNOHANG));
        }
        tokio::time::sleep(pause(pass)).await;
    }
    false
}
