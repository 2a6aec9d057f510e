//! Tests that every answer to a call repeats the call's `X-Execution-Id`, because the platform compares this
//! id with the id that it sent.

#![allow(
    clippy::disallowed_methods,
    reason = "tests act in place of clients, pods and clocks"
)]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use nanofaas_testkit::client::RawClient;
use nanofaas_testkit::folder::ScratchFolder;

use support::{
    JSON, PodClient as _, Program, request, several, shell_script, until_written, watchdog,
};

fn id(id: &str) -> [(&str, &str); 2] {
    [JSON, ("X-Execution-Id", id)]
}

/// Returns the status and the id of the answer to a call.
fn call(wire: &mut RawClient, input: &str, own: &str) -> (u16, Option<String>) {
    let body = format!(r#"{{"input":{input}}}"#);
    let answer = wire.call("POST", "/invoke", &id(own), body.as_bytes());
    (
        answer.status,
        answer.header("x-execution-id").map(Into::into),
    )
}

fn said(status: u16, id: &str) -> (u16, Option<String>) {
    (status, Some(id.to_owned()))
}

#[test]
fn every_outcome_of_a_handler_carries_the_id() {
    for handler in ["fail", "fail-blocking", "fail-future"] {
        let pod = Program::several(handler);
        let mut wire = pod.connect();
        for (number, (how, status)) in [
            ("png", 200),
            ("error", 500),
            ("code", 500),
            ("panic", 500),
            ("type", 500),
            ("what", 400),
            ("png", 200),
        ]
        .into_iter()
        .enumerate()
        {
            let own = format!("e{number}");
            let got = call(&mut wire, &format!("{how:?}"), &own);
            assert_eq!(got, said(status, &own), "{handler} {how}");
        }
        let bad = wire.call("POST", "/invoke", &id("bad"), b"{");
        assert_eq!(
            (bad.status, bad.header("x-execution-id")),
            (400, Some("bad"))
        );
        let none = wire.invoke("\"png\"");
        assert_eq!((none.status, none.header("x-execution-id")), (200, None));
    }
}

#[test]
fn pipelined_calls_get_their_own() {
    let pod = Program::several("echo");
    let mut wire = pod.connect();
    let mut all = Vec::new();
    for number in 0..50 {
        let body = format!(r#"{{"input":{number}}}"#);
        let own = format!("e{number}");
        all.extend(request("POST", "/invoke", &id(&own), body.as_bytes()));
    }
    wire.send(&all);
    for number in 0..50 {
        let (answer, own) = (wire.answer(), format!("e{number}"));
        assert_eq!(answer.header("x-execution-id"), Some(own.as_str()));
        assert_eq!(answer.text(), number.to_string());
    }
}

#[test]
fn refused_requests_get_it_too() {
    let pod = Program::several("echo");
    for (line, rest, status) in [
        ("POST /other", "Content-Length: 0\r\n\r\n", 404),
        ("GET /invoke", "\r\n", 405),
        ("POST /invoke", "Content-Length: 99999999\r\n\r\n", 413),
        ("POST /invoke", "Content-Length: x\r\n\r\n", 400),
        ("POST /invoke", "X-Deadline-Ms: soon\r\n\r\n", 400),
        (
            "POST /invoke",
            "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
            400,
        ),
        ("POST /invoke", "Expect: more\r\n\r\n", 417),
    ] {
        let mut wire = pod.connect();
        let text = format!("{line} HTTP/1.1\r\nHost: a\r\nX-Execution-Id: e1\r\n{rest}");
        wire.send(text.as_bytes());
        let answer = wire.answer();
        let got = (answer.status, answer.header("x-execution-id"));
        assert_eq!(got, (status, Some("e1")), "{line} {rest}");
    }
}

#[test]
fn calls_not_started_or_over_their_deadline() {
    let scratch = ScratchFolder::create();
    let gate = scratch.join("gate");
    let env = [
        ("FUNCTION_HANDLER", "wait"),
        ("INIT_GATE", gate.to_str().expect("UTF-8")),
    ];
    let pod = Program::start_in(scratch, &several(), &[], &env);
    assert_eq!(call(&mut pod.connect(), "1", "early"), said(503, "early"));
    std::fs::write(&gate, "").expect("the gate opens");
    pod.until_up();
    let path = |name: &str| pod.path(name).to_str().expect("UTF-8").to_owned();
    let input = serde_json::json!({
        "began": path("began"), "gate": path("never"), "ended": path("ended"),
    });
    let mut headers = id("late").to_vec();
    headers.push(("X-Deadline-Ms", "100"));
    let body = format!(r#"{{"input":{input}}}"#);
    let late = pod
        .connect()
        .call("POST", "/invoke", &headers, body.as_bytes());
    assert_eq!(
        (late.status, late.header("x-execution-id")),
        (504, Some("late"))
    );
}

#[test]
fn a_program_by_stdio_cannot_change_it() {
    let scratch = ScratchFolder::create();
    let text = r#"read -r input; test "$input" = 7 && { echo no >&2; exit 7; }
        export EXECUTION_ID=forged; printf '"%s"' "$input""#;
    let script = shell_script(&scratch, text);
    let line = ["--", script.to_str().expect("UTF-8")];
    let env = [("EXECUTION_MODE", "STDIO")];
    let pod = Program::start_in(scratch, &watchdog(), &line, &env);
    pod.until_up();
    let mut wire = pod.connect();
    for (number, status) in [(1, 200), (7, 500), (2, 200)] {
        let own = format!("e{number}");
        let got = call(&mut wire, &format!("{number}"), &own);
        assert_eq!(got, said(status, &own));
    }
}

/// A program whose port the test itself serves. For each call, the test's server sends the head to `heads`,
/// and then does what comes from `answers`.
struct Scripted {
    pod: Program,
    heads: Receiver<String>,
    answers: Sender<Say>,
}

enum Say {
    Bytes(Vec<u8>),
    /// Reads this many bytes of the body.
    Read(usize),
    /// Sends the head of the next request to `heads`, or an empty text if the connection has ended.
    NextRequest,
    Reset,
    Close,
}

fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

fn serve(mut stream: TcpStream, heads: &Sender<String>, answers: &Receiver<Say>) {
    let Some(head) = read_request(&mut stream) else {
        return;
    };
    if head.starts_with("GET /health") {
        let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(ok).expect("it listens");
        return;
    }
    heads.send(head).expect("the test waits");
    while let Ok(say) = answers.recv() {
        match say {
            Say::Bytes(bytes) => _ = stream.write_all(&bytes),
            Say::Read(count) => stream.read_exact(&mut vec![0; count]).expect("a body"),
            Say::NextRequest => {
                let head = read_request(&mut stream);
                heads
                    .send(head.unwrap_or_default())
                    .expect("the test waits");
            }
            // The kernel resets a TCP connection that is closed with unread bytes.
            Say::Reset => {
                stream.peek(&mut [0]).expect("a body");
                return;
            }
            Say::Close => {
                let _ = stream.shutdown(Shutdown::Write);
                let _ = stream.read(&mut [0; 1024]);
                return;
            }
        }
    }
}

impl Scripted {
    fn start() -> Self {
        let scratch = ScratchFolder::create();
        let script = shell_script(
            &scratch,
            r#"echo $PORT > "$D/port.new"; mv "$D/port.new" "$D/port"
            exec sleep 1000"#,
        );
        let folder = scratch.join("").to_str().expect("UTF-8").to_owned();
        let env = [("EXECUTION_MODE", "HTTP"), ("D", &folder)];
        let line = ["--", script.to_str().expect("UTF-8")];
        let pod = Program::start_in(scratch, &watchdog(), &line, &env);
        let port = until_written(&pod.path("port"));
        let port: u16 = port.trim().parse().expect("a port");
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        let (sender, heads) = mpsc::channel();
        let (answers, script) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                serve(stream, &sender, &script);
            }
        });
        pod.until_up();
        Self {
            pod,
            heads,
            answers,
        }
    }

    fn say(&self, bytes: &[u8]) {
        self.tell(Say::Bytes(bytes.to_vec()));
    }

    fn tell(&self, say: Say) {
        self.answers.send(say).expect("the program is served");
    }

    fn head(&self) -> String {
        let patience = Duration::from_secs(60);
        self.heads.recv_timeout(patience).expect("a request")
    }
}

