//! Measures how well admission decides, compared with perfect knowledge. The tests make the calls of the six
//! patterns of `nanofaas_simulate::patterns` over HTTP, on a release build with real clocks. The pods are
//! processes or scripted pods. The simulator computes how the same calls end with perfect knowledge.
//!
//! `./ci patterns` runs all patterns in about five minutes; `./ci patterns slow_start` runs only that
//! pattern. No other section of `./ci` runs them, because they are measurements, which fail on a busy
//! machine.

#![allow(
    clippy::disallowed_methods,
    reason = "tests act in place of clients, pods and clocks"
)]
#![allow(clippy::print_stdout, reason = "the table is what it is run for")]

use std::net::SocketAddr;
use std::sync::Once;
use std::time::{Duration, Instant};

use nanofaas_simulate::patterns::{CALLS, Pattern, WRONG_MAX, patterns};
use nanofaas_simulate::{TraceCall, simulate};
use nanofaas_testkit::client::{RawClient, Request};
use nanofaas_testkit::control_plane::ControlPlane;
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::functions::with;
use nanofaas_testkit::pod::ScriptedPod;
use serde_json::{Value, json};

/// The time by which a caller connects before its call is due.
const AHEAD: Duration = Duration::from_millis(200);
/// The stack size of a caller's thread, in bytes.
const STACK_BYTES: usize = 256 * 1024;

/// A function of which only the first pod starts. All other pods wait for the lock, as if no node could run
/// them.
const ALONE: &str = r#"
import fcntl, time
held = open("alone.lock", "w")
fcntl.flock(held, fcntl.LOCK_EX)
def handle(seconds):
    time.sleep(seconds)
"#;

/// A function whose pods are ready two seconds after their process started, independently of Python's start
/// time.
const STARTS_SLOWLY: &str = r#"
import os, time
begun = int(open("/proc/self/stat").read().rsplit(") ")[1].split()[19]) / os.sysconf("SC_CLK_TCK")
time.sleep(max(0, begun + 2 - time.clock_gettime(time.CLOCK_BOOTTIME)))
def handle(seconds):
    time.sleep(seconds)
"#;

#[derive(Debug, Default)]
struct MeasuredCalls {
    made_it: usize,
    failed: usize,
    refused: usize,
    /// The longest delay between the time when a request was due and the time when it was sent. The machine
    /// causes this delay, not the plane.
    latest: Duration,
    /// The total time by which successful calls held their slots longer than planned.
    longer: Duration,
}

impl MeasuredCalls {
    fn mean_longer(&self) -> Duration {
        self.longer / u32::try_from(self.made_it.max(1)).expect("a thousand")
    }
}

struct MeasuredAnswer {
    status: u16,
    late: Duration,
    /// The time for which the call held its slot, as its `Server-Timing` reports.
    held: Duration,
}

/// The function of a pattern on this machine. The pod of a POOL function lives as long as this value.
struct PatternFunction {
    function: Value,
    _pod: Option<ScriptedPod>,
    _folder: ScratchFolder,
}

impl PatternFunction {
    fn new(pattern: &Pattern) -> Self {
        let folder = ScratchFolder::create();
        let source = match pattern.name {
            "slow-start" => STARTS_SLOWLY,
            "pods-missing" => ALONE,
            _ => {
                let pod = ScriptedPod::tcp(|got, line| {
                    let seconds = got.input().as_f64().expect("seconds");
                    std::thread::sleep(Duration::from_secs_f64(seconds));
                    line.json("null")
                });
                let function = with(pattern.function.clone(), &json!({"endpointUrl": pod.url}));
                return Self {
                    function,
                    _pod: Some(pod),
                    _folder: folder,
                };
            }
        };
        Self {
            function: with(
                folder.python(pattern.name, "WARM", source),
                &pattern.function,
            ),
            _pod: None,
            _folder: folder,
        }
    }
}

fn request(name: &str, call: &TraceCall) -> Request {
    let seconds = Duration::from(call.service).as_secs_f64();
    let timeout_ms = call.timeout_ms.expect("a pattern's calls have one");
    Request::invoke(name, &json!(seconds)).header("X-Timeout-Ms", &timeout_ms.to_string())
}

