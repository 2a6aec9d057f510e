//! These tests send requests that are refused or end early: over a limit, with ambiguous framing, or cut off.
//! They also check whether the connection stays open.

use std::time::{Duration, Instant};

use nanofaas_testkit::client::{RawClient, Request};
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::functions::{local, pool};
use nanofaas_testkit::pod::ScriptedPod;
use nanofaas_testkit::wait::Gate;
use serde_json::json;

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane =
        SharedControlPlane::new(&["--rate-max-per-second", "off", "--max-body", "64KiB"]);
    PLANE.get()
}

const SOON: Duration = Duration::from_secs(20);

/// Returns the status of the answer, and whether the plane then closed the connection.
#[track_caller]
fn answer_to(bytes: &[u8]) -> (u16, bool) {
    let mut wire = RawClient::connect(plane().listen);
    wire.send(bytes);
    let status = wire.read(true).map_or(0, |answer| answer.status);
    (
        status,
        wire.closes_within(Duration::from_millis(if status == 200 { 50 } else { 5000 })),
    )
}

#[test]
fn what_parsers_could_read_differently_is_400() {
    plane().register(&local("strict"));
    let call = "POST /v1/functions/strict:invoke HTTP/1.1\r\n";
    let host = "Host: localhost\r\n";
    let body = "{\"input\":1}";
    let json = "Content-Type: application/json\r\n";
    let fine = format!("{call}{host}{json}Content-Length: 11\r\n\r\n{body}");
    assert_eq!(answer_to(fine.as_bytes()), (200, false));
    let with = |lines: &str| format!("{call}{host}{json}{lines}\r\n{body}");
    let chunks = "b\r\n{\"input\":1}\r\n0\r\n\r\n";
    let chunked =
        |coding: &str| format!("{call}{host}{json}Transfer-Encoding: {coding}\r\n\r\n{chunks}");
    assert_eq!(answer_to(chunked("chunked").as_bytes()), (200, false));
    for bad in [
        with("Content-Length: 11\r\nTransfer-Encoding: chunked\r\n"),
        with("Transfer-Encoding: chunked\r\nContent-Length: 11\r\n"),
        with("Content-Length: 11\r\nContent-Length: 11\r\n"),
        with("Content-Length: 11, 11\r\n"),
        with("Content-Length: +11\r\n"),
        with("Content-Length: 0xb\r\n"),
        with("Content-Length: -1\r\n"),
        with("Content-Length: 1 1\r\n"),
        with("Content-Length: 18446744073709551627\r\n"),
        with("Content-Length:\r\n"),
        with("Content-Length : 11\r\n"),
        with("Content-Length: 11\r\n X: folded\r\n"),
        with("X: a\r\n\tfolded\r\nContent-Length: 11\r\n"),
        with("Content-Length: 11\nX: bare\r\n"),
        with("Content-Length: 11\rX: bare\r\n"),
        with("X: a\0b\r\nContent-Length: 11\r\n"),
        with(": nameless\r\nContent-Length: 11\r\n"),
        with("no colon\r\nContent-Length: 11\r\n"),
        with("X y: z\r\nContent-Length: 11\r\n"),
        with("Host: localhost\r\nContent-Length: 11\r\n"),
        chunked("chunked, gzip"),
        chunked("chunked, chunked"),
        chunked("identity"),
        chunked("xchunked"),
        chunked(""),
        format!("{call}{json}Content-Length: 11\r\n\r\n{body}"),
        format!("{call}Host: localhost, other\r\n{json}Content-Length: 11\r\n\r\n{body}"),
        format!("{call}Host: a b\r\n{json}Content-Length: 11\r\n\r\n{body}"),
        format!(
            "{}{json}Transfer-Encoding: chunked\r\n\r\n{chunks}",
            call.replace("1.1", "1.0")
        ),
        fine.replace("\r\n", "\n"),
        fine.replacen("POST /", "POST  /", 1),
        fine.replacen("POST /", " POST /", 1),
        fine.replacen(" HTTP/1.1", "  HTTP/1.1", 1),
        fine.replacen(" HTTP/1.1", " HTTP/1.1 ", 1),
        fine.replacen(" HTTP/1.1", " HTTP/1.12", 1),
        fine.replacen(" HTTP/1.1", " http/1.1", 1),
        fine.replacen(" HTTP/1.1", "", 1),
        fine.replacen(":invoke", ":invoke#a", 1),
        fine.replacen("POST ", "PO(ST ", 1),
        fine.replacen("/v1", "v1", 1),
        format!("\r\n\r\n\r\n{fine}"),
        format!("GET http://other/v1/functions HTTP/1.1\r\n{host}\r\n"),
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}".to_owned() + &"a".repeat(300),
        "\0".repeat(100),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ] {
        let (status, closed) = answer_to(bad.as_bytes());
        let http2 = bad.starts_with("PRI") && status == 505;
        assert!(status == 400 || http2, "{status} to {bad:?}");
        assert!(closed, "left open after {bad:?}");
    }
    assert_eq!(answer_to(chunked("gzip, chunked").as_bytes()).0, 501);
    let newer = fine.replacen("HTTP/1.1", "HTTP/2.0", 1);
    assert_eq!(answer_to(newer.as_bytes()), (505, true));
}

