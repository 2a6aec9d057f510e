//! These tests check how `:invoke` reports the outcome of a call: by the HTTP status, the state, the code,
//! and the time that each part of the call took.

use std::net::TcpListener;
use std::time::Duration;

use nanofaas_testkit::client::{Answer, Request};
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::functions::{local, pool, with};
use nanofaas_testkit::pod::{After, ScriptedPod};
use nanofaas_testkit::wait::Gate;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane =
        SharedControlPlane::new(&["--rate-max-per-second", "off", "--max-response", "64KiB"]);
    PLANE.get()
}

#[track_caller]
fn call(name: &str, pod: &ScriptedPod) -> Answer {
    plane().register(&pool(name, pod));
    plane().invoke(name, &json!(1))
}

#[test]
fn a_function_that_returned_is_200_success() {
    let answer = call("outcome-success", &ScriptedPod::echo())
        .expect(200)
        .json();
    assert_eq!(
        (&answer["status"], &answer["output"]),
        (&json!("success"), &json!(1))
    );
    assert_eq!(answer["error"], Value::Null);
}

#[test]
fn a_raised_error_is_500_with_its_words() {
    let json = "Content-Type: application/json\r\n";
    for (name, status, headers, body, code, message) in [
        (
            "text",
            500,
            json,
            r#"{"error":"it broke"}"#,
            "HANDLER_ERROR",
            "it broke",
        ),
        (
            "code",
            422,
            json,
            r#"{"code":"NO_MONEY","message":"pay"}"#,
            "NO_MONEY",
            "pay",
        ),
        (
            "oom",
            500,
            json,
            r#"{"code":"OOM","message":"too big"}"#,
            "OOM",
            "too big",
        ),
        (
            "busy",
            503,
            json,
            r#"{"error":"busy"}"#,
            "HANDLER_ERROR",
            "busy",
        ),
    ] {
        let pod = ScriptedPod::tcp(move |_, line| line.answer(status, headers, body.as_bytes()));
        let answer = call(&format!("outcome-raised-{name}"), &pod);
        let answer = answer.expect_failure(500, "error", code).json();
        assert_eq!(answer["error"]["message"], message);
        assert_eq!(pod.calls().len(), 1, "a handler's error is not tried again");
    }
    for (name, status, headers, body) in [
        (
            "html",
            404,
            "Content-Type: text/html\r\n",
            &b"<p>no such page"[..],
        ),
        ("empty", 500, "", b""),
        ("redirect", 302, "Location: http://elsewhere/\r\n", b""),
        ("garbage", 500, json, b"{\"code\":"),
        ("binary", 500, "Content-Type: a/b\r\n", b"\xff\x00"),
        (
            "forged",
            500,
            json,
            b"{\"code\":\"A\\\"\\n\",\"message\":7}",
        ),
    ] {
        let pod = ScriptedPod::tcp(move |_, line| line.answer(status, headers, body));
        let answer = call(&format!("outcome-refused-{name}"), &pod)
            .expect(500)
            .json();
        assert_eq!(answer["status"], "error", "{name}: {answer}");
        assert!(answer["error"]["code"].is_string(), "{name}: {answer}");
    }
}

#[test]
fn a_pod_dying_mid_call_is_pod_lost() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    for (name, said) in [
        ("silent", String::new()),
        ("line", "HTTP/1.1 2".to_owned()),
        ("head", head.to_owned()),
        ("body", format!("{head}Content-Length: 10\r\n\r\n\"abc")),
        (
            "chunk",
            format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\n\"ab"),
        ),
        (
            "last",
            format!("{head}Transfer-Encoding: chunked\r\n\r\n2\r\n\"\"\r\n"),
        ),
    ] {
        let answer = call(&format!("outcome-lost-{name}"), &ScriptedPod::saying(said));
        answer.expect_failure(502, "error", "POD_LOST");
    }
}

#[test]
fn an_unreachable_pod_is_502_pod_unreachable() {
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let nobody = nobody.expect("a free port");
    let (tcp, unix) = (nobody.to_string(), "/nowhere/there.sock");
    for (name, url, named) in [
        ("tcp", format!("http://{nobody}/"), &*tcp),
        ("unix", format!("http+unix://{unix}:/"), unix),
        (
            "name",
            "http://no-such-host.invalid:8080/".to_owned(),
            "no-such-host.invalid",
        ),
    ] {
        let name = format!("outcome-unreachable-{name}");
        plane().register(&json!({
            "name": name, "executionMode": "POOL", "endpointUrl": url, "maxRetries": 1,
        }));
        let answer = plane().invoke(&name, &json!(1));
        let answer = answer.expect_failure(502, "error", "POD_UNREACHABLE");
        let message = message_of(&answer);
        assert!(message.contains(named), "{message}");
        assert_eq!(plane().status(&answer.id())["status"], "error");
    }
}

