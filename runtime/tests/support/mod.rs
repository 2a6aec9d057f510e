//! What the tests share: real programs in scratch folders, a bare HTTP client that sees every
//! byte, and a stand-in for the platform (`peer`). Every wait ends after `PATIENCE`.

#![allow(dead_code, reason = "each test program uses its own part")]

pub(crate) mod peer;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Waits until `done` gives something.
pub(crate) fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(done) = done() {
            return done;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(3));
    }
}

pub(crate) fn until_file(path: &Path) -> String {
    until(&format!("{} is written", path.display()), || {
        std::fs::read_to_string(path).ok()
    })
}

/// Waits until a file has content, because the file exists before its content is written.
pub(crate) fn until_written(path: &Path) -> String {
    until(&format!("{} says something", path.display()), || {
        std::fs::read_to_string(path)
            .ok()
            .filter(|text| !text.is_empty())
    })
}

/// A folder that is removed at the end of the test.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Short, because the path of a Unix socket can have 107 bytes at most.
        let name = format!("nfr-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a scratch folder");
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// An executable shell script.
    pub(crate) fn script(&self, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = self.path(&format!("script-{number}.sh"));
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a script");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("an executable script");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// `examples/several.rs`. `cargo test --test NAME` does not build examples, so without a check an
/// old program would be tested.
pub(crate) fn several() -> PathBuf {
    let tests = std::env::current_exe().expect("this program's path");
    let folder = tests.parent().and_then(Path::parent).expect("target/debug");
    let path = folder.join("examples/several");
    let built = path.metadata().and_then(|file| file.modified()).ok();
    let runtime = Path::new(env!("CARGO_MANIFEST_DIR"));
    let written = ["src", "examples"].map(|folder| newest(&runtime.join(folder)));
    let fresh = built.is_some_and(|built| written.iter().all(|written| *written <= built));
    assert!(
        fresh,
        "build the examples first: cargo build -p nanofaas-runtime --examples"
    );
    path
}

fn newest(path: &Path) -> SystemTime {
    let below = std::fs::read_dir(path).into_iter().flatten().flatten();
    // The watchdog is no part of it.
    let below = below.filter(|entry| entry.file_name() != "bin");
    let below = below.map(|entry| newest(&entry.path()));
    let own = path.metadata().and_then(|file| file.modified());
    // A folder's own time changes with files that cargo does not look at.
    let own = own.ok().filter(|_| path.is_file());
    below.chain(own).max().unwrap_or(SystemTime::UNIX_EPOCH)
}

pub(crate) fn watchdog() -> PathBuf {
    env!("CARGO_BIN_EXE_nanofaas-watchdog").into()
}

/// A program that runs, with what it says on stderr. It is killed when it is dropped.
pub(crate) struct Program {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    reader: Option<thread::JoinHandle<()>>,
    pub(crate) scratch: Scratch,
}

impl Program {
    /// Starts it with nothing else of the contract's in its environment.
    pub(crate) fn start(program: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        Self::start_in(Scratch::new(), program, arguments, env)
    }

    pub(crate) fn start_in(
        scratch: Scratch,
        program: &Path,
        arguments: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("NANOFAAS_SOCKET", scratch.path("s"))
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        for (name, value) in env {
            match value.is_empty() {
                true => command.env_remove(name),
                false => command.env(name, value),
            };
        }
        let mut child = command.spawn().expect("the program starts");
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let lines = Arc::clone(&said);
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let reader = thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                lines.lock().expect("no panic within").push(line);
            }
        });
        Self {
            child,
            said,
            reader: Some(reader),
            scratch,
        }
    }

    /// `several`, with one of its handlers, once it is ready.
    pub(crate) fn several(handler: &str) -> Self {
        let program = Self::start(&several(), &[], &[("FUNCTION_HANDLER", handler)]);
        program.until_up();
        program
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a pid"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the program can be signalled");
    }

    pub(crate) fn connect(&self) -> Wire {
        until("the socket is there", || self.try_connect())
    }

    pub(crate) fn try_connect(&self) -> Option<Wire> {
        let stream = UnixStream::connect(self.path("s")).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        Some(Wire::new(Box::new(stream)))
    }

    pub(crate) fn until_up(&self) {
        until("/health is 200", || {
            let mut wire = self.try_connect()?;
            let answer = wire.try_call("GET", "/health", &[], b"")?;
            (answer.status == 200).then_some(())
        });
    }

    /// One call on a connection of its own.
    pub(crate) fn invoke(&self, input: &str) -> Answer {
        self.connect().invoke(input)
    }

    pub(crate) fn exit(&mut self) -> ExitStatus {
        let status = until("the program ends", || {
            self.child.try_wait().expect("it can be waited for")
        });
        if let Some(reader) = self.reader.take() {
            reader.join().expect("all lines are read");
        }
        status
    }

    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it can be waited for")
    }

    pub(crate) fn said(&self) -> String {
        self.said.lock().expect("no panic within").join("\n")
    }

    pub(crate) fn until_said(&self, text: &str) {
        until(&format!("{text:?} is logged"), || {
            self.said().contains(text).then_some(())
        });
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended; it is reaped either way. What it started must not outlive the test.
        let below = descendants(self.pid());
        let _ = self.child.kill();
        for pid in below {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

fn descendants(pid: Pid) -> Vec<Pid> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let list = list.unwrap_or_default();
    let children = list.split_whitespace().filter_map(|word| word.parse().ok());
    let children: Vec<Pid> = children.map(Pid::from_raw).collect();
    let below = children.iter().flat_map(|child| descendants(*child));
    below.chain(children.iter().copied()).collect()
}

/// Whether a process is gone, a zombie counting as such.
pub(crate) fn gone(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .trim_start()
        .to_owned();
    kill(pid, None) == Err(Errno::ESRCH) || state.starts_with('Z') || state.is_empty()
}

pub(crate) fn until_gone(pid: Pid) {
    until(&format!("process {pid} is gone"), || {
        gone(pid).then_some(())
    });
}

pub(crate) fn read_pid(path: &Path) -> Pid {
    until(&format!("{} has a pid", path.display()), || {
        let text = std::fs::read_to_string(path).ok()?;
        let line = text.strip_suffix('\n')?;
        line.trim().parse().ok().map(Pid::from_raw)
    })
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// By its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().expect("a code").to_owned()
    }

    pub(crate) fn message(&self) -> String {
        self.json()["message"]
            .as_str()
            .expect("a message")
            .to_owned()
    }
}

