//! These tests change, evict and kill warm pods while 32 clients make one call after another.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{NAMESPACE, kubectl, pods_of, staying, until};
use crate::load::Load;
use crate::node;
use crate::plane::{RunningPlane, image, plane, spec};

const CLIENTS: usize = 32;
const STEP: Duration = Duration::from_secs(90);
/// A number of calls that is so large that every pod serves some.
const SOME: u64 = 300;

fn busy(more: Value) -> Value {
    let mut fields = json!({
        "concurrency": 8, "timeoutMs": 20000,
        "scalingConfig": {"minReplicas": 1, "maxReplicas": 4},
    });
    let all = fields.as_object_mut().expect("an object");
    all.extend(more.as_object().expect("an object").clone());
    spec("busy", "WARM", fields)
}

/// Registers a function and puts its four pods under load.
fn begin(plane: &RunningPlane, more: Value) -> Load {
    plane.register(&busy(more));
    let load = Load::start(
        plane.api,
        CLIENTS,
        "busy",
        &json!({"do": "sleep", "ms": 20}),
    );
    plane.wait_for_pods("busy", 4, STEP);
    load.go_on(SOME, STEP);
    load
}

#[track_caller]
fn end(plane: &RunningPlane, load: Load) {
    load.go_on(SOME, STEP);
    load.end().expect_no_failure();
    plane.expect_no_drift();
}

pub(crate) fn rolling_updates_and_scale_downs_fail_no_call() {
    let plane = plane();
    let load = begin(&plane, json!({}));
    for tag in [2, 1] {
        plane.replace(&busy(json!({"image": image(tag)})));
        until("all pods have the new image", STEP, || {
            let pods = staying("busy");
            !pods.is_empty() && pods.iter().all(|pod| pod.image == image(tag))
        });
    }
    plane.wait_for_pods("busy", 4, STEP);
    for most in [1, 4, 2] {
        let scaling = json!({"minReplicas": 1, "maxReplicas": most});
        plane.replace(&busy(json!({"scalingConfig": scaling})));
        plane.wait_for_pods("busy", most, STEP);
        load.go_on(SOME, STEP);
    }
    end(&plane, load);
}

pub(crate) fn deleted_pods_fail_no_call() {
    let plane = plane();
    let load = begin(&plane, json!({"retryOn": []}));
    for _ in 0..3 {
        let pod = staying("busy").remove(0).name;
        kubectl(&["-n", NAMESPACE, "delete", "pod", &pod, "--wait=false"]);
        until("another pod takes its place", STEP, || {
            let pods = staying("busy");
            pods.len() == 4 && pods.iter().all(|one| one.name != pod)
        });
        plane.wait_for_pods("busy", 4, STEP);
    }
    end(&plane, load);
}

/// Dropping this value allows pods on the node again, even if the test fails.
struct Uncordon(String);

impl Drop for Uncordon {
    fn drop(&mut self) {
        kubectl(&["uncordon", &self.0]);
    }
}

/// The cluster has only one node, so the new pods tolerate its cordon.
pub(crate) fn a_node_drain_fails_no_retriable_call() {
    let plane = plane();
    let tolerated = json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule",
        "operator": "Exists"});
    let template = json!({"spec": {"tolerations": [tolerated]}});
    let load = begin(&plane, json!({"retryOn": ["POD"], "podTemplate": template}));
    let before: Vec<String> = staying("busy").into_iter().map(|pod| pod.name).collect();
    let node = staying("busy").remove(0).object["spec"]["nodeName"].clone();
    let node = node.as_str().expect("it has a node").to_owned();
    let uncordon = Uncordon(node.clone());
    let ours = "--pod-selector=nanofaas.io/function=busy";
    // Without --force, the command fails if the pods have no controller.
    let said = kubectl(&["drain", &node, ours, "--timeout=90s"]);
    println!("    {}", said.lines().last().unwrap_or_default());
    for name in &before {
        assert!(said.contains(&format!("pod/{name} evicted")), "{said}");
    }
    let is_left = |name: &String| pods_of("busy").iter().any(|pod| pod.name == *name);
    assert!(!before.iter().any(is_left), "{said}");
    plane.wait_for_pods("busy", 4, STEP);
    drop(uncordon);
    end(&plane, load);
}

pub(crate) fn killed_pods_fail_no_retriable_call() {
    node::needs_this_machine();
    let plane = plane();
    let load = begin(&plane, json!({"retryOn": ["POD"]}));
    for _ in 0..3 {
        let pod = staying("busy").remove(0).name;
        node::kill_pod(&pod);
        until("the killed pod is gone", STEP, || {
            staying("busy").iter().all(|one| one.name != pod)
        });
        plane.wait_for_pods("busy", 4, STEP);
    }
    end(&plane, load);
}

pub(crate) fn killed_pods_fail_only_the_calls_in_them() {
    node::needs_this_machine();
    let plane = plane();
    let load = begin(&plane, json!({"retryOn": []}));
    for _ in 0..3 {
        let pod = staying("busy").remove(0).name;
        node::kill_pod(&pod);
        until("the killed pod is gone", STEP, || {
            staying("busy").iter().all(|one| one.name != pod)
        });
        plane.wait_for_pods("busy", 4, STEP);
    }
    load.go_on(SOME, STEP);
    let report = load.end();
    assert_eq!(report.unanswered, 0, "{report:#?}");
    // Three pods were killed, and a pod runs one call at a time, so at most three calls may fail.
    assert!(report.failures() <= 3, "{report:#?}");
    let is_lost = |what: &String| what == "502 POD_LOST";
    assert!(report.bad.keys().all(is_lost), "{report:#?}");
    plane.expect_no_drift();
}