#[test]
fn an_unsafe_output_is_502_bad_output() {
    let deep = "[".repeat(10_000);
    let closed = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for (name, output) in [
        ("broken", &br#"{"a":"#[..]),
        ("two", b"1 2"),
        ("forged", br#"1,"status":"success","error":null}, {"x":1"#),
        ("closing", br#"1}"#),
        ("nan", b"NaN"),
        ("utf8", b"\"\xff\""),
        ("surrogate", b"\"\xed\xa0\x80\""),
        ("control", b"\"\n\""),
        ("deep", deep.as_bytes()),
        ("closed", closed.as_bytes()),
        ("space", b" "),
        ("bom", b"\xef\xbb\xbf1"),
    ] {
        let output = output.to_vec();
        let pod = ScriptedPod::tcp(move |_, line| {
            line.answer(200, "Content-Type: application/json\r\n", &output)
        });
        let answer = call(&format!("outcome-bad-{name}"), &pod);
        answer.expect_failure(502, "error", "BAD_OUTPUT");
    }
    let pod = ScriptedPod::tcp(|_, line| line.answer(200, "Content-Type: text/plain\r\n", b"\xff"));
    call("outcome-bad-text", &pod).expect_failure(502, "error", "BAD_OUTPUT");
}

#[test]
fn an_answer_without_http_is_bad_output() {
    for (name, said) in [
        ("nonsense", "what?\r\n\r\n"),
        ("version", "HTTP/3.7 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (
            "both",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "lengths",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n1",
        ),
        ("length", "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n1"),
        ("bare", "HTTP/1.1 200 OK\nContent-Length: 1\n\n1"),
        (
            "fold",
            "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 1\r\n\r\n1",
        ),
        (
            "chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        ),
        ("switch", "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n"),
        ("status", "HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let answer = call(&format!("outcome-http-{name}"), &ScriptedPod::saying(said));
        answer.expect_failure(502, "error", "BAD_OUTPUT");
    }
    let endless = ScriptedPod::tcp(|_, line| {
        line.send(b"HTTP/1.1 200 OK\r\n");
        while line.send(&[b'a'; 4096]) {}
        After::Close
    });
    call("outcome-http-endless", &endless).expect_failure(502, "error", "BAD_OUTPUT");
}

#[test]
fn an_output_over_the_limit_is_too_large() {
    let limit = 64 * 1024;
    let json = |length: usize| format!("\"{}\"", "a".repeat(length - 2));
    let most = ScriptedPod::answering(move |_| json(limit));
    let answer = call("outcome-most", &most).expect(200).json();
    assert_eq!(answer["output"].as_str().map(str::len), Some(limit - 2));
    let more = ScriptedPod::answering(move |_| json(limit + 1));
    call("outcome-more", &more).expect_failure(502, "error", "OUTPUT_TOO_LARGE");
    for (name, head) in [
        ("chunked", "Transfer-Encoding: chunked\r\n\r\n100000\r\n"),
        ("until-close", "\r\n"),
        ("declared", "Content-Length: 99999999999\r\n\r\n"),
    ] {
        let pod = ScriptedPod::tcp(move |_, line| {
            line.send(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes());
            while line.send(&[b' '; 4096]) {}
            After::Close
        });
        let answer = call(&format!("outcome-more-{name}"), &pod);
        answer.expect_failure(502, "error", "OUTPUT_TOO_LARGE");
    }
}

#[test]
fn a_failed_start_is_503_with_the_reason() {
    let folder = ScratchFolder::create();
    let script = "echo the disk is full >&2; exit 3";
    plane().register(&folder.shell("outcome-start", "WARM", script));
    let answer = plane().invoke("outcome-start", &json!(1));
    let answer = answer
        .expect_failure(503, "error", "COLD_START_FAILED")
        .json();
    let message = answer["error"]["message"].as_str().expect("a message");
    assert!(message.contains("the disk is full"), "{message}");
    plane().register(&json!({
        "name": "outcome-nothing", "executionMode": "WARM", "command": ["/no/such/program"],
    }));
    let answer = plane().invoke("outcome-nothing", &json!(1));
    let answer = answer
        .expect_failure(503, "error", "COLD_START_FAILED")
        .json();
    let message = answer["error"]["message"].as_str().expect("a message");
    assert!(message.contains("/no/such/program"), "{message}");
    plane().register(&json!({
        "name": "outcome-job", "executionMode": "JOB", "command": ["/no/such/program"],
    }));
    let answer = plane().invoke("outcome-job", &json!(1));
    answer.expect_failure(503, "error", "COLD_START_FAILED");
}

fn message_of(answer: &Answer) -> String {
    answer.json()["error"]["message"]
        .as_str()
        .expect("a message")
        .to_owned()
}

#[test]
fn a_passed_deadline_is_408_naming_the_stage() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&with(
        pool("outcome-late", &pod),
        &json!({"timeoutMs": 1000}),
    ));
    let mut running = Request::invoke("outcome-late", &json!(1)).begin(plane().listen);
    pod.wait_calls(1);
    let queued = Request::invoke("outcome-late", &json!(2)).header("X-Timeout-Ms", "100");
    let queued = plane()
        .send(&queued)
        .expect_failure(408, "timeout", "TIMEOUT");
    let said = "the deadline passed while the call was queued, after 100 ms (X-Timeout-Ms)";
    assert_eq!(message_of(&queued), said);
    let running = running.answer().expect_failure(408, "timeout", "TIMEOUT");
    let said = "the deadline passed while the call was running, after 1000 ms (timeoutMs)";
    assert_eq!(message_of(&running), said);
    assert_eq!(pod.calls().len(), 1);

    let folder = ScratchFolder::create();
    let never = folder.shell("outcome-starting", "WARM", "exec sleep 60");
    plane().register(&with(never, &json!({"timeoutMs": 400})));
    let starting = plane().invoke("outcome-starting", &json!(1));
    let starting = starting.expect_failure(408, "timeout", "TIMEOUT");
    let said = "the deadline passed while the call was starting, after 400 ms (timeoutMs)";
    assert_eq!(message_of(&starting), said);
    plane().remove("outcome-starting");
}

#[test]
fn a_cancelled_sync_call_is_409() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&pool("outcome-cancel", &pod));
    let mut wire = Request::invoke("outcome-cancel", &json!(1)).begin(plane().listen);
    let id = pod.wait_calls(1)[0]
        .header("x-execution-id")
        .expect("an id")
        .to_owned();
    plane().cancel(&id).expect(202);
    let answer = wire.answer().expect_failure(409, "error", "CANCELLED");
    assert_eq!(answer.id(), id);
}

#[test]
fn a_call_that_shutdown_ended_is_503() {
    let plane = ControlPlane::start(&["--drain-ms", "200"]);
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane.register(&pool("ended", &pod));
    let mut running = Request::invoke("ended", &json!(1)).begin(plane.listen);
    pod.wait_calls(1);
    let mut queued = Request::invoke("ended", &json!(2)).begin(plane.listen);
    plane.wait_for("ended", 1, 1);
    plane.signal(Signal::SIGTERM);
    running.answer().expect_failure(503, "error", "SHUTDOWN");
    queued.answer().expect_failure(503, "error", "SHUTDOWN");
    let status = plane
        .exit_within(Duration::from_secs(20))
        .expect("it exits");
    assert!(status.success(), "{status}");
}

#[test]
fn every_answer_carries_its_id_and_trace() {
    plane().register(&local("outcome-headers"));
    let traced = Request::invoke("outcome-headers", &json!(1)).header("X-Trace-Id", "abc-1");
    let answer = plane().send(&traced).expect(200);
    assert_eq!(answer.header("x-trace-id"), Some("abc-1"));
    assert_eq!(answer.id(), answer.json()["executionId"]);
    assert_eq!(
        plane()
            .invoke("outcome-headers", &json!(1))
            .header("x-trace-id"),
        None
    );
    let traced = Request::enqueue("outcome-headers", &json!(1)).header("X-Trace-Id", "abc-2");
    assert_eq!(
        plane().send(&traced).expect(202).header("x-trace-id"),
        Some("abc-2")
    );
    let failing = ScriptedPod::tcp(|_, line| line.answer(500, "", b""));
    plane().register(&pool("outcome-headers-failing", &failing));
    let traced = Request::invoke("outcome-headers-failing", &json!(1)).header("X-Trace-Id", "e");
    let answer = plane().send(&traced).expect(500);
    assert_eq!(answer.header("x-trace-id"), Some("e"));
    timing(&answer);
}

/// Returns the parts of `Server-Timing` by name, in milliseconds.
fn timing(answer: &Answer) -> Vec<(String, f64)> {
    let header = answer.header("server-timing").expect("Server-Timing");
    let parts = header.split(", ").map(|part| {
        let (name, value) = part
            .split_once(";dur=")
            .unwrap_or_else(|| panic!("{header}"));
        let decimals = value.split_once('.').map(|(_, decimals)| decimals.len());
        assert_eq!(decimals, Some(3), "{header}");
        (name.to_owned(), value.parse().expect("a number"))
    });
    parts.collect()
}

#[test]
fn server_timing_takes_the_time_apart() {
    let pod = ScriptedPod::tcp(|_, line| {
        std::thread::sleep(Duration::from_millis(30));
        line.json("1")
    });
    let answer = call("outcome-timing", &pod).expect(200);
    let parts = timing(&answer);
    let names: Vec<&str> = parts.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["queue", "dispatch", "function", "total"]);
    let (function, total) = (parts[2].1, parts[3].1);
    assert!(function >= 30.0, "{parts:?}");
    let sum: f64 = parts[..3].iter().map(|(_, ms)| ms).sum();
    assert!(total + 0.002 >= sum, "{parts:?}");
    let metrics = plane().metrics();
    for histogram in ["queue_wait", "dispatch", "handler", "e2e"] {
        let name = format!("function_{histogram}_seconds_count");
        let label = [("function", "outcome-timing")];
        assert_eq!(metrics.sum(&name, &label), 1.0, "{name}");
    }
}

