//! The memory that is held for clients, by the plane's own account and by the process's size:
//! unread answers, outputs that many clients read, bodies of waiting calls, buffers of idle
//! connections.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nanofaas_testkit::client::{Answer, RawClient, Request};
use nanofaas_testkit::control_plane::ControlPlane;
use nanofaas_testkit::functions::{local, pool, with};
use nanofaas_testkit::pod::{After, ScriptedPod};
use nanofaas_testkit::wait::{Gate, PATIENCE, eventually};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt,
};
use serde_json::json;

pub(crate) const MIB: u64 = 1 << 20;

/// A client with a small receive buffer.
pub(crate) fn narrow(to: SocketAddr) -> TcpStream {
    let SocketAddr::V4(to) = to else {
        panic!("the plane listens on IPv4");
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("a socket");
    setsockopt(&fd, sockopt::RcvBuf, &4096).expect("a socket");
    connect(fd.as_raw_fd(), &SockaddrIn::from(to)).expect("a connection");
    fd.into()
}

/// A client that sends a request and reads nothing.
pub(crate) fn unread(plane: &ControlPlane, request: &Request) -> RawClient {
    let mut wire = RawClient::over(narrow(plane.listen));
    wire.send(&request.bytes());
    wire
}

pub(crate) fn inflight(plane: &ControlPlane) -> u64 {
    plane.metrics().sum("nanofaas_inflight_bytes", &[]) as u64
}

/// Makes calls of the function `full`, which the pod does not answer, until almost `up_to` bytes
/// are charged. With several io threads a call may be refused earlier, because each thread reserves
/// bytes that the others cannot use.
pub(crate) fn fill(plane: &ControlPlane, pod: &ScriptedPod, up_to: u64) -> Vec<RawClient> {
    let before = pod.calls().len();
    let mut held = Vec::new();
    for (size, charge) in [(900_000, 1_000_000), (200_000, 300_000), (2000, 60_000)] {
        let body = json!("a".repeat(size));
        while inflight(plane) + charge < up_to {
            let mut one = Request::invoke("full", &body).begin(plane.listen);
            let mut is_refused = false;
            eventually("the call reaches the pod or is refused", || {
                is_refused = !one.stays_quiet_for(Duration::from_millis(10));
                is_refused || pod.calls().len() > before + held.len()
            });
            if is_refused {
                one.answer().expect_error(429, "TOO_MANY_REQUESTS");
                break;
            }
            held.push(one);
        }
    }
    held
}

/// Opens the gate and reads all answers in parallel, because the plane closes a client that does
/// not read.
pub(crate) fn release(held: Vec<RawClient>, gate: &Gate) {
    std::thread::scope(|scope| {
        for mut one in held {
            scope.spawn(move || {
                one.set_patience(PATIENCE);
                one.answer().expect(200);
            });
        }
        gate.open();
    });
}

/// The highest value of `now` during `work`.
fn highest(now: impl Fn() -> u64 + Sync, work: impl FnOnce()) -> u64 {
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut high = 0;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                high = high.max(now());
                std::thread::sleep(Duration::from_millis(10));
            }
            high
        });
        work();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        watch.join().expect("it watches")
    })
}

const ANSWER: usize = 2_000_000;
pub(crate) const SMALL_BUDGET: [&str; 8] = [
    "--rate-max-per-second",
    "off",
    "--max-response",
    "2MiB",
    "--inflight-bytes",
    "16MiB",
    "--log-level",
    "info",
];

