//! These tests check what an operator of a running plane uses: health, metrics, logs, and shutdown.

use std::time::Duration;

use nanofaas_testkit::client::{RawClient, Request};
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::form::io_driver;
use nanofaas_testkit::functions::{local, pool, with};
use nanofaas_testkit::pod::ScriptedPod;
use nanofaas_testkit::process::is_alive;
use nanofaas_testkit::wait::{Gate, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane = SharedControlPlane::new(&["--rate-max-per-second", "off"]);
    PLANE.get()
}

#[test]
fn health_is_up_under_every_name() {
    for path in [
        "/actuator/health",
        "/actuator/health/liveness",
        "/actuator/health/readiness",
        "/healthz",
        "/readyz",
    ] {
        let answer = Request::get(path).send(plane().management).expect(200);
        assert_eq!(answer.json(), json!({"status": "UP"}), "{path}");
    }
    Request::get("/v1/functions")
        .send(plane().management)
        .expect(404);
}

#[test]
fn metrics_count_from_a_functions_first_call() {
    let name = [("function", "counted")];
    plane().register(&local("counted"));
    assert!(
        !plane().metrics().has("function_enqueue_total", &name),
        "before its first call"
    );
    for _ in 0..3 {
        plane().invoke("counted", &json!(1)).expect(200);
    }
    // With a pinned scheduler, the end of the last call is counted shortly after the client has the answer.
    eventually("nothing runs", || {
        plane().metrics().sum("function_inFlight", &name) == 0.0
    });
    let metrics = plane().metrics();
    for counter in ["enqueue", "dispatch", "success"] {
        assert_eq!(
            metrics.sum(&format!("function_{counter}_total"), &name),
            3.0,
            "{counter}"
        );
    }
    for counter in [
        "error",
        "timeout",
        "retry",
        "queue_rejected",
        "cold_start",
        "warm_start",
    ] {
        assert!(
            metrics.has(&format!("function_{counter}_total"), &name),
            "{counter}"
        );
    }
    for gauge in ["function_queue_depth", "function_inFlight"] {
        assert_eq!(
            (metrics.has(gauge, &name), metrics.sum(gauge, &name)),
            (true, 0.0),
            "{gauge}"
        );
    }
    for histogram in ["queue_wait", "start_wait", "dispatch", "handler", "e2e"] {
        let base = format!("function_{histogram}_seconds");
        assert!(metrics.has(&format!("{base}_sum"), &name), "{base}");
        let all = [name[0], ("le", "+Inf")];
        let (bucket, count) = (format!("{base}_bucket"), format!("{base}_count"));
        assert_eq!(
            metrics.sum(&bucket, &all),
            metrics.sum(&count, &name),
            "{base}"
        );
        assert!(
            metrics.has(&bucket, &[name[0], ("le", "0.00001")]),
            "{base}"
        );
        assert!(metrics.has(&bucket, &[name[0], ("le", "60")]), "{base}");
        assert!(
            metrics.text.contains(&format!("# TYPE {base} histogram")),
            "{base}"
        );
    }
    assert_eq!(metrics.sum("function_e2e_seconds_count", &name), 3.0);
    for single in [
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
        "nanofaas_build_info",
        "nanofaas_io_driver",
    ] {
        assert!(metrics.has(single, &[]), "{single}");
    }
    let driver = io_driver();
    if driver != "auto" {
        assert_eq!(
            metrics.sum("nanofaas_io_driver", &[("driver", &driver)]),
            1.0
        );
    }
    let other = Request::get("/actuator/prometheus")
        .send(plane().management)
        .expect(200);
    assert!(
        other
            .header("content-type")
            .is_some_and(|kind| kind.starts_with("text/plain"))
    );
    assert!(
        other
            .text()
            .contains("function_enqueue_total{function=\"counted\"} 3")
    );
}

#[test]
fn surplus_functions_are_summed_in_metrics() {
    let plane = ControlPlane::start(&["--metrics-functions-max", "1"]);
    for name in ["first", "second", "third"] {
        plane.register(&local(name));
        plane.invoke(name, &json!(1)).expect(200);
    }
    let metrics = plane.metrics();
    assert_eq!(
        metrics.sum("function_success_total", &[("function", "_other")]),
        2.0
    );
    assert_eq!(metrics.sum("function_success_total", &[]), 3.0);
}

#[test]
fn the_ledger_adds_up() {
    let plane = ControlPlane::start(&[]);
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane.register(&pool("ledger", &pod));
    let mut wires: Vec<RawClient> = (0..5)
        .map(|n| Request::invoke("ledger", &json!(n)).begin(plane.listen))
        .collect();
    plane.wait_for("ledger", 4, 1);
    let part = |part: &str| {
        plane
            .metrics()
            .sum(&format!("nanofaas_executions_{part}"), &[])
    };
    assert_eq!(
        ["accepted", "finished", "waiting", "running"].map(part),
        [5.0, 0.0, 4.0, 1.0]
    );
    gate.open();
    wires
        .iter_mut()
        .for_each(|wire| _ = wire.answer().expect(200));
    plane.settle();
    assert_eq!(
        ["accepted", "finished", "waiting", "running"].map(part),
        [5.0, 5.0, 0.0, 0.0]
    );
}

