//! Runs one server process: the process runs on its cores, writes its output into a file, and is killed with
//! its process group. The group does not outlive this tool, because a small shell waits on a pipe from the
//! tool. As soon as the tool has ended, for any reason, the shell kills the group and removes the server's
//! folder. The shell does not kill a descendant of the server in another group, such as the guard of
//! nanofaas; the guard notices that its parent has ended, and ends. A running contender owns its servers.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::cores;

pub(crate) struct ServerProcess {
    child: Child,
    /// A shell that kills the server when the shell's stdin closes. Its stdin closes when this tool ends.
    guard: Child,
    log: PathBuf,
}

/// How long a server may take to end after SIGTERM.
const GRACE: Duration = Duration::from_millis(500);
/// The number of log lines that an error message shows.
const LINES: usize = 12;

impl ServerProcess {
    /// Starts the server in a process group of its own; its log goes into `folder`.
    pub(crate) fn start(
        name: &str,
        mut command: Command,
        cores: &[usize],
        folder: &Path,
    ) -> Result<Self, String> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let errors = file.try_clone().map_err(|error| error.to_string())?;
        command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .process_group(0);
        // A child inherits the cores of the thread that starts it, so the child is started by a
        // separate thread that is pinned.
        let spawn = || {
            cores::pin(cores)?;
            command.spawn().map_err(|error| {
                let program = command.get_program().to_string_lossy();
                format!("cannot start {program} ({error}); build or install it first")
            })
        };
        let child = std::thread::scope(|scope| scope.spawn(spawn).join())
            .map_err(|_| format!("{name}: the thread that starts it panicked"))??;
        let guard = Command::new("/bin/sh")
            .args([
                "-c",
                "read -r end; kill -s KILL -- \"-$1\" 2>/dev/null; rm -rf -- \"$2\"",
                "sh",
            ])
            .arg(child.id().to_string())
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C ends this tool's process group. The shell must survive that to clean up, so it gets a
            // group of its own.
            .process_group(0)
            .spawn();
        let guard = match guard {
            Ok(guard) => guard,
            Err(error) => {
                let _ = killpg(group(&child), Signal::SIGKILL);
                return Err(format!("cannot start /bin/sh: {error}"));
            }
        };
        Ok(Self { child, guard, log })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Checks whether the server still runs. This does not reap an ended child, so that the kernel cannot
    /// give its PID to another process.
    pub(crate) fn is_alive(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        matches!(
            waitid(Id::Pid(group(&self.child)), flags),
            Ok(WaitStatus::StillAlive)
        )
    }

    /// Returns the last lines of the server's log.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

fn group(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap_or(i32::MAX))
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = killpg(group(&self.child), Signal::SIGTERM);
        let end = Instant::now() + GRACE;
        while self.is_alive() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        // The child's PID names the group. The kernel may reuse the PID as soon as the child is reaped, so
        // the group is killed first.
        let _ = killpg(group(&self.child), Signal::SIGKILL);
        let _ = self.child.wait();
        // The shell is killed last, because it must clean up if this tool crashes before this line.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}
