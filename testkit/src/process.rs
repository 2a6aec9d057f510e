//! Observes the processes of a test: whether a process lives, its descendants, and the lines that it writes
//! to stderr.

use std::io::{BufRead as _, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::wait::{PATIENCE, lock};

/// Returns whether a process exists and is not a zombie.
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    !state.is_empty() && !state.starts_with('Z') && kill(Pid::from_raw(pid), None).is_ok()
}

/// Returns the descendants of a process, each before its parent.
pub fn descendants(pid: Pid) -> Vec<Pid> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<Pid> = lists
        .flat_map(|list| {
            let pids = list.split_whitespace().filter_map(|word| word.parse().ok());
            pids.map(Pid::from_raw).collect::<Vec<_>>()
        })
        .collect();
    let below = children.iter().flat_map(|child| descendants(*child));
    below.chain(children.iter().copied()).collect()
}

/// The lines that a process wrote to stderr.
#[derive(Default)]
pub struct ProcessLog {
    lines: Mutex<RecordedLines>,
    more: Condvar,
}

#[derive(Default)]
struct RecordedLines {
    so_far: Vec<String>,
    is_over: bool,
}

impl ProcessLog {
    /// Records the lines of a process's stderr until stderr is closed. Calls `each` with every line before
    /// the line is recorded.
    pub fn of(
        stderr: impl Read + Send + 'static,
        each: impl Fn(&str) + Send + 'static,
    ) -> Arc<Self> {
        let log = Arc::new(Self::default());
        let writer = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                each(&line);
                lock(&writer.lines).so_far.push(line);
                writer.more.notify_all();
            }
            lock(&writer.lines).is_over = true;
            writer.more.notify_all();
        });
        log
    }

    pub fn lines(&self) -> Vec<String> {
        lock(&self.lines).so_far.clone()
    }

    /// Waits for a line for which `find` returns a value. Returns `None` after `patience`.
    pub fn wait<T>(&self, patience: Duration, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let end = Instant::now() + patience;
        let mut lines = lock(&self.lines);
        let mut seen = 0;
        loop {
            if let Some(found) = lines.so_far[seen..].iter().find_map(|line| find(line)) {
                return Some(found);
            }
            seen = lines.so_far.len();
            let left = end.checked_duration_since(Instant::now())?;
            let waited = self.more.wait_timeout(lines, left);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until stderr is closed, after which no process can write another line.
    #[track_caller]
    pub fn wait_end(&self) {
        let lines = lock(&self.lines);
        let waited = self
            .more
            .wait_timeout_while(lines, PATIENCE, |lines| !lines.is_over);
        let lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        assert!(lines.is_over, "stderr stays open: {:?}", lines.so_far);
    }
}
