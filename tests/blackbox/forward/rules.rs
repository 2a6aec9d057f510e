//! These tests check which clients may call `/fn/`, which calls admission refuses, how calls are cancelled
//! and counted, and how the platform marks its own errors.

use std::time::Duration;

use nanofaas_testkit::client::Request;
use nanofaas_testkit::control_plane::ControlPlane;
use nanofaas_testkit::functions::{pool, with};
use nanofaas_testkit::pod::{After, ScriptedPod};
use nanofaas_testkit::wait::{Gate, until};
use serde_json::json;

use super::{get, mirror, plane, register};

fn post(path: &str) -> Request {
    Request::new("POST", path).body("text/plain", "x")
}

#[test]
fn rule_4_foreign_pages_may_only_read() {
    let pod = mirror();
    register("fn-pages", &pod, &json!({}));
    let origin = ("Origin", "http://evil.example");
    let site = |site| ("Sec-Fetch-Site", site);
    let foreign = [
        vec![origin],
        vec![site("cross-site")],
        vec![site("same-site"), ("Origin", "http://localhost")],
        vec![("Origin", "null")],
    ];
    for headers in &foreign {
        for method in ["GET", "HEAD", "OPTIONS"] {
            plane()
                .send(&Request::new(method, "/fn/fn-pages/").headers(headers))
                .expect(200);
        }
        plane()
            .send(&post("/fn/fn-pages/").headers(headers))
            .expect_error(403, "CROSS_ORIGIN");
        let upgrade = get("/fn/fn-pages/")
            .headers(headers)
            .header("Upgrade", "websocket");
        plane().send(&upgrade).expect_error(403, "CROSS_ORIGIN");
    }
    let own = [
        vec![site("same-origin"), origin],
        vec![site("none")],
        vec![("Origin", "http://localhost")],
        vec![("Origin", "https://localhost")],
        vec![],
    ];
    for headers in &own {
        plane()
            .send(&post("/fn/fn-pages/").headers(headers))
            .expect(200);
    }
}

#[test]
fn rule_4_a_spec_allows_origins() {
    let pod = mirror();
    register(
        "fn-allowed",
        &pod,
        &json!({"allowedOrigins": ["https://app.example"]}),
    );
    let from = |origin| post("/fn/fn-allowed/").header("Origin", origin);
    plane().send(&from("https://app.example")).expect(200);
    plane()
        .send(&from("https://app.example.evil"))
        .expect_error(403, "CROSS_ORIGIN");
    plane()
        .send(&from("http://app.example"))
        .expect_error(403, "CROSS_ORIGIN");
    register("fn-any", &pod, &json!({"allowedOrigins": ["*"]}));
    plane()
        .send(&post("/fn/fn-any/").header("Origin", "null"))
        .expect(200);
    let fault = with(
        pool("fn-bad", &pod),
        &json!({"allowedOrigins": ["https://a/b"]}),
    );
    let answer = plane().send(&Request::new("POST", "/v1/functions").json(&fault));
    answer.expect_error(400, "VALIDATION_ERROR");
}

#[test]
fn rule_4_the_host_is_checked_on_loopback() {
    let pod = mirror();
    register("fn-host", &pod, &json!({}));
    plane()
        .send(&get("/fn/fn-host/").host("rebound.example"))
        .expect_error(403, "FORBIDDEN");
    plane()
        .send(&get("/fn/fn-host/").host("app.localhost:8080"))
        .expect(200);
    plane()
        .send(&get("/v1/functions").host("app.localhost:8080"))
        .expect_error(403, "FORBIDDEN");
}

#[test]
fn pages_of_functions_cannot_use_the_api() {
    for site in ["same-origin", "same-site", "cross-site", "unknown"] {
        for path in ["/v1/functions", "/openapi.yaml"] {
            let request = get(path).header("Sec-Fetch-Site", site);
            plane().send(&request).expect_error(403, "FORBIDDEN");
        }
    }
    let twice = [
        ("Sec-Fetch-Site", "none"),
        ("Sec-Fetch-Site", "same-origin"),
    ];
    plane()
        .send(&get("/v1/functions").headers(&twice))
        .expect_error(403, "FORBIDDEN");
    plane()
        .send(&get("/v1/functions").header("Sec-Fetch-Site", "none"))
        .expect(200);
}

#[test]
fn rule_6_a_queue_refuses_at_the_head() {
    let gate = Gate::default();
    let held = gate.clone();
    let pod = ScriptedPod::tcp(move |_, line| {
        line.wait(&held);
        line.answer(200, "", b"done")
    });
    register("fn-queue", &pod, &json!({"concurrency": 1, "queueSize": 1}));
    let running = get("/fn/fn-queue/").begin(plane().listen);
    pod.wait_calls(1);
    let waiting = get("/fn/fn-queue/").begin(plane().listen);
    plane().wait_for("fn-queue", 1, 1);
    // The plane refuses the call before the client sends a byte of the body.
    let upload = Request::new("POST", "/fn/fn-queue/")
        .headers(&[("Content-Length", "100000"), ("Expect", "100-continue")]);
    let answer = plane().send(&upload);
    assert_eq!(answer.header("x-queue-reject-reason"), Some("depth"));
    assert_eq!(answer.header("x-nanofaas-error"), Some("TOO_MANY_REQUESTS"));
    assert!(answer.header("retry-after").is_some());
    answer.expect_error(429, "TOO_MANY_REQUESTS");
    gate.open();
    for mut client in [running, waiting] {
        client.answer().expect(200);
    }
    assert_eq!(pod.calls().len(), 2);
}

