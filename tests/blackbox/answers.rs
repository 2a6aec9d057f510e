//! These tests check that each call gets its own answer. Their pods send bytes without a request, close idle
//! connections, close a connection together with an answer, answer before they have read the request, or send
//! the answer of another call.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nanofaas_testkit::client::{Answer, Request};
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::form::io_threads;
use nanofaas_testkit::functions::with;
use nanofaas_testkit::pod::ScriptedPod;
use nanofaas_testkit::wait::PATIENCE;
use nix::sys::socket::{MsgFlags, send, setsockopt, sockopt};
use serde_json::{Value, json};

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane = SharedControlPlane::new(&["--rate-max-per-second", "off"]);
    PLANE.get()
}

/// Starts an endpoint that passes each connection to `talk`, and returns its URL.
fn endpoint(talk: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
            talk(stream);
        }
    });
    format!("http://{address}/")
}

/// Like `endpoint`, but on a Unix socket, which holds at most 200 KiB of unread bytes. When a write returns,
/// the peer can read the bytes. Over TCP, the bytes could arrive only after the pauses of these tests.
fn unix_endpoint(folder: &ScratchFolder, talk: impl Fn(UnixStream) + Send + 'static) -> String {
    let path = folder.path().join("pod.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
            talk(stream);
        }
    });
    format!("http+unix://{}:/", path.display())
}

fn register(name: &str, url: &str, more: &Value) {
    let function = json!({"name": name, "executionMode": "POOL", "endpointUrl": url});
    plane().register(&with(function, more));
}

fn call(name: &str, body: Vec<u8>) -> Answer {
    let request = Request::new("POST", &format!("/v1/functions/{name}:invoke"));
    plane().send(&request.body("application/octet-stream", body))
}

/// Reads a request's head, and the whole body if `whole` is true. Returns `None` at the end of the stream.
fn request(stream: &mut impl Read, whole: bool) -> Option<(String, Vec<u8>)> {
    let mut held = Vec::new();
    let mut bytes = [0; 4096];
    let mut more = |held: &mut Vec<u8>| match stream.read(&mut bytes) {
        Ok(0) | Err(_) => None,
        Ok(count) => {
            held.extend_from_slice(&bytes[..count]);
            Some(())
        }
    };
    let end = loop {
        let found = held.windows(4).position(|four| four == b"\r\n\r\n");
        match found {
            Some(at) => break at + 4,
            None => more(&mut held)?,
        }
    };
    let head = String::from_utf8_lossy(&held[..end]).to_lowercase();
    let mut body = held.split_off(end);
    while whole && body.len() < length(&head) {
        more(&mut body)?;
    }
    Some((head, body))
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let line = head.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.strip_prefix(": "))
        .expect("the header is there")
}

fn length(head: &str) -> usize {
    header(head, "content-length").parse().expect("a length")
}

fn octets(body: &[u8]) -> Vec<u8> {
    let mut answer = head("200 OK", body.len(), "");
    answer.extend_from_slice(body);
    answer
}

fn head(status: &str, length: usize, more: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/octet-stream\r\n\
         content-length: {length}\r\n{more}\r\n"
    )
    .into_bytes()
}

fn filled(body: &[u8], size: usize) -> Vec<u8> {
    let mut body = body.to_vec();
    body.resize(size.max(body.len()), b' ');
    body
}

