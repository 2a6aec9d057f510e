//! These tests run functions whose programs were not written for this platform: servers on a port, with or
//! without a health path of their own, and processes that hide from the backend.

use std::path::Path;
use std::time::Duration;

use nanofaas_testkit::client::Request;
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::functions::with;
use nanofaas_testkit::process::is_alive;
use nanofaas_testkit::wait::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane = SharedControlPlane::new(&["--rate-max-per-second", "off"]);
    PLANE.get()
}

/// Listens on PORT. It answers a GET with the status in the file `health`, and a call with its pid, its port,
/// its environment and the body's encoding.
const SERVER: &str = r#"
import http.server, json, os
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        with open("asked", "a") as asked:
            asked.write(self.path + " " + self.headers["host"] + "\n")
        try:
            status = int(open("health").read())
        except FileNotFoundError:
            status = 404
        self.answer(status, b"health")
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.answer(200, json.dumps([os.getpid(), int(os.environ["PORT"]), dict(os.environ), self.headers["content-encoding"]]).encode())
    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Answer).serve_forever()
"#;

#[track_caller]
fn pid_and_port(plane: &ControlPlane, name: &str) -> (i32, u16) {
    let output = plane.invoke(name, &json!(1)).expect(200).json()["output"].clone();
    let number = |at: usize| output[at].as_i64().expect("a number");
    (
        number(0).try_into().expect("a pid"),
        number(1).try_into().expect("a port"),
    )
}

#[test]
fn a_server_that_takes_a_port_runs_unchanged() {
    let folder = ScratchFolder::create();
    let one_pod = json!({"scalingConfig": {"maxReplicas": 1}});
    plane().register(&with(folder.program("port", "WARM", SERVER), &one_pod));
    let (pid, port) = pid_and_port(plane(), "port");
    assert_eq!(
        pid_and_port(plane(), "port"),
        (pid, port),
        "the pod is kept"
    );
    let asked = folder.read("asked").expect("it was asked");
    assert!(asked.lines().all(|line| line == "/health port"), "{asked}");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("our own");
    eventually("another pod serves", || {
        let answer = plane().invoke("port", &json!(1));
        answer.status == 200 && answer.json()["output"][0] != pid
    });
    plane().remove("port");
}

#[test]
fn servers_on_ports_do_not_meet() {
    let folders: Vec<ScratchFolder> = (0..4).map(|_| ScratchFolder::create()).collect();
    let two = json!({"scalingConfig": {"minReplicas": 2, "maxReplicas": 2}});
    for (number, folder) in folders.iter().enumerate() {
        let name = format!("ports-{number}");
        plane().register(&with(folder.program(&name, "WARM", SERVER), &two));
    }
    for number in 0..folders.len() {
        let name = format!("ports-{number}");
        for _ in 0..4 {
            let answer = plane().invoke(&name, &json!(1)).expect(200).json();
            assert_eq!(
                answer["output"][2]["FUNCTION_NAME"], name,
                "it is its own pod"
            );
        }
        plane().remove(&name);
    }
}

/// Calls a function whose server becomes healthy only during the call. Returns the probes that the server has
/// recorded.
fn asked_until_well(folder: &ScratchFolder, function: Value) -> String {
    let name = function["name"].as_str().expect("a name").to_owned();
    plane().register(&with(function, &json!({"healthPath": "/up?deep=1"})));
    let mut wire = Request::invoke(&name, &json!(1)).begin(plane().listen);
    eventually("the server is probed", || folder.read("asked").is_some());
    assert!(wire.stays_quiet_for(Duration::from_millis(300)));
    folder.write("health", "204");
    wire.answer().expect(200);
    folder.read("asked").expect("it was asked")
}

#[test]
fn a_503_at_its_health_path_is_unready() {
    let folder = ScratchFolder::create();
    folder.write("health", "503");
    let asked = asked_until_well(&folder, folder.program("healthy", "WARM", SERVER));
    let is_right = |line: &str| line == "/up?deep=1 healthy";
    assert!(asked.lines().all(is_right), "{asked}");
}

/// Makes a function whose program is `SERVER`, run by the watchdog.
fn guarded(folder: &ScratchFolder, name: &str, mode: &str) -> Value {
    let watchdog = Path::new(env!("CARGO_BIN_EXE_nanofaas")).with_file_name("nanofaas-watchdog");
    let mut function = folder.program(name, mode, SERVER);
    let command = function["local"]["command"].as_array_mut().expect("a list");
    command.splice(0..0, [json!(watchdog), json!("--")]);
    function
}

#[test]
fn a_program_hears_how_a_body_is_encoded() {
    let folder = ScratchFolder::create();
    for mode in ["WARM", "JOB"] {
        let name = format!("encoded-{}", mode.to_ascii_lowercase());
        plane().register(&guarded(&folder, &name, mode));
        let request = Request::new("POST", &format!("/v1/functions/{name}:invoke"))
            .body("text/plain", "bytes")
            .header("Content-Encoding", "gzip");
        let answer = plane().send(&request).expect(200).json();
        assert_eq!(answer["output"][3], "gzip", "{mode}");
    }
}

