//! These tests check the requests that pods get, and how the local backend starts, uses, scales, replaces and
//! ends pods.

use std::collections::BTreeSet;
use std::time::Duration;

use nanofaas_testkit::client::{RawClient, Request};
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::form::io_threads;
use nanofaas_testkit::functions::{pool, with};
use nanofaas_testkit::pod::ScriptedPod;
use nanofaas_testkit::process::is_alive;
use nanofaas_testkit::wait::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::handlers;

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane = SharedControlPlane::new(&["--rate-max-per-second", "off"]);
    PLANE.get()
}

#[track_caller]
fn pid_of(name: &str) -> i32 {
    let answer = plane().invoke(name, &json!(null)).expect(200).json();
    i32::try_from(answer["output"].as_i64().expect("a pid")).expect("a pid")
}

fn kill_now(pid: i32) {
    // The process may have ended already, so the result is ignored.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

#[test]
fn functions_of_one_endpoint_share_its_connections() {
    let pod = ScriptedPod::echo();
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    for number in 0..50 {
        let name = format!("shared-{number}");
        plane.register(&pool(&name, &pod));
        plane.invoke(&name, &json!(number)).expect(200);
    }
    // The calls run one after another, so each io thread needs at most one connection.
    let connections = pod.connections();
    assert!(
        connections <= io_threads(),
        "{connections} connections for 50 functions"
    );
}

#[test]
fn a_call_reaches_its_pod_complete() {
    let pod = ScriptedPod::echo();
    plane().register(&with(pool("headers", &pod), &json!({"timeoutMs": 5000})));
    let body = "{ \"input\": 1, \"metadata\": {\"a\": \"b\"}, \"more\": [] }";
    let request = Request::new("POST", "/v1/functions/headers:invoke")
        .body("application/json; charset=utf-8", body)
        .header("X-Trace-Id", "trace-1")
        .header(
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )
        .header("tracestate", "a=b")
        .header("Idempotency-Key", "key-1")
        .header("X-Execution-Id", "forged")
        .header("X-Deadline-Ms", "1")
        .header("Authorization", "secret");
    let answer = plane().send(&request).expect(200);
    let got = &pod.calls()[0];
    assert_eq!(got.first_line, "POST /invoke HTTP/1.1");
    assert_eq!(got.body, body.as_bytes());
    for (name, value) in [
        ("content-type", "application/json; charset=utf-8"),
        ("x-execution-id", &*answer.id()),
        ("x-trace-id", "trace-1"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        ("tracestate", "a=b"),
        ("x-dispatch-attempt", "1"),
        ("idempotency-key", "key-1"),
    ] {
        assert_eq!(got.header(name), Some(value), "{name}");
    }
    let left = got
        .header("x-deadline-ms")
        .and_then(|ms| ms.parse::<u64>().ok());
    assert!(
        left.is_some_and(|ms| (1000..=5000).contains(&ms)),
        "{left:?}"
    );
    assert!(got.header("host").is_some() && got.header("authorization").is_none());
    plane().invoke("headers", &json!(1)).expect(200);
    let bare = &pod.calls()[1];
    for name in ["x-trace-id", "traceparent", "tracestate", "idempotency-key"] {
        assert_eq!(bare.header(name), None, "{name}");
    }
}

#[test]
fn an_endpoints_own_path_and_query_are_used() {
    let pod = ScriptedPod::echo();
    let url = pod.url.replace("/invoke", "/a/b?c=d");
    plane().register(&with(pool("target", &pod), &json!({"endpointUrl": url})));
    plane().invoke("target", &json!(1)).expect(200);
    assert_eq!(pod.calls()[0].first_line, "POST /a/b?c=d HTTP/1.1");
}

#[test]
fn what_a_pod_reports_of_its_start_stays() {
    let pod = ScriptedPod::tcp(|got, line| {
        let first = "X-Cold-Start: true\r\nX-Init-Duration-Ms: 123\r\n";
        line.answer(200, if got.number == 0 { first } else { "" }, b"1")
    });
    plane().register(&pool("init", &pod));
    let first = plane().status(&plane().invoke("init", &json!(1)).expect(200).id());
    assert_eq!(
        (&first["coldStart"], &first["initDurationMs"]),
        (&json!(true), &json!(123))
    );
    let second = plane().status(&plane().invoke("init", &json!(1)).expect(200).id());
    assert_eq!(
        (&second["coldStart"], &second["initDurationMs"]),
        (&json!(false), &Value::Null)
    );
}

#[test]
fn a_first_warm_call_waits_for_its_pod() {
    let folder = ScratchFolder::create();
    let function = folder.python("cold", "WARM", handlers::PID);
    plane().register(&with(
        function,
        &json!({"scalingConfig": {"minReplicas": 0}}),
    ));
    let first = plane().invoke("cold", &json!(1)).expect(200);
    let timing = first.header("server-timing").expect("a timing");
    assert!(timing.contains("start;dur="), "{timing}");
    let second = plane().invoke("cold", &json!(1)).expect(200);
    assert!(
        !second
            .header("server-timing")
            .expect("a timing")
            .contains("start")
    );
    assert_eq!(
        first.json()["output"],
        second.json()["output"],
        "the pod is used again"
    );
    let (cold, warm) = (plane().status(&first.id()), plane().status(&second.id()));
    assert_eq!(
        (&cold["coldStart"], &warm["coldStart"]),
        (&json!(true), &json!(false))
    );
    assert!(cold["initDurationMs"].is_number(), "{cold}");
    let metrics = plane().metrics();
    let count = |name: &str| metrics.sum(name, &[("function", "cold")]);
    let counts = ["cold", "warm"].map(|kind| count(&format!("function_{kind}_start_total")));
    assert_eq!(counts, [1.0, 1.0]);
    assert_eq!(count("function_start_wait_seconds_count"), 1.0);
    let body = plane()
        .get("/v1/functions/cold/cold-starts")
        .expect(200)
        .json();
    let starts = body["coldStarts"].as_array().expect("a list");
    assert_eq!((&body["function"], starts.len()), (&json!("cold"), 1));
    assert_eq!(starts[0]["failure"], Value::Null);
    assert!(
        starts[0]["pod"]
            .as_str()
            .is_some_and(|pod| pod.starts_with("fn-cold-")),
        "{body}"
    );
    let phases = starts[0]["phases"].as_array().expect("phases");
    let names: Vec<&str> = phases
        .iter()
        .filter_map(|phase| phase["name"].as_str())
        .collect();
    assert_eq!(names.last(), Some(&"usable"), "{body}");
    let at: Vec<f64> = phases
        .iter()
        .filter_map(|phase| phase["atMs"].as_f64())
        .collect();
    assert!(at.len() == names.len() && at.is_sorted(), "{body}");
}

#[test]
fn pods_up_to_the_floor_need_no_call() {
    let folder = ScratchFolder::create();
    folder.write("started", "");
    let function = folder.python("floor", "WARM", handlers::LOADS_ONCE);
    plane().register(&with(
        function,
        &json!({"scalingConfig": {"minReplicas": 2}}),
    ));
    let started = || folder.read("started").map_or(0, |text| text.len());
    eventually("two pods load the handler", || started() == 2);
    let path = "/v1/functions/floor/replicas";
    plane()
        .send(&Request::new("PUT", path).json(&json!({"replicas": 3})))
        .expect(200);
    eventually("a third pod loads it", || started() == 3);
}

#[test]
fn waiting_calls_get_pods_up_to_the_ceiling() {
    let folder = ScratchFolder::create();
    let function = folder.python("scale", "WARM", handlers::SLOW_PID);
    let scaling = json!({"minReplicas": 0, "maxReplicas": 3});
    let more = json!({"concurrency": 8, "scalingConfig": scaling});
    plane().register(&with(function, &more));
    let pids = || -> BTreeSet<i64> {
        let mut wires: Vec<RawClient> = (0..12)
            .map(|_| Request::invoke("scale", &json!(1)).begin(plane().listen))
            .collect();
        let pid = |wire: &mut RawClient| wire.answer().expect(200).json()["output"].as_i64();
        wires
            .iter_mut()
            .map(|wire| pid(wire).expect("a pid"))
            .collect()
    };
    let mut all = pids();
    all.extend(pids());
    assert_eq!(
        all.len(),
        3,
        "one start a missing pod, and never more than the most"
    );
    let usable = [("function", "scale"), ("state", "usable")];
    assert_eq!(plane().metrics().sum("function_pods", &usable), 3.0);
}

#[test]
fn idle_pods_go_and_return_when_wanted() {
    let folder = ScratchFolder::create();
    let function = folder.python("zero", "WARM", handlers::PID);
    let scaling = json!({"minReplicas": 0, "idleTimeoutMs": 300});
    plane().register(&with(function, &json!({"scalingConfig": scaling})));
    let first = pid_of("zero");
    eventually("the old pod's process ends", || !is_alive(first));
    eventually("the function has no pod left", || {
        plane()
            .metrics()
            .sum("function_pods", &[("function", "zero")])
            == 0.0
    });
    assert_ne!(pid_of("zero"), first);
    plane().remove("zero");
}

#[test]
fn a_cold_burst_waits_and_is_not_refused() {
    let folder = ScratchFolder::create();
    let function = folder.python("burst", "WARM", handlers::ECHO);
    plane().register(&with(
        function,
        &json!({"scalingConfig": {"minReplicas": 0}}),
    ));
    let mut wires: Vec<RawClient> = (0..80)
        .map(|n| Request::invoke("burst", &json!(n)).begin(plane().listen))
        .collect();
    for (number, wire) in wires.iter_mut().enumerate() {
        assert_eq!(wire.answer().expect(200).json()["output"], number);
    }
}

#[test]
fn a_pod_has_its_functions_environment_and_folder() {
    let folder = ScratchFolder::create();
    let function = folder.python("environment", "WARM", handlers::ENVIRONMENT);
    let more = json!({"env": {"MINE": "1", "BOTH": "env"}, "runtimeMode": "STDIO"});
    let mut function = with(function, &more);
    function["local"]["env"]["BOTH"] = json!("local");
    plane().register(&function);
    let output = plane().invoke("environment", &json!(1)).expect(200).json()["output"].clone();
    let environment = &output[0];
    for (name, value) in [
        ("FUNCTION_NAME", "environment"),
        ("EXECUTION_MODE", "STDIO"),
        ("MINE", "1"),
        ("BOTH", "local"),
    ] {
        assert_eq!(environment[name], value, "{name}");
    }
    assert!(environment["NANOFAAS_SOCKET"].is_string() || environment["PORT"].is_string());
    assert_eq!(environment["CALLBACK_URL"], Value::Null);
    assert_eq!(output[1].as_str(), folder.path().to_str());
}

#[test]
fn a_leaving_caller_raises_in_a_plain_handler() {
    let folder = ScratchFolder::create();
    plane().register(&folder.python("plain-leaves", "WARM", handlers::STOPPED));
    let wire = Request::invoke("plain-leaves", &json!(1)).begin(plane().listen);
    eventually("the call has begun", || folder.read("began").is_some());
    drop(wire);
    eventually("the call is stopped", || folder.read("stopped").is_some());
    assert_eq!(folder.read("stopped").as_deref(), Some("CallerLeft"));
    plane().wait_for("plain-leaves", 0, 0);
}

#[test]
fn an_overdue_async_handler_is_cancelled() {
    let folder = ScratchFolder::create();
    plane().register(&folder.python("async-late", "WARM", handlers::STOPPED_ASYNC));
    plane().invoke("async-late", &json!(1)).expect(200);
    let late = Request::invoke("async-late", &json!(2)).header("X-Timeout-Ms", "200");
    plane()
        .send(&late)
        .expect_failure(408, "timeout", "TIMEOUT");
    eventually("the call is cancelled", || folder.read("stopped").is_some());
    plane().invoke("async-late", &json!(1)).expect(200);
}

#[test]
fn a_plain_handler_that_never_stops_is_replaced() {
    let folder = ScratchFolder::create();
    let function = folder.python("stubborn", "WARM", handlers::STUBBORN);
    plane().register(&with(function, &json!({"concurrency": 1})));
    let first = plane().invoke("stubborn", &json!(0)).expect(200).json()["output"].clone();
    let late = Request::invoke("stubborn", &json!(60)).header("X-Timeout-Ms", "200");
    plane()
        .send(&late)
        .expect_failure(408, "timeout", "TIMEOUT");
    let next = plane().invoke("stubborn", &json!(0)).expect(200).json()["output"].clone();
    assert_ne!(first, next, "another process");
}

#[test]
fn a_pod_that_was_killed_is_replaced() {
    let folder = ScratchFolder::create();
    plane().register(&folder.python("killed", "WARM", handlers::PIDS));
    for _ in 0..3 {
        let output = plane().invoke("killed", &json!(1)).expect(200).json()["output"].clone();
        let pids: Vec<i32> = serde_json::from_value(output).expect("two pids");
        pids.iter().rev().for_each(|pid| kill_now(*pid));
        eventually("the killed process has ended", || !is_alive(pids[1]));
        let next = plane().invoke("killed", &json!(1)).expect(200).json()["output"].clone();
        assert_ne!(next[0], pids[0]);
    }
}

#[test]
fn only_a_spec_that_matters_replaces_pods() {
    let folder = ScratchFolder::create();
    let function = with(
        folder.python("spec", "WARM", handlers::VERSION),
        &json!({"env": {"V": "1"}}),
    );
    plane().register(&function);
    let call = || plane().invoke("spec", &json!(1)).expect(200).json()["output"].clone();
    let first = call();
    plane().replace(&with(
        function.clone(),
        &json!({"queueSize": 5, "concurrency": 2}),
    ));
    assert_eq!(call(), first, "the same pod");
    plane().replace(&with(function, &json!({"env": {"V": "2"}})));
    eventually("the new spec's pod answers", || call()[1] == "2");
    let old = i32::try_from(first[0].as_i64().expect("a pid")).expect("a pid");
    eventually("the old pod's process ends", || !is_alive(old));
    assert_eq!(call()[1], "2");
}

#[test]
fn a_removed_functions_pods_finish_and_go() {
    let folder = ScratchFolder::create();
    plane().register(&folder.python("removed", "WARM", handlers::TAKES_ITS_TIME));
    let mut wire = Request::invoke("removed", &json!(1)).begin(plane().listen);
    eventually("the call has begun", || folder.read("began").is_some());
    plane().remove("removed");
    let pid = wire.answer().expect(200).json()["output"]
        .as_i64()
        .expect("a pid");
    eventually("the removed function's pod ends", || {
        !is_alive(i32::try_from(pid).expect("a pid"))
    });
}

#[test]
fn a_runtimes_log_line_is_kept() {
    let folder = ScratchFolder::create();
    plane().register(&folder.python("speaks", "WARM", handlers::WARNS));
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let call = Request::invoke("speaks", &json!("careful"))
        .header("traceparent", &format!("00-{trace}-b7ad6b7169203331-01"));
    let id = plane().send(&call).expect(200).id();
    let line = plane().log.wait(Duration::from_secs(10), |line| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["message"] == "careful").then_some(line)
    });
    let line = line.expect("what it said");
    assert_eq!(
        (&line["level"], &line["function"]),
        (&json!("WARN"), &json!("speaks"))
    );
    assert_eq!(
        (&line["executionId"], &line["traceId"]),
        (&json!(id), &json!(trace))
    );
    assert_eq!(line["attempt"], 1);
}

