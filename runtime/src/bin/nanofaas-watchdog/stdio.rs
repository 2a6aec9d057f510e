//! STDIO mode: one process per call. Input on stdin, JSON on stdout; whatever the process left
//! behind ends with it. It never keeps a process for a second call. Called by the runtime.

use std::os::fd::OwnedFd;
use std::process::Stdio as Pipe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nanofaas_runtime::{Context, Error, Handler, Input, Output, Running, log};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::time::timeout;

use crate::command::CommandLine;
use crate::group::{Groups, Started, Strays};
use crate::tail::Tail;

/// The most that the platform takes (`--max-response`).
const OUTPUT_BYTES_MAX: usize = 6 * 1024 * 1024;
/// For what is still in the pipes when the process has ended.
const PIPES_WAIT: Duration = Duration::from_secs(2);

pub(crate) struct Stdio {
    program: Arc<Program>,
}

struct Program {
    line: CommandLine,
    /// Made by the first call, within the runtime.
    groups: OnceLock<Groups>,
}

impl Stdio {
    pub(crate) fn new(line: CommandLine) -> Self {
        let groups = OnceLock::new();
        Self {
            program: Arc::new(Program { line, groups }),
        }
    }
}

impl Handler for Stdio {
    fn call(&self, input: Input, context: Context) -> Running {
        let program = Arc::clone(&self.program);
        // Dropping the future drops the leader, which ends the whole group.
        Running::Future(Box::pin(async move { program.run(input, context).await }))
    }
}

impl Program {
    fn groups(&self) -> Result<&Groups, Error> {
        if let Some(groups) = self.groups.get() {
            return Ok(groups);
        }
        let groups = Groups::new(Strays::AtOnce)?;
        Ok(self.groups.get_or_init(|| groups))
    }

    async fn run(&self, input: Input, context: Context) -> Result<Output, Error> {
        let mut started = self.start(&input, &context)?;
        let tail = Tail::default();
        let (stdin, stdout, stderr) = (
            started.stdin.take(),
            started.stdout.take(),
            started.stderr.take(),
        );
        let mut leader = started.leader;
        let logged = |line: &str| {
            log::line("info", line, Some(&context), &[("stream", "stderr")]);
        };
        let pipes = async {
            let fed = async {
                if let Some(stdin) = stdin {
                    feed(stdin.into(), input.bytes()).await;
                }
                Ok(())
            };
            let read = async {
                match stdout {
                    Some(stdout) => read_output(stdout.into()).await,
                    None => Ok(Vec::new()),
                }
            };
            let followed = async {
                if let Some(stderr) = stderr {
                    tail.follow(stderr, logged).await;
                }
                Ok(())
            };
            // The first failure is the call's: the process need not go on.
            tokio::try_join!(read, fed, followed).map(|(output, (), ())| output)
        };
        tokio::pin!(pipes);
        let (status, output) = tokio::select! {
            status = leader.ended() => {
                let rest = timeout(PIPES_WAIT, &mut pipes).await;
                let held = |_| Error::new("a process that the program left holds its output open");
                (status?, rest.map_err(held)??)
            }
            output = &mut pipes => {
                let output = output?;
                (leader.ended().await?, output)
            }
        };
        self.outcome(status, output, &tail)
    }

    fn start(&self, input: &Input, context: &Context) -> Result<Started, Error> {
        let mut command = self.line.command();
        command
            .stdin(Pipe::piped())
            .stdout(Pipe::piped())
            .stderr(Pipe::piped())
            .env_remove("NANOFAAS_SOCKET")
            .env("CONTENT_TYPE", input.content_type())
            .env("DISPATCH_ATTEMPT", context.attempt().to_string());
        for (name, value) in [
            ("EXECUTION_ID", context.execution_id().map(str::to_owned)),
            ("TRACE_ID", context.trace_id().map(str::to_owned)),
            (
                "TIMEOUT_MS",
                context.remaining_ms().map(|ms| ms.to_string()),
            ),
        ] {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let program = self.line.program();
        let started = self.groups()?.start(&mut command);
        started.map_err(|error| Error::new(format!("cannot start {program}: {error}")))
    }

    fn outcome(&self, status: WaitStatus, output: Vec<u8>, tail: &Tail) -> Result<Output, Error> {
        let program = self.line.program();
        let said = tail.suffix();
        match status {
            WaitStatus::Exited(_, 0) => {
                let begin = String::from_utf8_lossy(&output[..output.len().min(60)]).into_owned();
                Output::json_bytes(output).map_err(|error| {
                    let message = error.message();
                    Error::bad_output(format!(
                        "{program} must write one JSON value on stdout ({message}); \
                         it wrote {begin:?}"
                    ))
                })
            }
            // A shell reports the signal that ended its last command as 128 + signal.
            WaitStatus::Signaled(_, Signal::SIGKILL, _) | WaitStatus::Exited(_, 137) => {
                let message = format!("{program} was killed, most likely for its memory{said}");
                Err(Error::with_code("OOM", message))
            }
            WaitStatus::Exited(_, code) => Err(Error::new(format!(
                "{program} exited with status {code}{said}"
            ))),
            WaitStatus::Signaled(_, signal, _) => {
                Err(Error::new(format!("{program} was ended by {signal}{said}")))
            }
            other => Err(Error::new(format!(
                "{program} ended in a strange way: {other:?}"
            ))),
        }
    }
}

/// A program need not read its input: a closed pipe is no fault.
async fn feed(pipe: OwnedFd, input: &[u8]) {
    if let Ok(mut pipe) = Sender::from_owned_fd(pipe) {
        let _ = pipe.write_all(input).await;
    }
}

async fn read_output(pipe: OwnedFd) -> Result<Vec<u8>, Error> {
    let pipe = Receiver::from_owned_fd(pipe)?;
    let mut bytes = Vec::new();
    let most = OUTPUT_BYTES_MAX as u64 + 1;
    pipe.take(most).read_to_end(&mut bytes).await?;
    if bytes.len() > OUTPUT_BYTES_MAX {
        let message = "the program wrote more than 6 MiB on stdout";
        return Err(Error::with_code("OUTPUT_TOO_LARGE", message));
    }
    Ok(bytes)
}
