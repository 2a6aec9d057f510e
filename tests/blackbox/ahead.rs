//! Checks that the plane charges the bytes that clients send ahead: small requests whose answers they do not
//! read, heads without an end, and pipelined requests while memory is short.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use nanofaas_testkit::client::{RawClient, Request};
use nanofaas_testkit::control_plane::ControlPlane;
use nanofaas_testkit::functions::{local, pool, with};
use nanofaas_testkit::pod::ScriptedPod;
use nanofaas_testkit::wait::{Gate, eventually};
use serde_json::json;

use crate::shortage::{MIB, SMALL_BUDGET, fill, inflight, narrow, release};

#[test]
fn requests_behind_unread_answers_are_charged() {
    let plane = ControlPlane::start(&SMALL_BUDGET);
    let many = Request::get("/none").bytes().repeat(4000);
    let clients: Vec<TcpStream> = (0..100)
        .map(|_| {
            let client = narrow(plane.listen);
            client.set_nonblocking(true).expect("a socket");
            client
        })
        .collect();
    let mut highest = 0;
    eventually("the requests that were sent ahead are charged", || {
        for mut client in &clients {
            let _ = client.write(&many);
        }
        highest = highest.max(inflight(&plane));
        highest > 6 * MIB
    });
    assert!(inflight(&plane) <= 16 * MIB);
    drop(clients);
    eventually("nothing is charged", || inflight(&plane) == 0);
}

#[test]
fn heads_that_are_not_whole_are_charged() {
    let plane = ControlPlane::start(&SMALL_BUDGET);
    plane.register(&local("local"));
    let head = format!(
        "GET /v1/functions HTTP/1.1\r\nX-Pad: {}",
        "p".repeat(15_000)
    );
    let begin = |count: usize| -> Vec<RawClient> {
        let begun = (0..count).map(|_| {
            let mut wire = RawClient::connect(plane.listen);
            wire.send(head.as_bytes());
            wire
        });
        begun.collect()
    };
    let mut begun = begin(100);
    eventually("100 heads are charged", || inflight(&plane) > 100 * 15_000);
    // These 1,500 heads exceed the budget. A client whose head does not fit gets a 503.
    begun.extend(begin(1500));
    let mut refused = 0;
    for wire in &mut begun[100..] {
        if !wire.stays_quiet_for(Duration::from_millis(1)) {
            wire.answer().expect_error(503, "BUSY");
            refused += 1;
        }
    }
    assert!(refused > 0);
    assert!(inflight(&plane) <= 16 * MIB);
    // When the rest of a charged head comes, the request is answered.
    let first = &mut begun[0];
    first.send(b"\r\nHost: localhost\r\n\r\n");
    first.answer().expect(200);
    drop(begun);
    eventually("nothing is charged", || inflight(&plane) == 0);
}

/// The calls of `fill` leave too little memory for a large read, so the plane cannot yet read a request that
/// its client has sent ahead. This request must still get an answer.
#[test]
fn pipelined_requests_are_served_in_turn_without_memory() {
    let plane = ControlPlane::start(&SMALL_BUDGET);
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    let register = |name: &str| {
        plane.register(&with(
            pool(name, &pod),
            &json!({"concurrency": 200, "queueSize": 1000}),
        ));
    };
    register("full");
    register("ahead");
    // A call with a key continues after its client has left, so the plane reads nothing from the client while
    // the call runs.
    let first = Request::invoke("ahead", &json!(1)).header("Idempotency-Key", "k");
    let mut wire = RawClient::connect(plane.listen);
    wire.send(&first.bytes());
    pod.wait_calls(1);
    // The held calls leave room for a small call, but for no large read.
    let held = fill(&plane, &pod, 16 * MIB);
    // The head alone is longer than the bytes that the plane reads without a charge.
    let padded = Request::invoke("ahead", &json!(1)).header("X-Pad", &"p".repeat(3000));
    wire.send(&padded.bytes());
    std::thread::sleep(Duration::from_millis(200));
    release(held, &gate);
    wire.answer().expect(200);
    let second = wire.answer();
    if second.status != 200 {
        // If the plane reads the second call before the other calls have ended, it refuses the second call.
        second.expect_error(429, "TOO_MANY_REQUESTS");
    }
    eventually("nothing is charged", || inflight(&plane) == 0);
}
