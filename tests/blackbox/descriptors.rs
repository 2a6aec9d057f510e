//! These tests run a plane with few descriptors. They check which idle connections the plane closes for new
//! clients, and that calls wait for descriptors.

use std::net::TcpStream;
use std::time::Duration;

use nanofaas_testkit::client::{RawClient, Request};
use nanofaas_testkit::control_plane::ControlPlane;
use nanofaas_testkit::functions::{pool, with};
use nanofaas_testkit::pod::ScriptedPod;
use nanofaas_testkit::wait::{Gate, eventually};
use serde_json::json;

fn plane() -> ControlPlane {
    ControlPlane::start_in_shell(
        "ulimit -n 96; exec \"$@\"",
        &["--rate-max-per-second", "off"],
    )
}

#[test]
fn idle_clients_make_room_for_new_ones() {
    let plane = plane();
    let pod = ScriptedPod::echo();
    plane.register(&with(pool("room", &pod), &json!({"maxRetries": 0})));
    let silent: Vec<_> = (0..150)
        .map(|_| TcpStream::connect(plane.listen).expect("a place in the queue"))
        .collect();
    // The plane closes a connection that has never sent a byte only after a second, so this call may have to
    // wait.
    assert_eq!(
        plane.invoke("room", &json!(1)).expect(200).json()["output"],
        1
    );
    Request::get("/healthz").send(plane.management).expect(200);
    drop(silent);
    // A client whose call was answered is idle, too. The plane closes the connection of such a client as soon
    // as the plane needs descriptors.
    let served: Vec<_> = (0..150)
        .map(|at| {
            let mut wire = Request::invoke("room", &json!(at)).begin(plane.listen);
            assert_eq!(wire.answer().expect(200).json()["output"], at);
            wire
        })
        .collect();
    drop(served);
}

#[test]
fn clients_with_a_call_or_head_stay_open() {
    let plane = plane();
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane.register(&with(
        pool("held", &pod),
        &json!({"maxRetries": 0, "concurrency": 4, "queueSize": 100}),
    ));
    let mut calls: Vec<_> = (0..8)
        .map(|_| Request::invoke("held", &json!(1)).begin(plane.listen))
        .collect();
    let whole = Request::invoke("held", &json!(2)).bytes();
    let mut head = RawClient::connect(plane.listen);
    head.send(&whole[..20]);
    plane.wait_for("held", 4, 4);
    let silent: Vec<_> = (0..120)
        .map(|_| TcpStream::connect(plane.listen).expect("a place in the queue"))
        .collect();
    std::thread::sleep(Duration::from_secs(3));
    head.send(&whole[20..]);
    plane.wait_for("held", 5, 4);
    gate.open();
    for call in &mut calls {
        call.answer().expect(200);
    }
    head.answer().expect(200);
    drop(silent);
}

#[test]
fn calls_wait_for_descriptors_without_blaming_the_pod() {
    let plane = plane();
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    // The function's concurrency allows more connections to the pod than there are descriptors.
    plane.register(&with(
        pool("wide", &pod),
        &json!({"maxRetries": 0, "concurrency": 200, "queueSize": 1000}),
    ));
    let mut calls: Vec<_> = (0..40)
        .map(|_| Request::invoke("wide", &json!(1)).begin(plane.listen))
        .collect();
    eventually("ten calls have begun", || pod.calls().len() > 10);
    gate.open();
    for call in &mut calls {
        call.answer().expect(200);
    }
    let lost = plane
        .log
        .lines()
        .into_iter()
        .find(|line| line.contains("POD_"));
    assert_eq!(lost, None);
}
