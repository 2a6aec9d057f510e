//! Tests of Job mode: the program runs one call, and posts the result to the callback. A scripted peer plays
//! the platform.

mod support;

use std::path::Path;

use nanofaas_testkit::folder::ScratchFolder;
use nix::sys::signal::Signal;
use serde_json::json;
use support::peer::{NO_CONTENT, Peer};
use support::{Program, example, several, until_file, until_written};

const FAILED: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
const CONFLICT: &str = "HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n";

fn start(handler: &str, peer: &Peer, more: &[(&str, &str)]) -> Program {
    start_in(ScratchFolder::create(), handler, peer, more)
}

fn start_in(scratch: ScratchFolder, handler: &str, peer: &Peer, more: &[(&str, &str)]) -> Program {
    start_program(&several(), scratch, handler, peer, more)
}

fn start_program(
    program: &Path,
    scratch: ScratchFolder,
    handler: &str,
    peer: &Peer,
    more: &[(&str, &str)],
) -> Program {
    let callback = peer.url("/v1/internal/1.s3cret/executions/");
    let mut env = vec![
        ("FUNCTION_HANDLER", handler),
        ("CALLBACK_URL", &callback),
        ("EXECUTION_ID", "e1"),
        ("DISPATCH_ATTEMPT", "2"),
        ("TRACE_ID", "t1"),
        ("TIMEOUT_MS", "60000"),
        ("INVOCATION_TIMEOUT_MS", "60000"),
    ];
    env.extend_from_slice(more);
    Program::start_in(scratch, program, &[], &env)
}

