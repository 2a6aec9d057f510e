//! These tests check the deadlines of calls and streams at `/fn/`, what happens when a client or a pod leaves
//! during a call, and which calls get another attempt.

use std::time::{Duration, Instant};

use nanofaas_testkit::client::{RawClient, Request};
use nanofaas_testkit::pod::{After, ScriptedPod};
use nanofaas_testkit::wait::{Gate, eventually};
use serde_json::json;

use super::{get, plane, register};

fn silent() -> (ScriptedPod, Gate) {
    let gate = Gate::default();
    let held = gate.clone();
    let pod = ScriptedPod::tcp(move |_, line| {
        line.wait(&held);
        After::Close
    });
    (pod, gate)
}

#[test]
fn rule_7_a_late_head_is_a_timeout() {
    let (pod, _gate) = silent();
    register("fn-late", &pod, &json!({"timeoutMs": 200}));
    plane()
        .send(&get("/fn/fn-late/"))
        .expect_error(504, "TIMEOUT");
    register("fn-later", &pod, &json!({}));
    let own = get("/fn/fn-later/").header("X-Timeout-Ms", "200");
    plane().send(&own).expect_error(504, "TIMEOUT");
    eventually("both pods saw the end", || pod.cuts() == 2);
}

#[test]
fn rule_7_a_stream_outlasts_the_timeout() {
    let pod = ScriptedPod::tcp(|_, line| {
        line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na");
        std::thread::sleep(Duration::from_millis(400));
        line.send(b"b");
        After::Keep
    });
    register("fn-long", &pod, &json!({"timeoutMs": 200}));
    assert_eq!(plane().send(&get("/fn/fn-long/")).expect(200).text(), "ab");
}

#[test]
fn rule_7_a_slow_body_stops_the_clock() {
    let pod = ScriptedPod::tcp(|got, line| line.answer(200, "", &got.body));
    register("fn-upload", &pod, &json!({"timeoutMs": 300}));
    let mut client = RawClient::connect(plane().listen);
    client.send(b"POST /fn/fn-upload/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n");
    for byte in [b"a", b"b", b"c", b"d"] {
        std::thread::sleep(Duration::from_millis(150));
        client.send(byte);
    }
    assert_eq!(client.answer().expect(200).text(), "abcd");
}

#[test]
fn rule_7_a_still_stream_is_cut() {
    let gate = Gate::default();
    let held = gate.clone();
    let pod = ScriptedPod::tcp(move |_, line| {
        line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
        line.wait(&held);
        After::Close
    });
    register("fn-still", &pod, &json!({"streamIdleMs": 200}));
    let mut client = get("/fn/fn-still/").begin(plane().listen);
    assert!(client.read(true).is_err(), "the answer looks whole");
    let id = pod.calls()[0]
        .header("x-execution-id")
        .expect("an id")
        .to_owned();
    let status = plane().ended(&id);
    assert_eq!(status["status"], "timeout", "{status}");
    let message = status["error"]["message"].as_str().expect("a text");
    assert!(message.contains("streamIdleMs"), "{message}");
}

#[test]
fn rule_7_a_long_stream_is_cut() {
    let pod = ScriptedPod::tcp(|_, line| {
        line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
        while line.send(b"a") {
            std::thread::sleep(Duration::from_millis(20));
        }
        After::Close
    });
    register("fn-max", &pod, &json!({"streamMaxMs": 300}));
    let mut client = get("/fn/fn-max/").begin(plane().listen);
    assert!(client.read(true).is_err(), "the answer looks whole");
    let id = pod.calls()[0]
        .header("x-execution-id")
        .expect("an id")
        .to_owned();
    let status = plane().ended(&id);
    let message = status["error"]["message"].as_str().expect("a text");
    assert!(message.contains("streamMaxMs"), "{message}");
}

#[test]
fn rule_7_long_waits_for_heads_end() {
    let (pod, _gate) = silent();
    register("fn-max-head", &pod, &json!({"streamMaxMs": 200}));
    let answer = plane().send(&get("/fn/fn-max-head/"));
    assert!(answer.text().contains("streamMaxMs"), "{}", answer.text());
    answer.expect_error(504, "TIMEOUT");
}

