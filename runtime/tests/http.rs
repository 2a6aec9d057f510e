//! Tests how a pod serves HTTP: framing, keep-alive, limits, and refused requests.

mod support;

use std::thread::sleep;
use std::time::Duration;

use support::{JSON, PodClient as _, PodError as _, Program, request};

const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

#[test]
fn pipelined_requests_are_answered_in_order() {
    let pod = Program::several("echo");
    let mut wire = pod.connect();
    let mut all = Vec::new();
    for number in 0..50 {
        let body = format!(r#"{{"input":{number}}}"#);
        all.extend(request("POST", "/invoke", &[JSON], body.as_bytes()));
        all.extend(request("GET", "/health", &[], b""));
    }
    wire.send(&all);
    for number in 0..50 {
        assert_eq!(wire.answer().text(), number.to_string());
        assert_eq!(wire.answer().text(), r#"{"status":"UP"}"#);
    }
}

#[test]
fn a_pipelined_request_waits_its_turn() {
    let pod = Program::several("wait");
    let path = |name: &str| pod.path(name).to_str().expect("UTF-8").to_owned();
    let input = serde_json::json!({
        "began": path("began"), "gate": path("gate"), "ended": path("ended"),
    });
    let mut wire = pod.connect();
    wire.send_invoke(&input.to_string(), &[]);
    support::until_file(&pod.path("began"));
    wire.send(&request("GET", "/health", &[], b""));
    std::fs::write(pod.path("gate"), "").expect("the gate opens");
    assert_eq!(wire.answer().text(), "\"done\"");
    assert_eq!(wire.answer().text(), r#"{"status":"UP"}"#);
}

#[test]
fn bytes_may_come_one_by_one() {
    let pod = Program::several("echo");
    let mut wire = pod.connect();
    for byte in request("POST", "/invoke", &[JSON], br#"{"input":"slow"}"#) {
        wire.send(&[byte]);
    }
    assert_eq!(wire.answer().text(), "\"slow\"");
}

#[test]
fn chunked_bodies_are_put_together() {
    let pod = Program::several("echo");
    let mut wire = pod.connect();
    let head = b"POST /invoke HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
                 Content-Type: text/plain\r\n\r\n";
    let body = b"4\r\nWiki\r\n6;x=y\r\npedia \r\nB\r\nin chunks..\r\n0\r\nT: 1\r\n\r\n";
    for _ in 0..3 {
        wire.send(head);
        for piece in body.chunks(7) {
            wire.send(piece);
        }
        let answer = wire.answer();
        assert_eq!(answer.text(), "Wikipedia in chunks..");
        assert_eq!(answer.header("content-type"), Some("text/plain"));
    }
    let mut both = [&head[..], body].concat();
    both.extend(request("GET", "/health", &[], b""));
    wire.send(&both);
    assert_eq!(wire.answer().text(), "Wikipedia in chunks..");
    assert_eq!(wire.answer().status, 200);
}

#[test]
fn who_expects_a_continue_gets_one() {
    let pod = Program::several("echo");
    let mut wire = pod.connect();
    for framing in ["Content-Length: 3", "Transfer-Encoding: chunked"] {
        let head = format!(
            "POST /invoke HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{framing}\r\n\r\n"
        );
        wire.send(head.as_bytes());
        let go_on = wire.headless_answer();
        assert_eq!(go_on.status, 100);
        match framing.starts_with('C') {
            true => wire.send(b"abc"),
            false => wire.send(b"3\r\nabc\r\n0\r\n\r\n"),
        }
        assert_eq!(wire.answer().text(), "abc");
    }
    // A client that sends the body without waiting gets no `100 Continue`.
    let head = "POST /invoke HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n";
    wire.send(format!("{head}\r\nabc").as_bytes());
    assert_eq!(wire.answer().status, 200);
}

#[test]
fn a_connection_is_kept_unless_told_to_close() {
    let pod = Program::several("echo");
    let mut wire = pod.connect();
    for _ in 0..3 {
        assert_eq!(wire.invoke("1").header("connection"), None);
    }
    let answer = wire.call("GET", "/health", &[("Connection", "a, Close")], b"");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(wire.closed());
    let mut wire = pod.connect();
    wire.send(b"GET /health HTTP/1.0\r\n\r\n");
    assert_eq!(wire.answer().header("connection"), Some("close"));
    assert!(wire.closed());
}

#[test]
fn other_paths_and_methods_are_told_apart() {
    let pod = Program::several("echo");
    let mut wire = pod.connect();
    let head = request("HEAD", "/health", &[], b"");
    wire.send(&head);
    let answer = wire.headless_answer();
    assert_eq!(
        (answer.status, answer.header("content-length")),
        (200, Some("15"))
    );
    assert_eq!(wire.call("GET", "/health?x", &[], b"").status, 200);
    let answer = wire.call("GET", "/invoke", &[], b"");
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    let answer = wire.call("DELETE", "/health", &[], b"");
    assert_eq!(
        (answer.status, answer.header("allow")),
        (405, Some("GET, HEAD"))
    );
    let answer = wire.call("POST", "/", &[], b"x");
    assert_eq!((answer.status, answer.code().as_str()), (404, "NOT_FOUND"));
    assert_eq!(wire.invoke("1").status, 200);
}

#[test]
fn a_body_has_8_mib_at_most() {
    let pod = Program::several("echo");
    let mut wire = pod.connect();
    let body = vec![b'a'; BODY_BYTES_MAX];
    let answer = std::thread::scope(|scope| {
        let sent = &mut wire;
        scope
            .spawn(|| sent.call("POST", "/invoke", &[], &body))
            .join()
    });
    assert_eq!(answer.expect("no panic").body.len(), BODY_BYTES_MAX);
    let head = format!(
        "POST /invoke HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        BODY_BYTES_MAX + 1
    );
    wire.send(head.as_bytes());
    let answer = wire.answer();
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (413, "BODY_TOO_LARGE")
    );
    assert!(wire.closed());
    let mut wire = pod.connect();
    wire.send(b"POST /invoke HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    wire.send(format!("{:x}\r\n", BODY_BYTES_MAX + 1).as_bytes());
    assert_eq!(wire.answer().status, 413);
    assert!(wire.closed());
}

#[test]
fn what_cannot_be_read_is_refused_and_closed() {
    let pod = Program::several("echo");
    let long = format!(
        "GET /health HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n",
        "b".repeat(20_000)
    );
    let target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "b".repeat(9_000));
    for (bytes, status) in [
        ("nonsense\r\n\r\n", 400),
        ("GET /health HTTP/1.1\nHost: a\n\n", 400),
        ("GET /health HTTP/1.1\r\n\r\n", 400),
        (
            "POST /invoke HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            400,
        ),
        (
            "POST /invoke HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
            400,
        ),
        (
            "POST /invoke HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            400,
        ),
        (
            "POST /invoke HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\n",
            400,
        ),
        (
            "POST /invoke HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            501,
        ),
        (
            "POST /invoke HTTP/1.1\r\nHost: a\r\nX-Deadline-Ms: -5\r\n\r\n",
            400,
        ),
        (
            "POST /invoke HTTP/1.1\r\nHost: a\r\nExpect: cake\r\n\r\n",
            417,
        ),
        ("GET /health HTTP/3.0\r\n\r\n", 505),
        (&target, 414),
        (&long, 431),
    ] {
        let mut wire = pod.connect();
        wire.send(bytes.as_bytes());
        let answer = wire.answer();
        assert_eq!(answer.status, status, "{bytes}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(!answer.message().is_empty());
        assert!(wire.closed());
    }
    assert_eq!(pod.invoke("1").status, 200);
}

#[test]
fn a_request_that_breaks_off_runs_nothing() {
    let pod = Program::several("wait");
    let whole = request("POST", "/invoke", &[JSON], br#"{"input":0}"#);
    for end in [1, 20, whole.len() - 1] {
        let mut wire = pod.connect();
        wire.send(&whole[..end]);
        sleep(Duration::from_millis(20));
        drop(wire);
    }
    // No request above reached the handler, so this call is the handler's first.
    assert_eq!(pod.invoke("0").header("x-cold-start"), Some("true"));
}
