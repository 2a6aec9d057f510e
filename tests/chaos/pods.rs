//! The pods of a run report every body that they receive, and do what its canary requests. The scripted pods
//! of POOL functions are in this process and break the rules of HTTP. The programs of WARM and JOB functions
//! are this program, started by the plane, with the runtime that real functions use. A process reports by a
//! line in a file, so its earlier reports remain if it is killed.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nanofaas_runtime::{Context, Error, Handlers, Input, Output, handler};
use nanofaas_testkit::pod::{After, ReceivedCall, ScriptedConn, ScriptedPod};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::book::Book;
use crate::canary::{Canary, Identity, echo};
use crate::ledger::{Ledger, Receipt};
use crate::plan::{Act, PoolEndpoint, TIMEOUT_MS_MAX};
use crate::tally::Tally;

/// A pause that is longer than any deadline of a call.
const LATE: Duration = Duration::from_secs(30);
const SLOW: Duration = Duration::from_millis(8);
/// The pause of a pod before it sends a second answer that was not asked for. By then the plane may use the
/// connection for the next call.
const UNASKED_AFTER: Duration = Duration::from_millis(3);

pub(crate) struct Peers {
    tcp: ScriptedPod,
    unix: ScriptedPod,
    rude_tcp: ScriptedPod,
    rude_unix: ScriptedPod,
}

impl Peers {
    pub(crate) fn new(ledger: &Arc<Ledger>, book: &Arc<Book>, tally: &Arc<Tally>) -> Self {
        let script = |rude: bool| {
            let (ledger, book, tally) = (ledger.clone(), book.clone(), tally.clone());
            move |got: &ReceivedCall, line: &mut ScriptedConn| {
                answer(got, line, rude, &ledger, &book, &tally)
            }
        };
        Self {
            tcp: ScriptedPod::tcp(script(false)).forgetful(),
            unix: ScriptedPod::unix(script(false)).forgetful(),
            rude_tcp: ScriptedPod::tcp(script(true)).forgetful(),
            rude_unix: ScriptedPod::unix(script(true)).forgetful(),
        }
    }

    pub(crate) fn url(&self, endpoint: PoolEndpoint, identity: &Identity) -> String {
        let url = match endpoint {
            PoolEndpoint::Tcp => &self.tcp.url,
            PoolEndpoint::Unix => &self.unix.url,
            PoolEndpoint::RudeTcp => &self.rude_tcp.url,
            PoolEndpoint::RudeUnix => &self.rude_unix.url,
            // No process listens on port 1.
            PoolEndpoint::Closed => "http://127.0.0.1:1/invoke",
        };
        url.replace("/invoke", &format!("/{}", identity.path()))
    }

    pub(crate) fn hang_up(&self) {
        for pod in [&self.tcp, &self.unix, &self.rude_tcp, &self.rude_unix] {
            pod.hang_up();
        }
    }
}

/// Returns the canary of a body, unparsed and parsed.
fn read(body: &[u8]) -> Option<(Value, Canary)> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let canary = value.get("input").unwrap_or(&value);
    Some((canary.clone(), Canary::parse(canary)?))
}