#[test]
fn clients_that_read_nothing_make_room_for_one_that_reads() {
    let plane = ControlPlane::start(&SMALL_BUDGET);
    let pod = ScriptedPod::answering(|_| format!("\"{}\"", "a".repeat(ANSWER - 2)));
    plane.register(&with(
        pool("large", &pod),
        &json!({"concurrency": 16, "queueSize": 1000}),
    ));
    let request = Request::invoke("large", &json!(1));
    let idle = plane.resident_bytes();
    let memory = highest(
        || plane.resident_bytes(),
        || {
            let charged = highest(
                || inflight(&plane),
                || {
                    let silent: Vec<_> = (0..60).map(|_| unread(&plane, &request)).collect();
                    for _ in 0..3 {
                        let answer = request.send(plane.listen).expect(200);
                        assert_eq!(
                            answer.json()["output"].as_str().map(str::len),
                            Some(ANSWER - 2)
                        );
                    }
                    drop(silent);
                },
            );
            assert!(charged > 8 * MIB, "{charged} bytes were charged at most");
            assert!(charged <= 19 * MIB, "{charged} bytes were charged at most");
        },
    );
    assert!(memory < idle + 40 * MIB, "{idle} bytes idle, then {memory}");
    let cut = plane.metrics().sum("nanofaas_answers_cut_total", &[]);
    assert!(cut >= 30.0, "{cut} were cut");
    plane.settle();
    eventually("nothing is charged", || inflight(&plane) == 0);
}

#[test]
fn answers_wait_for_their_room_in_turn() {
    let plane = ControlPlane::start(&SMALL_BUDGET);
    let pod = ScriptedPod::answering(|_| format!("\"{}\"", "a".repeat(ANSWER - 2)));
    plane.register(&with(
        pool("many", &pod),
        &json!({"concurrency": 60, "queueSize": 1000}),
    ));
    let charged = highest(
        || inflight(&plane),
        || {
            std::thread::scope(|scope| {
                for _ in 0..60 {
                    scope.spawn(|| {
                        let answer = plane.invoke("many", &json!(1)).expect(200);
                        assert!(answer.body.len() > ANSWER);
                    });
                }
            });
        },
    );
    assert!(charged <= 19 * MIB, "{charged} bytes were charged at most");
    eventually("nothing is charged", || inflight(&plane) == 0);
}

#[test]
fn a_body_of_unknown_length_is_charged_as_what_it_was() {
    let plane = ControlPlane::start(&SMALL_BUDGET);
    let gate = Gate::default();
    let door = gate.clone();
    let pod = ScriptedPod::tcp(move |_, line| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        line.send(head.as_bytes());
        line.send(b"1\r\n1\r\n");
        line.wait(&door);
        line.send(b"1\r\n2\r\n0\r\n\r\n");
        After::Keep
    });
    plane.register(&with(pool("chunks", &pod), &json!({"concurrency": 8})));
    let mut waiting = Request::invoke("chunks", &json!(1)).begin(plane.listen);
    // The largest allowed answer is charged until the answer's end is known.
    eventually("the answer is charged", || inflight(&plane) > 2 * MIB);
    gate.open();
    assert_eq!(waiting.answer().expect(200).json()["output"], 12);
    eventually("nothing is charged", || inflight(&plane) == 0);
}

#[test]
fn a_kept_output_is_shared_by_those_who_ask_for_it() {
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    let pod = ScriptedPod::answering(|_| format!("\"{}\"", "a".repeat(3_000_000)));
    plane.register(&pool("kept", &pod));
    let id = plane.enqueue("kept", &json!(1));
    plane.ended(&id);
    let idle = plane.resident_bytes();
    let paths = [
        format!("/v1/executions/{id}/output"),
        format!("/v1/executions/{id}"),
    ];
    let memory = highest(
        || plane.resident_bytes(),
        || {
            let asked = (0..100).map(|at| unread(&plane, &Request::get(&paths[at % 2])));
            let asked: Vec<_> = asked.collect();
            std::thread::sleep(Duration::from_secs(1));
            for path in &paths {
                let answer = plane.get(path).expect(200);
                assert!(answer.body.len() >= 3_000_002);
            }
            drop(asked);
        },
    );
    assert!(memory < idle + 24 * MIB, "{idle} bytes idle, then {memory}");
    eventually("nothing is charged", || inflight(&plane) == 0);
}