#[test]
fn the_relay_replaces_the_programs_own() {
    let program = Scripted::start();
    let mut wire = program.pod.connect();
    for (number, headers, status, length) in [
        (0, "Content-Length: 2\r\nX-Execution-Id: forged\r\n", 200, 2),
        (1, "Content-Length: 2\r\n", 200, 2),
        (
            2,
            "x-execution-id:  a\r\nX-EXECUTION-ID: b\r\nContent-Length: 2\r\n",
            500,
            2,
        ),
        (3, "", 204, 0),
        (4, "X-Not-Started: true\r\nContent-Length: 2\r\n", 503, 2),
    ] {
        let own = format!("e{number}");
        if number > 0 {
            program.tell(Say::NextRequest);
        }
        wire.send(&request("POST", "/invoke", &id(&own), b"{}"));
        let head = program.head();
        assert!(
            head.contains(&format!("X-Execution-Id: {own}\r\n")),
            "{head}"
        );
        program.tell(Say::Read(2));
        program.say(b"HTTP/1.1 100 Continue\r\nX-Execution-Id: forged\r\n\r\n");
        assert_eq!(wire.headless_answer().header("x-execution-id"), None);
        program.say(format!("HTTP/1.1 {status} X\r\nX-Own: 1\r\n{headers}\r\n").as_bytes());
        program.say(&b"42"[..length]);
        let answer = wire.answer();
        let got = (answer.status, answer.header("x-execution-id"));
        assert_eq!(got, (status, Some(own.as_str())));
        assert_eq!(
            (answer.header("x-own"), answer.body.len()),
            (Some("1"), length)
        );
    }
    program.tell(Say::NextRequest);
    wire.send(&request("HEAD", "/invoke", &[], b""));
    program.head();
    program.say(b"HTTP/1.1 200 OK\r\nX-Execution-Id: forged\r\nContent-Length: 99\r\n\r\n");
    assert_eq!(wire.headless_answer().header("x-execution-id"), None);
    program.tell(Say::Close);
    assert!(wire.closed());
}

