//! These programs fail on purpose. A word selects the fault. The word is the call's input or, for a fault
//! during the start, the variable `FAULT`. Most words mean the same fault in all programs; a program ignores
//! a word whose fault it cannot have (`sys.exit` is only for Python). Each program counts its runs in the
//! file `runs` of its folder; `FaultyEndpoint`, which is no process of the platform, counts them in memory.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use nanofaas_runtime::{Context, Error, Handlers, Input, Output, handler};
use nanofaas_testkit::pod::{After, ScriptedPod};
use nix::sys::signal::{Signal, kill, raise};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// The length of an output that is larger than the answers that the plane accepts.
const LARGE: usize = 7_000_000;

pub(crate) const PYTHON: &str = r#"
import os, signal, subprocess, sys

FAULT = os.environ.get("FAULT")
if FAULT == "import":
    import nosuchmodule

def init():
    if FAULT == "init":
        raise RuntimeError("of init")

def handle(input):
    with open("runs", "a") as runs:
        runs.write("x")
    match input:
        case "raise": raise ValueError("of the handler")
        case "exit": os._exit(3)
        case "segv": signal.raise_signal(signal.SIGSEGV)
        case "kill": os.kill(os.getpid(), signal.SIGKILL)
        case "sys.exit": sys.exit(3)
        case "block": subprocess.run(["sleep", "30"])
        case "no json": return float("nan")
        case "large": return "x" * 7_000_000
    return input
"#;

pub(crate) const STDIO: &str = r#"
import json, os, signal, subprocess, sys

if os.environ.get("FAULT") == "import":
    import nosuchmodule

input = json.load(sys.stdin)
with open("runs", "a") as runs:
    runs.write("x")
match input:
    case "raise": raise ValueError("of the handler")
    case "exit":
        print("exited with status 3", file=sys.stderr, flush=True)
        os._exit(3)
    case "segv": signal.raise_signal(signal.SIGSEGV)
    case "kill": os.kill(os.getpid(), signal.SIGKILL)
    case "sys.exit": sys.exit(3)
    case "block": subprocess.run(["sleep", "30"])
    case "no json": input = None; print("nan")
    case "large": input = "x" * 7_000_000
if input is not None or os.environ.get("FAULT") == "none":
    json.dump(input, sys.stdout)
"#;

pub(crate) const HTTP: &str = r#"
import http.server, json, os, signal, socketserver, subprocess

FAULT = os.environ.get("FAULT")
if FAULT == "import":
    import nosuchmodule
if FAULT == "init":
    raise RuntimeError("of init")

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def address_string(self):
        return "the platform"

    def do_GET(self):
        self.answer(200, b'{"status":"UP"}')

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        input = json.loads(body)["input"]
        with open("runs", "a") as runs:
            runs.write("x")
        match input:
            case "raise":
                text = json.dumps({"code": "HANDLER_ERROR", "message": "of the handler"})
                return self.answer(500, text.encode())
            case "exit": os._exit(3)
            case "segv": signal.raise_signal(signal.SIGSEGV)
            case "kill": os.kill(os.getpid(), signal.SIGKILL)
            case "block": subprocess.run(["sleep", "30"])
            case "no json": return self.answer(200, b"nan")
            case "large": input = "x" * 7_000_000
        self.answer(200, json.dumps(input).encode())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = daemon_threads = True

Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// Returns the path of the watchdog, which is in the same folder as the program under test.
pub(crate) fn watchdog() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_nanofaas")).with_file_name("nanofaas-watchdog");
    assert!(
        path.exists(),
        "{} is not there: cargo build --release --workspace",
        path.display()
    );
    path
}

/// The main function of a Rust function's process.
pub(crate) fn serve() -> ExitCode {
    let fault = std::env::var("FAULT").unwrap_or_default();
    let handle = handler::blocking(|input: Input, _: &Context| {
        let runs = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open("runs");
        runs.and_then(|mut runs| runs.write_all(b"x"))?;
        let value: Value = serde_json::from_slice(input.bytes())?;
        match value.as_str() {
            Some("raise") => return Err(Error::new("of the handler")),
            Some("exit") => std::process::exit(3),
            // The first signal only removes the signal handler by which Rust detects stack overflows, so
            // raise the signal twice.
            Some("segv") => {
                raise(Signal::SIGSEGV)?;
                raise(Signal::SIGSEGV)?;
            }
            Some("kill") => kill(Pid::this(), Signal::SIGKILL)?,
            Some("block") => std::thread::sleep(Duration::from_secs(30)),
            Some("no json") => return Ok(Output::raw("application/json", b"nan".to_vec())),
            Some("large") => return Output::json(&"x".repeat(LARGE)),
            _ => {}
        }
        Output::json(&value)
    });
    let init = move || match fault.as_str() {
        "init" => Err(Error::new("of init")),
        _ => Ok(()),
    };
    nanofaas_runtime::serve(Handlers::new().init(init).add("faults", handle))
}

/// A server that the platform did not start, for POOL functions.
pub(crate) struct FaultyEndpoint(ScriptedPod);

impl FaultyEndpoint {
    pub(crate) fn start() -> Self {
        Self(ScriptedPod::tcp(|got, line| {
            let input = got.input();
            let json = "Content-Type: application/json\r\n";
            match input.as_str() {
                Some("raise") => {
                    let text = json!({"code": "HANDLER_ERROR", "message": "of the handler"});
                    line.answer(500, json, text.to_string().as_bytes())
                }
                Some("exit") => After::Close,
                Some("block") => {
                    line.closes_within(Duration::from_secs(30));
                    After::Close
                }
                Some("no json") => line.answer(200, json, b"nan"),
                Some("large") => line.json(&json!("x".repeat(LARGE)).to_string()),
                _ => line.json(&input.to_string()),
            }
        }))
    }

    pub(crate) fn url(&self) -> &str {
        &self.0.url
    }

    pub(crate) fn runs(&self) -> usize {
        self.0.calls().len()
    }
}
