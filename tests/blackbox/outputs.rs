//! These tests check how outputs are held in memory and sent. Clients that read the same stored output share
//! its memory. The store may drop an output while a client receives it. Large outputs arrive complete with
//! every framing.

use std::time::Duration;

use nanofaas_testkit::client::{Answer, RawClient, Request};
use nanofaas_testkit::control_plane::ControlPlane;
use nanofaas_testkit::functions::{pool, with};
use nanofaas_testkit::pod::{After, ScriptedPod};
use nanofaas_testkit::wait::eventually;
use serde_json::json;

use crate::shortage::{MIB, highest, inflight, unread};

#[test]
fn a_stored_output_is_shared_among_readers() {
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    let pod = ScriptedPod::answering(|_| format!("\"{}\"", "a".repeat(3_000_000)));
    plane.register(&pool("kept", &pod));
    let id = plane.enqueue("kept", &json!(1));
    plane.ended(&id);
    let idle = plane.resident_bytes();
    let paths = [
        format!("/v1/executions/{id}/output"),
        format!("/v1/executions/{id}"),
    ];
    let memory = highest(
        || plane.resident_bytes(),
        || {
            let asked = (0..100).map(|at| unread(&plane, &Request::get(&paths[at % 2])));
            let asked: Vec<_> = asked.collect();
            std::thread::sleep(Duration::from_secs(1));
            for path in &paths {
                let answer = plane.get(path).expect(200);
                assert!(answer.body.len() >= 3_000_002);
            }
            drop(asked);
        },
    );
    assert!(memory < idle + 24 * MIB, "{idle} bytes idle, then {memory}");
    eventually("nothing is charged", || inflight(&plane) == 0);
}

#[test]
fn a_dropped_output_is_cut_not_mixed_up() {
    let flags = [
        "--execution-store-bytes",
        "4MiB",
        "--rate-max-per-second",
        "off",
    ];
    let plane = ControlPlane::start(&flags);
    let pod = ScriptedPod::answering(|_| format!("\"{}\"", "a".repeat(3_000_000)));
    plane.register(&pool("dropped", &pod));
    let id = plane.enqueue("dropped", &json!(1));
    plane.ended(&id);
    let mut reader = unread(
        &plane,
        &Request::get(&format!("/v1/executions/{id}/output")),
    );
    eventually("the output is being sent", || inflight(&plane) > 0);
    let other = plane.enqueue("dropped", &json!(2));
    plane.ended(&other);
    // The connection closes before the client has all bytes that the Content-Length announces.
    assert!(reader.read(true).is_err());
    let cut = || plane.metrics().sum("nanofaas_answers_cut_total", &[]);
    eventually("the cut answer is counted", || cut() == 1.0);
}

#[test]
fn error_texts_are_cut_and_weigh_little() {
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    let text = "é".repeat(8000);
    let pod = ScriptedPod::tcp(move |_, line| {
        let body = json!({"code": "BIG", "message": text}).to_string();
        line.answer(500, "Content-Type: application/json\r\n", body.as_bytes())
    });
    plane.register(&with(pool("fails", &pod), &json!({"retryOn": []})));
    let answer = plane.invoke("fails", &json!(1)).expect(500).json();
    let message = answer["error"]["message"].as_str().expect("a message");
    assert!(
        message.len() <= 1024 + 3 && message.ends_with('…'),
        "{}",
        message.len()
    );
    let id = plane.enqueue("fails", &json!(1));
    plane.ended(&id);
    let weight = plane.metrics().sum("nanofaas_store_bytes", &[]);
    assert!(weight < 3000.0, "{weight}");
}

/// The plane copies small outputs, and sends large stored outputs in parts. These answers are larger than a
/// copied output and larger than one part.
#[test]
fn large_answers_are_whole_in_every_form() {
    const LARGE: usize = 200_000;
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    let text = "line \"quoted\"\n\u{e9}".repeat(LARGE / 16);
    for framing in ["length", "chunked", "close"] {
        for kind in ["application/json", "text/plain", "image/png"] {
            let output = match kind {
                "application/json" => json!(text).to_string().into_bytes(),
                "text/plain" => text.clone().into_bytes(),
                _ => (0..LARGE).map(|at| at as u8).collect(),
            };
            let sent = output.clone();
            let pod = ScriptedPod::tcp(move |_, line| {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n");
                match framing {
                    "length" => {
                        let type_line = format!("Content-Type: {kind}\r\n");
                        line.answer(200, &type_line, &sent)
                    }
                    "chunked" => {
                        line.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes());
                        for piece in sent.chunks(70_001) {
                            line.send(format!("{:x}\r\n", piece.len()).as_bytes());
                            line.send(piece);
                            line.send(b"\r\n");
                        }
                        line.send(b"0\r\n\r\n");
                        After::Keep
                    }
                    _ => {
                        line.send(format!("{head}\r\n").as_bytes());
                        line.send(&sent);
                        After::Close
                    }
                }
            });
            let name = format!("{framing}-{}", &kind[..4]);
            plane.register(&pool(&name, &pod));
            let shown = |answer: Answer| match kind {
                "image/png" => assert!(answer.body == output, "{name}"),
                _ => assert!(answer.json()["output"] == json!(text), "{name}"),
            };
            shown(plane.invoke(&name, &json!(1)).expect(200));
            let keyed = Request::invoke(&name, &json!(1)).header("Idempotency-Key", "k");
            shown(plane.send(&keyed).expect(200));
            shown(plane.send(&keyed).expect(200));
            let id = plane.enqueue(&name, &json!(1));
            let status = plane.ended(&id);
            let kept = plane
                .get(&format!("/v1/executions/{id}/output"))
                .expect(200);
            assert!(kept.body == output, "{name}");
            if kind == "image/png" {
                let base64 = status["output"]["base64"].as_str().expect("base64");
                assert_eq!(base64.len(), output.len().div_ceil(3) * 4);
            } else {
                assert!(status["output"] == json!(text), "{name}");
            }
            let mut head = RawClient::connect(plane.listen);
            head.send(
                format!("HEAD /v1/executions/{id}/output HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    .as_bytes(),
            );
            let head = head.read(false).expect("a head");
            assert_eq!(
                head.header("content-length"),
                Some(&*output.len().to_string())
            );
        }
    }
    eventually("nothing is charged", || inflight(&plane) == 0);
}
