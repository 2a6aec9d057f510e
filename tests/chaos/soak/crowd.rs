//! These workers load a plane in a soak test, each with its own pause and in one or two threads. They make
//! small and large calls, and async and keyed calls. They read or write slowly or not at all. They cause
//! faults of pods and of clients, and add and remove functions. Every complete answer must belong to its
//! caller.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;
use std::time::Duration;

use nanofaas_runtime::{Context, Error, Handlers, Input, Output, handler};
use nanofaas_testkit::client::{Answer, RawClient, Request};
use nanofaas_testkit::control_plane::ControlPlane;
use nanofaas_testkit::functions::{local, pool, with};
use nanofaas_testkit::pod::{After, ReceivedCall, ScriptedConn, ScriptedPod};
use nanofaas_testkit::rng::SeededRng;
use serde_json::{Value, json};

use crate::tally::Tally;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// The largest answer that a worker asks for; the plane accepts it. A request may have only one MiB, so the
/// input is the number of bytes and not the bytes themselves.
const LARGE: u64 = 4 * MIB;

pub(super) struct SoakPods {
    tcp: ScriptedPod,
    unix: ScriptedPod,
    /// This pod answers with as many bytes as the input asks for.
    large: ScriptedPod,
    broken: ScriptedPod,
}

impl SoakPods {
    pub(super) fn start() -> Self {
        let echo =
            |got: &ReceivedCall, line: &mut ScriptedConn| line.json(&got.input().to_string());
        let large = |got: &ReceivedCall, line: &mut ScriptedConn| {
            let count = got.input().as_u64().unwrap_or(0) as usize;
            line.json(&json!("x".repeat(count)).to_string())
        };
        Self {
            tcp: ScriptedPod::tcp(echo).forgetful(),
            unix: ScriptedPod::unix(echo).forgetful(),
            large: ScriptedPod::tcp(large).forgetful(),
            broken: ScriptedPod::tcp(break_off).forgetful(),
        }
    }

    pub(super) fn hang_up(&self) {
        for pod in [&self.tcp, &self.unix, &self.large, &self.broken] {
            pod.hang_up();
        }
    }
}

/// Breaks the answer in the way that the input selects.
fn break_off(got: &ReceivedCall, line: &mut ScriptedConn) -> After {
    match got.input().as_u64() {
        Some(0) => After::Close,
        Some(1) => After::Reset,
        Some(2) => {
            line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf");
            After::Close
        }
        Some(3) => {
            let text = json!({"code": "BROKEN", "message": "m".repeat(10_000)}).to_string();
            line.answer(500, "Content-Type: application/json\r\n", text.as_bytes())
        }
        Some(4) => line.json("no JSON"),
        _ => {
            line.closes_within(Duration::from_secs(3));
            After::Close
        }
    }
}

/// The main function of a function's process: an echo that exits if the input asks for it.
pub(crate) fn program() -> std::process::ExitCode {
    let serve = handler::blocking(|input: Input, _: &Context| {
        let value: Value = serde_json::from_slice(input.bytes()).map_err(|_| Error::new("JSON"))?;
        if value == json!("exit") {
            std::process::exit(3);
        }
        Output::json(&value)
    });
    nanofaas_runtime::serve(Handlers::new().add("soak", serve))
}

#[derive(Clone, Copy)]
pub(super) struct Crowd<'a> {
    pub(super) plane: &'a ControlPlane,
    pub(super) pods: &'a SoakPods,
    pub(super) tally: &'a Tally,
    pub(super) folder: &'a Path,
    pub(super) over: &'a AtomicBool,
}

