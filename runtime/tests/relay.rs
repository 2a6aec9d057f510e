//! Tests of HTTP calls (`X-Nanofaas-Call: http`) through the watchdog's relay. The relay passes each request,
//! piece by piece, to a program that listens only on a port, and passes the program's answer back.

mod support;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nanofaas_testkit::client::{Answer, RawClient};
use nanofaas_testkit::folder::ScratchFolder;
use support::{PodClient as _, Program, http, request, until_file, watchdog};

fn start() -> Program {
    let scratch = ScratchFolder::create();
    let folder = scratch.join("").to_str().expect("UTF-8").to_owned();
    let env = [("EXECUTION_MODE", "HTTP"), ("D", folder.as_str())];
    let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/server.py");
    let line = ["--", "python3", server.to_str().expect("UTF-8")];
    let pod = Program::start_in(scratch, &watchdog(), &line, &env);
    pod.until_up();
    pod
}

fn call(wire: &mut RawClient, method: &str, target: &str, more: &[(&str, &str)]) -> Answer {
    wire.send(&http(method, target, more, b""));
    wire.read(method != "HEAD").expect("an answer")
}

/// Returns the bytes that come until they end with `end`, or until the connection ends.
fn until(wire: &mut RawClient, end: &str) -> String {
    let mut all = Vec::new();
    while !all.ends_with(end.as_bytes()) || end.is_empty() {
        let mut some = [0; 1024];
        match wire.receive(&mut some) {
            Ok(count @ 1..) => all.extend_from_slice(&some[..count]),
            _ => break,
        }
    }
    String::from_utf8(all).expect("text")
}

