//! These tests send a FIN together with a request. A call then runs only if it outlives its client, and any
//! other request is answered. The tests stop the plane's threads while the client sends, so the plane finds
//! the request and the FIN at the same time.

use nanofaas_testkit::client::{RawClient, Request};
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::functions::{local, pool, with};
use nanofaas_testkit::pod::ScriptedPod;
use nanofaas_testkit::wait::{Gate, eventually};
use nix::sys::signal::Signal;
use serde_json::json;

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane = SharedControlPlane::new(&["--rate-max-per-second", "off"]);
    PLANE.get()
}

/// Sends bytes and a FIN. Both arrive before the plane reads any of them.
fn send_with_fin(plane: &ControlPlane, wire: &mut RawClient, bytes: &[u8]) {
    plane.signal(Signal::SIGSTOP);
    eventually("all of its threads are stopped", || stands_still(plane));
    wire.send(bytes);
    wire.finish();
    plane.signal(Signal::SIGCONT);
}

/// Returns whether all threads are stopped. A running thread could read the bytes before the FIN arrives.
fn stands_still(plane: &ControlPlane) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", plane.pid)).expect("it lives");
    let mut stats = threads
        .flatten()
        .map(|thread| std::fs::read_to_string(thread.path().join("stat")));
    stats.all(|stat| stat.is_ok_and(|stat| stat.contains(") T ")))
}

fn used(plane: &ControlPlane) -> RawClient {
    let mut wire = Request::get("/v1/functions").begin(plane.listen);
    wire.answer().expect(200);
    wire
}

#[test]
fn a_half_closed_long_poll_gets_its_answer() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&pool("half-poll", &pod));
    let id = plane().enqueue("half-poll", &json!("a"));
    pod.wait_calls(1);
    let path = format!("/v1/executions/{id}?waitMs=50000");
    let mut poll = Request::get(&path).begin(plane().listen);
    poll.finish();
    // The plane has time to handle the FIN during this request.
    plane().get("/v1/functions").expect(200);
    gate.open();
    assert_eq!(poll.answer().expect(200).json()["status"], "success");
    assert!(poll.closes_within(std::time::Duration::from_secs(30)));
}

#[test]
fn other_requests_are_answered_after_a_fin() {
    let plane = ControlPlane::start(&[]);
    let mut bytes = Request::get("/v1/functions").bytes();
    let register = Request::new("POST", "/v1/functions").json(&local("half-all"));
    bytes.extend(register.bytes());
    bytes.extend(Request::get("/v1/functions/half-all").bytes());
    bytes.extend(Request::delete("/v1/functions/half-all").bytes());
    bytes.extend(Request::get("/v1/executions/none?waitMs=1000").bytes());
    bytes.extend(Request::get("/nowhere").bytes());
    for mut wire in [used(&plane), RawClient::connect(plane.listen)] {
        send_with_fin(&plane, &mut wire, &bytes);
        for status in [200, 201, 200, 204, 404, 404] {
            wire.answer().expect(status);
        }
        assert!(wire.closes_within(std::time::Duration::from_secs(30)));
    }
}