/// Serves one attempt in a scripted pod.
fn answer(
    got: &ReceivedCall,
    line: &mut ScriptedConn,
    rude: bool,
    ledger: &Ledger,
    book: &Book,
    tally: &Tally,
) -> After {
    let from = book.now();
    let path = got.first_line.split(' ').nth(1).unwrap_or_default();
    let header = |name| got.header(name).unwrap_or_default().to_owned();
    let parts = (Identity::parse(&path[1..]), read(&got.body));
    let (Some(identity), Some((body, canary))) = parts else {
        let text = String::from_utf8_lossy(&got.body).into_owned();
        tally.wrong(format!(
            "a request that no client sent: {} {text:.200}",
            got.first_line
        ));
        return After::Close;
    };
    let execution = header("x-execution-id");
    let attempt: u32 = header("x-dispatch-attempt").parse().unwrap_or(0);
    let act = canary.act(attempt);
    let output = echo(&identity, attempt, &body, act == Act::Large);
    let call = canary.call.clone();
    let receipt = Receipt {
        identity,
        execution,
        attempt,
        canary,
        mode: "POOL",
    };
    ledger.receive(&receipt, book, tally);
    let execution = &receipt.execution;
    let left_ms: u64 = header("x-deadline-ms").parse().unwrap_or(u64::MAX);
    if left_ms > TIMEOUT_MS_MAX {
        tally.wrong(format!(
            "attempt {attempt} of {execution} may run {left_ms} ms"
        ));
    }
    let raw = !header("content-type").starts_with("application/json");
    let kind = if raw {
        "application/octet-stream"
    } else {
        "application/json"
    };
    // Half of the answers of an ordinary endpoint carry an execution id, as the answers of the runtimes do. A
    // rude endpoint always sends the id.
    let own = if got.number.is_multiple_of(2) || rude {
        format!("X-Execution-Id: {execution}\r\n")
    } else {
        String::new()
    };
    let text = output.to_string();
    let headers = format!("Content-Type: {kind}\r\n{own}");
    match act {
        Act::Slow if line.closes_within(SLOW) => return After::Close,
        Act::Late if line.closes_within(LATE) => return After::Close,
        _ => {}
    }
    let closes = matches!(act, Act::Die | Act::Reset);
    ledger.answer(&receipt, from, book, closes);
    match act {
        Act::Fail => {
            let error = json!({"code": "CHAOS", "message": call}).to_string();
            let headers = format!("Content-Type: application/json\r\n{own}");
            line.answer(500, &headers, error.as_bytes())
        }
        Act::Die => After::Close,
        Act::Reset => After::Reset,
        Act::Half => {
            let length = text.len() + 50;
            let head = format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {length}\r\n\r\n");
            line.send((head + &text).as_bytes());
            if text.len().is_multiple_of(2) {
                After::Close
            } else {
                After::Reset
            }
        }
        Act::Garbage => {
            let headers = format!("Content-Type: application/json\r\n{own}");
            line.answer(200, &headers, b"{\"by\": no JSON}")
        }
        Act::NotStarted => {
            let headers = format!("X-Not-Started: true\r\n{own}");
            line.answer(503, &headers, b"{}")
        }
        Act::Chunked => {
            let (first, rest) = text.split_at(text.len() / 2);
            let head = format!("HTTP/1.1 200 OK\r\n{headers}Transfer-Encoding: chunked\r\n\r\n");
            let first = format!("{head}{:x}\r\n{first}\r\n", first.len());
            let rest = format!("{:x}\r\n{rest}\r\n0\r\n\r\n", rest.len());
            let sent = line.send(first.as_bytes()) && line.send(rest.as_bytes());
            if sent { After::Keep } else { After::Close }
        }
        Act::Close => {
            let headers = format!("{headers}Connection: close\r\n");
            line.answer(200, &headers, text.as_bytes());
            After::Close
        }
        Act::Unasked if rude => {
            let length = text.len();
            let head = format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {length}\r\n\r\n");
            let whole = [head.as_str(), &text].concat();
            // The pod sends both answers together, or the second one later, when another call may use the
            // connection.
            let sent = if call.len().is_multiple_of(2) {
                line.send(whole.repeat(2).as_bytes())
            } else {
                let first = line.send(whole.as_bytes());
                std::thread::sleep(UNASKED_AFTER);
                first && line.send(whole.as_bytes())
            };
            if sent { After::Keep } else { After::Close }
        }
        Act::Echo | Act::Slow | Act::Late | Act::Large | Act::Unasked => {
            line.answer(200, &headers, text.as_bytes())
        }
    }
}

/// The names of the variables of a function's process.
pub(crate) const IDENTITY: &str = "CHAOS_IDENTITY";
pub(crate) const RECEIPTS: &str = "CHAOS_RECEIPTS";