#[test]
fn heads_over_their_limits_are_431_and_414() {
    let head =
        |headers: &str| format!("GET /openapi.yaml HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    let many = |count: usize| {
        head(
            &(0..count)
                .map(|n| format!("X-{n}: y\r\n"))
                .collect::<String>(),
        )
    };
    let long = |length: usize| head(&format!("X: {}\r\n", "a".repeat(length)));
    assert_eq!(answer_to(many(99).as_bytes()).0, 200);
    assert_eq!(answer_to(many(100).as_bytes()), (431, true));
    assert_eq!(answer_to(many(1000).as_bytes()), (431, true));
    assert_eq!(
        answer_to(long(16 * 1024 - head("X: \r\n").len()).as_bytes()).0,
        200
    );
    assert_eq!(
        answer_to(long(16 * 1024 - head("X: \r\n").len() + 1).as_bytes()),
        (431, true)
    );
    assert_eq!(answer_to(long(1 << 20).as_bytes()), (431, true));
    let target = format!(
        "GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "a".repeat(10_000)
    );
    assert_eq!(answer_to(target.as_bytes()), (414, true));
    let endless = "a".repeat(100_000);
    let status = answer_to(endless.as_bytes()).0;
    assert!(matches!(status, 400 | 414 | 431), "{status}");
}

#[test]
fn bodies_over_the_limit_are_413_before_sending() {
    plane().register(&local("over"));
    let head = |lines: &str| {
        format!(
            "POST /v1/functions/over:invoke HTTP/1.1\r\nHost: localhost\r\nContent-Type: a/b\r\n\
             {lines}\r\n"
        )
    };
    let most = vec![b'a'; 64 * 1024];
    let mut exact = head("Content-Length: 65536\r\n").into_bytes();
    exact.extend(&most);
    assert_eq!(answer_to(&exact).0, 200);
    for lines in [
        "Content-Length: 65537\r\n",
        "Content-Length: 65537\r\nExpect: 100-continue\r\n",
        "Content-Length: 18446744073709551615\r\n",
    ] {
        assert_eq!(answer_to(head(lines).as_bytes()), (413, true), "{lines}");
    }
    let mut chunked = head("Transfer-Encoding: chunked\r\n").into_bytes();
    chunked.extend(b"10000\r\n");
    chunked.extend(&most);
    let mut over = chunked.clone();
    chunked.extend(b"\r\n0\r\n\r\n");
    assert_eq!(answer_to(&chunked).0, 200);
    over.extend(b"\r\n1\r\na");
    assert_eq!(answer_to(&over), (413, true));
    let huge = head("Transfer-Encoding: chunked\r\n") + "ffffffff\r\n";
    assert_eq!(answer_to(huge.as_bytes()), (413, true));
}

#[test]
fn a_call_without_a_length_is_411() {
    plane().register(&local("lengthless"));
    for path in [
        "/v1/functions/lengthless:invoke",
        "/v1/functions/lengthless:enqueue",
    ] {
        let text = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\r\n"
        );
        assert_eq!(answer_to(text.as_bytes()).0, 411, "{path}");
    }
}

