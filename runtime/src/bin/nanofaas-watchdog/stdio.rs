//! STDIO and FILE mode: each call has its own process. The input is on stdin and the output on
//! stdout, or both are in files. When the program ends, the processes that it left behind are
//! killed. The runtime calls this module as a handler.

use std::os::fd::OwnedFd;
use std::process::Stdio as Pipe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nanofaas_runtime::{Context, Error, Handler, Input, Output, Running, log};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::time::timeout;

use crate::command::{CommandLine, Given};
use crate::files::{Files, Places};
use crate::group::{Groups, Started, Strays};
use crate::marked;
use crate::tail::Tail;

/// The limit of an output, in bytes: the default of the platform's `--max-response`.
pub(crate) const OUTPUT_BYTES_MAX: usize = 6 * 1024 * 1024;
/// How long the pipes are read after the process has ended.
const PIPES_WAIT: Duration = Duration::from_secs(2);

pub(crate) struct Stdio {
    program: Arc<StdioProgram>,
}

pub(crate) enum Passing {
    Pipes(Given),
    Files(Places),
}

struct StdioProgram {
    line: CommandLine,
    passing: Passing,
    /// The first call makes the groups, because `Groups::new` must run within the runtime.
    groups: OnceLock<Groups>,
}

impl Stdio {
    pub(crate) fn new(line: CommandLine, passing: Passing) -> Self {
        Self {
            program: Arc::new(StdioProgram {
                line,
                passing,
                groups: OnceLock::new(),
            }),
        }
    }
}

impl Handler for Stdio {
    fn call(&self, input: Input, context: Context) -> Running {
        let program = Arc::clone(&self.program);
        // Dropping the future drops the leader, which kills the whole group.
        Running::Future(Box::pin(async move { program.run(input, context).await }))
    }
}

impl StdioProgram {
    fn groups(&self) -> Result<&Groups, Error> {
        if let Some(groups) = self.groups.get() {
            return Ok(groups);
        }
        let groups = Groups::new(Strays::AtOnce)?;
        Ok(self.groups.get_or_init(|| groups))
    }

    async fn run(&self, input: Input, context: Context) -> Result<Output, Error> {
        let files = match &self.passing {
            Passing::Files(places) => Some(places.take(self.given(&input, &context)).await?),
            Passing::Pipes(_) => None,
        };
        let mut started = self.start(&input, &context, files.as_ref())?;
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
                    feed(stdin.into(), self.given(&input, &context)).await;
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
            // The first failure ends the call, because the output of the process cannot be used after a
            // failure.
            tokio::try_join!(read, fed, followed).map(|(output, (), ())| output)
        };
        tokio::pin!(pipes);
        let (ending, output) = tokio::select! {
            // A process that the program left behind may hold the pipes open, so they are read for
            // a limited time.
            ending = leader.ended() => {
                let rest = timeout(PIPES_WAIT, &mut pipes).await;
                let held = |_| Error::new("a process that the program left holds its output open");
                (ending, rest.map_err(held)??)
            }
            output = &mut pipes => {
                let output = output?;
                (leader.ended().await, output)
            }
        };
        match (ending.is_well(), files) {
            (false, _) => Err(ending.failed(&tail.suffix())),
            (true, None) => self.output(output, "on stdout"),
            (true, Some(files)) => self.output(files.read().await?, "to OUTPUT_FILE"),
        }
    }

    fn given<'a>(&self, input: &'a Input, context: &Context) -> &'a [u8] {
        match self.passing {
            // The body of an HTTP call has no envelope.
            _ if context.is_http() => input.bytes(),
            Passing::Pipes(Given::Input) => input.bytes(),
            Passing::Pipes(Given::Envelope) | Passing::Files(_) => input.body(),
        }
    }

    fn start(
        &self,
        input: &Input,
        context: &Context,
        files: Option<&Files>,
    ) -> Result<Started, Error> {
        let mut command = self.line.command();
        command.stderr(Pipe::piped());
        match files {
            Some(files) => command
                .env("INPUT_FILE", &files.input)
                .env("OUTPUT_FILE", &files.output),
            None => command.stdin(Pipe::piped()).stdout(Pipe::piped()),
        };
        command
            // The socket belongs to this process.
            .env_remove("NANOFAAS_SOCKET")
            .env("CONTENT_TYPE", input.content_type())
            .env("DISPATCH_ATTEMPT", context.attempt().to_string());
        for (name, value) in [
            ("EXECUTION_ID", context.execution_id().map(str::to_owned)),
            ("TRACE_ID", context.trace_id().map(str::to_owned)),
            ("REQUEST_METHOD", context.method().map(str::to_owned)),
            ("REQUEST_PATH", context.path().map(str::to_owned)),
            ("QUERY_STRING", context.query().map(str::to_owned)),
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

    fn output(&self, written: Vec<u8>, place: &str) -> Result<Output, Error> {
        let begin = String::from_utf8_lossy(&written[..written.len().min(60)]).into_owned();
        let output = Output::json_bytes(written).map_err(|error| {
            let message = error.message();
            Error::bad_output(format!(
                "the program must write one JSON value {place} ({message}); it wrote {begin:?}"
            ))
        })?;
        match self.passing {
            Passing::Pipes(Given::Input) => Ok(output),
            Passing::Pipes(Given::Envelope) | Passing::Files(_) => marked::unwrap(output),
        }
    }
}

pub(crate) fn too_large(place: &str) -> Error {
    let message = format!("the output is larger than {OUTPUT_BYTES_MAX} bytes (of {place})");
    Error::with_code("OUTPUT_TOO_LARGE", message)
}

/// Writes the input. Ignores errors, because a program may close its stdin unread.
async fn feed(pipe: OwnedFd, input: &[u8]) {
    if let Ok(mut pipe) = Sender::from_owned_fd(pipe) {
        let _ = pipe.write_all(input).await;
    }
}

async fn read_output(pipe: OwnedFd) -> Result<Vec<u8>, Error> {
    let pipe = Receiver::from_owned_fd(pipe)?;
    let mut bytes = Vec::new();
    // The byte above the limit shows that the output is too large.
    let most = OUTPUT_BYTES_MAX as u64 + 1;
    pipe.take(most).read_to_end(&mut bytes).await?;
    if bytes.len() > OUTPUT_BYTES_MAX {
        return Err(too_large("stdout"));
    }
    Ok(bytes)
}
