//! These tests check guarantees for any number of io threads: a key, an output and an answer are the same,
//! whichever io thread has the client's connection.

use std::time::{Duration, Instant};

use nanofaas_testkit::client::{RawClient, Request};
use nanofaas_testkit::control_plane::ControlPlane;
use nanofaas_testkit::form::io_threads;
use nanofaas_testkit::functions::{local, pool, with};
use nanofaas_testkit::pod::ScriptedPod;
use nanofaas_testkit::wait::{Gate, eventually};
use nix::sys::signal::Signal;
use serde_json::json;

fn keyed(function: &str, key: &str) -> Request {
    Request::invoke(function, &json!(1)).header("Idempotency-Key", key)
}

#[test]
fn joined_calls_of_a_refused_key_are_refused() {
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane.register(&with(pool("full", &pod), &json!({"queueSize": 1})));
    let mut held = vec![Request::invoke("full", &json!(1)).begin(plane.listen)];
    pod.wait_calls(1);
    held.push(Request::invoke("full", &json!(2)).begin(plane.listen));
    plane.wait_for("full", 1, 1);
    for round in 0..8 {
        let request = keyed("full", &format!("key-{round}")).bytes();
        let mut wires: Vec<RawClient> = (0..32).map(|_| RawClient::connect(plane.listen)).collect();
        wires.iter_mut().for_each(|wire| wire.send(&request));
        for wire in &mut wires {
            wire.answer().expect_error(429, "TOO_MANY_REQUESTS");
        }
    }
    gate.open();
    for wire in &mut held {
        wire.answer().expect(200);
    }
    // The refused calls must not have kept the key, so this call runs and is no replay.
    let again = plane.send(&keyed("full", "key-0")).expect(200);
    assert_eq!(again.header("idempotent-replay"), None);
    plane.settle();
}

#[test]
fn an_output_that_fits_stays_with_its_key() {
    let plane = ControlPlane::start(&["--execution-store-bytes", "8MiB"]);
    let pod = ScriptedPod::answering(|_| format!("\"{}\"", "a".repeat(3 << 20)));
    plane.register(&pool("big", &pod));
    let first = plane.send(&keyed("big", "k")).expect(200);
    for _ in 0..8 {
        assert_eq!(plane.send(&keyed("big", "k")).expect(200).id(), first.id());
    }
    assert_eq!(pod.calls().len(), 1, "one key is one run");
}

#[test]
fn the_stores_account_ends_at_zero() {
    let plane = ControlPlane::start(&["--execution-ttl-ms", "500", "--rate-max-per-second", "off"]);
    let failing = ScriptedPod::tcp(|_, line| line.answer(500, "", b"{\"error\":\"why\"}"));
    plane.register(&local("kept"));
    plane.register(&pool("failing", &failing));
    let store = || plane.metrics().sum("nanofaas_store_bytes", &[]);
    let mut most = store();
    assert_eq!(most, 0.0);
    for round in 0..20 {
        plane.enqueue("kept", &json!("x".repeat(10_000)));
        let key = format!("key-{round}");
        plane.send(&keyed("kept", &key)).expect(200);
        plane.send(&keyed("failing", &key)).expect(500);
        most = store().max(most);
    }
    assert!(most > 10_000.0, "{most} bytes at the most");
    eventually("the store is empty", || store() == 0.0);
    for round in 0..20 {
        let again = plane.send(&keyed("kept", &format!("key-{round}")));
        assert_eq!(again.expect(200).header("idempotent-replay"), None);
    }
}

/// Returns the number of the io thread that owns an execution. The second digit is enough, because the tests
/// have fewer than ten io threads.
fn thread_of(id: &str) -> &str {
    assert!(id.starts_with('0'), "{id}");
    &id[1..2]
}

#[test]
fn a_drained_thread_answers_for_its_executions() {
    if io_threads() == 1 {
        return;
    }
    let plane = ControlPlane::start(&["--drain-ms", "0"]);
    plane.register(&local("last"));
    let asked = plane.enqueue("last", &json!(1));
    plane.ended(&asked);
    // The connection must belong to another io thread than the execution. A request stays unfinished on this
    // connection, so the io thread of the connection does not end first.
    let invoke = Request::invoke("last", &json!(1)).bytes();
    let mut wire = loop {
        let mut wire = RawClient::connect(plane.listen);
        wire.send(&invoke);
        let id = wire.answer().expect(200).id();
        if thread_of(&id) != thread_of(&asked) {
            break wire;
        }
    };
    let request = Request::get(&format!("/v1/executions/{asked}"))
        .header("Content-Length", "1")
        .header("Expect", "100-continue");
    wire.send(&request.bytes());
    wire.answer().expect(100);
    plane.signal(Signal::SIGTERM);
    // The execution's io thread gets a second to end before the test completes the request about the
    // execution.
    let name = format!("io-{}", thread_of(&asked));
    let is_there = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", plane.pid)).expect("it runs");
        let comm = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
        tasks
            .flatten()
            .flat_map(comm)
            .any(|comm| comm.trim() == name)
    };
    assert!(is_there(), "{name}");
    let begun = Instant::now();
    while is_there() && begun.elapsed() < Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(5));
    }
    wire.send(b"x");
    assert_eq!(wire.answer().expect(200).json()["executionId"], asked);
    assert!(plane.exit_within(Duration::from_secs(20)).is_some());
}