#[test]
fn headers_out_of_their_range_are_400() {
    plane().register(&local("headers"));
    let call = || Request::invoke("headers", &json!(1));
    for value in [
        "0",
        "300001",
        "-1",
        "1.5",
        "abc",
        "",
        "99999999999999999999",
    ] {
        assert_eq!(
            plane().send(&call().header("X-Timeout-Ms", value)).status,
            400,
            "{value}"
        );
    }
    for value in ["1000", "300000"] {
        plane()
            .send(&call().header("X-Timeout-Ms", value))
            .expect(200);
    }
    plane()
        .send(&call().header("Idempotency-Key", &"k".repeat(255)))
        .expect(200);
    plane()
        .send(&call().header("Idempotency-Key", &"k".repeat(256)))
        .expect(400);
    plane()
        .send(&call().header("Idempotency-Key", ""))
        .expect(400);
    plane()
        .send(&call().header("Expect", "the unexpected"))
        .expect(417);
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    plane().register(&local("alive"));
    let mut wire = RawClient::connect(plane().listen);
    for number in 0..50 {
        wire.send(&Request::invoke("alive", &json!(number)).bytes());
        let answer = wire.answer().expect(200);
        assert_eq!(answer.json()["output"], number);
        assert_eq!(
            (&*answer.version, answer.header("connection")),
            ("HTTP/1.1", None)
        );
        // A refusal because of the content leaves the connection open. Only a refusal because of the framing
        // closes it.
        wire.send(&Request::invoke("nobody", &json!(number)).bytes());
        wire.answer().expect(404);
    }
    wire.send(
        &Request::get("/v1/functions/alive")
            .header("Connection", "close")
            .bytes(),
    );
    assert_eq!(
        wire.answer().expect(200).header("connection"),
        Some("close")
    );
    assert!(wire.closes_within(SOON));
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&pool("pipe-slow", &pod));
    plane().register(&local("pipe-fast"));
    let mut bytes = Request::invoke("pipe-slow", &json!("slow")).bytes();
    for number in 0..20 {
        bytes.extend(Request::invoke("pipe-fast", &json!(number)).bytes());
    }
    bytes.extend(Request::get("/nowhere").bytes());
    let mut wire = RawClient::connect(plane().listen);
    wire.send(&bytes);
    pod.wait_calls(1);
    assert!(wire.stays_quiet_for(Duration::from_millis(50)));
    gate.open();
    assert_eq!(wire.answer().expect(200).json()["output"], "slow");
    for number in 0..20 {
        assert_eq!(wire.answer().expect(200).json()["output"], number);
    }
    wire.answer().expect(404);
}

#[test]
fn every_pipelined_request_is_answered() {
    const CALLS: usize = 6000;
    plane().register(&local("ahead"));
    let mut wire = RawClient::connect(plane().listen);
    let mut sender = wire.sender();
    // The requests have about 900 KiB, far more than the plane reads ahead of a call.
    let sending = std::thread::spawn(move || {
        let bytes: Vec<u8> = (0..CALLS)
            .flat_map(|number| Request::invoke("ahead", &json!(number)).bytes())
            .collect();
        sender.try_send(&bytes)
    });
    for number in 0..CALLS {
        assert_eq!(wire.answer().expect(200).json()["output"], number);
    }
    assert!(sending.join().expect("no panic"), "all was taken");
}

#[test]
fn expect_100_continue_is_answered_before_the_body() {
    plane().register(&local("expect"));
    let body = br#"{"input":"later"}"#;
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
            body.len(),
        )
    };
    let mut wire = RawClient::connect(plane().listen);
    for _ in 0..2 {
        wire.send(head("/v1/functions/expect:invoke").as_bytes());
        wire.answer().expect(100);
        wire.send(body);
        assert_eq!(wire.answer().expect(200).json()["output"], "later");
    }
    // The plane refuses the call and does not need the body, so the final answer comes instead of the 100.
    wire.send(head("/v1/functions/unknown:invoke").as_bytes());
    wire.answer().expect_error(404, "FUNCTION_NOT_FOUND");
    // A client may send its body at once, without waiting for the 100. It may still get a 100, but only
    // before the final answer.
    let mut wire = RawClient::connect(plane().listen);
    let mut at_once = head("/v1/functions/expect:invoke").into_bytes();
    at_once.extend(body);
    wire.send(&at_once);
    let first = wire.answer();
    let last = if first.status == 100 {
        wire.answer()
    } else {
        first
    };
    assert_eq!(last.expect(200).json()["output"], "later");
}