#[test]
fn rule_6_refused_bodies_are_no_requests() {
    let gate = Gate::default();
    let held = gate.clone();
    let pod = ScriptedPod::tcp(move |_, line| {
        line.wait(&held);
        line.answer(200, "", b"done")
    });
    register(
        "fn-smuggled",
        &pod,
        &json!({"concurrency": 1, "queueSize": 1}),
    );
    let running = get("/fn/fn-smuggled/").begin(plane().listen);
    pod.wait_calls(1);
    let waiting = get("/fn/fn-smuggled/").begin(plane().listen);
    plane().wait_for("fn-smuggled", 1, 1);
    let hidden = get("/v1/functions").bytes();
    let outer = Request::new("POST", "/fn/fn-smuggled/").untyped_body(hidden);
    let mut client = outer.begin(plane().listen);
    assert_eq!(client.answer().status, 429);
    assert!(
        client.closes_within(Duration::from_secs(10)),
        "the body was answered"
    );
    gate.open();
    for mut client in [running, waiting] {
        client.answer().expect(200);
    }
}

#[test]
fn rule_6_only_a_pod_invites_a_body() {
    let pod = ScriptedPod::tcp(|got, line| {
        if got.header("expect").is_some() {
            line.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-Nanofaas-Own: 1\r\n\r\n");
        }
        line.send(b"HTTP/1.1 100 Continue\r\n\r\n");
        line.answer(200, "", b"x")
    });
    register("fn-invited", &pod, &json!({}));
    let mut client = get("/fn/fn-invited/").begin(plane().listen);
    assert_eq!(client.answer().status, 200, "100 was not asked for");
    let asking = Request::new("PUT", "/fn/fn-invited/")
        .header("Expect", "100-continue")
        .body("text/plain", "x");
    let mut client = asking.begin(plane().listen);
    let hints = client.answer();
    assert_eq!((hints.status, hints.header("link")), (103, Some("</a>")));
    assert_eq!(hints.header("x-nanofaas-own"), None);
    assert_eq!(client.answer().status, 100);
    assert_eq!(client.answer().status, 200);
}

#[test]
fn rule_6_a_call_can_be_cancelled() {
    let gate = Gate::default();
    let held = gate.clone();
    let pod = ScriptedPod::tcp(move |_, line| {
        line.wait(&held);
        After::Close
    });
    register("fn-cancel", &pod, &json!({}));
    let mut client = get("/fn/fn-cancel/").begin(plane().listen);
    let id = pod.wait_calls(1)[0]
        .header("x-execution-id")
        .map(str::to_owned);
    let id = id.expect("an id");
    plane().cancel(&id).expect(202);
    client.answer().expect_error(409, "CANCELLED");
    assert_eq!(plane().ended(&id)["error"]["code"], "CANCELLED");
}

#[test]
fn rule_10_a_stream_holds_its_slot() {
    let gate = Gate::default();
    let held = gate.clone();
    let pod = ScriptedPod::tcp(move |got, line| {
        if got.first_line.contains("/stream") {
            line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab");
            line.wait(&held);
            line.send(b"cd");
            return After::Keep;
        }
        line.answer(200, "", b"second")
    });
    register("fn-slot", &pod, &json!({"concurrency": 1}));
    let mut first = get("/fn/fn-slot/stream").begin(plane().listen);
    pod.wait_calls(1);
    let mut second = get("/fn/fn-slot/").begin(plane().listen);
    plane().wait_for("fn-slot", 1, 1);
    assert!(second.stays_quiet_for(Duration::from_millis(100)));
    gate.open();
    assert_eq!(first.answer().text(), "abcd");
    assert_eq!(second.answer().text(), "second");
}

#[test]
fn rule_13_the_platforms_errors_are_marked() {
    for (path, status, code) in [
        ("/fn/fn-none/a", 404, "FUNCTION_NOT_FOUND"),
        ("/fn/fn-none", 404, "FUNCTION_NOT_FOUND"),
    ] {
        let answer = plane().send(&get(path));
        assert_eq!(answer.header("x-nanofaas-error"), Some(code));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        answer.expect_error(status, code);
    }
    let pod = ScriptedPod::saying("nonsense\r\n\r\n");
    register("fn-nonsense", &pod, &json!({}));
    let answer = plane().send(&get("/fn/fn-nonsense/"));
    assert!(answer.header("x-execution-id").is_some() && answer.header("server-timing").is_some());
    answer.expect_error(502, "BAD_OUTPUT");
}

#[test]
fn rule_14_a_call_is_counted_once() {
    let plane = ControlPlane::start(&[]);
    let pod = ScriptedPod::tcp(|got, line| match got.first_line.contains("/fault") {
        true => line.answer(503, "", b"own fault"),
        false => line.answer(404, "", b"own answer"),
    });
    let url = pod.url.replace("/invoke", "/");
    plane.register(&with(
        pool("fn-counted", &pod),
        &json!({"endpointUrl": url, "http": true}),
    ));
    assert_eq!(
        plane.send(&get("/fn/fn-counted/")).expect(404).text(),
        "own answer"
    );
    let fault = plane.send(&get("/fn/fn-counted/fault")).expect(503);
    assert_eq!(
        (fault.text().as_str(), fault.header("x-nanofaas-error")),
        ("own fault", None)
    );
    assert_eq!(plane.status(&fault.id())["error"]["code"], "HANDLER_ERROR");
    let metrics = until("both calls ended", || {
        let metrics = plane.metrics();
        (metrics.drift() == 0.0).then_some(metrics)
    });
    let labels = [("function", "fn-counted")];
    assert_eq!(metrics.sum("function_success_total", &labels), 1.0);
    assert_eq!(metrics.sum("function_error_total", &labels), 1.0);
    assert_eq!(metrics.sum("function_e2e_seconds_count", &labels), 2.0);
}
