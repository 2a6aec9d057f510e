//! These tests end pods and their workers by a lack of memory, by a crash, or during a start that hangs. They
//! also check that only the pod itself can report that it is ready.

use nanofaas_testkit::client::Request;
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::functions::with;
use nanofaas_testkit::process::is_alive;
use nanofaas_testkit::wait::eventually;
use serde_json::{Value, json};

use crate::handlers;

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane = SharedControlPlane::new(&["--rate-max-per-second", "off"]);
    PLANE.get()
}

#[test]
fn a_killed_worker_is_oom_and_not_retried() {
    let folder = ScratchFolder::create();
    let function = folder.python("oom", "WARM", handlers::DIES);
    plane().register(&with(
        function,
        &json!({"maxRetries": 5, "retryOn": ["POD"]}),
    ));
    let answer = plane().invoke("oom", &json!("kill"));
    answer.expect_failure(500, "error", "OOM");
    assert_eq!(folder.read("runs").as_deref(), Some("x"));
    assert_eq!(
        plane().invoke("oom", &json!(1)).expect(200).json()["output"],
        1
    );
}

#[test]
fn an_exiting_worker_is_replaced_its_call_lost() {
    let folder = ScratchFolder::create();
    let function = folder.python("exits", "WARM", handlers::DIES);
    plane().register(&with(function, &json!({"maxRetries": 0})));
    let answer = plane().invoke("exits", &json!("exit"));
    answer.expect_failure(502, "error", "POD_LOST");
    assert_eq!(folder.read("runs").as_deref(), Some("x"));
    // A call before the next worker is ready fails with 502, because the function has no retries.
    eventually("another worker answers", || {
        let answer = plane().invoke("exits", &json!(2));
        assert!(matches!(answer.status, 200 | 502), "{}", answer.text());
        answer.status == 200 && answer.json()["output"] == 2
    });
}

#[test]
fn a_pod_serves_on_after_a_lost_worker() {
    let folder = ScratchFolder::create();
    let function = folder.program("tells", "WARM", handlers::TELLS_OF_ITS_WORKER);
    plane().register(&with(function.clone(), &json!({"maxRetries": 0})));
    let pid = plane().invoke("tells", &json!(0)).expect(200).json()["output"].clone();
    let answer = plane().invoke("tells", &json!(1));
    let answer = answer.expect_failure(502, "error", "POD_LOST").json();
    let message = "the worker exited with status 3";
    assert_eq!(answer["error"]["message"], message);
    let again = plane().invoke("tells", &json!(0)).expect(200).json();
    assert_eq!(again["output"], pid, "the same pod");
    // The pod reports the end of its worker, so the next attempt starts at once. Without this report, the
    // call would wait two seconds for the end of the pod.
    plane().replace(&with(function, &json!({"maxRetries": 5})));
    let once = Request::invoke("tells", &json!(1)).header("X-Timeout-Ms", "1500");
    plane().send(&once).expect(200);
    let runs = || folder.read("runs").map_or(0, |runs| runs.len());
    let before = runs();
    let always = plane().invoke("tells", &json!(9));
    always.expect_failure(502, "error", "POD_LOST");
    assert_eq!(runs(), before + 2, "tried again once");
}

#[test]
fn a_slow_start_is_given_up_and_ended() {
    let plane = ControlPlane::start(&["--start-timeout-ms", "300"]);
    let folder = ScratchFolder::create();
    let script = "echo still thinking >&2; echo $$ >> pids; exec sleep 600";
    plane.register(&folder.shell("hangs", "WARM", script));
    let answer = plane.invoke("hangs", &json!(1));
    answer.expect_failure(503, "error", "COLD_START_FAILED");
    plane.remove("hangs");
    let text = folder.read("pids").expect("pids");
    for pid in text.lines().map(|line| line.parse().expect("a pid")) {
        eventually("the hanging process is ended", || !is_alive(pid));
    }
}

#[test]
fn only_the_pod_can_report_itself_ready() {
    let folder = ScratchFolder::create();
    plane().register(&folder.python("ready", "WARM", handlers::READY_URL));
    let answer = plane().invoke("ready", &json!(1)).expect(200).json();
    let url = answer["output"].as_str().expect("a URL");
    let path = &url[url.find("/v1/internal/").expect("an internal path")..];
    let post =
        |path: &str, body: &Value| plane().send(&Request::new("POST", path).json(body)).status;
    let timestamps = json!({"startedAt": 1, "loadedAt": 2, "readyAt": 3});
    assert_eq!(post(path, &timestamps), 204);
    assert_eq!(post(path, &json!({})), 204);
    let nulls = json!({"startedAt": null, "loadedAt": null, "readyAt": null});
    assert_eq!(post(path, &nulls), 204);
    assert_eq!(post(path, &json!([])), 400);
    let token = path.split('/').nth(3).expect("a token");
    for foreign in [
        path.replace(token, "x"),
        path.replace(token, &token[1..]),
        path.replace("fn-ready-", "fn-steady-"),
        path.replace(":ready", "0:ready"),
    ] {
        assert_eq!(post(&foreign, &timestamps), 403, "{foreign}");
    }
    let again = plane().invoke("ready", &json!(1)).expect(200).json();
    assert_eq!(again["output"], answer["output"], "the pod serves on");
}
