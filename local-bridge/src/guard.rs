//! The guard is a process of its own and the parent of all function processes. It ends all its descendants as
//! soon as the control plane is gone for any reason. It runs the same program as the control plane: `link`
//! starts it as `nanofaas guard`, and sends it the processes to start and the signals to deliver.
//!
//! The guard makes each process that it starts a subreaper. Orphans below such a process become children of
//! that process, as in a container. All descendants of a pod stay below the pod's process while that process
//! runs, and become the guard's children when it ends. A child that the guard did not start therefore
//! belongs to a pod or Job that has ended.

pub(crate) mod descent;
pub(crate) mod link;
pub(crate) mod wire;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, close, setsid};

use crate::guard::wire::{FromGuard, Lines, ProcessEnding, Start, ToGuard, line};

/// Runs the guard. Standard input must be the socket to the control plane.
pub fn guard_main() -> ExitCode {
    let served = Guard::enter().and_then(|mut guard| guard.serve());
    let all_ended = descent::end_all();
    if let Err(error) = &served {
        eprintln!("nanofaas guard: {error}; only `nanofaas serve` starts this command");
    }
    if !all_ended {
        eprintln!("nanofaas guard: some function processes could not be killed");
    }
    if served.is_ok() && all_ended {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

struct Guard {
    plane: UnixStream,
    lines: Lines,
    ended: SignalFd,
    running: HashMap<u64, Pid>,
    by_pid: HashMap<Pid, u64>,
}

fn child_signal() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set
}

impl Guard {
    fn enter() -> io::Result<Self> {
        let plane = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        // Fails if standard input is not a connected socket.
        plane.peer_addr()?;
        close_inherited(&plane)?;
        // Ctrl-C in a terminal must reach only the control plane.
        setsid()?;
        prctl::set_child_subreaper(true)?;
        let _ = prctl::set_name(c"nanofaas-guard");
        // The control plane has switched huge pages off for itself, and functions would inherit this setting.
        let _ = prctl::set_thp_disable(false);
        child_signal().thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self {
            plane,
            lines: Lines::default(),
            ended: SignalFd::with_flags(&child_signal(), flags)?,
            running: HashMap::new(),
            by_pid: HashMap::new(),
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            let mut sources = [
                PollFd::new(self.plane.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.ended.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut sources, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let [readable, ended] = sources.map(|source| source.any().unwrap_or(true));
            let gone = (readable && !self.listen()?) || (ended && self.reap().is_err());
            if gone {
                return Ok(());
            }
        }
    }

    /// Executes the control plane's messages; returns false if the control plane is gone.
    fn listen(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 64 * 1024];
        match self.plane.read(&mut bytes) {
            Ok(0) => return Ok(false),
            Ok(count) => self.lines.push(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
            Err(error) => return Err(error),
        }
        while let Some(message) = self.lines.pop() {
            let done = match message.map_err(io::Error::other)? {
                ToGuard::Start(start) => self.start(*start),
                ToGuard::Signal { id, signal, group } => {
                    self.signal(id, signal, group);
                    Ok(())
                }
            };
            if done.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn start(&mut self, start: Start) -> io::Result<()> {
        let id = start.id;
        let spawned = spawn(&start);
        match spawned {
            Ok(pid) => {
                self.running.insert(id, pid);
                self.by_pid.insert(pid, id);
                let pid = pid.as_raw();
                self.send(&FromGuard::Started { id, pid })?;
            }
            Err(error) => self.send(&FromGuard::NotStarted {
                id,
                permanent: is_permanent(&error),
                message: why_not(&start, &error),
            })?,
        }
        // `spawn` unblocks SIGCHLD for a moment. A child that ends in that moment leaves no signal to read,
        // so look for ended children now.
        self.reap()
    }

    fn signal(&self, id: u64, signal: i32, group: bool) {
        let (Some(pid), Ok(signal)) = (self.running.get(&id), Signal::try_from(signal)) else {
            return;
        };
        // The process is not reaped, so its pid cannot belong to another process.
        let _ = if group {
            killpg(*pid, signal)
        } else {
            kill(*pid, signal)
        };
    }

    /// Reaps ended children, also adopted ones, and reports the ends of those that the guard started. If any
    /// child has ended, the processes that it left behind are killed.
    fn reap(&mut self) -> io::Result<()> {
        while let Ok(Some(_)) = self.ended.read_signal() {}
        let mut any = false;
        loop {
            let options = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            let (pid, ending) = match waitid(Id::All, options) {
                Ok(WaitStatus::Exited(pid, status)) => (pid, ProcessEnding::Status(status)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    (pid, ProcessEnding::Signal(signal as i32))
                }
                Err(Errno::EINTR) => continue,
                _ => break,
            };
            any = true;
            let known = self.by_pid.remove(&pid);
            if known.is_some() {
                // Kill the rest of the group first, because the pid may name another group after the process
                // is reaped.
                let _ = killpg(pid, Signal::SIGKILL);
            }
            let _ = waitpid(pid, None);
            if let Some(id) = known {
                self.running.remove(&id);
                self.send(&FromGuard::Ended { id, ending })?;
            }
        }
        if any {
            self.end_orphans();
        }
        Ok(())
    }

    /// Kills the processes that ended pods have left behind. As in a container, a process does not outlive
    /// its pod, even if it chose another group, session or environment. The children of a killed process
    /// become children of the guard, and the next `reap` ends them.
    fn end_orphans(&self) {
        for pid in descent::children() {
            if !self.by_pid.contains_key(&pid) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }

    fn send(&mut self, message: &FromGuard) -> io::Result<()> {
        let line = line(message).map_err(io::Error::other)?;
        self.plane.write_all(&line)
    }
}

/// Closes the descriptors that the control plane inherited from its own parent, so that functions do not get
/// them. A build tool that reads the control plane's output, for example, waits until every process has
/// closed the pipe, and would wait for the functions, too.
fn close_inherited(plane: &UnixStream) -> io::Result<()> {
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        open.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|fd| fd.parse::<i32>().ok()),
        );
    }
    for fd in open
        .into_iter()
        .filter(|fd| *fd > 2 && *fd != plane.as_raw_fd())
    {
        // The descriptor of the directory listing is among these and already closed, so ignore the error.
        let _ = close(fd);
    }
    Ok(())
}

fn spawn(start: &Start) -> io::Result<Pid> {
    let (program, arguments) = start
        .argv
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it has no command"))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(start.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(pipe(&start.stdout)?)
        .stderr(pipe(&start.stderr)?)
        .process_group(0);
    if let Some(directory) = &start.directory {
        command.current_dir(directory);
    }
    adopts_its_orphans(&mut command);
    // Unblock SIGCHLD, because the child inherits the signal mask.
    child_signal().thread_unblock()?;
    let child = command.spawn();
    child_signal().thread_block()?;
    let pid = i32::try_from(child?.id()).map_err(io::Error::other)?;
    Ok(Pid::from_raw(pid))
}

/// Makes the new process a subreaper, which adopts the orphans below it. The flag stays set after exec, and
/// the children of the process do not inherit it.
#[allow(
    unsafe_code,
    reason = "std offers no other way to run a system call in the child"
)]
fn adopts_its_orphans(command: &mut Command) {
    let adopt = || prctl::set_child_subreaper(true).map_err(io::Error::from);
    // SAFETY: between fork and exec the closure makes one system call and touches no memory but errno.
    unsafe {
        command.pre_exec(adopt);
    }
}

/// Opens the writing end of a named pipe. Fails if no process reads the pipe.
fn pipe(path: &str) -> io::Result<File> {
    let nonblocking = OFlag::O_NONBLOCK.bits();
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(nonblocking)
        .open(path)?;
    // Only the open must not block. Clear `O_NONBLOCK`, because the function expects blocking writes.
    fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(file)
}

fn is_permanent(error: &io::Error) -> bool {
    let Some(number) = error.raw_os_error() else {
        return error.kind() == io::ErrorKind::InvalidInput;
    };
    matches!(
        Errno::from_raw(number),
        Errno::ENOENT
            | Errno::EACCES
            | Errno::EPERM
            | Errno::ENOEXEC
            | Errno::ENOTDIR
            | Errno::EISDIR
            | Errno::ELOOP
            | Errno::ENAMETOOLONG
            | Errno::E2BIG
            | Errno::EINVAL
    )
}

fn why_not(start: &Start, error: &io::Error) -> String {
    let program = start.argv.first().map_or("", String::as_str);
    match &start.directory {
        Some(directory) if !fs::metadata(directory).is_ok_and(|found| found.is_dir()) => {
            format!("cannot start {program:?}: its directory {directory:?} is not there")
        }
        _ => format!("cannot start {program:?}: {error}; look at the function's command"),
    }
}
