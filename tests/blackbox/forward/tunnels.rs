//! These tests check WebSockets at `/fn/`: after the pod's 101, the connection carries another protocol.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use nanofaas_testkit::client::{RawClient, Request};
use nanofaas_testkit::pod::ScriptedPod;
use nanofaas_testkit::wait::{PATIENCE, eventually};
use serde_json::{Value, json};

use super::{get, mirror, plane, register};

const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Starts a pod that reads one head, answers with `first`, and then runs `talk` on the connection.
fn endpoint(first: &'static [u8], talk: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n")
                && stream.read(&mut byte).is_ok_and(|count| count > 0)
            {
                head.push(byte[0]);
            }
            if head.is_empty() || stream.write_all(first).is_err() {
                continue;
            }
            talk(stream);
        }
    });
    url
}

fn open(name: &str, url: &str, more: &Value) -> RawClient {
    let mut function =
        json!({"name": name, "executionMode": "POOL", "endpointUrl": url, "http": true});
    for (field, value) in more.as_object().expect("an object") {
        function[field] = value.clone();
    }
    plane().register(&function);
    upgrade(&format!("/fn/{name}/chat")).begin(plane().listen)
}

fn upgrade(path: &str) -> Request {
    get(path).headers(&[
        ("Connection", "keep-alive, Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ])
}

fn bytes(client: &mut RawClient, count: usize) -> Vec<u8> {
    let mut found = Vec::new();
    let mut buffer = [0; 4096];
    while found.len() < count {
        let read = client.receive(&mut buffer).expect("more bytes");
        assert!(read > 0, "the tunnel ended after {found:?}");
        found.extend_from_slice(&buffer[..read]);
    }
    found
}

#[test]
fn rule_12_a_tunnel_carries_both_directions() {
    let url = endpoint(SWITCH, |mut stream| {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..count]).expect("the plane reads");
        }
        // The client's FIN came, but the other direction must still work.
        stream.write_all(b"after the end").expect("the plane reads");
    });
    let mut client = open("ws-echo", &url, &json!({"timeoutMs": 300}));
    let head = client.answer();
    assert_eq!(head.status, 101);
    assert_eq!(head.header("upgrade"), Some("websocket"));
    assert_eq!(head.header("connection"), Some("upgrade"));
    assert_eq!(
        head.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    let id = head.header("x-execution-id").expect("an id").to_owned();
    for _ in 0..3 {
        client.send(b"frame");
        assert_eq!(bytes(&mut client, 5), b"frame");
        std::thread::sleep(Duration::from_millis(150));
    }
    assert_eq!(plane().status(&id)["status"], "running");
    client.finish();
    assert_eq!(bytes(&mut client, 13), b"after the end");
    assert!(client.closes_within(PATIENCE));
    eventually("the call ended", || {
        plane().status(&id)["status"] == "success"
    });
}

#[test]
fn rule_12_the_last_bytes_precede_the_end() {
    let url = endpoint(SWITCH, |mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("the client's bytes");
        stream
            .write_all(all.len().to_string().as_bytes())
            .expect("the plane reads");
    });
    for at in 0..5 {
        let mut client = open(&format!("ws-last-{at}"), &url, &json!({}));
        assert_eq!(client.answer().status, 101);
        client.send(&vec![b'x'; 700_000 + at]);
        client.finish();
        assert_eq!(bytes(&mut client, 6), (700_000 + at).to_string().as_bytes());
    }
}

#[test]
fn rule_12_a_pods_end_is_half() {
    let url = endpoint(SWITCH, |mut stream| {
        stream.write_all(b"bye").expect("the plane reads");
        stream.shutdown(Shutdown::Write).expect("a socket");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the client's bytes");
        assert_eq!(rest, b"still here");
    });
    let mut client = open("ws-half", &url, &json!({}));
    let head = client.answer();
    let id = head.header("x-execution-id").expect("an id").to_owned();
    assert_eq!(bytes(&mut client, 3), b"bye");
    assert!(client.closes_within(PATIENCE), "the pod's FIN came");
    client.send(b"still ");
    client.send(b"here");
    client.finish();
    eventually("the call ended", || {
        plane().status(&id)["status"] == "success"
    });
}

#[test]
fn rule_12_a_still_tunnel_is_cut() {
    let url = endpoint(SWITCH, |mut stream| {
        let _ = stream.read(&mut [0; 16]);
    });
    let mut client = open("ws-still", &url, &json!({"streamIdleMs": 200}));
    let id = client
        .answer()
        .header("x-execution-id")
        .expect("an id")
        .to_owned();
    assert!(client.closes_within(PATIENCE));
    assert_eq!(plane().ended(&id)["status"], "timeout");
}

#[test]
fn rule_12_a_tunnel_can_be_cancelled() {
    let url = endpoint(SWITCH, |mut stream| {
        let _ = stream.read(&mut [0; 16]);
    });
    let mut client = open("ws-cancel", &url, &json!({}));
    let id = client
        .answer()
        .header("x-execution-id")
        .expect("an id")
        .to_owned();
    plane().cancel(&id).expect(202);
    assert!(client.closes_within(PATIENCE));
    assert_eq!(plane().ended(&id)["error"]["code"], "CANCELLED");
}

#[test]
fn rule_12_a_refused_upgrade_is_an_answer() {
    let pod = ScriptedPod::tcp(|_, line| line.answer(403, "", b"no"));
    register("ws-refused", &pod, &json!({}));
    assert_eq!(
        plane().send(&upgrade("/fn/ws-refused/")).expect(403).text(),
        "no"
    );
    assert_eq!(pod.calls()[0].header("upgrade"), Some("websocket"));
}

#[test]
fn rule_12_other_upgrades_are_dropped() {
    let pod = mirror();
    register("ws-other", &pod, &json!({}));
    let requests = [
        get("/fn/ws-other/").headers(&[
            ("Connection", "Upgrade, HTTP2-Settings"),
            ("Upgrade", "h2c"),
            ("HTTP2-Settings", "AAMAAABk"),
        ]),
        get("/fn/ws-other/").header("Upgrade", "websocket"),
        get("/fn/ws-other/").headers(&[("Connection", "upgrade"), ("Upgrade", "websocket, h2c")]),
        Request::new("POST", "/fn/ws-other/")
            .headers(&[("Connection", "upgrade"), ("Upgrade", "websocket")])
            .untyped_body("x"),
    ];
    for request in requests {
        let text = plane().send(&request).expect(200).text();
        assert!(!text.contains("upgrade") && !text.contains("h2c"), "{text}");
    }
}

#[test]
fn rule_12_only_websocket_may_be_switched_to() {
    let url = endpoint(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        |_| {},
    );
    let mut client = open("ws-h2c", &url, &json!({}));
    client.answer().expect_error(502, "BAD_OUTPUT");
}