fn parts_ms(answer: &Answer) -> f64 {
    let parts = timing(answer);
    let (total, parts) = parts.split_last().expect("a total");
    let sum = parts.iter().map(|(_, ms)| ms).sum();
    assert!(total.1 + 0.01 >= sum, "{parts:?} of {total:?}");
    sum
}

#[test]
fn back_off_is_a_part_of_the_time() {
    let function = json!({
        "name": "outcome-pauses", "executionMode": "POOL",
        "endpointUrl": "http://127.0.0.1:1/", "maxRetries": 3,
    });
    plane().register(&function);
    let answer = plane().invoke("outcome-pauses", &json!(1)).expect(502);
    // The pauses between the four attempts are 10, 20 and 40 ms long.
    assert!(parts_ms(&answer) >= 70.0, "{:?}", timing(&answer));
}

#[test]
fn a_failed_start_is_part_of_the_time() {
    let folder = ScratchFolder::create();
    let fails = "sleep 0.2; exit 1";
    plane().register(&with(
        folder.shell("outcome-fails", "WARM", fails),
        &json!({"scalingConfig": {"minReplicas": 0}}),
    ));
    let answer = plane().invoke("outcome-fails", &json!(1)).expect(503);
    let parts = timing(&answer);
    let start = parts.iter().find(|(name, _)| name == "start");
    assert!(start.is_some_and(|(_, ms)| *ms >= 100.0), "{parts:?}");
    assert!(parts_ms(&answer) >= 100.0, "{parts:?}");
}

#[test]
fn outcomes_are_counted_by_function() {
    let pod = ScriptedPod::tcp(|got, line| match got.number {
        0 => line.json("1"),
        1 => line.answer(500, "", b""),
        _ => {
            std::thread::sleep(Duration::from_secs(5));
            After::Close
        }
    });
    plane().register(&pool("outcome-counted", &pod));
    plane().invoke("outcome-counted", &json!(1)).expect(200);
    plane().invoke("outcome-counted", &json!(1)).expect(500);
    let late = Request::invoke("outcome-counted", &json!(1)).header("X-Timeout-Ms", "50");
    plane().send(&late).expect(408);
    plane().wait_for("outcome-counted", 0, 0);
    let metrics = plane().metrics();
    let label = [("function", "outcome-counted")];
    for (name, expected) in [
        ("enqueue", 3.0),
        ("dispatch", 3.0),
        ("success", 1.0),
        ("error", 1.0),
        ("timeout", 1.0),
        ("retry", 0.0),
        ("queue_rejected", 0.0),
    ] {
        let count = metrics.sum(&format!("function_{name}_total"), &label);
        assert_eq!(count, expected, "{name}");
    }
}
