//! These tests pass bodies through `/fn/`, and check their framing, their ends, and the memory that they
//! hold.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use nanofaas_testkit::client::{Answer, RawClient, Request};
use nanofaas_testkit::control_plane::ControlPlane;
use nanofaas_testkit::functions::{pool, with};
use nanofaas_testkit::pod::{After, ScriptedPod};
use nanofaas_testkit::wait::{Gate, PATIENCE};
use serde_json::json;

use super::{get, plane, register};

const MIB: usize = 1024 * 1024;

/// Calls a function whose pod answers with `bytes` and then closes the connection.
fn answer_to(name: &str, method: &str, bytes: &[u8]) -> Answer {
    let pod = ScriptedPod::saying(bytes);
    register(name, &pod, &json!({}));
    plane().send(&Request::new(method, &format!("/fn/{name}/")))
}

#[test]
fn rule_11_each_framing_becomes_the_clients() {
    let chunked = answer_to("fn-chunked", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n");
    assert_eq!(
        (chunked.text().as_str(), chunked.header("transfer-encoding")),
        ("abcde", Some("chunked"))
    );
    assert_eq!(chunked.header("trailer"), None);
    let until_close = answer_to(
        "fn-close",
        "GET",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc",
    );
    assert_eq!(
        (
            until_close.text().as_str(),
            until_close.header("transfer-encoding")
        ),
        ("abc", Some("chunked"))
    );
    let length = answer_to(
        "fn-length",
        "GET",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    );
    assert_eq!(
        (length.text().as_str(), length.header("content-length")),
        ("abc", Some("3"))
    );
    let empty = answer_to(
        "fn-empty",
        "GET",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n",
    );
    assert_eq!((empty.status, empty.header("content-length")), (204, None));
    let unchanged = answer_to(
        "fn-304",
        "GET",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\nETag: \"a\"\r\n\r\n",
    );
    assert_eq!(
        (unchanged.status, unchanged.header("content-length")),
        (304, Some("3"))
    );
    let head = answer_to(
        "fn-head",
        "HEAD",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
    );
    assert_eq!(
        (head.status, head.header("content-length"), head.body.len()),
        (200, Some("3"), 0)
    );
    let reason = answer_to(
        "fn-reason",
        "GET",
        b"HTTP/1.1 299 Own Reason\r\nContent-Length: 0\r\n\r\n",
    );
    assert_eq!(reason.status, 299);
}

#[test]
fn rule_11_unsound_answers_are_bad_output() {
    for (at, bytes) in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: content-type\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        answer_to(&format!("fn-unsound-{at}"), "GET", bytes).expect_error(502, "BAD_OUTPUT");
    }
}

#[test]
fn rule_11_a_cut_answer_is_visible() {
    for (name, bytes) in [
        (
            "fn-cut-length",
            &b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"[..],
        ),
        (
            "fn-cut-chunks",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        ),
    ] {
        let pod = ScriptedPod::saying(bytes);
        register(name, &pod, &json!({}));
        let mut client = get(&format!("/fn/{name}/")).begin(plane().listen);
        assert!(client.read(true).is_err(), "{name}: the answer looks whole");
        let id = pod.calls()[0]
            .header("x-execution-id")
            .expect("an id")
            .to_owned();
        let code = plane().ended(&id)["error"]["code"].clone();
        assert!(code == "POD_LOST" || code == "BAD_OUTPUT", "{name}: {code}");
    }
}

#[test]
fn rule_11_what_comes_goes_out_at_once() {
    let gate = Gate::default();
    let held = gate.clone();
    let pod = ScriptedPod::tcp(move |_, line| {
        line.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n");
        line.wait(&held);
        line.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n");
        After::Keep
    });
    register("fn-events", &pod, &json!({}));
    let mut client = get("/fn/fn-events/").begin(plane().listen);
    let mut seen = Vec::new();
    let mut bytes = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains("data: 1\n\n") {
        let count = client.receive(&mut bytes).expect("the first event");
        assert!(count > 0, "the stream ended");
        seen.extend_from_slice(&bytes[..count]);
    }
    assert!(client.stays_quiet_for(Duration::from_millis(50)));
    gate.open();
    while !String::from_utf8_lossy(&seen).contains("data: 2\n\n") {
        let count = client.receive(&mut bytes).expect("the second event");
        assert!(count > 0, "the stream ended");
        seen.extend_from_slice(&bytes[..count]);
    }
}