#[test]
fn http_1_0_is_spoken() {
    plane().register(&local("old"));
    let call = |headers: &str| {
        format!(
            "POST /v1/functions/old:invoke HTTP/1.0\r\nContent-Type: application/json\r\n\
             Content-Length: 11\r\n{headers}\r\n{{\"input\":1}}"
        )
    };
    let mut wire = RawClient::connect(plane().listen);
    wire.send(call("").as_bytes());
    let answer = wire.answer().expect(200);
    assert_eq!(answer.header("transfer-encoding"), None);
    assert!(wire.closes_within(SOON));
    let mut wire = RawClient::connect(plane().listen);
    for _ in 0..3 {
        wire.send(call("Connection: keep-alive\r\n").as_bytes());
        assert_eq!(
            wire.answer().expect(200).header("connection"),
            Some("keep-alive")
        );
    }
}

#[test]
fn a_request_cut_at_any_byte_runs_nothing() {
    let pod = ScriptedPod::echo();
    plane().register(&pool("cut", &pod));
    let sized = Request::invoke("cut", &json!("whole")).bytes();
    let chunked = "POST /v1/functions/cut:invoke HTTP/1.1\r\nHost: localhost\r\n\
        Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
        5\r\n{\"inp\r\n6\r\nut\":1}\r\n0\r\n\r\n";
    for whole in [&sized[..], chunked.as_bytes()] {
        for end in 0..whole.len() {
            let mut wire = RawClient::connect(plane().listen);
            wire.send(&whole[..end]);
            wire.finish();
            if let Ok(answer) = wire.read(true) {
                assert!(
                    matches!(answer.status, 400 | 408),
                    "{} at {end}",
                    answer.status
                );
            }
        }
    }
    assert_eq!(pod.calls().len(), 0, "half a request ran");
    let mut wire = RawClient::connect(plane().listen);
    wire.send(&sized);
    wire.answer().expect(200);
    plane().wait_for("cut", 0, 0);
}

#[test]
fn a_request_may_be_split_at_any_byte() {
    plane().register(&local("split"));
    let whole = Request::invoke("split", &json!("whole")).bytes();
    let mut wire = RawClient::connect(plane().listen);
    for at in 1..whole.len() {
        wire.send(&whole[..at]);
        std::thread::sleep(Duration::from_millis(1));
        wire.send(&whole[at..]);
        assert_eq!(
            wire.answer().expect(200).json()["output"],
            "whole",
            "split at {at}"
        );
    }
    for byte in &whole {
        wire.send(&[*byte]);
    }
    assert_eq!(wire.answer().expect(200).json()["output"], "whole");
}

/// Sends one byte after each pause until the peer closes or answers. Returns the time that this took, and the
/// status.
fn trickle(begin: &[u8], pause: Duration) -> (Duration, Option<u16>) {
    let begun = Instant::now();
    let mut wire = RawClient::connect(plane().listen);
    wire.send(begin);
    wire.set_patience(pause);
    while begun.elapsed() < Duration::from_secs(90) {
        match wire.read(true) {
            Ok(answer) => return (begun.elapsed(), Some(answer.status)),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => {}
            Err(_) => return (begun.elapsed(), None),
        }
        if !wire.try_send(b"a") {
            return (begun.elapsed(), None);
        }
    }
    panic!("the plane waited for ever");
}

#[test]
fn a_trickling_head_ends_after_ten_seconds() {
    let (took, status) = trickle(b"GET /", Duration::from_millis(200));
    println!("a trickled head was ended after {took:?} with {status:?}");
    assert!(took >= Duration::from_secs(9), "{took:?}");
    assert!(matches!(status, None | Some(408)), "{status:?}");
}

#[test]
fn a_trickling_body_ends_and_returns_its_memory() {
    plane().register(&local("trickle"));
    let framings = [
        "Content-Length: 60000\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n8000\r\n",
    ];
    // Each body takes a minute, so both are sent in parallel.
    let slow = framings.map(|framing| {
        let head = format!(
            "POST /v1/functions/trickle:invoke HTTP/1.1\r\nHost: localhost\r\n\
             Content-Type: a/b\r\n{framing}"
        );
        std::thread::spawn(move || trickle(head.as_bytes(), Duration::from_millis(100)))
    });
    for slow in slow {
        let (took, status) = slow.join().expect("it is ended");
        println!("a trickled body was ended after {took:?} with {status:?}");
        assert!(took >= Duration::from_secs(59), "{took:?}");
        assert!(matches!(status, None | Some(408)), "{status:?}");
    }
}
