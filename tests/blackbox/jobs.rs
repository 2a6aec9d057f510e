//! These tests run Jobs as processes of this machine. Each call has one process, which gets the call's data
//! in its environment and ends with the call.

use std::time::Duration;

use nanofaas_testkit::client::Request;
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::functions::with;
use nanofaas_testkit::process::is_alive;
use nanofaas_testkit::wait::eventually;
use serde_json::{Value, json};

use crate::handlers;
use crate::idle_job::{IDLES, IdleJob, success};

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane =
        SharedControlPlane::new(&["--rate-max-per-second", "off", "--max-response", "64KiB"]);
    PLANE.get()
}

#[test]
fn each_call_is_a_process_of_its_own() {
    let folder = ScratchFolder::create();
    plane().register(&folder.python("job", "JOB", handlers::JOB));
    let body = json!({"input": {"a": 1}, "metadata": {"m": "n"}});
    let request = Request::new("POST", "/v1/functions/job:invoke").json(&body);
    let first = plane().send(&request).expect(200).json()["output"].clone();
    let second = plane().send(&request).expect(200).json()["output"].clone();
    assert_ne!(first[0], second[0]);
    assert_eq!(
        (&first[1], &first[2], &first[3]),
        (&json!({"a": 1}), &json!(1), &json!({"m": "n"}))
    );
    let pid = i32::try_from(second[0].as_i64().expect("a pid")).expect("a pid");
    eventually("the Job's process ends", || !is_alive(pid));
    let id = plane().enqueue("job", &json!(2));
    let ended = plane().ended(&id);
    assert_eq!(
        (&ended["output"][1], &ended["coldStart"]),
        (&json!(2), &json!(true))
    );
    plane().wait_for("job", 0, 0);
    let metrics = plane().metrics();
    let starts = ["cold", "warm"].map(|kind| {
        metrics.sum(
            &format!("function_{kind}_start_total"),
            &[("function", "job")],
        )
    });
    assert_eq!(starts, [3.0, 0.0], "each call starts a process");
}

#[test]
fn a_timestamp_that_is_null_is_not_known() {
    let folder = ScratchFolder::create();
    let function = folder.shell("job-null", "JOB", IDLES);
    plane().register(&function);
    let mut wire = Request::invoke("job-null", &json!(1)).begin(plane().listen);
    let job = IdleJob::of(&folder);
    let mut result = success(json!("done"));
    for name in ["startedAt", "loadedAt", "readyAt"] {
        result[name] = Value::Null;
    }
    job.post(plane(), &result).expect(204);
    assert_eq!(wire.answer().expect(200).json()["output"], "done");
}

#[test]
fn a_job_that_raises_is_a_handlers_error() {
    let folder = ScratchFolder::create();
    plane().register(&folder.python("job-raises", "JOB", handlers::RAISES));
    let answer = plane().invoke("job-raises", &json!(1));
    let body = answer.expect_failure(500, "error", "HANDLER_ERROR").json();
    assert_eq!(body["error"]["message"], "ValueError: not that");
}

#[test]
fn an_exit_without_a_callback_is_pod_lost() {
    let folder = ScratchFolder::create();
    let script = "echo x >> runs; exit 0";
    let function = folder.shell("job-exits", "JOB", script);
    plane().register(&with(function.clone(), &json!({"maxRetries": 0})));
    plane()
        .invoke("job-exits", &json!(1))
        .expect_failure(502, "error", "POD_LOST");
    assert_eq!(folder.read("runs").as_deref(), Some("x\n"));
    plane().replace(&with(function, &json!({"maxRetries": 5})));
    plane()
        .invoke("job-exits", &json!(1))
        .expect_failure(502, "error", "POD_LOST");
    assert_eq!(
        folder.read("runs").as_deref(),
        Some("x\nx\nx\n"),
        "tried again once"
    );
}

#[test]
fn a_lost_worker_is_retried_once() {
    let folder = ScratchFolder::create();
    plane().register(&folder.shell("job-tells", "JOB", IDLES));
    let mut wire = Request::invoke("job-tells", &json!(1)).begin(plane().listen);
    let error = json!({"code": "POD_LOST", "message": "the worker exited with status 3"});
    let lost = json!({"success": false, "error": error});
    IdleJob::of(&folder).post(plane(), &lost).expect(204);
    let environment = || folder.read("env.txt").unwrap_or_default();
    eventually("the second attempt starts", || {
        environment().contains("DISPATCH_ATTEMPT=2")
    });
    IdleJob::of(&folder).post(plane(), &lost).expect(204);
    let answer = wire
        .answer()
        .expect_failure(502, "error", "POD_LOST")
        .json();
    assert_eq!(answer["error"], error);
}

#[test]
fn a_deadline_or_cancel_ends_the_job() {
    let folder = ScratchFolder::create();
    let script = "echo $$ > pid.part; mv pid.part pid; exec sleep 60";
    plane().register(&folder.shell("job-late", "JOB", script));
    let pid = || -> i32 {
        eventually("the Job's process runs", || folder.read("pid").is_some());
        let text = folder.read("pid").expect("a pid");
        std::fs::remove_file(folder.path().join("pid")).expect("a file");
        text.trim().parse().expect("a pid")
    };
    // The deadline leaves enough time for the start of a process, also while other tests run.
    let late = Request::invoke("job-late", &json!(1)).header("X-Timeout-Ms", "5000");
    let mut wire = late.begin(plane().listen);
    let running = pid();
    wire.answer().expect_failure(408, "timeout", "TIMEOUT");
    eventually("the Job's process is ended", || !is_alive(running));
    let id = plane().enqueue("job-late", &json!(1));
    let running = pid();
    plane().cancel(&id).expect(202);
    assert_eq!(plane().ended(&id)["error"]["code"], "CANCELLED");
    eventually("the Job's process is ended", || !is_alive(running));
    let wire = Request::invoke("job-late", &json!(1)).begin(plane().listen);
    let running = pid();
    drop(wire);
    eventually("the Job's process is ended", || !is_alive(running));
    plane().wait_for("job-late", 0, 0);
}

#[test]
fn a_job_knows_how_much_time_it_has() {
    let folder = ScratchFolder::create();
    plane().register(&with(
        folder.shell("job-env", "JOB", IDLES),
        &json!({"timeoutMs": 40_000}),
    ));
    let request = Request::invoke("job-env", &json!("x")).header("X-Trace-Id", "t-1");
    let wire = request.begin(plane().listen);
    let job = IdleJob::of(&folder);
    let text = folder.read("env.txt").expect("an environment");
    let value = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.unwrap_or_default().to_owned()
    };
    assert_eq!(value("DISPATCH_ATTEMPT"), "1");
    assert_eq!(value("TRACE_ID"), "t-1");
    assert_eq!(value("FUNCTION_NAME"), "job-env");
    assert_eq!(value("INVOCATION_PAYLOAD"), r#"{"input":"x"}"#);
    let left = value("INVOCATION_TIMEOUT_MS").parse::<u64>().ok();
    assert!(
        left.is_some_and(|ms| (20_000..=40_000).contains(&ms)),
        "{left:?}"
    );
    assert!(job.token().starts_with("1."));
    drop(wire);
    std::thread::sleep(Duration::from_millis(10));
}
