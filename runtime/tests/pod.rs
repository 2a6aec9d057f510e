//! Tests a served function by requests such as the platform sends: its start, calls, errors and deadlines,
//! its ready report, and its stop.

mod support;

use std::net::{Ipv6Addr, TcpListener};
use std::time::Duration;

use nanofaas_testkit::client::RawClient;
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::wait::until;
use nix::sys::signal::Signal;
use serde_json::json;
use support::peer::{NO_CONTENT, Peer};
use support::{
    JSON, PodClient as _, PodError as _, Program, request, several, until_file, until_written,
};

#[test]
fn health_is_up_only_after_the_initialisation() {
    let scratch = ScratchFolder::create();
    let gate = scratch.join("gate");
    let env = [
        ("FUNCTION_HANDLER", "echo"),
        ("INIT_GATE", gate.to_str().expect("UTF-8")),
    ];
    let pod = Program::start_in(scratch, &several(), &[], &env);
    let health = pod.connect().call("GET", "/health", &[], b"");
    assert_eq!(health.status, 503, "{}", health.text());
    let early = pod.invoke("1");
    assert_eq!(early.status, 503);
    assert_eq!(early.header("x-not-started"), Some("true"));
    assert_eq!(early.header("x-cold-start"), None);
    std::fs::write(&gate, "").expect("the gate opens");
    pod.until_up();
    let first = pod.invoke("1");
    assert_eq!((first.status, first.text().as_str()), (200, "1"));
    assert_eq!(first.header("x-cold-start"), Some("true"));
}

#[test]
fn an_initialisation_that_fails_ends_the_program() {
    let scratch = ScratchFolder::create();
    let gate = scratch.join("gate");
    std::fs::write(&gate, "no model there").expect("the gate");
    let env = [
        ("FUNCTION_HANDLER", "echo"),
        ("INIT_GATE", gate.to_str().expect("UTF-8")),
    ];
    let mut pod = Program::start_in(scratch, &several(), &[], &env);
    assert_eq!(pod.exit().code(), Some(1));
    assert!(pod.said().contains("no model there"), "{}", pod.said());
}

#[test]
fn only_the_first_answer_reports_a_cold_start() {
    let pod = Program::several("echo");
    let mut wire = pod.connect();
    let health = wire.call("GET", "/health", &[], b"");
    assert_eq!(health.header("x-cold-start"), None);
    let first = wire.invoke("null");
    assert_eq!(first.header("x-cold-start"), Some("true"));
    let init_ms: u64 = first
        .header("x-init-duration-ms")
        .and_then(|value| value.parse().ok())
        .expect("milliseconds");
    assert!(init_ms < 60_000);
    let second = wire.invoke("null");
    assert_eq!(second.header("x-cold-start"), None);
    assert_eq!(second.header("x-init-duration-ms"), None);
}