/// Starts a pod that reads bodies of any framing to their end, and answers with the number of their bytes on
/// the wire.
fn counter() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || count_bodies(stream));
        }
    });
    url
}

fn count_bodies(mut stream: TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let (mut bytes, mut held) = (vec![0; 64 * 1024], Vec::new());
    loop {
        let end = loop {
            if let Some(at) = held.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read(&mut bytes) {
                Ok(count @ 1..) => held.extend_from_slice(&bytes[..count]),
                _ => return,
            }
        };
        let head = String::from_utf8_lossy(&held[..end]).to_lowercase();
        held.drain(..end);
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let mut came = held.len();
        match length {
            Some(length) => {
                while came < length {
                    match stream.read(&mut bytes) {
                        Ok(count @ 1..) => came += count,
                        _ => return,
                    }
                }
            }
            // The bytes of a chunked body are counted with their framing, up to the last chunk.
            None => {
                let mut tail = held.clone();
                while !tail.ends_with(b"0\r\n\r\n") {
                    match stream.read(&mut bytes) {
                        Ok(count @ 1..) => {
                            came += count;
                            tail.extend_from_slice(&bytes[..count]);
                            let from = tail.len().saturating_sub(16);
                            tail.drain(..from);
                        }
                        _ => return,
                    }
                }
            }
        }
        held.clear();
        let text = came.to_string();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn rule_9_uploads_pass_without_being_held() {
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    let url = counter();
    plane.register(
        &json!({"name": "fn-up", "executionMode": "POOL", "endpointUrl": url, "http": true}),
    );
    let before = plane.resident_bytes();
    let size = 64 * MIB;
    let mut client = RawClient::connect(plane.listen);
    client.send(
        format!("POST /fn/fn-up/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n")
            .as_bytes(),
    );
    let piece = vec![b'x'; MIB];
    let mut most = 0;
    for _ in 0..size / MIB {
        client.send(&piece);
        most = most.max(plane.resident_bytes());
    }
    assert_eq!(client.answer().expect(200).text(), size.to_string());
    assert!(most < before + 8 * MIB as u64, "{most} after {before}");
    // The second request sends chunks on the same connection.
    client
        .send(b"POST /fn/fn-up/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..8 {
        client.send(format!("{MIB:x}\r\n").as_bytes());
        client.send(&piece);
        client.send(b"\r\n");
    }
    client.send(b"0\r\n\r\n");
    let counted: usize = client
        .answer()
        .expect(200)
        .text()
        .parse()
        .expect("a number");
    assert!(counted >= 8 * MIB, "{counted}");
}

#[test]
fn rule_9_downloads_pass_without_being_held() {
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    let size = 64 * MIB;
    let pod = ScriptedPod::tcp(move |_, line| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
        line.send(head.as_bytes());
        let piece = vec![b'y'; MIB];
        for _ in 0..size / MIB {
            if !line.send(&piece) {
                return After::Close;
            }
        }
        After::Keep
    });
    let url = pod.url.replace("/invoke", "/");
    plane.register(&with(
        pool("fn-down", &pod),
        &json!({"endpointUrl": url, "http": true}),
    ));
    let before = plane.resident_bytes();
    let mut client = get("/fn/fn-down/").begin(plane.listen);
    let (mut came, mut most, mut bytes) = (0, 0, vec![0; MIB]);
    while came < size {
        let count = client.receive(&mut bytes).expect("more of the answer");
        assert!(count > 0, "the answer ended after {came} bytes");
        came += count;
        most = most.max(plane.resident_bytes());
    }
    assert!(most < before + 8 * MIB as u64, "{most} after {before}");
}

#[test]
fn rule_9_slow_readers_slow_their_pods_alone() {
    let pod = ScriptedPod::tcp(move |got, line| {
        if !got.first_line.contains("/endless") {
            return line.answer(200, "", b"quick");
        }
        line.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = [&b"8000\r\n"[..], &[b'z'; 0x8000], b"\r\n"].concat();
        while line.send(&chunk) {}
        After::Close
    });
    register("fn-slow", &pod, &json!({}));
    let stalled = get("/fn/fn-slow/endless").begin(plane().listen);
    pod.wait_calls(1);
    let before = plane().resident_bytes();
    for _ in 0..50 {
        plane().send(&get("/fn/fn-slow/")).expect(200);
    }
    let after = plane().resident_bytes();
    assert!(after < before + 8 * MIB as u64, "{after} after {before}");
    drop(stalled);
}