#[test]
fn printed_lines_are_logged_with_the_functions_name() {
    let folder = ScratchFolder::create();
    plane().register(&folder.python("talker", "WARM", handlers::TALKS));
    plane().invoke("talker", &json!(1)).expect(200);
    for said in ["said-on-stdout", "said-on-stderr"] {
        let line = plane().log.wait(Duration::from_secs(30), |line| {
            line.contains(said).then(|| line.to_owned())
        });
        let line = line.unwrap_or_else(|| panic!("{said} is not in the log"));
        let line: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(line["function"], "talker", "{line}");
    }
}

#[test]
fn values_that_json_cannot_carry_are_no_output() {
    let folder = ScratchFolder::create();
    plane().register(&folder.python("nan", "WARM", handlers::NAN));
    let answer = plane()
        .invoke("nan", &json!(1))
        .expect_failure(502, "error", "BAD_OUTPUT");
    let message = answer.json()["error"]["message"]
        .as_str()
        .expect("a message")
        .to_owned();
    assert!(message.contains("output.a[1]"), "{message}");
}

#[test]
fn a_crash_loop_backs_off_until_replaced() {
    let folder = ScratchFolder::create();
    let broken = folder.shell(
        "loop",
        "WARM",
        "echo x >> starts; echo cannot begin >&2; exit 1",
    );
    plane().register(&broken);
    let answer = plane().invoke("loop", &json!(1));
    let body = answer
        .expect_failure(503, "error", "COLD_START_FAILED")
        .json();
    let message = body["error"]["message"].as_str().expect("a message");
    assert!(message.contains("cannot begin"), "{message}");
    std::thread::sleep(Duration::from_millis(1500));
    let starts = folder.read("starts").map_or(0, |text| text.lines().count());
    assert!(
        (3..=10).contains(&starts),
        "{starts} starts in some two seconds"
    );
    let body = plane()
        .get("/v1/functions/loop/cold-starts")
        .expect(200)
        .json();
    // The newest start may still run, so the test reads the newest failure.
    let starts = body["coldStarts"].as_array().expect("a list");
    let failure = starts.iter().find_map(|start| start["failure"].as_str());
    let failure = failure.unwrap_or_default();
    assert!(failure.contains("cannot begin"), "{body}");
    plane().replace(&folder.python("loop", "WARM", handlers::PID));
    pid_of("loop");
}

