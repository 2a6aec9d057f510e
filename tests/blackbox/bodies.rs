//! These tests send bodies of many types and framings through the plane, in requests and in pods' answers.
//! They check which bodies the plane refuses, which it passes on unchanged, and what it puts into the
//! envelope.

use std::time::Duration;

use nanofaas_testkit::client::{Answer, RawClient, Request};
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::form::io_threads;
use nanofaas_testkit::functions::{local, pool, with};
use nanofaas_testkit::pod::{After, ReceivedCall, ScriptedConn, ScriptedPod};
use nanofaas_testkit::wait::eventually;
use serde_json::{Value, json};

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane = SharedControlPlane::new(&["--rate-max-per-second", "off"]);
    PLANE.get()
}

fn path(name: &str) -> String {
    format!("/v1/functions/{name}:invoke")
}

/// Calls a function with a body of type JSON that has exactly these bytes.
#[track_caller]
fn raw(name: &str, body: impl Into<Vec<u8>>) -> Answer {
    plane().send(&Request::new("POST", &path(name)).body("application/json", body))
}

/// Returns the bytes of the envelope's `output`.
fn output_bytes(answer: &Answer) -> String {
    let text = answer.text();
    let start = text.find(r#""output":"#).expect("an output") + r#""output":"#.len();
    let end = text.rfind(r#","error":"#).expect("an error");
    text[start..end].trim().to_owned()
}

#[test]
fn input_and_output_bytes_are_never_re_encoded() {
    let pod = ScriptedPod::answering(|got| String::from_utf8(got.body.clone()).expect("text"));
    plane().register(&pool("bytes", &pod));
    plane().register(&local("bytes-local"));
    for input in [
        "1.0e+2",
        "-0",
        "1e400",
        "12345678901234567890123",
        r#""\u0041\/é😀""#,
        " [ 1 ,\t2 ]",
        r#"{"a":1,"a":2,"b":{"input":3}}"#,
        "null",
        r#""\ud83d\ude00\u2028""#,
        "[[],{},\"\"]",
    ] {
        let body = format!("{{ \"metadata\" : {{\"k\": \"v\"}},\n\"input\":{input} }}");
        let answer = raw("bytes", body.clone()).expect(200);
        assert_eq!(
            String::from_utf8_lossy(&pod.calls().last().expect("a call").body),
            body
        );
        assert_eq!(output_bytes(&answer), body);
        let answer = raw("bytes-local", body).expect(200);
        assert_eq!(output_bytes(&answer), input.trim());
    }
}

#[test]
fn an_envelope_needs_input_which_may_be_null() {
    plane().register(&local("envelope"));
    for body in [
        "{}",
        r#"{"metadata":{}}"#,
        r#"{"Input":1}"#,
        "[]",
        "1",
        "null",
        "\"input\"",
    ] {
        assert_eq!(raw("envelope", body).status, 400, "{body}");
    }
    for body in [
        r#"{"input":null}"#,
        r#"{"input":null,"metadata":null}"#,
        r#"{"input":null,"other":[1]}"#,
        r#"{"\u0069nput":null}"#,
        r#"{"metadata":{"a":"b"},"input":null}"#,
    ] {
        let answer = raw("envelope", body).expect(200);
        assert_eq!(answer.json()["output"], Value::Null, "{body}");
    }
}

#[test]
fn metadata_is_an_object_of_texts() {
    plane().register(&local("metadata"));
    for metadata in [
        "1",
        "[]",
        "\"a\"",
        r#"{"a":1}"#,
        r#"{"a":null}"#,
        r#"{"a":{}}"#,
    ] {
        let body = format!(r#"{{"input":1,"metadata":{metadata}}}"#);
        assert_eq!(raw("metadata", body).status, 400, "{metadata}");
    }
}

#[test]
fn a_repeated_input_or_metadata_is_400() {
    plane().register(&local("repeated"));
    for body in [
        r#"{"input":1,"input":2}"#,
        r#"{"input":1,"\u0069nput":2}"#,
        r#"{"input":1,"metadata":{},"metadata":{}}"#,
        r#"{"input":1,"metadata":null,"meta\u0064ata":{}}"#,
    ] {
        assert_eq!(raw("repeated", body).status, 400, "{body}");
    }
    raw("repeated", r#"{"input":{"input":1,"input":2},"x":1,"x":2}"#).expect(200);
}

#[test]
fn malformed_json_is_400() {
    plane().register(&local("malformed"));
    for body in [
        "",
        " ",
        "{",
        r#"{"input":1"#,
        r#"{"input":1}}"#,
        r#"{"input":1} x"#,
        r#"{"input":01}"#,
        r#"{"input":.5}"#,
        r#"{"input":+1}"#,
        r#"{"input":NaN}"#,
        r#"{'input':1}"#,
        r#"{"input":1,}"#,
        r#"{"input":[1,]}"#,
        r#"{"input":"a"#,
        r#"{"input":"\x"}"#,
        "{\"input\":\"\n\"}",
        "{\"input\":\"\0\"}",
        r#"{"input":tru}"#,
        r#"{"input":1 2}"#,
        r#"{input:1}"#,
        "\u{feff}{\"input\":1}",
        r#"{"input":"\ud800"}x"#,
        "{\"input\":1}\0",
    ] {
        raw("malformed", body).expect(400);
    }
    for body in [
        &b"{\"input\":\"\xff\"}"[..],
        b"{\"input\":\"\xc0\xaf\"}",
        b"{\"input\":\"\xed\xa0\x80\"}",
        b"{\"\xff\":1,\"input\":1}",
        b"{\"input\":1}\xff",
        b"\xff\xfe{\x00}\x00",
    ] {
        raw("malformed", body).expect(400);
    }
}

#[test]
fn json_that_is_too_deep_is_400() {
    plane().register(&local("deep"));
    let nested = |open: &str, close: &str, levels: usize| {
        let inner = format!("{}1{}", open.repeat(levels), close.repeat(levels));
        format!("{{\"input\":{inner}}}")
    };
    raw("deep", nested("[", "]", 120)).expect(200);
    raw("deep", nested("{\"a\":", "}", 120)).expect(200);
    for levels in [200, 10_000, 100_000] {
        raw("deep", nested("[", "]", levels)).expect(400);
    }
    raw("deep", nested("{\"a\":", "}", 10_000)).expect(400);
    raw("deep", format!("{{\"input\":{}", "[".repeat(100_000))).expect(400);
    raw(
        "deep",
        format!("{{\"other\":{},\"input\":1}}", "[".repeat(10_000)),
    )
    .expect(400);
}

#[test]
fn another_content_type_reaches_the_pod_untouched() {
    let pod = ScriptedPod::tcp(|got, line| {
        let content_type = got.header("content-type").expect("a type").to_owned();
        line.answer(200, &format!("Content-Type: {content_type}\r\n"), &got.body)
    });
    plane().register(&pool("untouched", &pod));
    let bytes: Vec<u8> = (0..=255).cycle().take(3000).collect();
    for content_type in [
        "application/octet-stream",
        "image/png; a=\"b c\"",
        "application/cbor",
        "application/jsonp",
        "application/json; charset=utf-16",
    ] {
        let request = Request::new("POST", &path("untouched")).body(content_type, bytes.clone());
        let answer = plane().send(&request).expect(200);
        assert_eq!(answer.header("content-type"), Some(content_type));
        assert_eq!(answer.header("x-execution-status"), Some("success"));
        assert!(answer.body == bytes, "other bytes");
        assert!(!answer.id().is_empty());
        let got = pod.calls().pop().expect("a call");
        assert_eq!(got.header("content-type"), Some(content_type));
        assert!(got.body == bytes, "other bytes in the pod");
    }
    let empty = Request::new("POST", &path("untouched")).body("a/b", "");
    assert!(plane().send(&empty).expect(200).body.is_empty());
}

#[test]
fn a_json_type_with_parameters_is_json() {
    plane().register(&local("types"));
    for content_type in [
        "application/json; charset=utf-8",
        "Application/JSON;charset=\"UTF-8\"",
    ] {
        let request = |body: &str| Request::new("POST", &path("types")).body(content_type, body);
        plane().send(&request("{")).expect(400);
        plane().send(&request(r#"{"input":5}"#)).expect(200);
    }
}

/// Calls a function whose pod answers with this type and body.
#[track_caller]
fn answered(name: &str, content_type: Option<&'static str>, body: &'static [u8]) -> Answer {
    let header = content_type
        .map(|value| format!("Content-Type: {value}\r\n"))
        .unwrap_or_default();
    let pod = ScriptedPod::tcp(move |_, line| line.answer(200, &header, body));
    plane().register(&pool(name, &pod));
    plane().invoke(name, &json!(1)).expect(200)
}

#[test]
fn json_or_no_type_enters_the_envelope() {
    for (name, content_type) in [
        ("form-json", Some("application/json")),
        ("form-charset", Some("application/json; charset=utf-8")),
        ("form-none", None),
    ] {
        let answer = answered(name, content_type, b" {\"a\" : 1.50}\n");
        assert_eq!(output_bytes(&answer), "{\"a\" : 1.50}");
        assert_eq!(answer.header("x-execution-status"), None);
    }
}

#[test]
fn plain_text_comes_as_a_json_string() {
    let text = "a \"quote\", a \\, a \u{1} and a \u{7f},\r\n\té😀\u{2028}";
    for (name, content_type) in [
        ("form-text", "text/plain"),
        ("form-utf8", "text/plain; charset=utf-8"),
    ] {
        let answer = answered(name, Some(content_type), text.as_bytes());
        assert_eq!(answer.json()["output"], text);
        assert_eq!(answer.json()["status"], "success");
    }
    assert_eq!(
        answered("form-empty", Some("text/plain"), b"").json()["output"],
        ""
    );
}

#[test]
fn other_types_come_back_raw_with_a_header() {
    for (name, content_type) in [
        ("form-png", "image/png"),
        ("form-latin", "text/plain; charset=iso-8859-1"),
        ("form-html", "text/html"),
        ("form-problem", "application/problem+xml"),
    ] {
        let answer = answered(name, Some(content_type), b"\xe9\x00{");
        assert_eq!(answer.header("content-type"), Some(content_type));
        assert_eq!(answer.header("x-execution-status"), Some("success"));
        assert_eq!(answer.body, b"\xe9\x00{");
    }
}

#[test]
fn an_empty_2xx_body_is_null() {
    assert_eq!(
        answered("null-empty", Some("application/json"), b"").json()["output"],
        Value::Null
    );
    assert_eq!(
        answered("null-none", None, b"").json()["output"],
        Value::Null
    );
    let no_content = ScriptedPod::tcp(|_, line| {
        if line.send(b"HTTP/1.1 204 No Content\r\n\r\n") {
            After::Keep
        } else {
            After::Close
        }
    });
    plane().register(&pool("null-204", &no_content));
    for _ in 0..3 {
        let answer = plane().invoke("null-204", &json!(1)).expect(200).json();
        assert_eq!(
            (&answer["status"], &answer["output"]),
            (&json!("success"), &Value::Null)
        );
    }
    assert!(
        no_content.connections() <= io_threads(),
        "nothing came after the head"
    );
}

#[test]
fn a_pods_answer_may_have_any_framing() {
    let chunked = ScriptedPod::tcp(|_, line| {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: a/b\r\n\r\n";
        for byte in head
            .iter()
            .chain(b"3;x=y\r\nabc\r\n0A\r\n0123456789\r\n0\r\nT: v\r\n\r\n")
        {
            line.send(&[*byte]);
        }
        After::Keep
    });
    plane().register(&pool("chunked-answer", &chunked));
    for _ in 0..3 {
        let answer = plane().invoke("chunked-answer", &json!(1)).expect(200);
        assert_eq!(answer.body, b"abc0123456789");
    }
    // Each io thread uses at most one connection to the pod for all of its calls.
    assert!(chunked.connections() <= io_threads());
    let closing = ScriptedPod::saying("HTTP/1.0 200 OK\r\nContent-Type: a/b\r\n\r\nuntil the end");
    plane().register(&pool("closing-answer", &closing));
    for _ in 0..2 {
        let answer = plane().invoke("closing-answer", &json!(1)).expect(200);
        assert_eq!(answer.body, b"until the end");
    }
    let interim = ScriptedPod::saying(
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n5",
    );
    plane().register(&pool("interim-answer", &interim));
    assert_eq!(
        plane()
            .invoke("interim-answer", &json!(1))
            .expect(200)
            .json()["output"],
        5
    );
}

#[test]
fn a_pod_connection_with_unread_bytes_is_dropped() {
    // The pod sends a second answer that was not asked for. The next call must not get that answer.
    let pod = ScriptedPod::tcp(|got, line| {
        line.json(&got.number.to_string());
        std::thread::sleep(Duration::from_millis(if got.number == 0 { 0 } else { 30 }));
        line.json("\"forged\"")
    });
    plane().register(&pool("smuggled", &pod));
    for number in 0..4 {
        let answer = plane().invoke("smuggled", &json!(1)).expect(200).json();
        assert_eq!(answer["output"], number);
        // The plane can only notice bytes that have arrived. The second answer arrives during this pause.
        std::thread::sleep(Duration::from_millis(60));
    }
    assert_eq!(pod.connections(), 4);
}

#[test]
fn a_pod_dying_after_its_answer_loses_nothing() {
    let pod = ScriptedPod::tcp(|got, line| {
        line.json(&got.number.to_string());
        After::Close
    });
    plane().register(&pool("dying", &pod));
    for number in 0..50 {
        let answer = plane().invoke("dying", &json!(1)).expect(200).json();
        assert_eq!(answer["output"], number, "an answer that was there is lost");
        eventually("the pod has closed the connection", || {
            pod.connections() == number + 1
        });
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn pods_are_kept_alive_over_tcp_and_unix() {
    let script = |got: &ReceivedCall, line: &mut ScriptedConn| line.json(&got.input().to_string());
    for (name, pod) in [
        ("alive-tcp", ScriptedPod::tcp(script)),
        ("alive-unix", ScriptedPod::unix(script)),
    ] {
        plane().register(&pool(name, &pod));
        let mut wire = RawClient::connect(plane().listen);
        for number in 0..20 {
            wire.send(&Request::invoke(name, &json!(number)).bytes());
            assert_eq!(wire.answer().expect(200).json()["output"], number);
        }
        assert_eq!(pod.connections(), 1, "{name}");
    }
}

#[test]
fn a_close_header_ends_the_pods_connection() {
    let pod = ScriptedPod::tcp(|_, line| line.answer(200, "Connection: close\r\n", b"1"));
    plane().register(&pool("closes", &pod));
    (0..3).for_each(|_| _ = plane().invoke("closes", &json!(1)).expect(200));
    assert_eq!(pod.connections(), 3);
}

#[test]
fn a_large_body_arrives_whole_both_ways() {
    let pod = ScriptedPod::tcp(|got, line| line.answer(200, "Content-Type: a/b\r\n", &got.body));
    plane().register(&pool("large", &pod));
    let most: Vec<u8> = (0..1024 * 1024).map(|at| (at * 31 % 251) as u8).collect();
    let answer = plane().send(&Request::new("POST", &path("large")).body("a/b", most.clone()));
    assert!(answer.expect(200).body == most, "other bytes");
    let six =
        ScriptedPod::tcp(|_, line| line.answer(200, "Content-Type: a/b\r\n", &vec![7; 6 << 20]));
    plane().register(&with(pool("six", &six), &json!({"timeoutMs": 30_000})));
    assert_eq!(
        plane().invoke("six", &json!(1)).expect(200).body.len(),
        6 << 20
    );
}

#[test]
fn a_chunked_request_reaches_the_pod_whole() {
    let pod = ScriptedPod::tcp(|got, line| line.answer(200, "Content-Type: a/b\r\n", &got.body));
    plane().register(&pool("chunked", &pod));
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: a/b\r\n\
         Transfer-Encoding: Chunked\r\n\r\n",
        path("chunked"),
    );
    let body = "4\r\nabcd\r\n00a;name=\"v\"\r\n0123456789\r\n1\r\n\r\r\n0\r\nTrailer: x\r\n\r\n";
    let mut wire = RawClient::connect(plane().listen);
    for _ in 0..2 {
        wire.send(head.as_bytes());
        wire.send(body.as_bytes());
        assert_eq!(wire.answer().expect(200).body, b"abcd0123456789\r");
    }
    for byte in head.bytes().chain(body.bytes()) {
        wire.send(&[byte]);
    }
    assert_eq!(wire.answer().expect(200).body, b"abcd0123456789\r");
    for bad in [
        "g\r\n",
        "4\r\nabcdX\r\n",
        "-1\r\n",
        "4\nabcd\r\n",
        "fffffffffffffffff\r\n",
        "4 \r\nabcd\r\n",
        "0x4\r\nabcd\r\n",
        "\r\n",
    ] {
        let mut wire = RawClient::connect(plane().listen);
        wire.send(head.as_bytes());
        wire.send(bad.as_bytes());
        let status = wire.answer().status;
        assert!(matches!(status, 400 | 413), "{bad:?}: {status}");
        assert!(wire.closes_within(Duration::from_secs(20)), "{bad:?}");
    }
}

#[test]
fn large_bodies_follow_each_other_on_one_connection() {
    plane().register(&local("large-row"));
    let mut wire = RawClient::connect(plane().listen);
    for kib in [70, 64, 1, 200, 65, 70, 70] {
        let text = json!("x".repeat(kib * 1024));
        wire.send(&Request::invoke("large-row", &text).bytes());
        assert_eq!(
            wire.answer().expect(200).json()["output"],
            text,
            "{kib} KiB"
        );
    }
}