#[test]
fn log_lines_are_json_and_warm_calls_silent() {
    let plane = ControlPlane::start(&["--log-level", "debug"]);
    let pod = ScriptedPod::echo();
    plane.register(&pool("quiet", &pod));
    plane.invoke("quiet", &json!(1)).expect(200);
    std::thread::sleep(Duration::from_millis(200));
    let before = plane.log.lines().len();
    for _ in 0..50 {
        plane.invoke("quiet", &json!(1)).expect(200);
    }
    std::thread::sleep(Duration::from_millis(200));
    let lines = plane.log.lines();
    assert_eq!(lines.len(), before, "{:?}", &lines[before..]);
    for line in &lines {
        let parsed: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("JSON: {line}"));
        for field in ["timestamp", "level", "message"] {
            assert!(parsed[field].is_string(), "{field} in {line}");
        }
    }
}

#[test]
fn both_signals_end_an_idle_plane_cleanly() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let plane = ControlPlane::start(&[]);
        plane.register(&local("idle"));
        plane.invoke("idle", &json!(1)).expect(200);
        // A client's idle connection must not keep the process alive.
        let idle = RawClient::connect(plane.listen);
        plane.signal(signal);
        let status = plane
            .exit_within(Duration::from_secs(20))
            .expect("it exits");
        assert_eq!(status.code(), Some(0), "{signal}");
        drop(idle);
    }
}

#[test]
fn a_drain_ends_calls_and_takes_none() {
    let plane = ControlPlane::start(&["--drain-ms", "60000"]);
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane.register(&pool("drain", &pod));
    plane.register(&local("other"));
    let mut kept = RawClient::connect(plane.listen);
    kept.send(&Request::invoke("other", &json!(1)).bytes());
    kept.answer().expect(200);
    let mut running = Request::invoke("drain", &json!("running")).begin(plane.listen);
    pod.wait_calls(1);
    let id = plane.enqueue("drain", &json!("queued"));
    plane.wait_for("drain", 1, 1);
    plane.signal(Signal::SIGTERM);
    eventually("readiness goes down", || {
        Request::get("/readyz").send(plane.management).status == 503
    });
    Request::get("/healthz").send(plane.management).expect(200);
    let answer = plane.invoke("other", &json!(1));
    answer.expect_error(503, "SHUTTING_DOWN");
    kept.send(&Request::enqueue("other", &json!(1)).bytes());
    kept.answer().expect_error(503, "SHUTTING_DOWN");
    let function = Request::new("POST", "/v1/functions").json(&local("late"));
    plane.send(&function).expect_error(503, "SHUTTING_DOWN");
    assert_eq!(plane.status(&id)["status"], "queued");
    let mut waiting =
        Request::get(&format!("/v1/executions/{id}?waitMs=50000")).begin(plane.listen);
    gate.open();
    assert_eq!(running.answer().expect(200).json()["output"], "running");
    assert_eq!(waiting.answer().expect(200).json()["output"], "queued");
    let status = plane
        .exit_within(Duration::from_secs(30))
        .expect("it exits");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_second_signal_does_not_wait_any_longer() {
    let plane = ControlPlane::start(&["--drain-ms", "600000"]);
    let pod = ScriptedPod::held(&Gate::default());
    plane.register(&pool("impatient", &pod));
    let _running = Request::invoke("impatient", &json!(1)).begin(plane.listen);
    pod.wait_calls(1);
    plane.signal(Signal::SIGTERM);
    eventually("readiness goes down", || {
        Request::get("/readyz").send(plane.management).status == 503
    });
    plane.signal(Signal::SIGTERM);
    assert!(
        plane.exit_within(Duration::from_secs(30)).is_some(),
        "it does not exit"
    );
}

#[test]
fn missing_descriptors_pause_accepting_and_stop_nothing() {
    let plane = ControlPlane::start_in_shell("ulimit -n 160; exec \"$@\"", &["--backend", "none"]);
    plane.register(&local("scarce"));
    let many: Vec<RawClient> = (0..300).map(|_| RawClient::connect(plane.listen)).collect();
    // The plane may close an idle connection to free its descriptor, so each call uses a new connection.
    for _ in 0..5 {
        plane.invoke("scarce", &json!(1)).expect(200);
    }
    let said = plane.log.wait(Duration::from_secs(30), |line| {
        (line.contains("WARN") || line.contains("ERROR")).then(|| line.to_owned())
    });
    assert!(said.is_some(), "no log line about missing descriptors");
    drop(many);
    plane.invoke("scarce", &json!(1)).expect(200);
}

#[test]
fn a_signal_ends_running_functions_with_the_plane() {
    let plane = ControlPlane::start(&["--drain-ms", "300"]);
    let folder = ScratchFolder::create();
    let script = "echo $$ > pid.part; mv pid.part pid; exec sleep 600";
    plane.register(&with(
        folder.shell("left", "JOB", script),
        &json!({"maxRetries": 0}),
    ));
    let id = plane.enqueue("left", &json!(1));
    eventually("the Job's process runs", || folder.read("pid").is_some());
    let pid = folder
        .read("pid")
        .and_then(|pid| pid.trim().parse().ok())
        .expect("a pid");
    let path = format!("/v1/executions/{id}?waitMs=50000");
    let mut waiting = Request::get(&path).begin(plane.listen);
    plane.signal(Signal::SIGTERM);
    let ended = waiting.answer().expect(200).json();
    assert_eq!(ended["error"]["code"], "SHUTDOWN", "{ended}");
    let status = plane
        .exit_within(Duration::from_secs(20))
        .expect("it exits");
    assert_eq!(status.code(), Some(0));
    eventually("the Job's process is ended", || !is_alive(pid));
}

#[test]
fn a_thread_that_spins_serves_on() {
    let plane = ControlPlane::start(&["--io-spin-us", "10000"]);
    plane.register(&local("spinning"));
    for number in 0..50 {
        let answer = plane.invoke("spinning", &json!(number)).expect(200);
        assert_eq!(answer.json()["output"], number);
    }
}
