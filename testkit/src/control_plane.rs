//! Runs the real process under test. A test starts the process with flags, uses it over HTTP and ends it.
//! This module records the log of the process and never looks inside the process. A control plane that
//! several tests share lives until the test process ends; `keeper` then ends the control plane.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::built;
use crate::client::{Answer, Request};
use crate::form::{flags, flags_at};
use crate::keeper::Keeper;
use crate::metrics::ScrapedMetrics;
use crate::process::ProcessLog;
use crate::wait::{PATIENCE, eventually, lock};

/// Returns a command that runs the program without environment variables that would configure it.
/// NANOFAAS_PLANTED_BUG is kept, because `tests/chaos/planted` selects a planted bug with it.
pub fn program() -> Command {
    let mut command = Command::new(built::program("nanofaas"));
    for (name, _) in std::env::vars() {
        if name.starts_with("NANOFAAS_") && name != "NANOFAAS_PLANTED_BUG" {
            command.env_remove(name);
        }
    }
    command
}

pub struct ControlPlane {
    child: Mutex<Child>,
    pub pid: Pid,
    pub listen: SocketAddr,
    pub management: SocketAddr,
    pub internal: Option<SocketAddr>,
    pub log: Arc<ProcessLog>,
}

/// Prints a line of the log if the line reports a panic, or if NANOFAAS_TEST_SHOW_LOG asks for the whole log.
fn show(line: &str) {
    if line.contains("panicked") || std::env::var_os("NANOFAAS_TEST_SHOW_LOG").is_some() {
        eprintln!("plane: {line}");
    }
}

/// Starts the process and a thread that records its log.
#[track_caller]
fn spawn(mut command: Command) -> (Child, Pid, Arc<ProcessLog>) {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let pid = Pid::from_raw(child.id().try_into().expect("a pid"));
    Keeper::get().watch(pid);
    let log = ProcessLog::of(child.stderr.take().expect("a pipe"), show);
    (child, pid, log)
}

impl ControlPlane {
    /// Starts a control plane and waits until it is ready.
    #[track_caller]
    pub fn start(more: &[&str]) -> Self {
        let mut command = program();
        command.args(flags()).args(more);
        Self::from(command)
    }

    /// Starts a control plane with the io threads, scheduler and driver of `form` instead of those of this
    /// test run.
    #[track_caller]
    pub fn start_in(form: &[&str], more: &[&str]) -> Self {
        let mut command = program();
        let any = ["--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"];
        command.arg("serve").args(any).args(form).args(more);
        Self::from(command)
    }

    /// Starts a control plane that listens at one address for clients, operators and pods.
    #[track_caller]
    pub fn start_at(listen: SocketAddr, more: &[&str]) -> Self {
        let mut command = program();
        let internal = listen.to_string();
        command
            .args(flags_at(listen, listen))
            .args(["--internal-listen", &internal]);
        command.args(more);
        Self::from(command)
    }

    /// Starts a control plane by a shell line that ends in `exec "$@"`.
    #[track_caller]
    pub fn start_in_shell(line: &str, more: &[&str]) -> Self {
        let serve = program();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", line, "sh"]).arg(serve.get_program());
        command.args(flags()).args(more);
        for (name, _) in serve.get_envs() {
            command.env_remove(name);
        }
        Self::from(command)
    }