fn payload(input: &str) -> String {
    format!(r#"{{"input":{input},"metadata":{{"a":"b"}}}}"#)
}

#[test]
fn a_result_keeps_the_outputs_own_bytes() {
    let peer = Peer::start(&[NO_CONTENT]);
    let body = payload("[1.50, 1e2]");
    let mut job = start("echo", &peer, &[("INVOCATION_PAYLOAD", &body)]);
    assert_eq!(job.exit().code(), Some(0));
    let got = peer.next();
    assert_eq!(
        got.first_line,
        "POST /v1/internal/1.s3cret/executions/e1:complete HTTP/1.1"
    );
    assert_eq!(got.header("content-type"), Some("application/json"));
    let text = String::from_utf8_lossy(&got.body);
    assert!(text.contains(r#""output":[1.50, 1e2],"#), "{text}");
    let result = got.json();
    assert_eq!(
        (&result["success"], &result["error"]),
        (&json!(true), &json!(null))
    );
    let at = |name: &str| result[name].as_u64().expect("epoch ms");
    assert!(at("startedAt") <= at("loadedAt") && at("loadedAt") <= at("readyAt"));
    assert!(peer.rest().is_empty());
    assert!(!job.path("s").exists(), "a Job listens on nothing");
}

#[test]
fn a_job_posts_a_stream_whole() {
    for (handler, input, expected) in [
        ("pieces", "gate", "firstsecond"),
        ("upper", "a", r#"{"INPUT":"A","METADATA":{"A":"B"}}"#),
    ] {
        let scratch = ScratchFolder::create();
        let gate = scratch.join("gate").to_str().expect("UTF-8").to_owned();
        std::fs::write(&gate, "").expect("the gate opens");
        let input = if input == "gate" { &gate } else { input };
        let peer = Peer::start(&[NO_CONTENT]);
        let body = payload(&json!(input).to_string());
        let env = [("INVOCATION_PAYLOAD", body.as_str())];
        let mut job = start_program(&example("streams"), scratch, handler, &peer, &env);
        assert_eq!(job.exit().code(), Some(0));
        let got = peer.next();
        let text = String::from_utf8_lossy(&got.body);
        assert!(text.contains(expected), "{handler}: {text}");
    }
}

#[test]
fn the_context_comes_from_the_environment() {
    let peer = Peer::start(&[NO_CONTENT]);
    let mut job = start("facts", &peer, &[("INVOCATION_PAYLOAD", &payload("null"))]);
    assert_eq!(job.exit().code(), Some(0));
    let output = peer.next().json()["output"].clone();
    assert_eq!(output["id"], "e1");
    assert_eq!(output["trace"], "t1");
    assert_eq!(output["attempt"], 2);
    assert_eq!(output["metadata"], json!({"a": "b"}));
    assert_eq!(output["bounded"], true);
}

#[test]
fn a_raw_output_keeps_its_type() {
    let peer = Peer::start(&[NO_CONTENT]);
    let mut job = start(
        "fail",
        &peer,
        &[("INVOCATION_PAYLOAD", &payload("\"png\""))],
    );
    assert_eq!(job.exit().code(), Some(0));
    let got = peer.next();
    assert_eq!(got.header("content-type"), Some("image/png"));
    assert_eq!(got.body, b"\x89PNG");
}

#[test]
fn a_failure_is_a_result_too() {
    for (input, code, message) in [
        ("\"error\"", "HANDLER_ERROR", "it did not work"),
        ("\"code\"", "MY_CODE", "my message"),
        ("\"panic\"", "HANDLER_ERROR", "out of order"),
        ("\"forged\"", "BAD_OUTPUT", "JSON"),
        ("7", "BAD_INPUT", "invalid type"),
    ] {
        let peer = Peer::start(&[NO_CONTENT]);
        let mut job = start("fail", &peer, &[("INVOCATION_PAYLOAD", &payload(input))]);
        assert_eq!(job.exit().code(), Some(0), "{}", job.said());
        let result = peer.next().json();
        assert_eq!(
            (&result["success"], &result["output"]),
            (&json!(false), &json!(null))
        );
        assert_eq!(result["error"]["code"], code);
        let text = result["error"]["message"].as_str().expect("a message");
        assert!(text.contains(message), "{text}");
    }
}

#[test]
fn the_input_may_be_fetched_whatever_it_is() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: image/x-a\r\nTransfer-Encoding: chunked\r\n\r\n\
                  3\r\n\x01\x02\x03\r\n0\r\n\r\n";
    let platform = Peer::start(&[FAILED, answer]);
    let peer = Peer::start(&[NO_CONTENT]);
    let url = platform.url("/v1/internal/1.s3cret/executions/e1/input");
    let mut job = start("echo", &peer, &[("INVOCATION_PAYLOAD_URL", &url)]);
    assert_eq!(job.exit().code(), Some(0), "{}", job.said());
    let line = "GET /v1/internal/1.s3cret/executions/e1/input HTTP/1.1";
    assert_eq!(platform.next().first_line, line);
    assert_eq!(platform.next().first_line, line);
    let got = peer.next();
    assert_eq!(got.header("content-type"), Some("image/x-a"));
    assert_eq!(got.body, b"\x01\x02\x03");
}

#[test]
fn an_unfetchable_input_is_the_calls_error() {
    let platform = Peer::start(&["HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"]);
    let peer = Peer::start(&[NO_CONTENT]);
    let url = platform.url("/1.s3cret");
    let mut job = start("echo", &peer, &[("INVOCATION_PAYLOAD_URL", &url)]);
    assert_eq!(job.exit().code(), Some(0));
    assert_eq!(peer.next().json()["error"]["code"], "INPUT_UNAVAILABLE");
    platform.next();
    assert!(platform.rest().is_empty(), "a 404 is not asked for again");
}

#[test]
fn a_callback_that_fails_is_tried_three_times() {
    let body = payload("1");
    let env = [("INVOCATION_PAYLOAD", body.as_str())];
    // The peer closes the connection of the second attempt without an answer.
    let peer = Peer::start(&[FAILED, "", NO_CONTENT]);
    let mut job = start("echo", &peer, &env);
    assert_eq!(job.exit().code(), Some(0), "{}", job.said());
    let bodies: Vec<_> = (0..3)
        .map(|_| peer.next().json()["output"].clone())
        .collect();
    assert_eq!(bodies, [json!(1), json!(1), json!(1)]);

    let peer = Peer::start(&[FAILED]);
    let mut job = start("echo", &peer, &env);
    assert_eq!(job.exit().code(), Some(1));
    assert_eq!(peer.rest().len(), 3);
    assert!(
        !job.said().contains("s3cret"),
        "the token is in the log: {}",
        job.said()
    );

    let nobody = Peer::nobody();
    let mut job = start("echo", &nobody, &env);
    assert_eq!(job.exit().code(), Some(1));
    assert!(
        job.said().contains("cannot report the result"),
        "{}",
        job.said()
    );
    assert!(
        !job.said().contains("s3cret"),
        "the token is in the log: {}",
        job.said()
    );
}

#[test]
fn a_refused_result_is_not_sent_again() {
    let peer = Peer::start(&[CONFLICT]);
    let mut job = start("echo", &peer, &[("INVOCATION_PAYLOAD", &payload("1"))]);
    assert_eq!(job.exit().code(), Some(0));
    assert_eq!(peer.rest().len(), 1);
    assert!(job.said().contains("409"), "{}", job.said());
}

#[test]
fn a_call_that_overstays_is_reported_as_such() {
    for handler in ["wait", "spin", "deaf"] {
        let peer = Peer::start(&[NO_CONTENT]);
        let scratch = ScratchFolder::create();
        let path = |name: &str| scratch.join(name).to_str().expect("UTF-8").to_owned();
        let input = json!({
            "began": path("began"), "gate": path("gate"), "ended": path("ended"),
        });
        let body = payload(&input.to_string());
        let env = [
            ("INVOCATION_PAYLOAD", body.as_str()),
            ("INVOCATION_TIMEOUT_MS", "500"),
        ];
        let mut job = start_in(scratch, handler, &peer, &env);
        assert_eq!(job.exit().code(), Some(0));
        assert_eq!(peer.next().json()["error"]["code"], "TIMEOUT");
        assert!(job.path("began").exists());
    }
}

#[test]
fn told_to_stop_it_reports_nothing() {
    let peer = Peer::start(&[NO_CONTENT]);
    let scratch = ScratchFolder::create();
    let path = |name: &str| scratch.join(name).to_str().expect("UTF-8").to_owned();
    let input = json!({ "began": path("began"), "gate": path("gate"), "ended": path("ended") });
    let body = payload(&input.to_string());
    let mut job = start_in(scratch, "wait", &peer, &[("INVOCATION_PAYLOAD", &body)]);
    until_file(&job.path("began"));
    job.signal(Signal::SIGTERM);
    assert_eq!(job.exit().code(), Some(143));
    assert_eq!(until_written(&job.path("ended")), "dropped");
    assert!(peer.rest().is_empty());
}

#[test]
fn a_job_that_cannot_begin_says_why() {
    let peer = Peer::start(&[NO_CONTENT]);
    let body = payload("1");
    let env = [("INVOCATION_PAYLOAD", body.as_str())];
    let mut job = start("nobody", &peer, &env);
    assert_eq!(job.exit().code(), Some(0), "{}", job.said());
    let result = peer.next().json();
    assert_eq!(result["error"]["code"], "HANDLER_ERROR");
    let message = result["error"]["message"].as_str().expect("a message");
    assert!(message.contains("FUNCTION_HANDLER"), "{message}");
    let times = result.as_object().expect("an object");
    assert!(times["startedAt"].is_u64() && times["loadedAt"].is_u64());
    assert!(!times.contains_key("readyAt"), "{result}");

    let scratch = ScratchFolder::create();
    let gate = scratch.join("gate");
    std::fs::write(&gate, "no such table").expect("the gate opens");
    let fails = [env[0], ("INIT_GATE", gate.to_str().expect("UTF-8"))];
    let mut job = start("echo", &peer, &fails);
    assert_eq!(job.exit().code(), Some(0), "{}", job.said());
    let result = peer.next().json();
    let error = &result["error"];
    assert_eq!(
        (&error["code"], &error["message"]),
        (&json!("HANDLER_ERROR"), &json!("no such table"))
    );
    assert!(
        !result
            .as_object()
            .expect("an object")
            .contains_key("readyAt")
    );
    assert!(peer.rest().is_empty());
}

#[test]
fn what_is_missing_stops_the_start() {
    let peer = Peer::start(&[NO_CONTENT]);
    let mut job = start("echo", &peer, &[("EXECUTION_ID", "")]);
    assert_eq!(job.exit().code(), Some(2));
    assert!(job.said().contains("EXECUTION_ID"), "{}", job.said());
    let mut job = start("echo", &peer, &[]);
    assert_eq!(job.exit().code(), Some(2));
    assert!(job.said().contains("INVOCATION_PAYLOAD"), "{}", job.said());
    assert!(peer.rest().is_empty());
}
