//! Tests of HTTP calls (`X-Nanofaas-Call: http`) to plain handlers, and to programs in STDIO and FILE mode:
//! neither the input nor the answer has an envelope.

mod support;

use nanofaas_testkit::client::{Answer, RawClient};
use serde_json::json;
use support::{PodClient as _, Program, http, request, several, stdio};

const JSON: &str = "application/json";

fn call(wire: &mut RawClient, method: &str, target: &str, kind: &str, body: &[u8]) -> Answer {
    let headers = [("Content-Type", kind)];
    let headers = if kind.is_empty() { &[] } else { &headers[..] };
    wire.send(&http(method, target, headers, body));
    let answer = wire.read(method != "HEAD").expect("an answer");
    assert_eq!(answer.headers("x-nanofaas-answer"), ["e1"]);
    assert_eq!(answer.header("x-execution-id"), None);
    answer
}

#[test]
fn the_body_is_the_input() {
    let pod = Program::several("echo");
    let mut wire = pod.connect();
    for (body, kind, out, out_kind) in [
        (r#"{"input":1}"#, JSON, r#"{"input":1}"#, JSON),
        ("[1, 2]", "application/a+json", "[1, 2]", JSON),
        ("plain", "text/plain", "plain", "text/plain"),
        ("plain", "", "plain", "application/octet-stream"),
        ("", "", "null", JSON),
        ("", JSON, "null", JSON),
    ] {
        let answer = call(&mut wire, "POST", "/any/path", kind, body.as_bytes());
        assert_eq!((answer.status, answer.text().as_str()), (200, out));
        assert_eq!(
            answer.header("content-type"),
            Some(out_kind),
            "{body} {kind}"
        );
    }
    let encoded = [("Content-Type", JSON), ("Content-Encoding", "gzip")];
    wire.send(&http("POST", "/", &encoded, b"\x1f\x8b"));
    assert_eq!(wire.answer().body, b"\x1f\x8b");
    let bad = call(&mut wire, "POST", "/", JSON, b"{");
    assert_eq!(
        (bad.status, &bad.json()["error"]),
        (400, &json!("BAD_INPUT"))
    );
}

#[test]
fn reserved_paths_reach_the_handler() {
    let pod = Program::several("echo");
    let mut wire = pod.connect();
    for path in ["/invoke", "/health", "/health?x", "/a//..%2F"] {
        assert_eq!(call(&mut wire, "POST", path, JSON, b"7").text(), "7");
    }
    assert_eq!(wire.invoke("1").text(), "1");
    wire.send(&request("GET", "/health", &[], b""));
    assert_eq!(wire.answer().text(), r#"{"status":"UP"}"#);
    let other = [("X-Nanofaas-Call", "other"), ("Content-Type", JSON)];
    wire.send(&request("POST", "/invoke", &other, br#"{"input":3}"#));
    assert_eq!(wire.answer().text(), "3");
}

#[test]
fn the_context_has_the_request() {
    let env = [
        ("FUNCTION_HANDLER", "facts"),
        ("HANDLER_METHODS", "GET,BREW"),
    ];
    let pod = Program::start(&several(), &[], &env);
    pod.until_up();
    let mut wire = pod.connect();
    let facts = call(
        &mut wire,
        "BREW",
        "/a%20b/?c=%20d",
        JSON,
        b"{\"metadata\":{\"k\":\"v\"}}",
    );
    let facts = facts.json();
    assert_eq!(facts["http"], json!(["BREW", "/a%20b/", "c=%20d", 5]));
    assert_eq!(
        (&facts["id"], &facts["metadata"]),
        (&json!("e1"), &json!({}))
    );
    let facts = call(&mut wire, "GET", "/", "", b"").json();
    assert_eq!(facts["http"], json!(["GET", "/", null, 4]));
    assert_eq!(wire.invoke("1").json()["http"], json!(null));
}

#[test]
fn only_listed_methods_are_taken() {
    let pod = Program::several("echo");
    let mut wire = pod.connect();
    for method in ["GET", "HEAD", "PUT", "OPTIONS", "post", "BREW"] {
        let answer = call(&mut wire, method, "/invoke", "", b"");
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    }
    assert_eq!(call(&mut wire, "POST", "/", JSON, b"1").text(), "1");
    let text = "PUT / HTTP/1.1\r\nHost: f\r\nX-Nanofaas-Call: http\r\nX-Execution-Id: e1\r\n\
                Content-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    wire.send(text.as_bytes());
    let answer = wire.answer();
    assert_eq!(answer.status, 405);
    assert_eq!(answer.json()["error"], "METHOD_NOT_ALLOWED");
    assert!(wire.closed());
}

#[test]
fn a_head_answer_has_no_body() {
    let env = [
        ("FUNCTION_HANDLER", "echo"),
        ("HANDLER_METHODS", "GET,HEAD"),
    ];
    let pod = Program::start(&several(), &[], &env);
    pod.until_up();
    let mut wire = pod.connect();
    let head = call(&mut wire, "HEAD", "/", "", b"");
    assert_eq!(head.header("content-length"), Some("4"));
    assert_eq!(call(&mut wire, "GET", "/", "", b"").text(), "null");
}

#[test]
fn errors_are_bare() {
    for handler in ["fail", "fail-blocking", "fail-future"] {
        let pod = Program::several(handler);
        let mut wire = pod.connect();
        for (how, status, code) in [
            ("error", 500, "HANDLER_ERROR"),
            ("code", 500, "MY_CODE"),
            ("panic", 500, "HANDLER_ERROR"),
            ("type", 500, "BAD_OUTPUT"),
            ("what", 400, "BAD_INPUT"),
        ] {
            let answer = call(&mut wire, "POST", "/", JSON, format!("{how:?}").as_bytes());
            let body = answer.json();
            let fields: Vec<&String> = body.as_object().expect("an object").keys().collect();
            assert_eq!((answer.status, &body["error"]), (status, &json!(code)));
            assert_eq!(fields, ["error", "message"], "{handler} {how}");
        }
        let png = call(&mut wire, "POST", "/", JSON, b"\"png\"");
        assert_eq!(png.header("content-type"), Some("image/png"));
    }
}

#[test]
fn refused_requests_are_answered_bare() {
    let pod = Program::several("echo");
    for (header, status) in [
        ("Content-Length: 99999999", 413),
        ("Transfer-Encoding: gzip", 400),
        ("Expect: more", 417),
        ("X-Deadline-Ms: soon", 400),
    ] {
        let mut wire = pod.connect();
        let text = format!(
            "POST / HTTP/1.1\r\nHost: f\r\nx-nanofaas-call: HTTP\r\nX-Execution-Id: e1\r\n\
             {header}\r\n\r\n"
        );
        wire.send(text.as_bytes());
        let answer = wire.answer();
        assert_eq!(
            (answer.status, answer.json()["error"].is_string()),
            (status, true)
        );
        assert_eq!(answer.headers("x-nanofaas-answer"), ["e1"], "{header}");
    }
}

#[test]
fn programs_get_the_body_without_an_envelope() {
    let tell = r#"printf '["%s","%s","%s",%s]' "$REQUEST_METHOD" "$REQUEST_PATH" "$QUERY_STRING""#;
    let file = [("EXECUTION_MODE", "FILE")];
    let whole = [("WATCHDOG_STDIN", "envelope")];
    for (more, text) in [
        (&[][..], format!("{tell} \"$(cat)\"")),
        (&whole[..], format!("{tell} \"$(cat)\"")),
        (
            &file[..],
            format!("{tell} \"$(cat \"$INPUT_FILE\")\" > \"$OUTPUT_FILE\""),
        ),
    ] {
        let pod = stdio::pod_with(&text, more);
        let mut wire = pod.connect();
        let answer = call(&mut wire, "POST", "/a?b", JSON, b"{\"input\":5}");
        assert_eq!(
            answer.text(),
            r#"["POST","/a","b",{"input":5}]"#,
            "{more:?}"
        );
        let answer = call(&mut wire, "POST", "/", "", b"");
        assert_eq!(answer.text(), r#"["POST","/","",null]"#, "{more:?}");
        assert_eq!(call(&mut wire, "GET", "/", "", b"").status, 405);
    }
    let pod = stdio::pod("exit 3");
    let answer = call(&mut pod.connect(), "POST", "/", "", b"");
    let message = "the program exited with status 3";
    let body = json!({"error": "HANDLER_ERROR", "message": message});
    assert_eq!((answer.status, answer.json()), (500, body));
}