/// The endpoint is a listener that accepts no connection, and its backlog is full.
#[test]
fn an_unaccepted_connection_is_given_up_in_time() {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket,
    };
    use std::os::fd::AsRawFd;
    let none = SockFlag::SOCK_CLOEXEC;
    let hole = socket(AddressFamily::Inet, SockType::Stream, none, None).expect("a socket");
    bind(hole.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).expect("a free port");
    listen(&hole, Backlog::new(0).expect("a backlog")).expect("it listens");
    let at: SockaddrIn = getsockname(hole.as_raw_fd()).expect("its address");
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], at.port()));
    let patience = Duration::from_millis(200);
    let _filled: Vec<_> = (0..4)
        .map(|_| std::net::TcpStream::connect_timeout(&address, patience))
        .collect();
    let plane = ControlPlane::start(&["--connect-timeout-ms", "300"]);
    plane.register(&json!({
        "name": "hole", "executionMode": "POOL", "endpointUrl": format!("http://{address}/"),
        "maxRetries": 1, "timeoutMs": 20000,
    }));
    let answer = plane.invoke("hole", &json!(1));
    let failure = answer
        .expect_failure(502, "error", "POD_UNREACHABLE")
        .json();
    let message = failure["error"]["message"].as_str().expect("a message");
    assert!(message.contains("timed out"), "{message}");
}