#[test]
fn an_output_that_the_store_drops_is_cut_and_not_mixed_up() {
    let flags = [
        "--execution-store-bytes",
        "4MiB",
        "--rate-max-per-second",
        "off",
    ];
    let plane = ControlPlane::start(&flags);
    let pod = ScriptedPod::answering(|_| format!("\"{}\"", "a".repeat(3_000_000)));
    plane.register(&pool("dropped", &pod));
    let id = plane.enqueue("dropped", &json!(1));
    plane.ended(&id);
    let mut reader = unread(
        &plane,
        &Request::get(&format!("/v1/executions/{id}/output")),
    );
    eventually("the output is being sent", || inflight(&plane) > 0);
    let other = plane.enqueue("dropped", &json!(2));
    plane.ended(&other);
    // The answer ends before its Content-Length.
    assert!(reader.read(true).is_err());
    let cut = || plane.metrics().sum("nanofaas_answers_cut_total", &[]);
    eventually("the cut answer is counted", || cut() == 1.0);
}

#[test]
fn error_texts_are_cut_and_weigh_little() {
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    let text = "é".repeat(8000);
    let pod = ScriptedPod::tcp(move |_, line| {
        let body = json!({"code": "BIG", "message": text}).to_string();
        line.answer(500, "Content-Type: application/json\r\n", body.as_bytes())
    });
    plane.register(&with(pool("fails", &pod), &json!({"retryOn": []})));
    let answer = plane.invoke("fails", &json!(1)).expect(500).json();
    let message = answer["error"]["message"].as_str().expect("a message");
    assert!(
        message.len() <= 1024 + 3 && message.ends_with('…'),
        "{}",
        message.len()
    );
    let id = plane.enqueue("fails", &json!(1));
    plane.ended(&id);
    let weight = plane.metrics().sum("nanofaas_store_bytes", &[]);
    assert!(weight < 3000.0, "{weight}");
}

/// A call whose body comes in chunks, so that its head has no length.
fn in_chunks(name: &str, body: usize) -> Vec<u8> {
    let head = format!(
        "POST /v1/functions/{name}:invoke HTTP/1.1\r\nHost: localhost\r\nContent-Type: a/b\r\n\
         Transfer-Encoding: chunked\r\n\r\n{body:x}\r\n"
    );
    [head.as_bytes(), &vec![b'a'; body], b"\r\n0\r\n\r\n"].concat()
}

#[test]
fn waiting_calls_in_chunks_count_as_well() {
    let plane = ControlPlane::start(&SMALL_BUDGET);
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane.register(&with(
        pool("chunked", &pod),
        &json!({"concurrency": 1, "queueSize": 1000}),
    ));
    let mut held = Vec::new();
    let refused = loop {
        let mut wire = RawClient::connect(plane.listen);
        wire.send(&in_chunks("chunked", 900_000));
        wire.set_patience(Duration::from_millis(300));
        match wire.read(true) {
            Ok(answer) => break answer,
            Err(_) => held.push(wire),
        }
        assert!(held.len() < 20, "16 MiB are not bounded");
    };
    assert_eq!(
        refused.expect(429).header("x-queue-reject-reason"),
        Some("memory")
    );
    // One call runs; the waiting calls may hold half of the budget.
    assert!((4..=10).contains(&held.len()), "{} are held", held.len());
    gate.open();
}

