//! Starts one process of a function through the guard, reads its output, and describes its end; `pod` and
//! `job` decide when the process ends.

pub(crate) mod line;
pub(crate) mod listener;
pub(crate) mod oom;
pub(crate) mod output;
pub(crate) mod ports;
pub(crate) mod program;
pub(crate) mod run_dir;

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nanofaas_backend::task::AbortOnDrop;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::net::unix::pipe::{OpenOptions, Receiver};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout, timeout_at};

use crate::guard::link::{Link, ProcessEnd, ProcessHandle};
use crate::guard::wire::{ProcessEnding, Start};
use crate::process::output::{OutputTail, StreamSource, follow};
use crate::process::program::FunctionProgram;
use crate::process::run_dir::RunDir;

/// How long reading the last output of an ended process may take.
const LAST_OUTPUT: Duration = Duration::from_millis(500);
/// How long a process may take to end after SIGKILL.
const KILLED: Duration = Duration::from_secs(5);
/// The limit of a message and the output that is appended to it, in bytes.
const MESSAGE_LEN_MAX: usize = 4096;

pub(crate) struct Process {
    link: Rc<Link>,
    known: Rc<ProcessHandle>,
    bell: Rc<Notify>,
    following: Vec<AbortOnDrop<()>>,
    tail: Rc<RefCell<OutputTail>>,
    was_killed: bool,
}

/// Starts a process of a function. `bell` is notified when it runs and when it has ended.
pub(crate) fn start(
    link: &Rc<Link>,
    run_dir: &RunDir,
    function: &Arc<str>,
    id: u64,
    program: FunctionProgram,
    bell: Rc<Notify>,
) -> io::Result<Process> {
    let tail = Rc::new(RefCell::new(OutputTail::default()));
    let mut following = Vec::with_capacity(2);
    let mut paths = Vec::with_capacity(2);
    // The guard cannot open a pipe that no process reads.
    for (stream, end, tail) in [
        ("stdout", "out", None),
        ("stderr", "err", Some(tail.clone())),
    ] {
        let (pipe, path) = named_pipe(run_dir, &format!("{id}.{end}"))?;
        let source = StreamSource {
            function: function.clone(),
            pod: program.pod.clone(),
            stream,
        };
        following.push(AbortOnDrop(spawn_local(async move {
            follow(pipe, source, tail).await;
        })));
        paths.push(path);
    }
    let stderr = text(&paths[1])?;
    let start = Start {
        id,
        argv: program.argv,
        env: program.env,
        directory: program.directory,
        stdout: text(&paths[0])?,
        stderr,
    };
    let known = link.start(start, bell.clone());
    Ok(Process {
        link: link.clone(),
        known,
        bell,
        following,
        tail,
        was_killed: false,
    })
}

fn named_pipe(run_dir: &RunDir, name: &str) -> io::Result<(Receiver, PathBuf)> {
    let path = run_dir.at(name);
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    Ok((OpenOptions::new().open_receiver(&path)?, path))
}

fn text(path: &Path) -> io::Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| io::Error::other("the run directory is not UTF-8"))
}

/// Removes the files of a process's pipes. They are needed only until the process runs.
pub(crate) fn forget_pipes(run_dir: &RunDir, id: u64) {
    for end in ["out", "err"] {
        let _ = fs::remove_file(run_dir.at(&format!("{id}.{end}")));
    }
}

impl Process {
    pub(crate) fn is_started(&self) -> bool {
        self.known.pid.get().is_some()
    }

    /// Returns the process's state, for tasks that do not own the process.
    pub(crate) fn known(&self) -> Rc<ProcessHandle> {
        self.known.clone()
    }

    pub(crate) fn end(&self) -> Option<ProcessEnd> {
        self.known.end()
    }

    /// Sends SIGTERM to the process alone, as the kubelet does.
    pub(crate) fn terminate(&self) {
        self.link.signal(&self.known, Signal::SIGTERM, false);
    }

    /// Kills the process and its group, and waits at most `KILLED` for the end of the process.
    pub(crate) async fn kill(&mut self) {
        if self.end().is_some() {
            return;
        }
        self.was_killed = true;
        self.link.signal(&self.known, Signal::SIGKILL, true);
        self.ended_before(Instant::now() + KILLED).await;
    }

    /// Returns false if the process still runs at the deadline. The wait consumes all notifications of
    /// `bell`, also those with another cause.
    pub(crate) async fn ended_before(&self, deadline: Instant) -> bool {
        loop {
            if self.end().is_some() {
                return true;
            }
            if timeout_at(deadline, self.bell.notified()).await.is_err() {
                return self.end().is_some();
            }
        }
    }

    /// Returns whether a SIGKILL that this control plane did not send ended the process.
    pub(crate) fn fell_to_sigkill(&self) -> bool {
        let killed = ProcessEnding::Signal(Signal::SIGKILL as i32);
        !self.was_killed
            && matches!(self.end(), Some(ProcessEnd::Ended(ending)) if ending == killed)
    }

    pub(crate) fn ended_well(&self) -> bool {
        matches!(
            self.end(),
            Some(ProcessEnd::Ended(ProcessEnding::Status(0)))
        )
    }

    pub(crate) fn how(&self) -> String {
        match self.end() {
            None => "it does not end although it was killed".to_owned(),
            Some(ProcessEnd::NotStarted { message, .. }) => message,
            Some(ProcessEnd::GuardLost) => "it was ended with the guard of its plane".to_owned(),
            Some(ProcessEnd::Ended(ProcessEnding::Status(status))) => {
                format!("it exited with status {status}")
            }
            Some(ProcessEnd::Ended(ProcessEnding::Signal(number))) => {
                let name = Signal::try_from(number).map_or("a signal", Signal::as_str);
                format!("it was ended by {name} ({number})")
            }
        }
    }

    /// Appends the last lines of the process's stderr to the message.
    pub(crate) async fn with_last_output(&mut self, message: String) -> Arc<str> {
        let deadline = Instant::now() + LAST_OUTPUT;
        for mut following in self.following.drain(..) {
            let _ = timeout_at(deadline, &mut following.0).await;
        }
        let tail = self.tail.borrow().text();
        let mut message = message;
        if !tail.is_empty() {
            message.push_str("; the last lines of its stderr:\n");
            let room = MESSAGE_LEN_MAX.saturating_sub(message.len());
            let from = tail.len().saturating_sub(room);
            let from = (from..).find(|at| tail.is_char_boundary(*at));
            message.push_str(&tail[from.unwrap_or(0)..]);
        }
        message.into()
    }
}

/// Starts a task that reads the remaining output of an ended process.
pub(crate) fn drain_output(mut process: Process) {
    spawn_local(async move {
        for following in &mut process.following {
            let _ = timeout(LAST_OUTPUT, &mut following.0).await;
        }
    });
}