pub(crate) trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// One connection.
pub(crate) struct Wire {
    stream: BufReader<Box<dyn Stream>>,
}

impl Wire {
    pub(crate) fn new(stream: Box<dyn Stream>) -> Self {
        let stream = BufReader::new(stream);
        Self { stream }
    }

    pub(crate) fn tcp(port: u16) -> Self {
        Self::tcp_at(([127, 0, 0, 1], port).into())
    }

    pub(crate) fn tcp_at(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self::new(Box::new(stream))
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream
            .get_mut()
            .write_all(bytes)
            .expect("the peer reads");
    }

    pub(crate) fn invoke(&mut self, input: &str) -> Answer {
        self.send_invoke(input, &[]);
        self.answer()
    }

    pub(crate) fn send_invoke(&mut self, input: &str, headers: &[(&str, &str)]) {
        let body = format!(r#"{{"input":{input}}}"#);
        let mut all = vec![JSON];
        all.extend_from_slice(headers);
        self.send(&request("POST", "/invoke", &all, body.as_bytes()));
    }

    pub(crate) fn call(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.send(&request(method, target, headers, body));
        self.answer()
    }

    /// `call` to a program that may have gone; none where it sends no answer.
    pub(crate) fn try_call(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Answer> {
        let bytes = request(method, target, headers, body);
        self.stream.get_mut().write_all(&bytes).ok()?;
        self.try_answer(false)
    }

    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer(false).expect("an answer")
    }

    pub(crate) fn headless_answer(&mut self) -> Answer {
        self.try_answer(true).expect("an answer")
    }

    fn try_answer(&mut self, headless: bool) -> Option<Answer> {
        let (first, headers) = read_head(&mut self.stream)?;
        let status = first.split(' ').nth(1)?.parse().ok()?;
        let length = headers.get("content-length");
        let length = length.map_or(0, |length| length.parse().expect("a length"));
        let mut body = vec![0; if headless { 0 } else { length }];
        self.stream.read_exact(&mut body).ok()?;
        Some(Answer {
            status,
            headers,
            body,
        })
    }

    /// The peer has closed, and sent nothing before.
    pub(crate) fn closed(&mut self) -> bool {
        let mut rest = Vec::new();
        // A reset is an end, too.
        let _ = self.stream.read_to_end(&mut rest);
        rest.is_empty()
    }
}

fn read_head(stream: &mut impl BufRead) -> Option<(String, BTreeMap<String, String>)> {
    let mut line = || {
        let mut line = String::new();
        let count = stream.read_line(&mut line).ok()?;
        (count > 0).then(|| line.trim_end().to_owned())
    };
    let first = line()?;
    let mut headers = BTreeMap::new();
    loop {
        let line = line()?;
        if line.is_empty() {
            return Some((first, headers));
        }
        let (name, value) = line.split_once(':').expect("a header");
        let double = headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        assert_eq!(double, None, "{name} is there twice");
    }
}

pub(crate) fn request(
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Vec<u8> {
    let length = body.len();
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut bytes = (head + "\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}