#[test]
fn waiting_calls_of_one_function_hold_half_of_it_at_most() {
    let plane = ControlPlane::start(&SMALL_BUDGET);
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane.register(&with(
        pool("greedy", &pod),
        &json!({"concurrency": 1, "queueSize": 1000}),
    ));
    plane.register(&local("modest"));
    let body = json!("a".repeat(900_000));
    let mut held = Vec::new();
    let refused = loop {
        let mut wire = Request::invoke("greedy", &body).begin(plane.listen);
        wire.set_patience(Duration::from_millis(300));
        match wire.read(true) {
            Ok(answer) => break answer,
            Err(_) => held.push(wire),
        }
        assert!(held.len() < 20, "16 MiB are not bounded");
    };
    assert_eq!(
        refused.expect(429).header("x-queue-reject-reason"),
        Some("memory")
    );
    assert!((6..=10).contains(&held.len()), "{} wait", held.len());
    // Calls of other functions are still accepted.
    plane.invoke("modest", &body).expect(200);
    gate.open();
    for mut wire in held {
        wire.set_patience(PATIENCE);
        wire.answer().expect(200);
    }
    eventually("nothing is charged", || inflight(&plane) == 0);
}

#[test]
fn a_result_with_a_foreign_token_is_refused_before_its_body_comes() {
    let plane = ControlPlane::start(&[]);
    let id = "0".repeat(31);
    let mut wire = RawClient::connect(plane.listen);
    wire.send(
        format!(
            "POST /v1/internal/1.{}/executions/{id}:complete HTTP/1.1\r\nHost: localhost\r\n\
             Content-Type: application/json\r\nContent-Length: 5000000\r\n\r\n{{",
            "0".repeat(64)
        )
        .as_bytes(),
    );
    wire.answer().expect(403);
    assert_eq!(inflight(&plane), 0);
}

#[test]
fn idle_connections_keep_no_buffer_of_their_last_body() {
    const CLIENTS: usize = 800;
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    plane.register(&with(
        local("body"),
        &json!({"concurrency": 64, "queueSize": 1000}),
    ));
    let body = json!("a".repeat(60_000));
    plane.invoke("body", &body).expect(200);
    let idle = plane.resident_bytes();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut wire = Request::invoke("body", &body).begin(plane.listen);
        wire.answer().expect(200);
        clients.push(wire);
    }
    eventually("each holds a few KiB", || {
        plane.resident_bytes() < idle + (CLIENTS as u64) * 8 * 1024 + 4 * MIB
    });
    // All connections are still open.
    for client in &mut clients {
        client.send(&Request::invoke("body", &json!(1)).bytes());
        client.answer().expect(200);
    }
}

/// Clients that read nothing hold so much memory that the answers to registrations wait.
#[test]
fn what_is_refused_was_not_done() {
    let plane = ControlPlane::start(&SMALL_BUDGET);
    let large = json!("x".repeat(1_900_000)).to_string();
    let pod = ScriptedPod::answering(move |_| large.clone());
    let many = json!({"concurrency": 100, "queueSize": 1000});
    plane.register(&with(pool("large", &pod), &many));
    let request = Request::invoke("large", &json!(1));
    let unread: Vec<RawClient> = (0..60).map(|_| unread(&plane, &request)).collect();
    eventually("answers wait for memory", || inflight(&plane) > 13 * MIB);
    let names: Vec<String> = (0..60).map(|number| format!("f{number}")).collect();
    let register = |name: &String| {
        let request = Request::new("POST", "/v1/functions").json(&local(name));
        plane.send(&request).status
    };
    let answered: Vec<u16> = names.iter().map(register).collect();
    drop(unread);
    eventually("nothing is charged", || inflight(&plane) == 0);
    for (name, status) in names.iter().zip(answered) {
        assert!(matches!(status, 201 | 503), "{name}: {status}");
        let is_there = plane.get(&format!("/v1/functions/{name}")).status == 200;
        assert_eq!(is_there, status == 201, "{name} was answered with {status}");
    }
}

