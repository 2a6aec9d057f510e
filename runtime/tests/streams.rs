//! Tests of streams in Rust functions: a plain handler that returns a stream, and HTTP services, which also
//! take the request's body as it comes.

mod support;

use nanofaas_testkit::client::RawClient;
use nanofaas_testkit::folder::ScratchFolder;
use support::{JSON, PodClient as _, Program, example, http, request};

fn start(handler: &str) -> Program {
    let env = [("FUNCTION_HANDLER", handler)];
    let pod = Program::start_in(ScratchFolder::create(), &example("streams"), &[], &env);
    pod.until_up();
    pod
}

/// Returns the bytes that come until they end with `end`, or until the connection ends.
fn until(wire: &mut RawClient, end: &str) -> String {
    let mut all = Vec::new();
    while end.is_empty() || !all.ends_with(end.as_bytes()) {
        let mut some = [0; 1024];
        match wire.receive(&mut some) {
            Ok(count @ 1..) => all.extend_from_slice(&some[..count]),
            _ => break,
        }
    }
    String::from_utf8(all).expect("text")
}

#[test]
fn a_handlers_pieces_come_at_once() {
    let pod = start("pieces");
    let gate = serde_json::json!(pod.path("gate")).to_string();
    let mut wire = pod.connect();
    wire.send(&http("POST", "/", &[JSON], gate.as_bytes()));
    let first = until(&mut wire, "5\r\nfirst\r\n");
    assert!(first.contains("X-Nanofaas-Answer: e1\r\n"), "{first}");
    assert!(first.contains("content-type: text/plain\r\n"), "{first}");
    std::fs::write(pod.path("gate"), "").expect("the gate opens");
    assert_eq!(until(&mut wire, "0\r\n\r\n"), "6\r\nsecond\r\n0\r\n\r\n");
    // An invocation streams, too, and the connection is kept.
    wire.send_invoke(&gate, &[("X-Execution-Id", "e2")]);
    let answer = wire.answer();
    assert_eq!(answer.text(), "firstsecond");
    assert_eq!(answer.headers("x-execution-id"), ["e2"]);
    wire.send(&http("POST", "/", &[JSON], b"\"\""));
    let cut = until(&mut wire, "");
    assert!(cut.ends_with("5\r\nfirst\r\n"), "{cut}");
    pod.until_said("the body broke off");
}

#[test]
fn a_service_answers_pieces_as_they_come() {
    let pod = start("upper");
    let mut wire = pod.connect();
    let text = "PATCH /a%20b//../?c=%20d HTTP/1.1\r\nHost: f\r\nX-Nanofaas-Call: http\r\n\
                X-Execution-Id: e1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n";
    wire.send(text.as_bytes());
    let head = until(&mut wire, "X-Nanofaas-Answer: e1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 100 Continue\r\n\r\n"), "{head}");
    for line in [
        "HTTP/1.1 201 Created\r\n",
        "x-method: PATCH\r\n",
        "x-target: /a%20b//../?c=%20d\r\n",
        "x-own-id: e1\r\n",
        "X-Nanofaas-Answer: e1\r\n",
    ] {
        assert!(head.contains(line), "{head}");
    }
    assert!(!head.contains("forged"), "{head}");
    for piece in ["one", "two"] {
        wire.send(format!("3\r\n{piece}\r\n").as_bytes());
        let expected = format!("3\r\n{}\r\n", piece.to_uppercase());
        assert_eq!(until(&mut wire, &expected), expected);
    }
    wire.send(b"0\r\n\r\n");
    assert_eq!(until(&mut wire, "0\r\n\r\n"), "0\r\n\r\n");
    wire.send(&http("HEAD", "/health", &[], b""));
    let head = wire.headless_answer();
    assert_eq!((head.status, head.header("x-method")), (201, Some("HEAD")));
    wire.send(&request(
        "POST",
        "/invoke",
        &[("X-Execution-Id", "e2")],
        b"ab",
    ));
    let answer = wire.answer();
    assert_eq!((answer.text().as_str(), answer.status), ("AB", 201));
    assert_eq!(answer.headers("x-execution-id"), ["e2"]);
}

