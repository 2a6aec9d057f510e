//! The storm test makes very many connections with a few calls each. The pods break one answer in ten at any
//! byte, and some clients leave at any byte of their request or their answer. Every complete answer must
//! belong to its caller. At the end the ledger's drift must be 0, and no descriptor may be left. The storm
//! kills no process and changes no function while calls run. `main` calls this module.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use nanofaas_testkit::client::{Answer, RawClient, Request};
use nanofaas_testkit::functions::{pool, with};
use nanofaas_testkit::pod::{After, ReceivedCall, ScriptedConn, ScriptedPod};
use nanofaas_testkit::rng::SeededRng;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use serde_json::{Value, json};

use crate::subject::{ControlPlaneForm, FORMS, Subject};
use crate::tally::Tally;

const CLIENTS: u64 = 12;
const FUNCTIONS: [&str; 2] = ["storm-tcp", "storm-unix"];
/// The percentage of pods' answers that are broken.
const BROKEN: u64 = 10;
/// The percentage of connections that the client closes early.
const LEAVING: u64 = 30;

/// Divides `connections` connections among all forms. Returns false if anything was wrong.
pub(crate) fn run(connections: u64) -> bool {
    println!("storm: NANOFAAS_STORM_CONNECTIONS={connections}");
    let total = Tally::default();
    let forms = FORMS.len() as u64;
    let mut sound = true;
    for form in FORMS {
        sound &= one(form, connections.div_ceil(forms), &total);
    }
    total.print();
    // A storm in which no connection breaks proves nothing, so each of these events must occur.
    let needed = [
        "whole",
        "broken",
        "left in the request",
        "left in the answer",
        "answer 502",
    ];
    for what in needed {
        if total.of(what) == 0 {
            println!("NOT RICH: a storm without {what}");
            sound = false;
        }
    }
    println!("storm: {}", if sound { "passed" } else { "FAILED" });
    sound
}

fn one(form: ControlPlaneForm, connections: u64, total: &Tally) -> bool {
    let begun = Instant::now();
    let tally = Arc::new(Tally::default());
    let more = ["--backend", "none", "--rate-max-per-second", "off"];
    let subject = Subject::start(form, &more, &tally);
    let script = || {
        let tally = tally.clone();
        move |got: &ReceivedCall, line: &mut ScriptedConn| answer(got, line, &tally)
    };
    let pods = [
        ScriptedPod::tcp(script()).forgetful(),
        ScriptedPod::unix(script()).forgetful(),
    ];
    for (name, pod) in FUNCTIONS.into_iter().zip(&pods) {
        let more =
            json!({"concurrency": 64, "queueSize": 1000, "maxRetries": 3, "retryOn": ["POD"]});
        subject.plane.register(&with(pool(name, pod), &more));
    }
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= connections || !subject.is_alive() {
                        return;
                    }
                    if let Err(error) = connection(number, subject.plane.listen, &tally) {
                        tally.wrong(format!("connection {number}: {error}"));
                    }
                }
            });
        }
    });
    if subject.is_alive() {
        subject.balance();
        FUNCTIONS
            .into_iter()
            .for_each(|name| subject.plane.remove(name));
        pods.iter().for_each(ScriptedPod::hang_up);
        subject.check_descriptors();
    }
    subject.stop();
    tally.print_wrongs(form.name);
    total.add(&tally);
    println!(
        "-- {}: {connections} connections in {:?}",
        form.name,
        begun.elapsed()
    );
    if tally.wrongs() > 0 {
        subject.print_log();
    }
    tally.wrongs() == 0
}

