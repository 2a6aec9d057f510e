//! Helpers of these tests besides the testkit: programs of the runtime in scratch folders, and a server that
//! plays the platform (`peer`).

#![allow(dead_code, reason = "each test program uses its own part")]

pub(crate) mod peer;
pub(crate) mod stdio;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::SystemTime;

use nanofaas_testkit::built;
use nanofaas_testkit::client::{Answer, RawClient, Request};
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::process::{ProcessLog, descendants, is_alive};
use nanofaas_testkit::wait::{PATIENCE, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub(crate) const JSON: (&str, &str) = ("Content-Type", "application/json");

pub(crate) fn until_file(path: &Path) -> String {
    until(&format!("{} is written", path.display()), || {
        std::fs::read_to_string(path).ok()
    })
}

/// A file exists before its content is written, so this waits for the content.
pub(crate) fn until_written(path: &Path) -> String {
    until(&format!("{} says something", path.display()), || {
        std::fs::read_to_string(path)
            .ok()
            .filter(|text| !text.is_empty())
    })
}

pub(crate) fn several() -> PathBuf {
    example("several")
}

/// Returns the path of the program of an example. Fails if it is older than its source, because
/// `cargo test --test NAME` does not build examples.
pub(crate) fn example(name: &str) -> PathBuf {
    let path = built::program(&format!("examples/{name}"));
    let built = path.metadata().and_then(|file| file.modified()).ok();
    let runtime = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = [
        runtime.join("src"),
        runtime.join(format!("examples/{name}.rs")),
    ];
    let written = sources.map(|source| newest(&source));
    let fresh = built.is_some_and(|built| written.iter().all(|written| *written <= built));
    assert!(
        fresh,
        "build the examples first: cargo build -p nanofaas-runtime --examples"
    );
    path
}

fn newest(path: &Path) -> SystemTime {
    let below = std::fs::read_dir(path).into_iter().flatten().flatten();
    // The folder `bin` has the watchdog, which is no part of the example.
    let below = below.filter(|entry| entry.file_name() != "bin");
    let below = below.map(|entry| newest(&entry.path()));
    let own = path.metadata().and_then(|file| file.modified());
    // A folder's own time also changes with files that cargo does not read.
    let own = own.ok().filter(|_| path.is_file());
    below.chain(own).max().unwrap_or(SystemTime::UNIX_EPOCH)
}

pub(crate) fn watchdog() -> PathBuf {
    env!("CARGO_BIN_EXE_nanofaas-watchdog").into()
}

pub(crate) fn shell_script(scratch: &ScratchFolder, text: &str) -> PathBuf {
    scratch.executable("script.sh", &format!("#!/bin/sh\n{text}\n"))
}

/// A running program, and the lines of its stderr. Dropping the value kills the program and its descendants.
pub(crate) struct Program {
    child: Child,
    log: Arc<ProcessLog>,
    pub(crate) scratch: ScratchFolder,
}

impl Program {
    /// The program's environment has only `PATH`, `NANOFAAS_SOCKET` and the variables in `env`. A variable
    /// with an empty value in `env` is removed.
    pub(crate) fn start(program: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        Self::start_in(ScratchFolder::create(), program, arguments, env)
    }

    pub(crate) fn start_in(
        scratch: ScratchFolder,
        program: &Path,
        arguments: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("NANOFAAS_SOCKET", scratch.join("s"))
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        for (name, value) in env {
            match value.is_empty() {
                true => command.env_remove(name),
                false => command.env(name, value),
            };
        }
        let mut child = command.spawn().expect("the program starts");
        let log = ProcessLog::of(child.stderr.take().expect("piped"), |_| {});
        Self {
            child,
            log,
            scratch,
        }
    }

    pub(crate) fn several(handler: &str) -> Self {
        let program = Self::start(&several(), &[], &[("FUNCTION_HANDLER", handler)]);
        program.until_up();
        program
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a pid"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the program can be signalled");
    }

    pub(crate) fn connect(&self) -> RawClient {
        until("the socket is there", || self.try_connect())
    }

    pub(crate) fn try_connect(&self) -> Option<RawClient> {
        RawClient::unix(&self.path("s")).ok()
    }

    pub(crate) fn until_up(&self) {
        until("/health is 200", || {
            let answer = self.try_connect()?.try_call("GET", "/health", &[], b"")?;
            (answer.status == 200).then_some(())
        });
    }

    /// Sends one call on a connection of its own.
    pub(crate) fn invoke(&self, input: &str) -> Answer {
        self.connect().invoke(input)
    }

    pub(crate) fn exit(&mut self) -> ExitStatus {
        let status = until("the program ends", || self.exited());
        self.log.wait_end();
        status
    }

    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it can be waited for")
    }

    pub(crate) fn said(&self) -> String {
        self.log.lines().join("\n")
    }

    pub(crate) fn until_said(&self, text: &str) {
        until(&format!("{text:?} is logged"), || {
            self.said().contains(text).then_some(())
        });
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The program may have ended already, so errors are ignored.
        let below = descendants(self.pid());
        let _ = self.child.kill();
        for pid in below {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

pub(crate) fn until_gone(pid: Pid) {
    until(&format!("process {pid} is gone"), || {
        (!is_alive(pid.as_raw())).then_some(())
    });
}

pub(crate) fn read_pid(path: &Path) -> Pid {
    until(&format!("{} has a pid", path.display()), || {
        let text = std::fs::read_to_string(path).ok()?;
        let line = text.strip_suffix('\n')?;
        line.trim().parse().ok().map(Pid::from_raw)
    })
}

pub(crate) trait PodClient {
    fn call(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8])
    -> Answer;

    /// Like `call`, for a program that may have ended. Returns `None` if it sends no answer.
    fn try_call(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Answer>;

    fn send_invoke(&mut self, input: &str, headers: &[(&str, &str)]);

    fn invoke(&mut self, input: &str) -> Answer;

    /// Reads an answer without a body: an answer to HEAD, or an interim answer.
    fn headless_answer(&mut self) -> Answer;

    /// True if the peer closes the connection without sending more bytes.
    fn closed(&mut self) -> bool;
}

impl PodClient for RawClient {
    fn call(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let answer = self.try_call(method, target, headers, body);
        answer.expect("an answer")
    }

    fn try_call(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Answer> {
        let is_sent = self.try_send(&request(method, target, headers, body));
        is_sent.then(|| self.read(true).ok()).flatten()
    }

    fn send_invoke(&mut self, input: &str, headers: &[(&str, &str)]) {
        let body = format!(r#"{{"input":{input}}}"#);
        let mut all = vec![JSON];
        all.extend_from_slice(headers);
        let bytes = request("POST", "/invoke", &all, body.as_bytes());
        assert!(self.try_send(&bytes), "the peer reads");
    }

    fn invoke(&mut self, input: &str) -> Answer {
        self.send_invoke(input, &[]);
        self.answer()
    }

    fn headless_answer(&mut self) -> Answer {
        self.read(false).expect("an answer")
    }

    fn closed(&mut self) -> bool {
        self.closes_within(PATIENCE)
    }
}

pub(crate) trait PodError {
    fn code(&self) -> String;
    fn message(&self) -> String;
}

impl PodError for Answer {
    fn code(&self) -> String {
        self.json()["code"].as_str().expect("a code").to_owned()
    }

    fn message(&self) -> String {
        let body = self.json();
        body["message"].as_str().expect("a message").to_owned()
    }
}

pub(crate) fn request(
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Vec<u8> {
    let request = Request::new(method, target).headers(headers);
    request.untyped_body(body).bytes()
}

/// Returns an HTTP call as the platform sends it, with the id `e1`.
pub(crate) fn http(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut all = vec![("X-Nanofaas-Call", "http"), ("X-Execution-Id", "e1")];
    all.extend_from_slice(headers);
    request(method, target, &all, body)
}