/// The main function of a function's process. The runtime decides whether the process runs as WARM or JOB.
pub(crate) fn program() -> ExitCode {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let (path, file) = (variable(IDENTITY), PathBuf::from(variable(RECEIPTS)));
    let Some(identity) = Identity::parse(&path) else {
        eprintln!("{IDENTITY} is {path:?}");
        return ExitCode::FAILURE;
    };
    let mode = if variable("CALLBACK_URL").is_empty() {
        "WARM"
    } else {
        "JOB"
    };
    let pid = std::process::id();
    report(&file, &json!({"by": path, "pid": pid, "mode": mode}));
    let serve = handler::blocking(move |input: Input, context: &Context| {
        let (body, canary) = read(input.bytes()).ok_or_else(|| Error::new("no canary"))?;
        let attempt = context.attempt();
        let mut short = canary.clone();
        short.pad = 0;
        let line = json!({
            "by": path, "pid": pid, "mode": mode, "attempt": attempt,
            "execution": context.execution_id(), "canary": short.to_json(),
        });
        report(&file, &line);
        obey(canary.act(attempt), &canary.call, context)?;
        let output = echo(&identity, attempt, &body, canary.act(attempt) == Act::Large);
        Ok(match canary.act(attempt) {
            Act::Garbage => Output::raw("application/json", b"{\"by\": no JSON}".to_vec()),
            _ if input.is_json() => Output::json(&output)?,
            _ => Output::raw("application/octet-stream", output.to_string().into_bytes()),
        })
    });
    nanofaas_runtime::serve(Handlers::new().add("chaos", serve))
}

fn obey(act: Act, call: &str, context: &Context) -> Result<(), Error> {
    match act {
        Act::Fail => return Err(Error::with_code("CHAOS", call)),
        Act::Slow => std::thread::sleep(SLOW),
        Act::Late => {
            let begun = Instant::now();
            while !context.cancelled() && begun.elapsed() < LATE {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Act::Die => {
            let _ = kill(Pid::this(), Signal::SIGKILL);
        }
        Act::Reset => std::process::exit(3),
        _ => {}
    }
    Ok(())
}

/// Appends a line to the file. A single write keeps the lines of several processes apart.
fn report(file: &Path, line: &Value) {
    let opened = OpenOptions::new().append(true).create(true).open(file);
    let written = opened.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    if let Err(error) = written {
        eprintln!("{}: {error}", file.display());
        std::process::exit(4);
    }
}

/// A process that a plane started for a function.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FunctionProcess(pub(crate) i32);

impl FunctionProcess {
    /// A process of another program with the same PID does not count as alive.
    pub(crate) fn is_alive(self) -> bool {
        let line = std::fs::read(format!("/proc/{}/cmdline", self.0)).unwrap_or_default();
        let own = std::env::current_exe().expect("this program");
        line.starts_with(own.as_os_str().as_encoded_bytes()) && line.ends_with(b"\0pod\0")
    }

    pub(crate) fn kill(self) -> bool {
        self.is_alive() && kill(Pid::from_raw(self.0), Signal::SIGKILL).is_ok()
    }
}

/// A reader of the reports of processes.
pub(crate) struct Reports {
    path: PathBuf,
    file: Option<File>,
    unread: Vec<u8>,
    /// The processes that have reported their start, the oldest first.
    pub(crate) started: Vec<FunctionProcess>,
}

impl Reports {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            unread: Vec::new(),
            started: Vec::new(),
        }
    }

    /// Reads the lines that are new since the last call.
    pub(crate) fn read(&mut self, ledger: &Ledger, book: &Book, tally: &Tally) {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let Some(file) = &mut self.file else { return };
        file.read_to_end(&mut self.unread).expect("a file of ours");
        let Some(end) = self.unread.iter().rposition(|byte| *byte == b'\n') else {
            return;
        };
        let rest = self.unread.split_off(end + 1);
        let lines = std::mem::replace(&mut self.unread, rest);
        for line in lines
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let line: Value = serde_json::from_slice(line).expect("a report is JSON");
            let Some(receipt) = receipt(&line) else {
                let pid = line["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
                self.started
                    .push(FunctionProcess(pid.expect("a report has a pid")));
                continue;
            };
            ledger.receive(&receipt, book, tally);
        }
    }
}

fn receipt(line: &Value) -> Option<Receipt> {
    let canary = Canary::parse(line.get("canary")?).expect("a canary of ours");
    let attempt = line["attempt"].as_u64().expect("an attempt");
    Some(Receipt {
        identity: Identity::parse(line["by"].as_str()?)?,
        execution: line["execution"].as_str()?.to_owned(),
        attempt: u32::try_from(attempt).expect("a small number"),
        canary,
        mode: if line["mode"] == "JOB" { "JOB" } else { "WARM" },
    })
}
