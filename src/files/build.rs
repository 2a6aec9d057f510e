//! Runs a function's `local.build` command and shows its progress. This module does not read the files that
//! the command builds. A process that the command leaves in the background keeps running.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, IsTerminal, PipeReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use nanofaas_core::spec::{FunctionDraft, Json};

/// The time limit of a build. The first build of a Rust function fetches and compiles its dependencies.
const BUILD_LONGEST: Duration = Duration::from_secs(30 * 60);
const POLL: Duration = Duration::from_millis(100);
/// The largest number of output lines that the error of a failed build shows.
const LINES_KEPT: usize = 30;
/// A longer line of the output is split at this length, in bytes.
const LINE_LEN_MAX: u64 = 4096;

/// Why a function could not be built. `Display` ends with the last lines of the output.
#[derive(Debug, thiserror::Error)]
#[error("{function}: its build {reason}: {line}{output}")]
pub(crate) struct BuildError {
    function: String,
    line: String,
    reason: String,
    output: String,
}

pub(crate) enum BuildProgress<'a> {
    Spinner,
    /// One line at the beginning and one at the end.
    Lines(&'a mut dyn FnMut(&str)),
}

impl BuildProgress<'_> {
    pub(crate) fn has_terminal() -> bool {
        io::stderr().is_terminal()
    }
}

/// Runs the build of one function, if it has one, and waits for its end.
pub(crate) fn build(
    draft: &FunctionDraft,
    progress: &mut BuildProgress<'_>,
) -> Result<(), BuildError> {
    let Some(line) = draft.get("local.build").and_then(Json::as_text) else {
        return Ok(());
    };
    let name = draft.name().unwrap_or("function");
    let mut shown = BuildDisplay::begin(name, line, progress);
    let directory = draft.get("local.directory").and_then(Json::as_text);
    let mut tail = VecDeque::new();
    match run(line, directory, &mut tail, &shown) {
        Ok(None) => {
            shown.done(name);
            Ok(())
        }
        ended => {
            shown.clear();
            let reason = ended.unwrap_or_else(|error| Some(format!("could not be run ({error})")));
            Err(BuildError {
                function: name.to_owned(),
                line: line.to_owned(),
                reason: reason.unwrap_or_default(),
                output: tail.iter().map(|line| format!("\n  | {line}")).collect(),
            })
        }
    }
}

/// Runs the line. Returns the reason of a failure.
fn run(
    line: &str,
    directory: Option<&str>,
    tail: &mut VecDeque<String>,
    shown: &BuildDisplay<'_, '_>,
) -> io::Result<Option<String>> {
    let (output, both) = io::pipe()?;
    let mut command = Command::new("sh");
    command.arg("-c").arg(line).stdin(Stdio::null());
    command.stdout(both.try_clone()?).stderr(both);
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    let mut child = command.spawn()?;
    // `command` holds the write ends of the pipe. If they stayed open, the reader would get no end of file.
    drop(command);
    let (send, lines) = sync_channel(LINES_KEPT);
    let reader = thread::Builder::new().name("build-output".to_owned());
    reader.spawn(move || forward(output, &send))?;
    let failed = follow(&mut child, &lines, |line| {
        shown.line(&line);
        if tail.len() == LINES_KEPT {
            tail.pop_front();
        }
        tail.push_back(line);
    })?;
    Ok(failed)
}

/// Forwards lines until the build and all of its child processes have closed the pipe.
fn forward(output: PipeReader, send: &SyncSender<String>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match output
            .by_ref()
            .take(LINE_LEN_MAX)
            .read_until(b'\n', &mut line)
        {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if send.send(text).is_err() {
            return;
        }
    }
}

fn follow(
    child: &mut Child,
    lines: &Receiver<String>,
    mut take: impl FnMut(String),
) -> io::Result<Option<String>> {
    let begun = Instant::now();
    let mut ended = false;
    loop {
        let quiet = match lines.recv_timeout(POLL) {
            Ok(line) => {
                take(line);
                false
            }
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        // A process in the background may hold the pipe open, so do not wait for the end of the pipe. The
        // build had ended before the last wait, and no line came in that wait, so all lines of the build are
        // here.
        if quiet && ended {
            break;
        }
        ended = quiet && child.try_wait()?.is_some();
        if begun.elapsed() > BUILD_LONGEST {
            child.kill()?;
            child.wait()?;
            return Ok(Some(format!(
                "was ended after {} minutes",
                BUILD_LONGEST.as_secs() / 60
            )));
        }
    }
    while child.try_wait()?.is_none() {
        if begun.elapsed() > BUILD_LONGEST {
            child.kill()?;
        }
        thread::sleep(POLL);
    }
    let status = child.wait()?;
    Ok((!status.success()).then(|| format!("failed ({status})")))
}

struct BuildDisplay<'a, 'b> {
    begun: Instant,
    spinner: Option<ProgressBar>,
    progress: &'a mut BuildProgress<'b>,
}

impl<'a, 'b> BuildDisplay<'a, 'b> {
    fn begin(name: &str, line: &str, progress: &'a mut BuildProgress<'b>) -> Self {
        let spinner = match progress {
            BuildProgress::Spinner => Some(spinner(format!("building {name}"))),
            BuildProgress::Lines(report) => {
                report(&format!("building {name}: {line}"));
                None
            }
        };
        Self {
            begun: Instant::now(),
            spinner,
            progress,
        }
    }

    fn line(&self, line: &str) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(line.to_owned());
        }
    }

    fn clear(&self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }

    fn done(&mut self, name: &str) {
        self.clear();
        let message = format!(
            "built {name} in {:.1} s",
            self.begun.elapsed().as_secs_f64()
        );
        match self.progress {
            BuildProgress::Spinner => eprintln!("{message}"),
            BuildProgress::Lines(report) => report(&message),
        }
    }
}

pub(crate) fn spinner(prefix: String) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg:.dim}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::new_spinner()
        .with_style(style)
        .with_prefix(prefix);
    bar.enable_steady_tick(POLL);
    bar
}