#[test]
fn a_large_upload_needs_no_memory() {
    const LENGTH: usize = 64 << 20;
    let pod = start("upper");
    let mut wire = pod.connect();
    let mut sender = wire.sender();
    let head = format!(
        "PUT / HTTP/1.1\r\nHost: f\r\nX-Nanofaas-Call: http\r\nX-Execution-Id: e1\r\n\
         Content-Length: {LENGTH}\r\n\r\n"
    );
    let sends = std::thread::spawn(move || {
        sender.send(head.as_bytes());
        let piece = vec![b'x'; 1 << 20];
        (0..LENGTH >> 20).all(|_| sender.try_send(&piece))
    });
    let answer = wire.answer();
    assert!(sends.join().expect("no panic"));
    assert_eq!(answer.body.len(), LENGTH);
    assert!(answer.body.iter().all(|byte| *byte == b'X'));
    let status = std::fs::read_to_string(format!("/proc/{}/status", pod.pid())).expect("it runs");
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .expect("a peak");
    let peak_kb: usize = peak
        .split_whitespace()
        .nth(1)
        .and_then(|kb| kb.parse().ok())
        .expect("kB");
    assert!(peak_kb < 32 << 10, "{peak}");
}

#[test]
fn errors_of_a_service_are_bare() {
    let pod = start("upper");
    let mut wire = pod.connect();
    for (path, code) in [("/fail", "MY_CODE"), ("/panic", "HANDLER_ERROR")] {
        wire.send(&http("POST", path, &[], b""));
        let answer = wire.answer();
        assert_eq!(
            (answer.status, &answer.json()["error"]),
            (500, &code.into())
        );
        assert_eq!(answer.headers("x-nanofaas-answer"), ["e1"]);
    }
    wire.send(&http("GET", "/never", &[("X-Deadline-Ms", "50")], b""));
    let late = wire.answer();
    assert_eq!(
        (late.status, &late.json()["error"]),
        (504, &"TIMEOUT".into())
    );
    wire.send(&http("POST", "/short", &[], b"half"));
    let cut = until(&mut wire, "");
    assert!(
        cut.contains("Content-Length: 9\r\n") && cut.ends_with("HALF"),
        "{cut}"
    );
}

#[test]
fn a_late_reader_gets_the_whole_body() {
    let pod = start("upper");
    let mut wire = pod.connect();
    for length in [1, 60 << 10, 100 << 10, 1 << 20] {
        wire.send(&http("PUT", "/late", &[], &vec![b'x'; length]));
        assert_eq!(wire.answer().body, vec![b'X'; length]);
    }
}

#[test]
fn a_leaving_client_stops_a_service() {
    for sent in [0, 100 << 10] {
        let pod = start("upper");
        let mut wire = pod.connect();
        let head = format!(
            "PUT /never HTTP/1.1\r\nHost: f\r\nX-Nanofaas-Call: http\r\nX-Execution-Id: e1\r\n\
             Content-Length: {}\r\n\r\n",
            sent * 2
        );
        wire.send(head.as_bytes());
        wire.send(&vec![b'x'; sent]);
        wire.finish();
        pod.until_said("the caller closed the connection");
    }
}

#[test]
fn an_axum_app_is_a_function() {
    let pod = start("app");
    let mut wire = pod.connect();
    wire.send(&http("GET", "/hello/you?x", &[], b""));
    let answer = wire.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello, you"));
    assert_eq!(answer.header("content-length"), Some("10"));
    wire.send(&http("PUT", "/hello/you", &[], b"four"));
    assert_eq!(wire.answer().text(), "4");
    for (method, path, status) in [
        ("GET", "/health", 404),
        ("DELETE", "/hello/you", 405),
        ("HEAD", "/hello/you", 200),
    ] {
        wire.send(&http(method, path, &[], b""));
        let answer = wire.read(method != "HEAD").expect("an answer");
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.headers("x-nanofaas-answer"), ["e1"]);
    }
}