/// The answer of a finished call waits for memory and is no 503, because the client would repeat
/// the call.
#[test]
fn a_call_that_ran_is_told_so_while_memory_is_short() {
    let plane = ControlPlane::start(&SMALL_BUDGET);
    let large = json!("x".repeat(1_900_000)).to_string();
    let many = json!({"concurrency": 100, "queueSize": 1000});
    let pod = ScriptedPod::answering(move |_| large.clone());
    plane.register(&with(pool("large", &pod), &many));
    let small = ScriptedPod::answering(|_| json!("y".repeat(3000)).to_string());
    plane.register(&with(pool("kept", &small), &many));
    let request = Request::invoke("large", &json!(1));
    let unread: Vec<RawClient> = (0..60).map(|_| unread(&plane, &request)).collect();
    eventually("answers wait for memory", || inflight(&plane) > 13 * MIB);
    for number in 0..20 {
        let keyed = Request::invoke("kept", &json!(1));
        let keyed = keyed.header("Idempotency-Key", &format!("key-{number}"));
        let status = plane.send(&keyed).status;
        assert!(matches!(status, 200 | 429), "keyed: {status}");
        let traced = Request::enqueue("kept", &json!(1)).header("X-Trace-Id", &"t".repeat(256));
        let status = plane.send(&traced).status;
        assert!(matches!(status, 202 | 429), "queued: {status}");
    }
    drop(unread);
    eventually("nothing is charged", || inflight(&plane) == 0);
}

/// Answers larger than the outputs that are copied, and than the parts in which stored outputs are
/// sent.
#[test]
fn large_answers_are_whole_in_every_form() {
    const LARGE: usize = 200_000;
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    let text = "line \"quoted\"\n\u{e9}".repeat(LARGE / 16);
    for framing in ["length", "chunked", "close"] {
        for kind in ["application/json", "text/plain", "image/png"] {
            let output = match kind {
                "application/json" => json!(text).to_string().into_bytes(),
                "text/plain" => text.clone().into_bytes(),
                _ => (0..LARGE).map(|at| at as u8).collect(),
            };
            let sent = output.clone();
            let pod = ScriptedPod::tcp(move |_, line| {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n");
                match framing {
                    "length" => {
                        let type_line = format!("Content-Type: {kind}\r\n");
                        line.answer(200, &type_line, &sent)
                    }
                    "chunked" => {
                        line.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes());
                        for piece in sent.chunks(70_001) {
                            line.send(format!("{:x}\r\n", piece.len()).as_bytes());
                            line.send(piece);
                            line.send(b"\r\n");
                        }
                        line.send(b"0\r\n\r\n");
                        After::Keep
                    }
                    _ => {
                        line.send(format!("{head}\r\n").as_bytes());
                        line.send(&sent);
                        After::Close
                    }
                }
            });
            let name = format!("{framing}-{}", &kind[..4]);
            plane.register(&pool(&name, &pod));
            let shown = |answer: Answer| match kind {
                "image/png" => assert!(answer.body == output, "{name}"),
                _ => assert!(answer.json()["output"] == json!(text), "{name}"),
            };
            shown(plane.invoke(&name, &json!(1)).expect(200));
            let keyed = Request::invoke(&name, &json!(1)).header("Idempotency-Key", "k");
            shown(plane.send(&keyed).expect(200));
            shown(plane.send(&keyed).expect(200));
            let id = plane.enqueue(&name, &json!(1));
            let status = plane.ended(&id);
            let kept = plane
                .get(&format!("/v1/executions/{id}/output"))
                .expect(200);
            assert!(kept.body == output, "{name}");
            if kind == "image/png" {
                let base64 = status["output"]["base64"].as_str().expect("base64");
                assert_eq!(base64.len(), output.len().div_ceil(3) * 4);
            } else {
                assert!(status["output"] == json!(text), "{name}");
            }
            let mut head = RawClient::connect(plane.listen);
            head.send(
                format!("HEAD /v1/executions/{id}/output HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    .as_bytes(),
            );
            let head = head.read(false).expect("a head");
            assert_eq!(
                head.header("content-length"),
                Some(&*output.len().to_string())
            );
        }
    }
    eventually("nothing is charged", || inflight(&plane) == 0);
}