/// Returns all bytes of the relay's answer to one call, until the connection ends.
fn everything(program: &Scripted, body: &[u8], script: impl FnOnce()) -> String {
    let mut stream = UnixStream::connect(program.pod.path("s")).expect("it listens");
    let patience = Some(Duration::from_secs(60));
    stream.set_read_timeout(patience).expect("a timeout");
    let bytes = request("POST", "/invoke", &id("mine"), body);
    stream.write_all(&bytes).expect("it reads");
    program.head();
    script();
    let mut all = Vec::new();
    // A reset also ends the connection, so an error is ignored.
    let _ = stream.read_to_end(&mut all);
    String::from_utf8(all).expect("text")
}

#[test]
fn a_cut_answer_without_length_shows() {
    let program = Scripted::start();
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n";
    let whole = everything(&program, b"ab", || {
        program.tell(Say::Read(2));
        program.say(&[head, &b"hello"[..]].concat());
        program.tell(Say::Close);
    });
    let expected = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Execution-Id: mine\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
    let chunks = whole.strip_prefix(expected).expect(&whole);
    assert!(chunks.ends_with("0\r\n\r\n"), "{chunks}");
    // HTTP/1.0 has no chunks, so the relay sends the answer as HTTP/1.1.
    let old = everything(&program, b"ab", || {
        program.tell(Say::Read(2));
        program.say(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nhello");
        program.tell(Say::Close);
    });
    assert!(old.starts_with(expected), "{old}");
    let cut = everything(&program, b"ab", || {
        program.say(&[head, &b"the first half of"[..]].concat());
        program.tell(Say::Reset);
    });
    assert!(!cut.contains("0\r\n\r\n"), "{cut}");
}

#[test]
fn a_second_answer_is_not_the_next_calls() {
    let program = Scripted::start();
    let mut wire = program.pod.connect();
    wire.send(&request("POST", "/invoke", &id("first"), b"{}"));
    program.head();
    program.tell(Say::Read(2));
    let one = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n";
    program.say(format!("{one}1{one}2").as_bytes());
    let answer = wire.answer();
    assert_eq!(answer.header("x-execution-id"), Some("first"));
    assert_eq!(answer.text(), "1");
    let second = wire.try_call("POST", "/invoke", &id("second"), b"{}");
    assert!(second.is_none(), "the first call's second answer");
    program.tell(Say::Close);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
                   2;x=y\r\n42\r\n0\r\nT: 1\r\n\r\n";
    let passed = everything(&program, b"", || {
        program.say(chunked.as_bytes());
        program.tell(Say::Close);
    });
    let (head, body) = chunked.split_once("\r\n\r\n").expect("a head");
    let expected = format!("{head}\r\nX-Execution-Id: mine\r\n\r\n{body}");
    assert_eq!(passed, expected);
}

#[test]
fn an_early_answer_passes_while_the_request_goes() {
    let program = Scripted::start();
    let mut stream = UnixStream::connect(program.pod.path("s")).expect("it listens");
    let body = vec![b'x'; 8 << 20];
    let bytes = request("POST", "/invoke", &id("mine"), &body);
    let mut writer = stream.try_clone().expect("a descriptor");
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).expect("a timeout");
    writer.set_write_timeout(patience).expect("a timeout");
    // The body is larger than the buffers of the sockets, so it cannot be sent whole while the program does
    // not read.
    let sends = thread::spawn(move || writer.write_all(&bytes));
    program.head();
    program.say(b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}");
    let (mut answer, expected) = (Vec::new(), "X-Execution-Id: mine\r\n\r\n{}");
    while !answer.ends_with(expected.as_bytes()) {
        let mut some = [0; 1024];
        let count = stream.read(&mut some).expect("the answer");
        assert!(count > 0, "{:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&some[..count]);
    }
    program.tell(Say::Close);
    // The relay may read the rest of the body or refuse it. In both cases the sender must not hang.
    let _ = sends.join().expect("no panic");
}

#[test]
fn the_program_sees_a_leaving_caller() {
    let program = Scripted::start();
    let mut wire = program.pod.connect();
    wire.send(&request("POST", "/invoke", &id("mine"), b"{}"));
    program.head();
    program.tell(Say::Read(2));
    program.tell(Say::NextRequest);
    drop(wire);
    assert_eq!(program.head(), "", "the program's connection has ended");
}
