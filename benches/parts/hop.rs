//! Benches of the hop: a LOCAL call over a kept connection to the real process, with the scheduler on the io
//! thread and on a thread of its own. The two results differ by the cost of the messages between these two
//! threads: two to the scheduler and one back. Each result includes parsing, routing, admission and the
//! reply.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use criterion::Criterion;
use serde_json::Value;

const SEATS: [(&str, &[&str]); 2] = [
    ("inline", &["--scheduler", "inline", "--io-threads", "1"]),
    ("pinned", &["--scheduler", "pinned", "--io-threads", "2"]),
];
const FLAGS: [&str; 9] = [
    "serve",
    "--listen",
    "127.0.0.1:0",
    "--management",
    "127.0.0.1:0",
    "--backend",
    "none",
    "--rate-max-per-second",
    "off",
];
const FUNCTION: &str = r#"{"name":"local","executionMode":"LOCAL"}"#;
const PATIENCE: Duration = Duration::from_secs(60);

struct HopFixture {
    process: Child,
    connection: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl HopFixture {
    fn start(seat: &[&str]) -> Self {
        let mut process = Command::new(program())
            .env_clear()
            .args(FLAGS)
            .args(seat)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut log = BufReader::new(process.stderr.take().expect("a pipe"));
        let address = listen(&mut log);
        // This thread reads the rest of the log, because a full pipe would block the process's log.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let connection = TcpStream::connect(address).expect("a connection");
        connection.set_nodelay(true).expect("a socket");
        connection
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket");
        let mut plane = Self {
            process,
            connection,
            request: request("/v1/functions", FUNCTION),
            answer: vec![0; 4096],
        };
        plane.exchange(b"HTTP/1.1 201");
        plane.request = request(
            "/v1/functions/local:invoke",
            &format!(r#"{{"input":"{}"}}"#, "x".repeat(256)),
        );
        plane
    }

    /// Sends the request and reads its answer, which is small enough to arrive in one read.
    fn exchange(&mut self, expected: &[u8]) {
        self.connection
            .write_all(&self.request)
            .expect("the plane reads");
        let read = self.connection.read(&mut self.answer);
        let answer = &self.answer[..read.expect("the plane answers")];
        let text = String::from_utf8_lossy(answer);
        assert!(answer.starts_with(expected), "{text}");
    }
}

impl Drop for HopFixture {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn request(path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Returns the path of the program of the release build, also in a debug build of the benches. The benches
/// are in `target/*/deps`.
fn program() -> PathBuf {
    let bench = std::env::current_exe().expect("a path");
    let target = bench.ancestors().nth(3).map(Path::to_path_buf);
    let program = target.unwrap_or_default().join("release/nanofaas");
    let built = program.is_file();
    assert!(built, "no {program:?}: cargo build --release comes first");
    program
}

/// Returns the listen address that the log names.
fn listen(log: &mut impl BufRead) -> SocketAddr {
    for line in log.lines().map_while(Result::ok) {
        let said: Value = serde_json::from_str(&line).unwrap_or_default();
        if let (Some(listen), true) = (said["listen"].as_str(), said["management"].is_string()) {
            return listen.parse().expect("an address");
        }
    }
    panic!("nanofaas did not start");
}

pub(crate) fn local(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hop, a warm LOCAL call");
    for (name, seat) in SEATS {
        let mut plane = HopFixture::start(seat);
        group.bench_function(name, |bencher| {
            bencher.iter(|| plane.exchange(b"HTTP/1.1 200"));
        });
    }
    group.finish();
}