/// Makes one call after another. Between two calls the pod does something to the idle connection.
#[track_caller]
fn calls_after_a_pod_did(name: &str, did: &Receiver<()>, size: usize) {
    for caller in 0..10 {
        let body = filled(format!("caller {caller}").as_bytes(), size);
        let answer = call(name, body.clone()).expect(200);
        assert_eq!(answer.text().into_bytes(), body, "caller {caller}, {size}");
        did.recv_timeout(PATIENCE).expect("the pod goes on");
        // The plane notices the pod's action in an iteration during this pause. If the next call arrived in
        // the same iteration, the plane could still use the connection for that call.
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_answer_that_nobody_asked_for_reaches_nobody() {
    for size in [20, 2_000] {
        let folder = ScratchFolder::create();
        let (told, did) = channel();
        let url = unix_endpoint(&folder, move |mut stream| {
            let told = told.clone();
            std::thread::spawn(move || {
                while let Some((_, body)) = request(&mut stream, true) {
                    stream.write_all(&octets(&body)).expect("it is taken");
                    // The plane receives the call's own answer during this pause.
                    std::thread::sleep(Duration::from_millis(10));
                    let other = filled(b"of another call", size);
                    stream.write_all(&octets(&other)).expect("it is taken");
                    told.send(()).expect("the test waits");
                }
            });
        });
        let name = format!("unasked-{size}");
        register(&name, &url, &json!({}));
        calls_after_a_pod_did(&name, &did, size);
    }
}

#[test]
fn a_connection_that_ended_idle_carries_no_call() {
    for size in [20, 2_000] {
        let folder = ScratchFolder::create();
        let (told, did) = channel();
        let url = unix_endpoint(&folder, move |mut stream| {
            if let Some((_, body)) = request(&mut stream, true) {
                stream.write_all(&octets(&body)).expect("it is taken");
                std::thread::sleep(Duration::from_millis(10));
                drop(stream);
                told.send(()).expect("the test waits");
            }
        });
        let name = format!("closes-{size}");
        register(&name, &url, &json!({"retryOn": [], "maxRetries": 0}));
        calls_after_a_pod_did(&name, &did, size);
    }
}

#[test]
fn an_end_behind_an_answer_carries_no_call() {
    for size in [20, 2_000] {
        let (told, did) = channel();
        let url = endpoint(move |mut stream| {
            use std::os::fd::AsRawFd;
            if let Some((_, body)) = request(&mut stream, true) {
                let answer = octets(&body);
                let sent = send(
                    stream.as_raw_fd(),
                    &answer,
                    MsgFlags::from_bits_retain(nix::libc::MSG_MORE),
                );
                assert_eq!(sent, Ok(answer.len()));
                drop(stream);
                told.send(()).expect("the test waits");
            }
        });
        let name = format!("segment-{size}");
        register(&name, &url, &json!({"retryOn": [], "maxRetries": 0}));
        calls_after_a_pod_did(&name, &did, size);
    }
}

#[test]
fn a_pod_may_answer_before_all_is_sent() {
    let folder = ScratchFolder::create();
    let url = unix_endpoint(&folder, |mut stream| {
        let Some((request_head, mut body)) = request(&mut stream, false) else {
            return;
        };
        let mut left = length(&request_head);
        let mut bytes = [0; 65536];
        // The pod answers before it reads the body. A plane that reads the answer only after it has sent the
        // body would wait here for ever.
        let mut goes_on = stream.write_all(&head("200 OK", left, "")).is_ok();
        while goes_on && left > 0 {
            if body.is_empty() {
                let count = stream.read(&mut bytes).unwrap_or(0);
                body.extend_from_slice(&bytes[..count]);
                goes_on = count > 0;
            }
            goes_on &= stream.write_all(&body).is_ok();
            left -= body.len();
            body.clear();
        }
    });
    register("streams", &url, &json!({"timeoutMs": 5_000}));
    let body: Vec<u8> = (0..1_000_000_u32)
        .map(|at| b'a' + (at % 23) as u8)
        .collect();
    let answer = call("streams", body.clone()).expect(200);
    assert!(answer.text().into_bytes() == body);
}

#[test]
fn an_early_answer_is_heard_and_sent_once() {
    let folder = ScratchFolder::create();
    let (told, calls) = channel();
    let url = unix_endpoint(&folder, move |mut stream| {
        let told = told.clone();
        std::thread::spawn(move || {
            let _head = request(&mut stream, false);
            let body = br#"{"code":"QUOTA","message":"no more today"}"#;
            let mut answer = b"HTTP/1.1 500 Oops\r\ncontent-type: application/json\r\n".to_vec();
            answer.extend(format!("content-length: {}\r\n\r\n", body.len()).into_bytes());
            answer.extend_from_slice(body);
            stream.write_all(&answer).expect("it is taken");
            told.send(stream).expect("the test waits");
        });
    });
    register("early", &url, &json!({"timeoutMs": 20_000}));
    let answer = call("early", vec![b'y'; 1_000_000]);
    answer.expect_failure(500, "error", "QUOTA");
    let _unread = calls.recv_timeout(PATIENCE).expect("one call");
    assert!(calls.try_recv().is_err(), "it was sent twice");
}

#[test]
fn a_reset_ends_a_lengthless_answer_as_lost() {
    let url = endpoint(|mut stream| {
        if request(&mut stream, true).is_none() {
            return;
        }
        let half =
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nthe first";
        stream.write_all(half).expect("it is taken");
        // A reset discards unread bytes, so the plane must receive them before the reset.
        std::thread::sleep(Duration::from_millis(50));
        let at_once = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&stream, sockopt::Linger, &at_once).expect("a socket");
    });
    register("reset", &url, &json!({"retryOn": []}));
    call("reset", b"x".to_vec()).expect_failure(502, "error", "POD_LOST");
}

#[test]
fn an_orderly_end_completes_a_lengthless_answer() {
    let pod = ScriptedPod::saying(*b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nall of it");
    register("until-close", &pod.url, &json!({"retryOn": []}));
    let answer = call("until-close", b"x".to_vec()).expect(200);
    assert_eq!(answer.json()["output"], "all of it");
}

#[test]
fn an_answer_for_another_call_is_lost() {
    let pod = ScriptedPod::tcp(|got, line| {
        let own = got.header("x-execution-id").expect("an id");
        let named = match got.number {
            0 => "00000000000000000000000000000000",
            _ => own,
        };
        line.answer(200, &format!("X-Execution-Id: {named}\r\n"), b"1")
    });
    register("foreign", &pod.url, &json!({"retryOn": []}));
    call("foreign", b"x".to_vec()).expect_failure(502, "error", "POD_LOST");
    call("foreign", b"x".to_vec()).expect(200);
    call("foreign", b"x".to_vec()).expect(200);
    let over: Vec<_> = pod.calls().iter().map(|got| got.connection).collect();
    // Each io thread has its own connections to the pod, so the connection of each call is known in advance
    // only with one io thread.
    if io_threads() == 1 {
        assert_eq!(over, [0, 1, 1]);
    } else {
        assert!(!over[1..].contains(&over[0]), "{over:?}");
    }
}
