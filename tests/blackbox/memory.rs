//! These tests check the memory that the plane holds for unread answers, for the bodies of waiting calls and
//! for idle connections. They read its metrics and the size of the process.

use std::time::Duration;

use nanofaas_testkit::client::{RawClient, Request};
use nanofaas_testkit::control_plane::ControlPlane;
use nanofaas_testkit::functions::{local, pool, with};
use nanofaas_testkit::pod::{After, ScriptedPod};
use nanofaas_testkit::wait::{Gate, PATIENCE, eventually};
use serde_json::json;

use crate::shortage::{ANSWER, MIB, SMALL_BUDGET, highest, inflight, unread};

#[test]
fn idle_clients_make_room_for_one_that_reads() {
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
fn a_body_of_unknown_length_is_charged_exactly() {
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
    // The length of the answer is unknown until its end, so the plane charges the size of the largest allowed
    // answer.
    eventually("the answer is charged", || inflight(&plane) > 2 * MIB);
    gate.open();
    assert_eq!(waiting.answer().expect(200).json()["output"], 12);
    eventually("nothing is charged", || inflight(&plane) == 0);
}

/// Returns a call whose body comes in a chunk, so its head has no length.
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
    // One call runs, and the others wait. Waiting calls may hold at most half of the budget, so at most nine
    // of them fit.
    assert!((4..=10).contains(&held.len()), "{} are held", held.len());
    gate.open();
}

#[test]
fn a_functions_waiting_calls_hold_half_at_most() {
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
    plane.invoke("modest", &body).expect(200);
    gate.open();
    for mut wire in held {
        wire.set_patience(PATIENCE);
        wire.answer().expect(200);
    }
    eventually("nothing is charged", || inflight(&plane) == 0);
}

#[test]
fn a_foreign_token_is_refused_before_the_body() {
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
fn idle_connections_keep_no_body_buffer() {
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
    for client in &mut clients {
        client.send(&Request::invoke("body", &json!(1)).bytes());
        client.answer().expect(200);
    }
}

/// Clients that read nothing hold so much memory that the answers to registrations have to wait. A
/// registration that is answered with 503 must have no effect.
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

/// The call has ended, but its answer must wait for memory. The plane must not answer 503 instead, because
/// the client would then repeat the call.
#[test]
fn a_call_that_ran_without_memory_says_so() {
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