type CrowdWork = fn(Crowd<'_>, &mut SeededRng);

/// The workers, each with the mean pause after a step in milliseconds and with its number of threads.
const CROWD: [(CrowdWork, u64, u64); 10] = [
    (small, 30, 2),
    (sized, 150, 2),
    (slow_reader, 200, 2),
    (slow_writer, 200, 1),
    (silent, 500, 1),
    (many_silent, 8000, 1),
    (async_call, 60, 1),
    (fault, 200, 1),
    (bad_client, 100, 1),
    (short_lived, 200, 1),
];

impl<'a> Crowd<'a> {
    pub(super) fn register(&self) {
        let more = json!({"concurrency": 64, "queueSize": 500, "timeoutMs": 20_000});
        self.plane.register(&local("local"));
        for (name, pod) in [
            ("tcp", &self.pods.tcp),
            ("unix", &self.pods.unix),
            ("large", &self.pods.large),
        ] {
            self.plane.register(&with(pool(name, pod), &more));
        }
        let broken = json!({
            "concurrency": 16, "timeoutMs": 1000, "maxRetries": 1, "retryOn": ["POD"],
        });
        let function = with(pool("broken", &self.pods.broken), &broken);
        self.plane.register(&function);
        self.plane.register(&self.process("process"));
    }

    /// Removes the functions of `register`. The worker `short_lived` removes its own functions.
    pub(super) fn remove(&self) {
        for name in ["local", "tcp", "unix", "large", "broken", "process"] {
            self.plane.remove(name);
        }
    }

    fn process(&self, name: &str) -> Value {
        let program = std::env::current_exe().expect("this program");
        json!({
            "name": name, "executionMode": "WARM", "concurrency": 4, "timeoutMs": 20_000,
            "local": {"command": [program, "soak-pod"], "directory": self.folder},
            "scalingConfig": {"minReplicas": 1, "maxReplicas": 2},
        })
    }

    pub(super) fn spawn<'scope>(self, scope: &'scope Scope<'scope, 'a>, seed: u64)
    where
        'a: 'scope,
    {
        for (number, (work, pause_ms, count)) in CROWD.into_iter().enumerate() {
            for one in 0..count {
                let mut rng = SeededRng::new(seed, number as u64 * 100 + one);
                scope.spawn(move || {
                    while !self.over.load(Ordering::Relaxed) {
                        work(self, &mut rng);
                        std::thread::sleep(Duration::from_millis(rng.below(2 * pause_ms)));
                    }
                });
            }
        }
    }

    /// Reads and checks the answer to a call of an echo. A refusal by the plane or a lost pod is no fault.
    fn check(&self, what: &str, wire: &mut RawClient, sent: &Value) {
        match wire.read(true) {
            Ok(answer) if answer.status == 200 => {
                self.tally.count(&format!("{what} 200"));
                if answer.json()["output"] != *sent {
                    self.wrong(what, &answer);
                }
            }
            Ok(answer) if matches!(answer.status, 404 | 410 | 429 | 502 | 503 | 504) => {
                self.tally.count(&format!("{what} {}", answer.status));
            }
            Ok(answer) => self.wrong(what, &answer),
            Err(error) => self.tally.count(&format!("{what} {:?}", error.kind())),
        }
    }

    /// Registers a function. Returns false if the plane refused the function, which is allowed while the
    /// plane's memory is full.
    fn registers(&self, function: &Value) -> bool {
        let request = Request::new("POST", "/v1/functions").json(function);
        let answer = self.plane.send(&request);
        self.tally.count(&format!("register {}", answer.status));
        if !matches!(answer.status, 201 | 503) {
            self.wrong("register", &answer);
        }
        answer.status == 201
    }

    fn wrong(&self, what: &str, answer: &Answer) {
        let text: String = answer.text().chars().take(300).collect();
        self.tally
            .wrong(format!("{what}: {} {text}", answer.status));
    }
}

fn text(rng: &mut SeededRng, bytes: u64) -> Value {
    let mark = format!("{:016x}", rng.draw());
    json!(mark.repeat((bytes / 16 + 1) as usize))
}

/// Returns a random size between 1 and a power of two. Each power of two up to `max` is equally likely.
fn size(rng: &mut SeededRng, max: u64) -> u64 {
    let magnitude = rng.below(u64::from(max.ilog2()) + 1);
    rng.between(1, 1 << magnitude)
}

/// Makes some calls one after another over one connection.
fn small(crowd: Crowd<'_>, rng: &mut SeededRng) {
    let mut wire = RawClient::connect(crowd.plane.listen);
    for _ in 0..rng.between(1, 40) {
        let name = rng.weighted(&[(2, "local"), (3, "tcp"), (3, "unix"), (2, "process")]);
        let input = text(rng, 100);
        wire.send(&Request::invoke(name, &input).bytes());
        crowd.check("small", &mut wire, &input);
    }
}

fn sized(crowd: Crowd<'_>, rng: &mut SeededRng) {
    let bytes = size(rng, MIB).min(MIB - KIB);
    let input = text(rng, bytes);
    let name = rng.weighted(&[(1, "tcp"), (1, "unix"), (1, "process")]);
    let mut wire = Request::invoke(name, &input).begin(crowd.plane.listen);
    crowd.check("sized", &mut wire, &input);
}

/// Requests a large answer and reads it slowly.
fn slow_reader(crowd: Crowd<'_>, rng: &mut SeededRng) {
    let count = rng.between(MIB, LARGE);
    let mut wire = Request::invoke("large", &json!(count)).begin(crowd.plane.listen);
    let mut bytes = vec![0; 256 * 1024];
    let mut read = 0;
    while let Ok(more @ 1..) = wire.receive(&mut bytes) {
        read += more as u64;
        if read > count {
            break;
        }
        std::thread::sleep(Duration::from_millis(rng.below(60)));
    }
    let end = if read > count { "whole" } else { "cut" };
    crowd.tally.count(&format!("slow reader {end}"));
}

fn slow_writer(crowd: Crowd<'_>, rng: &mut SeededRng) {
    let bytes = rng.between(64 * KIB, MIB);
    let input = text(rng, bytes);
    let request = Request::invoke("tcp", &input).bytes();
    let mut wire = RawClient::connect(crowd.plane.listen);
    for piece in request.chunks(rng.between(8 * KIB, 64 * KIB) as usize) {
        if !wire.try_send(piece) {
            break;
        }
        std::thread::sleep(Duration::from_millis(rng.below(40)));
    }
    crowd.check("slow writer", &mut wire, &input);
}