/// Echoes the body as a pod, or breaks the answer.
fn answer(got: &ReceivedCall, line: &mut ScriptedConn, tally: &Tally) -> After {
    let envelope: Option<Value> = serde_json::from_slice(&got.body).ok();
    let header = |name| got.header(name).unwrap_or_default();
    let (kind, body) = match (header("content-type"), envelope) {
        ("application/json", Some(envelope)) => ("application/json", envelope["input"].to_string()),
        (kind, _) => (kind, String::from_utf8_lossy(&got.body).into_owned()),
    };
    // The seed depends on the execution's id and the attempt, so each attempt of a call draws other numbers.
    let id = header("x-execution-id")
        .bytes()
        .chain(header("x-dispatch-attempt").bytes());
    let mut rng = SeededRng::new(
        id.fold(0, |sum: u64, byte| sum.wrapping_mul(31) + u64::from(byte)),
        0,
    );
    let chunked = rng.chance(20);
    let framed = if chunked {
        format!(
            "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        )
    } else {
        format!("Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let mut whole = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{framed}").into_bytes();
    if !rng.chance(BROKEN) {
        return if line.send(&whole) {
            After::Keep
        } else {
            After::Close
        };
    }
    tally.count("broken");
    let cut = rng.below(whole.len() as u64) as usize;
    if rng.chance(25) {
        // The zero bytes make the answer invalid as HTTP.
        whole[..cut.min(12)].fill(b'\0');
        line.send(&whole);
    } else {
        line.send(&whole[..cut]);
    }
    if rng.chance(50) {
        After::Reset
    } else {
        After::Close
    }
}

/// Connects from one of many addresses, because a single address has too few ports.
fn connect_from(number: u64, to: SocketAddr) -> io::Result<TcpStream> {
    let SocketAddr::V4(to) = to else {
        return TcpStream::connect(to);
    };
    let [third, fourth] = [1 + number / 250 % 16, 1 + number % 250];
    let from = SockaddrIn::new(127, 0, third as u8, fourth as u8, 0);
    let socket = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    bind(socket.as_raw_fd(), &from)?;
    connect(socket.as_raw_fd(), &SockaddrIn::from(to))?;
    Ok(TcpStream::from(socket))
}

fn connection(number: u64, to: SocketAddr, tally: &Tally) -> io::Result<()> {
    let mut rng = SeededRng::new(number, 1);
    let mut wire = RawClient::over(connect_from(number, to)?);
    let calls = rng.between(1, 3);
    let leaves_in = rng.chance(LEAVING).then(|| rng.below(calls));
    for call in 0..calls {
        let pad = rng.weighted(&[(60, 10), (30, 3000), (10, 40_000)]);
        let text = format!(
            "{number}-{call}-{}",
            "z".repeat(rng.between(0, pad) as usize)
        );
        let input = json!({ "call": text });
        let path = format!("/v1/functions/{}:invoke", FUNCTIONS[rng.below(2) as usize]);
        let raw = rng.chance(30);
        let request = Request::new("POST", &path);
        let request = if raw {
            request.body("application/octet-stream", text.clone())
        } else {
            request.json(&json!({ "input": input }))
        };
        let bytes = request.bytes();
        if leaves_in == Some(call) {
            return leave(wire, &bytes, &mut rng, tally);
        }
        wire.send(&bytes);
        let answer = wire.read(true)?;
        tally.count(&format!("answer {}", answer.status));
        let own = if raw { Value::String(text) } else { input };
        tally.check(judge(&answer, raw, &own));
        if answer.header("connection") == Some("close") {
            break;
        }
    }
    tally.count("whole");
    // Each normal close leaves a socket in TIME_WAIT. Half of the connections therefore end by a reset.
    if rng.chance(50) {
        wire.reset();
    }
    Ok(())
}

/// Leaves during the request or during the answer, after a random number of bytes.
fn leave(mut wire: RawClient, bytes: &[u8], rng: &mut SeededRng, tally: &Tally) -> io::Result<()> {
    if rng.chance(50) {
        tally.count("left in the request");
        wire.send(&bytes[..rng.below(bytes.len() as u64 + 1) as usize]);
    } else {
        tally.count("left in the answer");
        wire.send(bytes);
        let mut part = vec![0; rng.between(1, 1 + bytes.len() as u64) as usize];
        // The client leaves after it has taken up to `part.len()` bytes, even if this read fails.
        let _ = wire.receive(&mut part);
    }
    if rng.chance(50) {
        wire.reset();
    }
    Ok(())
}

/// Checks that the answer belongs to the caller, or is a failure that broken answers explain.
fn judge(answer: &Answer, raw: bool, own: &Value) -> Result<(), String> {
    let text = || answer.text().chars().take(300).collect::<String>();
    let wrong = || {
        Err(format!(
            "{} {} for {:.80}",
            answer.status,
            text(),
            own.to_string()
        ))
    };
    if answer.status == 200 {
        let output = match raw {
            true => Value::String(answer.text()),
            false => answer.json()["output"].clone(),
        };
        return if output == *own { Ok(()) } else { wrong() };
    }
    let body = answer.json();
    let code = &body["error"]["code"];
    let code = code.as_str().or_else(|| body["error"].as_str());
    match (answer.status, code) {
        (502, Some("POD_LOST" | "BAD_OUTPUT")) | (408, Some("TIMEOUT")) => Ok(()),
        (429, Some("TOO_MANY_REQUESTS")) => Ok(()),
        _ => wrong(),
    }
}
