//! Process groups: each group is started, reaped and killed as a unit. A group is killed when its
//! leader ends or its `Leader` value is dropped. Only this file waits for processes, because two
//! places that wait would reap each other's processes.

use std::collections::HashMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpgid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::ending::Ending;

const END_ALL_WAIT: Duration = Duration::from_secs(5);

/// When to kill descendants that left their group and whose parent has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strays {
    /// When a child of this process ends.
    AtOnce,
    /// When no leader runs.
    WithTheLast,
}

type Live = HashMap<i32, oneshot::Sender<WaitStatus>>;

/// The groups of this process. A task reaps their processes.
#[derive(Clone)]
pub(crate) struct Groups {
    /// The leaders that were not reaped yet. The kernel does not reuse their process ids and group ids.
    live: Arc<Mutex<Live>>,
    strays: Strays,
}

/// A group's first process. Dropping the value kills the whole group.
pub(crate) struct Leader {
    pid: Pid,
    groups: Groups,
    ended: oneshot::Receiver<WaitStatus>,
}

pub(crate) struct Started {
    pub(crate) leader: Leader,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: Option<ChildStdout>,
    pub(crate) stderr: Option<ChildStderr>,
}

impl Groups {
    /// Starts the task that reaps processes. Call it within a tokio runtime.
    pub(crate) fn new(strays: Strays) -> io::Result<Self> {
        let mut ended = signal(SignalKind::child())?;
        let groups = Self {
            live: Arc::default(),
            strays,
        };
        let reaped = groups.clone();
        tokio::spawn(async move {
            while ended.recv().await.is_some() {
                reaped.reap();
            }
        });
        Ok(groups)
    }

    pub(crate) fn start(&self, command: &mut Command) -> io::Result<Started> {
        // Hold the lock during the start, so that the reaping task finds each leader in `live`.
        let mut live = self.live();
        let mut child = command.process_group(0).spawn()?;
        let id = i32::try_from(child.id()).map_err(io::Error::other)?;
        let (sender, ended) = oneshot::channel();
        live.insert(id, sender);
        Ok(Started {
            leader: Leader {
                pid: Pid::from_raw(id),
                groups: self.clone(),
                ended,
            },
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
        })
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reap(&self) {
        let mut live = self.live();
        // WNOWAIT does not reap. Reap the process only after its group is killed, because the
        // kernel may give the id of a reaped process to another process or group.
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        while let Some(pid) = waitid(Id::All, look).ok().and_then(|status| status.pid()) {
            let known = live.remove(&pid.as_raw());
            if known.is_some() {
                // The group may have no process left.
                let _ = killpg(pid, Signal::SIGKILL);
            }
            let Ok(status) = waitpid(pid, None) else {
                break;
            };
            if let Some(known) = known {
                // The `Leader` may have been dropped.
                let _ = known.send(status);
            }
        }
        if self.strays == Strays::AtOnce || live.is_empty() {
            end_strays(&live);
        }
    }
}

/// Kills the processes that this process inherited from ended parents, except those in a live
/// group.
fn end_strays(live: &Live) {
    for pid in children() {
        let of_live = |pid: Pid| live.contains_key(&pid.as_raw());
        if !of_live(pid) && !getpgid(Some(pid)).is_ok_and(of_live) {
            // `reap` reaps the killed process like every other child.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

impl Leader {
    /// Waits for the leader's end. SIGKILL was sent to the rest of its group before that.
    pub(crate) async fn ended(&mut self) -> Ending {
        Ending((&mut self.ended).await.ok())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let live = self.groups.live();
        if live.contains_key(&self.pid.as_raw()) {
            // A leader in `live` is not reaped, so its id cannot belong to another process.
            let _ = kill(self.pid, signal);
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let live = self.groups.live();
        if live.contains_key(&self.pid.as_raw()) {
            // The leader is not reaped, so its id cannot belong to another group.
            let _ = killpg(self.pid, Signal::SIGKILL);
        }
    }
}

/// Kills every descendant of this process. Blocks for 5 s at most.
pub(crate) fn end_all() {
    let until = Instant::now() + END_ALL_WAIT;
    while Instant::now() < until {
        for pid in children() {
            // A child that leads a group is killed together with the group.
            if getpgid(Some(pid)) == Ok(pid) {
                let _ = killpg(pid, Signal::SIGKILL);
            }
            let _ = kill(pid, Signal::SIGKILL);
        }
        // This process inherits the children of the killed processes, and the next round kills
        // them.
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return,
            Ok(WaitStatus::StillAlive) => sleep(Duration::from_millis(2)),
            _ => {}
        }
    }
}

/// Returns the children of this process, also inherited ones.
fn children() -> Vec<Pid> {
    // The kernel keeps a list of children for each thread.
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let lists = tasks
        .flatten()
        .map(|task| std::fs::read_to_string(task.path().join("children")));
    let lists: Result<Vec<String>, _> = lists.collect();
    match lists {
        Ok(lists) => {
            let words = lists.iter().flat_map(|list| list.split_whitespace());
            words
                .filter_map(|word| word.parse().ok())
                .map(Pid::from_raw)
                .collect()
        }
        // The kernel may have no such lists, or a thread may have ended between the two reads.
        Err(_) => children_by_search(),
    }
}

fn children_by_search() -> Vec<Pid> {
    let me = std::process::id();
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let child = |entry: std::fs::DirEntry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // The line is `pid (name) state parent …`. The name may contain any character, so the last
        // `)` ends it.
        let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?;
        (parent.parse() == Ok(me)).then(|| Pid::from_raw(pid))
    };
    all.filter_map(child).collect()
}