#[test]
fn an_echo_gives_the_very_bytes_back() {
    let pod = Program::several("echo");
    let mut wire = pod.connect();
    for input in [
        "null",
        r#"[1.50, 1e2 , "\u00e9"]"#,
        r#"{"b":1,"a":1,"b":2}"#,
        r#""""#,
    ] {
        let answer = wire.invoke(input);
        assert_eq!((answer.status, answer.text().as_str()), (200, input));
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let body = r#"{"metadata":{"a":"b"}, "input" : [ 1 ] ,"more":2}"#;
    let answer = wire.call("POST", "/invoke", &[JSON], body.as_bytes());
    assert_eq!(answer.text(), "[ 1 ]");
    let bytes: Vec<u8> = (0..=255).collect();
    let answer = wire.call(
        "POST",
        "/invoke",
        &[("Content-Type", "image/x-a; b=c")],
        &bytes,
    );
    assert_eq!((answer.status, &answer.body), (200, &bytes));
    assert_eq!(answer.header("content-type"), Some("image/x-a; b=c"));
    let answer = wire.call("POST", "/invoke", &[], b"");
    assert_eq!(
        answer.header("content-type"),
        Some("application/octet-stream")
    );
}

#[test]
fn a_body_without_an_envelope_is_bad_input() {
    let pod = Program::several("echo");
    let mut wire = pod.connect();
    for body in [
        &b"{}"[..],
        b"",
        b"[1]",
        b"{\"input\":1",
        b"{\"input\":1}x",
        b"{\"input\":1,\"input\":2}",
        b"{\"input\":\"\xff\"}",
        b"{\"input\":01}",
    ] {
        let answer = wire.call("POST", "/invoke", &[JSON], body);
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert_eq!(answer.code(), "BAD_INPUT");
        assert!(answer.message().contains("input"), "{}", answer.text());
        assert_eq!(answer.header("x-not-started"), None);
    }
    assert_eq!(wire.invoke("1").status, 200);
}

#[test]
fn typed_handlers_check_their_input() {
    let pod = Program::several("sum");
    let mut wire = pod.connect();
    assert_eq!(
        wire.invoke(r#"{"numbers":[1,2,3]}"#).text(),
        r#"{"total":6}"#
    );
    let wrong = wire.invoke(r#"{"numbers":["1"]}"#);
    assert_eq!((wrong.status, wrong.code().as_str()), (400, "BAD_INPUT"));
    let own = wire.invoke(r#"{"numbers":[9223372036854775807,1]}"#);
    assert_eq!((own.status, own.code().as_str()), (500, "TOO_BIG"));
    let raw = wire.call("POST", "/invoke", &[("Content-Type", "text/plain")], b"1");
    assert_eq!((raw.status, raw.code().as_str()), (400, "BAD_INPUT"));
    assert!(raw.message().contains("text/plain"), "{}", raw.text());
}

#[test]
fn the_context_tells_of_the_call() {
    let pod = Program::several("facts");
    let headers = [
        JSON,
        ("x-execution-id", "e1"),
        ("X-Trace-Id", "t1"),
        ("X-Dispatch-Attempt", "2"),
        ("X-Deadline-Ms", "60000"),
        ("User-Agent", "me"),
    ];
    let body = br#"{"input":null,"metadata":{"a":"b","n":1}}"#;
    let answer = pod.connect().call("POST", "/invoke", &headers, body);
    let mut facts = answer.json();
    facts["pid"] = 0.into();
    let expected = json!({
        "id": "e1", "trace": "t1", "attempt": 2, "metadata": {"a": "b", "n": "1"},
        "bounded": true, "agent": "me", "pid": 0,
    });
    assert_eq!(facts, expected);
    pod.until_said("facts asked for");
    let said = pod.said();
    let line = said.lines().find(|line| line.contains("facts asked for"));
    let line: serde_json::Value = serde_json::from_str(line.expect("the line")).expect("JSON");
    assert_eq!(
        (&line["executionId"], &line["traceId"]),
        (&json!("e1"), &json!("t1"))
    );
}

#[test]
fn errors_and_panics_are_the_calls_alone() {
    for handler in ["fail", "fail-blocking", "fail-future"] {
        let pod = Program::several(handler);
        let mut wire = pod.connect();
        let mut code = |how: &str| {
            let answer = wire.invoke(&format!("{how:?}"));
            assert_eq!(answer.status, 500, "{}", answer.text());
            (answer.code(), answer.message())
        };
        assert_eq!(
            code("error"),
            ("HANDLER_ERROR".into(), "it did not work".into())
        );
        assert_eq!(code("code"), ("MY_CODE".into(), "my message".into()));
        let (name, message) = code("std");
        assert!(
            name == "HANDLER_ERROR" && message.contains("No such file"),
            "{message}"
        );
        let (name, message) = code("panic");
        assert!(
            name == "HANDLER_ERROR" && message.contains("out of order"),
            "{message}"
        );
        let (name, message) = code("type");
        assert!(
            name == "BAD_OUTPUT" && message.contains("content type"),
            "{message}"
        );
        let png = wire.invoke("\"png\"");
        assert_eq!(
            (png.status, png.header("content-type")),
            (200, Some("image/png"))
        );
        assert_eq!(png.body, b"\x89PNG");
        for line in pod.said().lines() {
            let line: Result<serde_json::Value, _> = serde_json::from_str(line);
            assert!(
                line.is_ok_and(|line| line["time"].is_string()),
                "{}",
                pod.said()
            );
        }
    }
}

/// Returns the input for a handler that waits for a file.
fn wait_input(pod: &Program) -> String {
    let path = |name: &str| pod.path(name).to_str().expect("UTF-8").to_owned();
    json!({ "began": path("began"), "gate": path("gate"), "ended": path("ended") }).to_string()
}

#[test]
fn an_async_handler_is_dropped_at_its_deadline() {
    let pod = Program::several("wait");
    let mut wire = pod.connect();
    wire.send_invoke(&wait_input(&pod), &[("X-Deadline-Ms", "300")]);
    let answer = wire.answer();
    assert_eq!((answer.status, answer.code().as_str()), (504, "TIMEOUT"));
    assert_eq!(until_written(&pod.path("ended")), "dropped");
    assert_eq!(wire.call("GET", "/health", &[], b"").status, 200);
}

#[test]
fn a_leaving_caller_drops_an_async_handler() {
    let pod = Program::several("wait");
    let mut wire = pod.connect();
    wire.send_invoke(&wait_input(&pod), &[]);
    until_file(&pod.path("began"));
    assert!(!pod.path("ended").exists());
    drop(wire);
    assert_eq!(until_written(&pod.path("ended")), "dropped");
    pod.until_up();
}

#[test]
fn a_blocking_handler_sees_deadline_and_leaving() {
    let pod = Program::several("spin");
    let mut wire = pod.connect();
    wire.send_invoke(&wait_input(&pod), &[("X-Deadline-Ms", "300")]);
    assert_eq!(wire.answer().status, 504);
    assert_eq!(until_written(&pod.path("ended")), "cancelled");

    let pod = Program::several("spin");
    let mut wire = pod.connect();
    wire.send_invoke(&wait_input(&pod), &[]);
    until_file(&pod.path("began"));
    drop(wire);
    assert_eq!(until_written(&pod.path("ended")), "cancelled");
    pod.until_up();
}

#[test]
fn an_overdue_handler_takes_the_pods_health() {
    let pod = Program::several("deaf");
    let mut wire = pod.connect();
    wire.send_invoke(&wait_input(&pod), &[("X-Deadline-Ms", "200")]);
    assert_eq!(wire.answer().code(), "TIMEOUT");
    let health = wire.call("GET", "/health", &[], b"");
    assert_eq!(health.status, 503, "{}", health.text());
    std::fs::write(pod.path("gate"), "").expect("the gate opens");
    pod.until_up();
}

#[test]
fn other_calls_go_on_beside_a_long_one() {
    for handler in ["wait", "spin"] {
        let pod = Program::several(handler);
        let mut long = pod.connect();
        long.send_invoke(&wait_input(&pod), &[]);
        until_file(&pod.path("began"));
        let mut other = pod.connect();
        assert_eq!(other.call("GET", "/health", &[], b"").status, 200);
        assert_eq!(other.invoke("3").code(), "BAD_INPUT");
        std::fs::write(pod.path("gate"), "").expect("the gate opens");
        assert_eq!(long.answer().text(), "\"done\"");
        assert_eq!(until_written(&pod.path("ended")), "returned");
    }
}

#[test]
fn an_unknown_handler_stops_the_start() {
    for env in [&[][..], &[("FUNCTION_HANDLER", "ech")]] {
        let mut pod = Program::start(&several(), &[], env);
        assert_eq!(pod.exit().code(), Some(2));
        assert!(pod.said().contains("echo, sum, facts"), "{}", pod.said());
    }
    let env = [
        ("FUNCTION_HANDLER", "echo"),
        ("NANOFAAS_SOCKET", ""),
        ("PORT", "x"),
    ];
    let mut pod = Program::start(&several(), &[], &env);
    assert_eq!(pod.exit().code(), Some(2));
    assert!(pod.said().contains("PORT"), "{}", pod.said());
}

/// The pod must not wake up when the client reads an answer. The number of wake-ups does not depend on the
/// load of the machine, so the test counts them.
#[test]
fn a_call_wakes_the_pod_once() {
    const CALLS: u64 = 200;
    let pod = Program::several("echo");
    let mut wire = pod.connect();
    // Each sleep of the pod's main thread is one voluntary context switch.
    let sleeps = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", pod.pid()));
        let status = status.expect("it runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let count = line.and_then(|count| count.trim().parse::<u64>().ok());
        count.expect("Linux counts them")
    };
    let before = sleeps();
    for _ in 0..CALLS {
        wire.send_invoke("1", &[]);
        // The first pause lets the pod sleep before the client reads the answer. The second one gives a wrong
        // wake-up time to happen before the next call.
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(wire.answer().status, 200);
        std::thread::sleep(Duration::from_millis(1));
    }
    let slept = sleeps() - before;
    assert!(slept < CALLS * 3 / 2, "{CALLS} calls, {slept} wake-ups");
}

#[test]
fn a_port_will_do_as_well() {
    let env = [
        ("FUNCTION_HANDLER", "echo"),
        ("NANOFAAS_SOCKET", ""),
        ("PORT", "0"),
    ];
    let pod = Program::start(&several(), &[], &env);
    let port = until("the port is logged", || {
        let said = pod.said();
        let line: serde_json::Value = serde_json::from_str(said.lines().next()?).ok()?;
        let address = line["address"].as_str()?;
        let any = address.strip_prefix("[::]:");
        // On a kernel without IPv6 the pod listens on IPv4 only.
        any.or_else(|| address.strip_prefix("0.0.0.0:"))?
            .parse()
            .ok()
    });
    assert_eq!(
        RawClient::connect(([127, 0, 0, 1], port).into())
            .invoke("[1]")
            .text(),
        "[1]"
    );
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return println!("NOT RUN: this machine has no [::1]");
    }
    let mut wire = RawClient::connect((Ipv6Addr::LOCALHOST, port).into());
    assert_eq!(wire.invoke("[2]").text(), "[2]");
}

#[test]
fn a_stale_socket_is_replaced_a_live_not() {
    let scratch = ScratchFolder::create();
    drop(std::os::unix::net::UnixListener::bind(scratch.join("s")).expect("a socket"));
    assert!(scratch.join("s").exists());
    let env = [("FUNCTION_HANDLER", "echo")];
    let pod = Program::start_in(scratch, &several(), &[], &env);
    pod.until_up();
    let socket = pod.path("s");
    let env = [env[0], ("NANOFAAS_SOCKET", socket.to_str().expect("UTF-8"))];
    let mut second = Program::start(&several(), &[], &env);
    assert_eq!(second.exit().code(), Some(1));
    assert!(
        second.said().contains("NANOFAAS_SOCKET"),
        "{}",
        second.said()
    );
    assert_eq!(pod.invoke("1").status, 200);
}

#[test]
fn the_platform_hears_when_the_pod_is_ready() {
    let peer = Peer::start(&[NO_CONTENT]);
    let scratch = ScratchFolder::create();
    let gate = scratch.join("gate");
    let url = peer.url("/v1/internal/t/pods/p:ready");
    let env = [
        ("FUNCTION_HANDLER", "echo"),
        ("NANOFAAS_READY_URL", &url),
        ("INIT_GATE", gate.to_str().expect("UTF-8")),
    ];
    let pod = Program::start_in(scratch, &several(), &[], &env);
    drop(pod.connect());
    assert!(peer.rest().is_empty());
    std::fs::write(&gate, "").expect("the gate opens");
    let got = peer.next();
    assert_eq!(got.first_line, "POST /v1/internal/t/pods/p:ready HTTP/1.1");
    assert_eq!(got.header("content-type"), Some("application/json"));
    let at = |name: &str| got.json()[name].as_u64().expect("epoch ms");
    assert!(at("startedAt") > 1_700_000_000_000);
    assert!(at("startedAt") <= at("loadedAt") && at("loadedAt") <= at("readyAt"));
    assert_eq!(pod.invoke("1").status, 200);
}

#[test]
fn a_platform_that_cannot_be_told_changes_nothing() {
    let peer = Peer::start(&["HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"]);
    for url in [&peer.url("/"), "http://127.0.0.1:1/", "https://a/"] {
        let env = [("FUNCTION_HANDLER", "echo"), ("NANOFAAS_READY_URL", url)];
        let pod = Program::start(&several(), &[], &env);
        pod.until_up();
        pod.until_said("could not say that the pod is ready");
        assert_eq!(pod.invoke("1").status, 200);
    }
}

#[test]
fn a_stopping_pod_serves_until_it_is_quiet() {
    let mut pod = Program::several("wait");
    let mut idle = pod.connect();
    assert_eq!(idle.invoke("0").header("connection"), None);
    let mut long = pod.connect();
    long.send_invoke(&wait_input(&pod), &[]);
    until_file(&pod.path("began"));
    pod.signal(Signal::SIGTERM);
    until("/health is 503", || {
        let answer = pod.connect().call("GET", "/health", &[], b"");
        (answer.status == 503).then_some(())
    });
    // The pod still takes calls, on old and on new connections. The 400 comes from the function, which
    // refuses the input `0`. Without `x-not-started`, it shows that the call was started.
    for wire in [&mut idle, &mut pod.connect()] {
        let answer = wire.invoke("0");
        assert_eq!((answer.status, answer.header("x-not-started")), (400, None));
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(wire.closed());
    }
    std::fs::write(pod.path("gate"), "").expect("the gate opens");
    let answer = long.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "\"done\""));
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(pod.exit().code(), Some(0));
    assert!(!pod.path("s").exists());
}

#[test]
fn a_running_call_holds_the_end_up() {
    let mut pod = Program::several("spin");
    let mut long = pod.connect();
    long.send_invoke(&wait_input(&pod), &[]);
    until_file(&pod.path("began"));
    pod.signal(Signal::SIGTERM);
    // The pause is longer than `QUIET`, after which a pod without a call would exit.
    std::thread::sleep(Duration::from_secs(3));
    assert!(pod.exited().is_none());
    std::fs::write(pod.path("gate"), "").expect("the gate opens");
    assert_eq!(long.answer().status, 200);
    assert_eq!(pod.exit().code(), Some(0));
}

#[test]
fn concurrent_calls_get_their_own_answers() {
    let pod = Program::several("echo");
    std::thread::scope(|scope| {
        for client in 0..16 {
            let pod = &pod;
            scope.spawn(move || {
                let mut wire = pod.connect();
                for call in 0..200 {
                    let input = format!(r#"[{client},{call}]"#);
                    assert_eq!(wire.invoke(&input).text(), input);
                }
            });
        }
    });
    let body = request("GET", "/health", &[], b"");
    let mut wire = pod.connect();
    wire.send(&body);
    assert_eq!(wire.answer().status, 200);
}