/// The watchdog is ready only after the program is ready, so it probes the program at the function's health
/// path.
#[test]
fn the_watchdog_asks_the_same_health_path() {
    let folder = ScratchFolder::create();
    folder.write("health", "401");
    let asked = asked_until_well(&folder, guarded(&folder, "guarded", "WARM"));
    let is_right = |line: &str| line.starts_with("/up?deep=1 ");
    assert!(asked.lines().all(is_right), "{asked}");
}

#[test]
fn an_odd_health_status_fails_the_start() {
    let plane = ControlPlane::start(&["--start-timeout-ms", "2000"]);
    let folder = ScratchFolder::create();
    folder.write("health", "401");
    plane.register(&folder.program("unwell", "WARM", SERVER));
    let answer = plane.invoke("unwell", &json!(1));
    let body = answer
        .expect_failure(503, "error", "COLD_START_FAILED")
        .json();
    let message = body["error"]["message"].as_str().expect("a message");
    assert!(message.contains("its last answer was 401"), "{message}");
    assert!(
        message.contains("GET /health") && message.contains("127.0.0.1:"),
        "{message}"
    );
}

#[test]
fn a_call_hears_why_its_last_start_failed() {
    let plane = ControlPlane::start(&["--start-timeout-ms", "500"]);
    let folder = ScratchFolder::create();
    plane.register(&folder.shell("deaf", "WARM", "exec sleep 60"));
    let call = Request::invoke("deaf", &json!(1)).header("X-Timeout-Ms", "1200");
    let answer = plane
        .send(&call)
        .expect_failure(408, "timeout", "TIMEOUT")
        .json();
    let message = answer["error"]["message"].as_str().expect("a message");
    let begins = "the deadline passed while the call was starting, after 1200 ms (X-Timeout-Ms); \
                  the last start failed: ";
    assert!(message.starts_with(begins), "{message}");
    assert!(message.contains("/health"), "{message}");
}

#[test]
fn every_pod_knows_its_functions_timeout() {
    let folder = ScratchFolder::create();
    let function = folder.program("told", "WARM", SERVER);
    plane().register(&with(function, &json!({"timeoutMs": 12_345})));
    let output = plane().invoke("told", &json!(1)).expect(200).json()["output"].clone();
    assert_eq!(output[2]["TIMEOUT_MS"], "12345");
}

/// A program that forks twice, leaves its session, and goes on under another name and without an environment.
const HIDES: &str = r#"
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    with open("hidden.part", "w") as file:
        file.write(str(os.getpid()))
    os.rename("hidden.part", "hidden")
    os.execve("/bin/sleep", ["nobody", "600"], {})
os.wait()
"#;

#[track_caller]
fn hidden(folder: &ScratchFolder) -> i32 {
    eventually("the hidden process runs", || {
        folder.read("hidden").is_some()
    });
    let pid: i32 = folder
        .read("hidden")
        .and_then(|pid| pid.parse().ok())
        .expect("a pid");
    let environment = || std::fs::read(format!("/proc/{pid}/environ")).expect("it lives");
    eventually("the hidden process has no environment", || {
        environment().is_empty()
    });
    assert!(is_alive(pid));
    pid
}

fn hiding(folder: &ScratchFolder, name: &str) -> Value {
    let server = [HIDES, SERVER].concat();
    let one = json!({"scalingConfig": {"minReplicas": 0, "maxReplicas": 1}});
    with(folder.program(name, "WARM", &server), &one)
}

#[test]
fn a_process_that_hides_ends_with_its_pod() {
    let folder = ScratchFolder::create();
    plane().register(&hiding(&folder, "hides"));
    let (pod, _) = pid_and_port(plane(), "hides");
    let hides = hidden(&folder);
    kill(Pid::from_raw(pod), Signal::SIGKILL).expect("our own");
    eventually("the hidden process is ended", || !is_alive(hides));
    std::fs::remove_file(folder.path().join("hidden")).expect("a file");
    eventually("another pod serves", || {
        plane().invoke("hides", &json!(1)).status == 200
    });
    let hides = hidden(&folder);
    plane().remove("hides");
    eventually("the hidden process is ended", || !is_alive(hides));
}

#[test]
fn a_process_that_hides_ends_with_its_job() {
    let folder = ScratchFolder::create();
    let function = folder.program("hides-job", "JOB", HIDES);
    plane().register(&with(function, &json!({"maxRetries": 0})));
    plane()
        .invoke("hides-job", &json!(1))
        .expect_failure(502, "error", "POD_LOST");
    let pid: i32 = folder
        .read("hidden")
        .and_then(|pid| pid.parse().ok())
        .expect("a pid");
    eventually("the hidden process is ended", || !is_alive(pid));
}

#[test]
fn a_hiding_process_ends_with_a_killed_plane() {
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    let folder = ScratchFolder::create();
    plane.register(&hiding(&folder, "hides"));
    let (pod, _) = pid_and_port(&plane, "hides");
    let hides = hidden(&folder);
    plane.signal(Signal::SIGKILL);
    for pid in [pod, hides] {
        eventually("the hidden process is ended", || !is_alive(pid));
    }
}