#[test]
fn rule_7_a_slow_upload_is_no_timeout() {
    let pod =
        ScriptedPod::tcp(|got, line| line.answer(200, "", got.body.len().to_string().as_bytes()));
    register(
        "fn-large-slow",
        &pod,
        &json!({"timeoutMs": 300, "streamIdleMs": 10_000}),
    );
    let mut client = RawClient::connect(plane().listen);
    client.send(
        b"POST /fn/fn-large-slow/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 800000\r\n\r\n",
    );
    for _ in 0..8 {
        client.send(&[b'x'; 100_000]);
        std::thread::sleep(Duration::from_millis(60));
    }
    assert_eq!(client.answer().expect(200).text(), "800000");
}

#[test]
fn rule_7_a_stopped_body_times_out() {
    let (pod, _gate) = silent();
    register("fn-stopped", &pod, &json!({"streamIdleMs": 200}));
    let mut client = RawClient::connect(plane().listen);
    client.send(b"POST /fn/fn-stopped/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nab");
    client.answer().expect_error(504, "TIMEOUT");
}

fn lost_once() -> ScriptedPod {
    ScriptedPod::tcp(|got, line| match got.number {
        0 => After::Close,
        _ => line.answer(200, "", &got.body),
    })
}

#[test]
fn rule_8_lost_calls_may_run_again() {
    let retry = json!({"maxRetries": 2, "retryOn": ["POD"]});
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let pod = lost_once();
        let name = format!("fn-again-{method}");
        register(&name, &pod, &retry);
        let request = Request::new(method, &format!("/fn/{name}/")).untyped_body("body");
        assert_eq!(
            plane().send(&request).expect(200).text(),
            "body",
            "{method}"
        );
    }
    let pod = lost_once();
    register("fn-once", &pod, &retry);
    let once = |name: &str| Request::new("POST", &format!("/fn/{name}/")).untyped_body("body");
    plane().send(&once("fn-once")).expect_error(502, "POD_LOST");
    let pod = lost_once();
    register("fn-keyed", &pod, &retry);
    assert_eq!(
        plane()
            .send(&once("fn-keyed").header("Idempotency-Key", "k"))
            .expect(200)
            .text(),
        "body"
    );
}

#[test]
fn rule_8_large_bodies_are_sent_once() {
    let pod = lost_once();
    register(
        "fn-large",
        &pod,
        &json!({"maxRetries": 2, "retryOn": ["POD"]}),
    );
    let request = Request::new("PUT", "/fn/fn-large/").untyped_body(vec![b'x'; 70_000]);
    plane().send(&request).expect_error(502, "POD_LOST");
}

#[test]
fn rule_8_calls_not_begun_run_again() {
    let pod = ScriptedPod::tcp(|got, line| match got.number {
        0 | 1 => line.answer(503, "X-Not-Started: true\r\n", b"not now"),
        _ => line.answer(200, "", &got.body),
    });
    register("fn-not-now", &pod, &json!({"maxRetries": 3}));
    let request = Request::new("POST", "/fn/fn-not-now/").untyped_body("body");
    assert_eq!(plane().send(&request).expect(200).text(), "body");
    let never = ScriptedPod::tcp(|_, line| line.answer(503, "X-Not-Started: true\r\n", b"not now"));
    register("fn-never", &never, &json!({"maxRetries": 1}));
    plane()
        .send(&get("/fn/fn-never/"))
        .expect_error(502, "POD_UNREACHABLE");
}

#[test]
fn rule_5_foreign_answers_are_lost() {
    let pod =
        ScriptedPod::tcp(|_, line| line.answer(200, "X-Nanofaas-Answer: another\r\n", b"secret"));
    register("fn-foreign", &pod, &json!({}));
    plane()
        .send(&get("/fn/fn-foreign/"))
        .expect_error(502, "POD_LOST");
}

#[test]
fn rule_6_leaving_clients_end_their_calls() {
    let pod = ScriptedPod::tcp(|_, line| {
        line.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
        let since = Instant::now();
        assert!(line.closes_within(Duration::from_secs(30)));
        assert!(since.elapsed() < Duration::from_secs(20));
        After::Close
    });
    register("fn-left", &pod, &json!({}));
    let client = get("/fn/fn-left/").begin(plane().listen);
    let id = pod.wait_calls(1)[0]
        .header("x-execution-id")
        .expect("an id")
        .to_owned();
    drop(client);
    assert_eq!(plane().ended(&id)["error"]["code"], "CANCELLED");
}