#[test]
fn a_call_with_its_fin_does_not_run() {
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    let pod = ScriptedPod::echo();
    plane.register(&pool("fin", &pod));
    plane.register(&local("fin-local"));
    let call = |name| Request::invoke(name, &json!("left")).bytes();
    let chunked = b"POST /v1/functions/fin:invoke HTTP/1.1\r\nHost: localhost\r\n\
        Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
        B\r\n{\"input\":1}\r\n0\r\n\r\n";
    let wait = Request::invoke("fin", &json!("left")).header("Prefer", "wait=5");
    let calls = [
        call("fin"),
        call("fin-local"),
        chunked.to_vec(),
        wait.bytes(),
    ];
    for bytes in calls {
        // The call is sent alone, behind a request, and between two requests. Only a request before the call
        // is answered.
        let behind = [Request::get("/v1/functions").bytes(), bytes.clone()].concat();
        let after = [behind.clone(), Request::get("/v1/functions").bytes()].concat();
        for (answers, bytes) in [(0, bytes), (1, behind), (1, after)] {
            for mut wire in [used(&plane), RawClient::connect(plane.listen)] {
                send_with_fin(&plane, &mut wire, &bytes);
                for _ in 0..answers {
                    wire.answer().expect(200);
                }
                let end = wire.read(true);
                assert!(
                    end.is_err(),
                    "{end:?} to {}",
                    String::from_utf8_lossy(&bytes)
                );
            }
        }
    }
    plane.invoke("fin", &json!("stays")).expect(200);
    plane.invoke("fin-local", &json!("stays")).expect(200);
    assert_eq!(pod.calls().len(), 1, "calls of clients that had left");
    let metrics = plane.settle();
    assert_eq!(metrics.sum("function_success_total", &[]), 2.0);
    assert_eq!(metrics.sum("nanofaas_executions_accepted", &[]), 2.0);
}

#[test]
fn calls_that_outlive_clients_run_after_a_fin() {
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    let pod = ScriptedPod::echo();
    plane.register(&pool("fin-on", &pod));
    let keyed = Request::invoke("fin-on", &json!("keyed")).header("Idempotency-Key", "k");
    let prefer = Request::invoke("fin-on", &json!("prefer")).header("Prefer", "respond-async");
    let queued = Request::enqueue("fin-on", &json!("queued"));
    for (number, request) in [&queued, &prefer, &keyed].into_iter().enumerate() {
        let mut wire = RawClient::connect(plane.listen);
        send_with_fin(&plane, &mut wire, &request.bytes());
        let id = wire.answer().expect(202).id();
        assert_eq!(plane.ended(&id)["status"], "success");
        assert_eq!(pod.calls().len(), number + 1);
    }
    let again = plane.send(&keyed).expect(200);
    assert_eq!(again.header("idempotent-replay"), Some("true"));
    assert_eq!(
        (&again.json()["output"], pod.calls().len()),
        (&json!("keyed"), 3)
    );
}

#[test]
fn pipelined_calls_do_not_run_after_a_fin() {
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    let pod = ScriptedPod::echo();
    plane.register(&pool("fin-ahead", &pod));
    // Each of these pipelines has more bytes than one receive takes, and fewer bytes than a client may send
    // ahead.
    for (count, length) in [(10, 300), (20, 1500), (3, 15_000)] {
        let call = Request::invoke("fin-ahead", &json!("x".repeat(length))).bytes();
        let bytes = call.repeat(count);
        assert!(bytes.len() < 60_000, "{} bytes", bytes.len());
        for _ in 0..20 {
            for mut wire in [used(&plane), RawClient::connect(plane.listen)] {
                send_with_fin(&plane, &mut wire, &bytes);
                assert!(wire.read(true).is_err());
            }
        }
    }
    assert_eq!(pod.calls().len(), 0, "calls of clients that had left");
}

fn waiting(plane: &ControlPlane) -> f64 {
    plane.metrics().sum("function_queue_depth", &[])
}

#[test]
fn a_leaving_client_is_noticed_behind_its_pipeline() {
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane.register(&with(pool("ahead", &pod), &json!({"concurrency": 1})));
    let patient = Request::invoke("ahead", &json!(1)).header("X-Timeout-Ms", "300000");
    for (round, is_reset) in [false, true].into_iter().enumerate() {
        let mut running = patient.begin(plane.listen);
        pod.wait_calls(round + 1);
        let mut queued = patient.begin(plane.listen);
        eventually("the second call waits", || waiting(&plane) == 1.0);
        // The pipeline has more bytes than the plane reads while the first call runs, so the end of the
        // connection comes behind unread bytes.
        for wire in [&mut queued, &mut running] {
            wire.send(&patient.bytes().repeat(500));
        }
        let leave = |wire: RawClient| {
            if is_reset {
                wire.reset();
            }
        };
        leave(queued);
        eventually("nothing waits", || waiting(&plane) == 0.0);
        leave(running);
        eventually("the pod's call is interrupted", || pod.cuts() == round + 1);
    }
    gate.open();
    plane.settle();
    assert_eq!(pod.calls().len(), 2, "calls of clients that had left");
}
