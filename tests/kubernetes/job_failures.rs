//! These tests make JOB calls whose pods die. The call's error has the cluster's reason, and the call runs
//! again only if another attempt may succeed.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{jobs_of, pods_of, until};
use crate::node;
use crate::plane::{image, output, plane, spec};

const GONE: Duration = Duration::from_secs(30);

#[track_caller]
fn message(body: &Value) -> &str {
    body["error"]["message"].as_str().expect("a message")
}

pub(crate) fn a_crash_before_the_callback_reports_its_output() {
    let plane = plane();
    plane.register(&spec("crashes", "JOB", json!({"retryOn": []})));
    // The runtime in the container posts how its worker ended.
    let input = json!({"do": "crash", "words": "the disk is on fire"});
    let body = plane.invoke("crashes", &input);
    let body = body.expect_failure(502, "error", "POD_LOST").json();
    assert!(message(&body).contains("status 3"), "{body}");
    // This container has no runtime, so the error contains the last lines of the container's log.
    let command = json!(["sh", "-c", "echo the disk is on fire >&2; exit 3"]);
    let fields = json!({"retryOn": [], "command": command});
    plane.register(&spec("burns", "JOB", fields));
    let body = plane.invoke("burns", &json!(1));
    let body = body.expect_failure(502, "error", "POD_LOST").json();
    assert!(message(&body).contains("the disk is on fire"), "{body}");
    // A container without a runtime posts no result, even if it exits with 0.
    let command = json!(["sh", "-c", "echo not a runtime >&2; exit 0"]);
    plane.register(&spec(
        "mute",
        "JOB",
        json!({"retryOn": [], "command": command}),
    ));
    let body = plane.invoke("mute", &json!(1));
    body.expect_failure(502, "error", "POD_LOST");
    until("the call's Job and pod are gone", GONE, || {
        pods_of("crashes").is_empty()
    });
}

pub(crate) fn a_workers_out_of_memory_is_not_retried() {
    let plane = plane();
    let fields = json!({"resources": {"memory": "96Mi"}, "retryOn": ["POD", "ERROR"],
        "maxRetries": 0});
    plane.register(&spec("eats", "JOB", fields));
    let id = plane.enqueue("eats", &json!({"do": "eat", "mib": 500}));
    let ended = plane.ended(&id);
    assert_eq!(ended["status"], "error", "{ended}");
    let code = ended["error"]["code"].as_str().expect("a code");
    // The code depends on whether the runtime or the cluster reports the worker's death first.
    let is_told = code == "OOM" || (code == "POD_LOST" && message(&ended).contains("OOMKilled"));
    assert!(is_told, "{ended}");
    assert_eq!(ended["attempt"], 1, "{ended}");
}

pub(crate) fn a_containers_out_of_memory_is_not_retried() {
    let plane = plane();
    let command = json!([
        "python3",
        "-c",
        "x = [bytearray(b'\\xff' * 2**20) for _ in range(500)]"
    ]);
    let fields = json!({"resources": {"memory": "64Mi"}, "command": command,
        "retryOn": ["POD"], "maxRetries": 3});
    plane.register(&spec("bursts", "JOB", fields));
    let id = plane.enqueue("bursts", &json!(1));
    let ended = plane.ended(&id);
    assert_eq!(ended["error"]["code"], "POD_LOST", "{ended}");
    assert!(message(&ended).contains("OOMKilled"), "{ended}");
    assert_eq!(ended["attempt"], 1, "{ended}");
    until("the call's Job is gone", GONE, || {
        jobs_of("bursts").is_empty()
    });
}

pub(crate) fn a_lost_pod_is_retried_once() {
    node::needs_this_machine();
    let plane = plane();
    let fields = json!({"timeoutMs": 60000, "image": image(1)});
    plane.register(&spec("retried", "JOB", fields));
    let id = plane.enqueue("retried", &json!({"do": "sleep", "ms": 3000}));
    until("the call's pod runs", GONE, || {
        !node::processes("EXECUTION_ID", &id).is_empty()
    });
    node::kill_all(&node::processes("EXECUTION_ID", &id));
    let ended = plane.ended(&id);
    assert_eq!(
        (&ended["status"], &ended["attempt"]),
        (&json!("success"), &json!(2)),
        "{ended}"
    );
    assert_eq!(ended["output"]["attempt"], 2, "{ended}");
    let again = plane.invoke("retried", &json!({"do": "echo", "value": 1}));
    assert_eq!(output(again)["attempt"], 1);
}
