//! These tests check which io driver a plane chooses in a sandbox that allows the set-up of io_uring and
//! refuses its use. They simulate the sandbox with strace. Without strace they print that they were skipped.

use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Instant;

use nanofaas_testkit::client::Request;
use nanofaas_testkit::control_plane::program;
use nanofaas_testkit::wait::PATIENCE;
use serde_json::Value;

/// A plane whose `io_uring_enter` fails after `allowed` successful calls. A `ControlPlane` would fail the
/// test if the process panics, so this type starts the process itself.
struct Sandboxed {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Sandboxed {
    fn start(driver: &str, allowed: u32) -> Option<Self> {
        if Command::new("strace").arg("-V").output().is_err() {
            println!("strace is not installed: nothing is tested");
            return None;
        }
        // With -D, the plane stays a child of the test and strace becomes its descendant, so the test sees
        // the plane's exit status.
        let inject = format!("inject=io_uring_enter:error=EPERM:when={}+", allowed + 1);
        let serve = program();
        let mut command = Command::new("strace");
        command
            .args(["-D", "-f", "-qq", "-o", "/dev/null"])
            .args(["-e", "trace=io_uring_enter", "-e", &inject])
            .arg(serve.get_program())
            .args(["serve", "--backend", "none", "--io-driver", driver])
            .args(["--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"])
            .args(["--rate-max-per-second", "off"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        for (name, _) in serve.get_envs() {
            command.env_remove(name);
        }
        let mut child = command.spawn().expect("strace starts");
        let stderr = child.stderr.take().expect("a pipe");
        let lines = BufReader::new(stderr).lines();
        Some(Self { child, lines })
    }

    /// Waits for a line of the log for which `find` returns a value.
    fn wait<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> T {
        let mut seen = Vec::new();
        for line in self.lines.by_ref().map_while(Result::ok) {
            if let Some(found) = find(&line) {
                return found;
            }
            seen.push(line);
        }
        panic!("it ended: {seen:#?}");
    }

    /// Waits until the plane is ready. Returns its driver and address.
    fn ready(&mut self) -> (String, SocketAddr) {
        self.wait(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let driver = line["ioDriver"].as_str()?.to_owned();
            Some((driver, line["listen"].as_str()?.parse().ok()?))
        })
    }

    fn exit(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Sandboxed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn auto_takes_epoll_without_an_enterable_ring() {
    let Some(mut plane) = Sandboxed::start("auto", 0) else {
        return;
    };
    let (driver, listen) = plane.ready();
    assert_eq!(driver, "epoll");
    assert_eq!(Request::get("/v1/functions").send(listen).status, 200);
}

#[test]
fn an_unenterable_ring_stops_the_start() {
    let Some(mut plane) = Sandboxed::start("uring", 0) else {
        return;
    };
    plane.wait(|line| line.contains("--io-driver auto or epoll").then_some(()));
    assert!(!plane.exit().success());
}

#[test]
fn a_later_refused_ring_ends_the_process() {
    // 3,000 successful calls of `io_uring_enter` are enough for the start and for a few requests.
    let Some(mut plane) = Sandboxed::start("auto", 3_000) else {
        return;
    };
    let (driver, listen) = plane.ready();
    if driver != "uring" {
        println!("this machine has no io_uring: nothing is tested");
        return;
    }
    std::thread::spawn(move || {
        while let Ok(stream) = std::net::TcpStream::connect(listen) {
            use std::io::{Read, Write};
            let mut stream = stream;
            let _ = stream.set_read_timeout(Some(PATIENCE));
            let asked = stream.write_all(&Request::get("/v1/functions").bytes());
            if asked.is_err() || !matches!(stream.read(&mut [0; 16]), Ok(1..)) {
                return;
            }
        }
    });
    plane.wait(|line| line.contains("refuses to be entered").then_some(()));
    assert!(!plane.exit().success());
}