/// Requests a large answer, reads nothing of it, and closes the connection.
fn silent(crowd: Crowd<'_>, rng: &mut SeededRng) {
    let count = rng.between(MIB, LARGE);
    let wire = Request::invoke("large", &json!(count)).begin(crowd.plane.listen);
    std::thread::sleep(Duration::from_millis(rng.below(3000)));
    if rng.chance(50) {
        wire.reset();
    }
    crowd.tally.count("silent");
}

/// Requests more output than the plane's memory can hold, and reads nothing.
fn many_silent(crowd: Crowd<'_>, rng: &mut SeededRng) {
    let request = Request::invoke("large", &json!(LARGE));
    let wires: Vec<RawClient> = (0..rng.between(10, 30))
        .map(|_| request.begin(crowd.plane.listen))
        .collect();
    std::thread::sleep(Duration::from_millis(rng.below(4000)));
    crowd.tally.count("many silent");
    drop(wires);
}

/// Enqueues a call and waits until it ends. Some calls have another call's key, and some are cancelled.
fn async_call(crowd: Crowd<'_>, rng: &mut SeededRng) {
    let bytes = size(rng, 64 * KIB);
    let input = text(rng, bytes);
    let name = rng.weighted(&[(2, "tcp"), (1, "unix"), (1, "process"), (1, "local")]);
    let mut request = Request::enqueue(name, &input);
    if rng.chance(30) {
        let key = format!("key-{}", rng.below(1000));
        request = request.header("Idempotency-Key", &key);
    }
    let mut wire = RawClient::connect(crowd.plane.listen);
    wire.send(&request.bytes());
    let Ok(answer) = wire.read(true) else { return };
    crowd.tally.count(&format!("async {}", answer.status));
    if !matches!(answer.status, 200 | 202) {
        return;
    }
    let path = format!("/v1/executions/{}", answer.id());
    if rng.chance(10) {
        wire.send(&Request::delete(&path).bytes());
        let _ = wire.read(true);
    }
    wire.send(&Request::get(&format!("{path}?waitMs=25000")).bytes());
    let Ok(answer) = wire.read(true) else { return };
    // A call with a key may join the execution of a call with another input, so the output is not compared.
    crowd.tally.count(&format!("status {}", answer.status));
    let status = answer.json()["status"].clone();
    let has_ended = ["success", "error", "timeout"]
        .iter()
        .any(|end| status == *end);
    if answer.status == 200 && !has_ended {
        crowd.wrong("an async call does not end", &answer);
    }
}

fn fault(crowd: Crowd<'_>, rng: &mut SeededRng) {
    let request = match rng.below(8) {
        6 => Request::invoke("process", &json!("exit")),
        7 => Request::invoke("nothing", &json!(1)),
        way => Request::invoke("broken", &json!(way)),
    };
    let mut wire = request.begin(crowd.plane.listen);
    match wire.read(true) {
        Ok(answer) if answer.status >= 400 => {
            crowd.tally.count(&format!("fault {}", answer.status));
        }
        Ok(answer) => crowd.wrong("a fault", &answer),
        Err(error) => crowd.tally.wrong(format!("a fault: {error}")),
    }
}

/// Cuts a request off, sends bytes that are not a request, or sends several requests without waiting for the
/// answers.
fn bad_client(crowd: Crowd<'_>, rng: &mut SeededRng) {
    let mut wire = RawClient::connect(crowd.plane.listen);
    let bytes = size(rng, 100_000);
    let request = Request::invoke("tcp", &text(rng, bytes)).bytes();
    match rng.below(4) {
        0 => wire.send(&request[..rng.below(request.len() as u64) as usize]),
        1 => {
            wire.send(&request);
            std::thread::sleep(Duration::from_millis(rng.below(3)));
        }
        2 => {
            wire.send(b"POST no HTTP\r\n\r\n");
            let _ = wire.read(true);
        }
        _ => {
            for _ in 0..rng.between(2, 20) {
                wire.send(&request);
            }
        }
    }
    if rng.chance(50) {
        wire.reset();
    }
    crowd.tally.count("bad client");
}

/// Registers a function, calls it, and removes it during the calls.
fn short_lived(crowd: Crowd<'_>, rng: &mut SeededRng) {
    let name = format!("short-{:x}", rng.draw());
    let process = rng.chance(5);
    let function = match process {
        true => crowd.process(&name),
        false => with(pool(&name, &crowd.pods.tcp), &json!({"concurrency": 4})),
    };
    if !crowd.registers(&function) {
        return;
    }
    let bytes = size(rng, 200 * KIB);
    let input = text(rng, bytes);
    let mut wires: Vec<RawClient> = (0..rng.between(1, 6))
        .map(|_| Request::invoke(&name, &input).begin(crowd.plane.listen))
        .collect();
    if rng.chance(50) {
        for wire in &mut wires {
            crowd.check("short-lived", wire, &input);
        }
    }
    let request = Request::delete(&format!("/v1/functions/{name}"));
    while crowd.plane.send(&request).status == 503 {
        std::thread::sleep(Duration::from_millis(100));
    }
    crowd.tally.count(if process {
        "removed process"
    } else {
        "removed"
    });
}