#[test]
fn every_method_and_path_reaches_the_program() {
    let pod = start();
    let mut wire = pod.connect();
    for (method, target, status) in [
        ("GET", "/", 200),
        ("GET", "/health?a=%20b&c", 404),
        ("DELETE", "/invoke", 500),
        ("PUT", "/a%2Fb//../c;x?", 201),
        ("OPTIONS", "*", 200),
        ("BREW", "/pot", 418),
        ("PATCH", "/", 299),
    ] {
        let more = [("X-Status", &*status.to_string()), ("Cookie", "a=b; c")];
        let answer = call(&mut wire, method, target, &more);
        let told = answer.json();
        assert_eq!((answer.status, &told["method"]), (status, &method.into()));
        assert_eq!(told["target"], target);
        let headers = told["headers"].as_array().expect("a list");
        for (name, value) in [("cookie", "a=b; c"), ("x-nanofaas-call", "http")] {
            assert!(
                headers.contains(&serde_json::json!([name, value])),
                "{told}"
            );
        }
        assert_eq!(answer.headers("x-nanofaas-answer"), ["e1"]);
        assert_eq!(answer.header("x-own"), Some("1"));
    }
    wire.send(&http("POST", "/invoke", &[], b"{\"input\":1}"));
    assert_eq!(wire.answer().json()["body"], r#"{"input":1}"#);
    // The same program's answer to a call without the mark has the call's id.
    wire.send(&request(
        "POST",
        "/invoke",
        &[("X-Execution-Id", "e2")],
        b"2",
    ));
    let answer = wire.answer();
    assert_eq!(answer.headers("x-execution-id"), ["e2"]);
    assert_eq!(answer.headers("x-nanofaas-answer"), ["forged"]);
}

#[test]
fn head_and_interim_answers_pass() {
    let pod = start();
    let mut wire = pod.connect();
    let head = call(&mut wire, "HEAD", "/a", &[]);
    assert_eq!(head.headers("x-nanofaas-answer"), ["e1"]);
    let length = head.header("content-length").expect("a length");
    assert!(length.parse::<usize>().expect("a number") > 10);
    wire.send(&http("GET", "/early", &[], b""));
    let interim = wire.headless_answer();
    assert_eq!(
        (interim.status, interim.header("link")),
        (103, Some("</a>"))
    );
    assert_eq!(interim.header("x-nanofaas-answer"), None);
    let answer = wire.answer();
    assert_eq!((answer.text().as_str(), answer.status), ("late", 200));
    assert_eq!(answer.headers("x-nanofaas-answer"), ["e1"]);
}

#[test]
fn pieces_of_an_answer_come_at_once() {
    let pod = start();
    let mut wire = pod.connect();
    wire.send(&http("GET", "/stream", &[], b""));
    let first = until(&mut wire, "5\r\nfirst\r\n");
    assert!(first.contains("X-Nanofaas-Answer: e1\r\n"), "{first}");
    std::fs::write(pod.path("gate"), "").expect("the gate opens");
    assert_eq!(until(&mut wire, "0\r\n\r\n"), "6\r\nsecond\r\n0\r\n\r\n");
    wire.send(&http("GET", "/until-close", &[], b""));
    let answer = wire.answer();
    assert_eq!(answer.text(), "to the end");
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
}

#[test]
fn pieces_of_an_upload_go_at_once() {
    let pod = start();
    let mut wire = pod.connect();
    let text = "POST /upload HTTP/1.1\r\nHost: f\r\nX-Nanofaas-Call: http\r\n\
                X-Execution-Id: e1\r\nTransfer-Encoding: chunked\r\n\r\n";
    wire.send(text.as_bytes());
    until(&mut wire, "\r\n\r\n");
    for piece in ["a", "more", "end"] {
        wire.send(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes());
        let upper = piece.to_uppercase();
        let expected = format!("{:x}\r\n{upper}\r\n", piece.len());
        assert_eq!(until(&mut wire, &expected), expected);
    }
    wire.send(b"0\r\n\r\n");
    assert_eq!(until(&mut wire, "0\r\n\r\n"), "0\r\n\r\n");
    assert_eq!(call(&mut wire, "GET", "/", &[]).status, 200);
}

#[test]
fn a_program_that_dies_cuts_its_answer() {
    for where_it_dies in ["chunked", "length"] {
        let pod = start();
        let mut wire = pod.connect();
        wire.send(&http("GET", &format!("/die?{where_it_dies}"), &[], b""));
        let all = until(&mut wire, "");
        assert!(all.contains("X-Nanofaas-Answer: e1\r\n"), "{all}");
        assert!(all.contains("half") && !all.contains("0\r\n\r\n"), "{all}");
        let length = all.contains("Content-Length: 9\r\n");
        assert_eq!(length, where_it_dies == "length", "{all}");
    }
    let pod = start();
    let answer = call(&mut pod.connect(), "GET", "/die?before", &[]);
    let body = answer.json();
    assert_eq!((answer.status, &body["error"]), (502, &"POD_LOST".into()));
    assert_eq!(body["message"], "the program exited with status 3");
    assert_eq!(answer.headers("x-nanofaas-answer"), ["e1"]);
    assert_eq!(answer.header("x-execution-id"), None);
}

#[test]
fn a_leaving_client_ends_the_programs_connection() {
    // The client leaves after its request, within the request, and while the program reads nothing.
    for (target, length, sent) in [
        ("/hang", 0, 0),
        ("/hang?silent", 0, 0),
        ("/hang?silent", 9, 4),
        ("/hang?unread", 64 << 20, 64 << 20),
    ] {
        let pod = start();
        let mut wire = UnixStream::connect(pod.path("s")).expect("it listens");
        let patience = Some(Duration::from_millis(300));
        wire.set_write_timeout(patience).expect("a timeout");
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: f\r\nX-Nanofaas-Call: http\r\n\
             X-Execution-Id: e1\r\nContent-Length: {length}\r\n\r\n"
        );
        wire.write_all(head.as_bytes()).expect("it reads");
        until_file(&pod.path("began"));
        // The write fails if the program does not read.
        let is_sent = wire.write_all(&vec![b'x'; sent]).is_ok();
        assert_eq!(is_sent, target != "/hang?unread");
        drop(wire);
        until_file(&pod.path("left"));
    }
}