    /// Starts a control plane for a cluster whose API server gives no answer. The process would log its
    /// addresses only after such an answer, so this function chooses the addresses. They are on 127.0.0.2,
    /// because on 127.0.0.1 the kernel could assign the port to another socket before the process binds it.
    #[track_caller]
    pub fn start_unanswered(kubeconfig: &Path) -> Self {
        let free = [(); 2].map(|()| TcpListener::bind("127.0.0.2:0").expect("a port"));
        let [listen, management] = free.map(|free| free.local_addr().expect("an address"));
        let mut command = program();
        command
            .env("KUBECONFIG", kubeconfig)
            .args(flags_at(listen, management))
            .args(["--backend", "kubernetes", "--namespace", "default"])
            .args(["--callback-url", "http://pods.invalid"]);
        let (child, pid, log) = spawn(command);
        let plane = Self {
            child: Mutex::new(child),
            pid,
            listen,
            management,
            internal: None,
            log,
        };
        // Wait for an answer. A successful connection is no proof that the control plane runs, because a
        // control plane that fails to start also listens for a moment.
        for (address, path) in [(listen, "/openapi.yaml"), (management, "/healthz")] {
            let request = Request::get(path).bytes();
            let serves = || {
                let mut stream = TcpStream::connect(address)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(&request)?;
                stream.read_exact(&mut [0; 12])
            };
            let log = || plane.log.lines();
            let begun = Instant::now();
            while let Err(error) = serves() {
                assert!(begun.elapsed() < PATIENCE, "{path}: {error}: {:#?}", log());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        plane
    }

    /// Runs the command, and waits until the control plane is ready.
    #[track_caller]
    pub fn from(command: Command) -> Self {
        let (mut child, pid, log) = spawn(command);
        let Some(line) = log.wait(PATIENCE, addresses) else {
            let _ = child.kill();
            panic!("the log has no line with the addresses: {:#?}", log.lines());
        };
        let plane = Self {
            child: Mutex::new(child),
            pid,
            listen: address(&line, "listen").expect("listen"),
            management: address(&line, "management").expect("management"),
            internal: address(&line, "internalListen"),
            log,
        };
        eventually("the plane is ready", || {
            Request::get("/readyz").send(plane.management).status == 200
        });
        plane
    }

    #[track_caller]
    pub fn send(&self, request: &Request) -> Answer {
        request.send(self.listen)
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.send(&Request::get(path))
    }

    /// Registers a function. Fails the test if the control plane refuses the function.
    #[track_caller]
    pub fn register(&self, function: &Value) {
        let request = Request::new("POST", "/v1/functions").json(function);
        self.send(&request).expect(201);
    }

    #[track_caller]
    pub fn replace(&self, function: &Value) {
        let path = format!(
            "/v1/functions/{}",
            function["name"].as_str().expect("a name")
        );
        self.send(&Request::new("PUT", &path).json(function))
            .expect(200);
    }

    #[track_caller]
    pub fn remove(&self, name: &str) {
        self.send(&Request::delete(&format!("/v1/functions/{name}")))
            .expect(204);
    }

    #[track_caller]
    pub fn invoke(&self, name: &str, input: &Value) -> Answer {
        self.send(&Request::invoke(name, input))
    }

    /// Enqueues a call and returns its id. Fails the test if the control plane refuses the call.
    #[track_caller]
    pub fn enqueue(&self, name: &str, input: &Value) -> String {
        self.send(&Request::enqueue(name, input)).expect(202).id()
    }

    /// Returns the state of an execution as the API shows it.
    #[track_caller]
    pub fn status(&self, id: &str) -> Value {
        self.get(&format!("/v1/executions/{id}")).expect(200).json()
    }

    /// Waits for the end of an execution, at most 55 seconds, and returns its state.
    #[track_caller]
    pub fn ended(&self, id: &str) -> Value {
        let status = self
            .get(&format!("/v1/executions/{id}?waitMs=55000"))
            .expect(200)
            .json();
        let state = status["status"].as_str().expect("a state");
        assert!(matches!(state, "success" | "error" | "timeout"), "{status}");
        status
    }

    #[track_caller]
    pub fn cancel(&self, id: &str) -> Answer {
        self.send(&Request::delete(&format!("/v1/executions/{id}")))
    }

    #[track_caller]
    pub fn metrics(&self) -> ScrapedMetrics {
        ScrapedMetrics::parse(
            &Request::get("/metrics")
                .send(self.management)
                .expect(200)
                .text(),
        )
    }

    /// Waits until exactly `waiting` calls of the function wait and `running` calls run.
    #[track_caller]
    pub fn wait_for(&self, function: &str, waiting: u32, running: u32) {
        let label = [("function", function)];
        let mut seen = (0.0, 0.0);
        let wanted = (f64::from(waiting), f64::from(running));
        let end = Instant::now() + PATIENCE;
        while seen != wanted || !self.metrics().has("function_queue_depth", &label) {
            assert!(
                Instant::now() < end,
                "{function} waiting, running: {seen:?}, not {wanted:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
            let metrics = self.metrics();
            let depth = metrics.sum("function_queue_depth", &label);
            seen = (depth, metrics.sum("function_inFlight", &label));
        }
    }

    /// Waits until no call waits or runs and the ledger's drift is 0.
    #[track_caller]
    pub fn settle(&self) -> ScrapedMetrics {
        let mut last = None;
        eventually("nothing waits or runs", || {
            let metrics = self.metrics();
            let busy = ["waiting", "running"]
                .map(|part| metrics.sum(&format!("nanofaas_executions_{part}"), &[]));
            let drift = metrics.drift();
            last = Some(metrics);
            busy == [0.0, 0.0] && drift == 0.0
        });
        last.expect("at least one poll")
    }

    pub fn signal(&self, signal: Signal) {
        // The child is reaped only under this lock. Its pid therefore belongs to no other process while this
        // function holds the lock.
        let mut child = lock(&self.child);
        if matches!(child.try_wait(), Ok(None)) {
            kill(self.pid, signal).expect("our own child");
        }
    }

    /// Returns the exit status if the process exits within `patience`.
    pub fn exit_within(&self, patience: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + patience;
        loop {
            if let Ok(Some(status)) = lock(&self.child).try_wait() {
                return Some(status);
            }
            if Instant::now() >= end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Returns the resident memory of the process, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid);
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("VmRSS");
        let kib = line
            .split_whitespace()
            .nth(1)
            .and_then(|word| word.parse::<u64>().ok());
        kib.expect("a number") * 1024
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        if matches!(child.try_wait(), Ok(None)) {
            let _ = child.kill();
            let _ = child.wait();
        }
        Keeper::get().forget(self.pid);
        if !std::thread::panicking() {
            let lines = self.log.lines();
            let panicked = lines.iter().find(|line| line.contains("panicked"));
            assert!(panicked.is_none(), "the plane panicked: {panicked:?}");
        } else {
            let lines = self.log.lines();
            let tail = &lines[lines.len().saturating_sub(20)..];
            eprintln!("the end of the plane's log:\n{}", tail.join("\n"));
        }
    }
}

/// Parses a line of the log. Returns the parsed line if it has the addresses, as the start-up line has.
fn addresses(line: &str) -> Option<Value> {
    let line: Value = serde_json::from_str(line).ok()?;
    (address(&line, "listen").is_some() && address(&line, "management").is_some()).then_some(line)
}

fn address(line: &Value, field: &str) -> Option<SocketAddr> {
    let text = line[field].as_str()?;
    text.strip_prefix("http://").unwrap_or(text).parse().ok()
}

/// A control plane that the tests of a module share. The first `get` starts the control plane.
pub struct SharedControlPlane {
    flags: &'static [&'static str],
    plane: OnceLock<ControlPlane>,
}

impl SharedControlPlane {
    pub const fn new(flags: &'static [&'static str]) -> Self {
        Self {
            flags,
            plane: OnceLock::new(),
        }
    }

    pub fn get(&'static self) -> &'static ControlPlane {
        self.plane.get_or_init(|| ControlPlane::start(self.flags))
    }
}