/// Acts as one caller: connects, waits until the call is due, and sends it.
fn call(listen: SocketAddr, request: &Request, due: Instant) -> MeasuredAnswer {
    std::thread::sleep(due.saturating_duration_since(Instant::now() + AHEAD));
    let mut wire = RawClient::connect(listen);
    let bytes = request.bytes();
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
    let late = due.elapsed();
    wire.send(&bytes);
    let answer = wire.answer();
    let timing = answer.header("server-timing").unwrap_or_default();
    MeasuredAnswer {
        status: answer.status,
        late,
        held: part(timing, "dispatch") + part(timing, "function"),
    }
}

fn part(timing: &str, name: &str) -> Duration {
    let mut parts = timing.split(',').map(str::trim);
    let ms = parts.find_map(|part| part.strip_prefix(name)?.strip_prefix(";dur=")?.parse().ok());
    Duration::from_secs_f64(ms.unwrap_or(0.0) / 1e3)
}

/// Sends all calls of a pattern, each when it is due.
fn play(plane: &ControlPlane, pattern: &Pattern) -> MeasuredCalls {
    let (calls, before) = (&pattern.setup.calls, pattern.setup.before);
    plane.send(&request(pattern.name, &calls[0])).expect(200);
    let begun = Instant::now() + Duration::from_secs(1);
    let first = calls[1].at;
    let mut seen = MeasuredCalls::default();
    std::thread::scope(|scope| {
        let callers: Vec<_> = calls[1..]
            .iter()
            .map(|one| {
                let due = begun + Duration::from(one.at - first);
                let (request, listen) = (request(pattern.name, one), plane.listen);
                let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
                let caller = move || call(listen, &request, due);
                thread.spawn_scoped(scope, caller).expect("a thread")
            })
            .collect();
        for (number, caller) in callers.into_iter().enumerate() {
            let answered = caller.join().expect("an answer");
            if number + 1 < before {
                continue;
            }
            seen.latest = seen.latest.max(answered.late);
            match answered.status {
                200 => {
                    seen.made_it += 1;
                    let should = Duration::from(calls[number + 1].service);
                    seen.longer += answered.held.saturating_sub(should);
                }
                408 => seen.failed += 1,
                429 => seen.refused += 1,
                other => panic!("{}: a call was answered with {other}", pattern.name),
            }
        }
    });
    seen
}

fn measure(name: &str) {
    static HEAD: Once = Once::new();
    HEAD.call_once(|| {
        println!(
            "pattern       made it  let in and failed  refused  with perfect knowledge  calls took \
             longer by  latest request"
        );
    });
    let pattern = patterns().into_iter().find(|one| one.name == name);
    let mut pattern = pattern.expect("a pattern of that name");
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    let subject = PatternFunction::new(&pattern);
    plane.register(&subject.function);
    let seen = play(&plane, &pattern);
    plane.remove(name);
    let longer = seen.mean_longer();
    let calls = pattern.setup.calls.iter_mut();
    calls.for_each(|call| call.service += longer.into());
    let perfect = simulate(&pattern.setup)
        .summary
        .made_it_with_perfect_knowledge
        .expect("sync calls only");
    println!(
        "{name:<13} {:>7} {:>18} {:>8} {perfect:>23} {:>18.2} ms {:>12.1} ms",
        seen.made_it,
        seen.failed,
        seen.refused,
        longer.as_secs_f64() * 1e3,
        seen.latest.as_secs_f64() * 1e3
    );
    assert_eq!(seen.made_it + seen.failed + seen.refused, CALLS);
    assert!(
        seen.failed <= WRONG_MAX,
        "{} were let in to fail",
        seen.failed
    );
    let missed = perfect.saturating_sub(seen.made_it);
    assert!(missed <= WRONG_MAX, "{missed} more would have made it");
}

macro_rules! patterns {
    ($($test:ident: $name:literal,)*) => {$(
        #[test]
        #[ignore = "a measurement for a quiet machine: ./ci patterns"]
        fn $test() {
            measure($name);
        }
    )*};
}

patterns! {
    bursts: "bursts",
    even: "even",
    poisson: "poisson",
    slow_start: "slow-start",
    pods_missing: "pods-missing",
    one_slot: "one-slot",
}
