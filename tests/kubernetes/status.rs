//! These tests check the status of functions, their Events, and the `kubectl` commands that use them: `wait`,
//! `describe`, `scale`, `explain`.

use std::time::Duration;

use nanofaas_testkit::client::Request;
use serde_json::{Value, json};

use crate::cluster::{
    NAMESPACE, apply, ask, function, kubectl, kubectl_with, list, shown, staying, until, wait,
};
use crate::plane::{image, manifest, output, plane, was_cold};

/// The time that a start, a failed pull or the end of a container may take.
const START: Duration = Duration::from_secs(60);
const ABSENT: &str = "localhost/there-is-no-such-image:1";

/// Makes a WARM function that keeps `pods` pods.
fn keeping(name: &str, pods: u32, more: &Value) -> Value {
    let mut fields = json!({"scalingConfig": {"minReplicas": pods, "maxReplicas": 4}});
    let all = fields.as_object_mut().expect("an object");
    all.extend(more.as_object().expect("an object").clone());
    manifest(name, "WARM", fields)
}

/// Waits until a function's condition `Ready` is false for this reason. Returns the function's status.
#[track_caller]
fn not_ready(name: &str, reason: &str) -> Value {
    let what = format!("{name} is not ready for the reason {reason}");
    let status = wait(&what, START, || {
        let status = function(name)?["status"].take();
        let conditions = status["conditions"].as_array()?;
        let ready = conditions.iter().find(|one| one["type"] == "Ready")?;
        (ready["status"] == "False" && ready["reason"] == reason).then_some(status)
    });
    println!("    {name}: {}", status["conditions"][1]["message"]);
    status
}

#[track_caller]
fn event(name: &str, reason: &str) -> Value {
    let path = format!(
        "/api/v1/namespaces/{NAMESPACE}/events?fieldSelector=involvedObject.kind%3DFunction,\
         involvedObject.name%3D{name},reason%3D{reason}"
    );
    let what = format!("{name} has an Event {reason}");
    wait(&what, START, || list(&path).pop())
}

#[track_caller]
fn wait_until_ready(name: &str) {
    let of = format!("fn/{name}");
    let ready = ["--for=condition=Ready", "--timeout=60s"];
    kubectl(&[&["-n", NAMESPACE, "wait", &of][..], &ready[..]].concat());
}

pub(crate) fn kubectl_waits_for_each_specs_readiness() {
    let plane = plane();
    for tag in [1, 2] {
        apply(&keeping("waited", 1, &json!({"image": image(tag)}))).expect("a good one");
        wait_until_ready("waited");
        let pods = staying("waited");
        let of_this = pods.iter().find(|pod| pod.image == image(tag));
        assert!(of_this.is_some(), "no pod of the image {tag} is there");
        // The pod's ready report reaches the plane up to a second before the cluster shows that the pod is
        // ready, so the call is warm.
        let answer = plane.invoke("waited", &json!({"do": "echo", "value": tag}));
        assert!(!was_cold(&answer), "it waited for a start");
        assert_eq!(output(answer)["echo"], tag);
    }
    assert_eq!(shown("waited", "READY"), "True");
    assert_eq!(shown("waited", "REASON"), "PodsReady");
    for (name, mode) in [("waited-job", "JOB"), ("waited-local", "LOCAL")] {
        apply(&manifest(name, mode, json!({}))).expect("a good one");
        wait_until_ready(name);
    }
    apply(&keeping("waited-zero", 0, &json!({}))).expect("a good one");
    wait_until_ready("waited-zero");
    // The edited spec is not accepted. `kubectl wait` must fail although the last accepted spec still serves
    // calls.
    let wrong = json!({"image": image(2), "env": {"PORT": "1"}});
    apply(&keeping("waited", 1, &wrong)).expect("the schema does not know");
    let of = ["-n", NAMESPACE, "wait", "fn/waited"];
    let ready = ["--for=condition=Ready", "--timeout=3s"];
    let waited = kubectl_with(&[&of[..], &ready[..]].concat(), "");
    assert!(!waited.status.success(), "{waited:?}");
}

pub(crate) fn an_unpullable_image_shows_in_status_and_event() {
    plane();
    // The kubelet repeats the pull of this image, so the start has not failed yet.
    apply(&keeping("delayed", 1, &json!({"image": ABSENT}))).expect("a good one");
    let status = not_ready("delayed", "ImagePull");
    assert!(status["lastFailedStart"].is_null(), "{status}");
    let held_up = event("delayed", "StartHeldUp");
    let message = held_up["message"].as_str().unwrap_or_default();
    assert!(message.contains("there-is-no-such-image"), "{held_up}");
    // With `Never` the kubelet pulls nothing, so the start has failed.
    let never = json!({"image": ABSENT, "imagePullPolicy": "Never"});
    apply(&keeping("unpulled", 1, &never)).expect("a good one");
    let status = not_ready("unpulled", "ImagePull");
    assert_eq!(status["readyPods"], 0);
    assert_eq!(status["wantedPods"], 1);
    let last = wait("the failed start is in the status", START, || {
        let last = function("unpulled")?["status"]["lastFailedStart"].take();
        last.is_object().then_some(last)
    });
    assert_eq!(last["reason"], "ImagePull");
    let message = last["message"].as_str().expect("a message");
    assert!(message.contains("there-is-no-such-image"), "{message}");
    let pod = last["pod"].as_str().expect("a name");
    assert!(pod.starts_with("fn-unpulled-"), "{pod}");
    let event = event("unpulled", "StartFailed");
    assert_eq!(event["type"], "Warning");
    let described = kubectl(&["-n", NAMESPACE, "describe", "fn", "unpulled"]);
    for word in ["StartFailed", "ImagePull", "there-is-no-such-image"] {
        let events = described.split("Events:").nth(1).unwrap_or_default();
        assert!(events.contains(word), "no {word} in {described}");
    }
    apply(&keeping("unpulled", 1, &json!({}))).expect("a good one");
    wait_until_ready("unpulled");
}

pub(crate) fn crash_loop_and_missing_secret_have_their_reasons() {
    plane();
    let crash = json!({"command": ["python3", "-c", "raise SystemExit('no luck today')"]});
    apply(&keeping("crashing", 1, &crash)).expect("a good one");
    let key = json!({"secretKeyRef": {"name": "there-is-no-such-secret", "key": "k"}});
    let container = json!({"name": "function", "env": [{"name": "KEY", "valueFrom": key}]});
    let secret = json!({"podTemplate": {"spec": {"containers": [container]}}});
    apply(&keeping("secretive", 1, &secret)).expect("a good one");
    let status = not_ready("crashing", "CrashLoop");
    let message = status["lastFailedStart"]["message"].as_str();
    let message = message.unwrap_or_default();
    assert!(message.contains("no luck today"), "{status}");
    not_ready("secretive", "Config");
    // Several failures are shown as one Event with a count.
    until("the Event counts", START, || {
        event("crashing", "StartFailed")["count"].as_i64() >= Some(2)
    });
}

pub(crate) fn an_unschedulable_pod_is_reported_while_it_waits() {
    plane();
    let huge = json!({"resources": {"cpu": "1000"}});
    apply(&keeping("huge", 1, &huge)).expect("a good one");
    let status = not_ready("huge", "Unschedulable");
    let message = &status["conditions"][1]["message"];
    let message = message.as_str().unwrap_or_default();
    assert!(message.contains("Insufficient cpu"), "{message}");
    // The status shows the reason while the start still runs, long before its deadline.
    assert!(status["lastFailedStart"].is_null(), "{status}");
}

fn scale_path(name: &str) -> String {
    format!("/apis/nanofaas.io/v1/namespaces/{NAMESPACE}/functions/{name}/scale")
}

pub(crate) fn kubectl_scales_a_function() {
    plane();
    apply(&keeping("scaled", 1, &json!({}))).expect("a good one");
    wait_until_ready("scaled");
    kubectl(&["-n", NAMESPACE, "scale", "fn/scaled", "--replicas=2"]);
    until("two pods are ready", START, || {
        shown("scaled", "PODS") == "2"
    });
    let scale = ask(&Request::get(&scale_path("scaled"))).expect(200).json();
    assert_eq!(scale["spec"]["replicas"], 2, "{scale}");
    assert_eq!(scale["status"]["replicas"], 2, "{scale}");
    let selector = scale["status"]["selector"].as_str().expect("a selector");
    assert_eq!(crate::cluster::pods(selector).len(), 2, "{selector}");
    event("scaled", "Scaled");
    kubectl(&["-n", NAMESPACE, "scale", "fn/scaled", "--replicas=0"]);
    until("the plane has read the edit", START, || {
        let object = function("scaled").unwrap_or_default();
        object["status"]["observedGeneration"] == object["metadata"]["generation"]
    });
    // The scaled spec is invalid, because 9 is above its maxReplicas.
    kubectl(&["-n", NAMESPACE, "scale", "fn/scaled", "--replicas=9"]);
    let rejected = event("scaled", "Rejected");
    let message = rejected["message"].as_str().unwrap_or_default();
    assert!(message.contains("maxReplicas"), "{message}");
}

pub(crate) fn kubectl_scales_a_function_that_names_no_floor() {
    plane();
    apply(&manifest("floorless", "WARM", json!({}))).expect("a good one");
    wait_until_ready("floorless");
    // The object has no minReplicas and the API server fills in no default. The scale subresource therefore
    // has no number, and this request fails.
    let scale = ask(&Request::get(&scale_path("floorless")));
    println!("    GET scale: {} {}", scale.status, scale.text());
    assert_eq!(scale.status, 500);
    kubectl(&["-n", NAMESPACE, "scale", "fn/floorless", "--replicas=2"]);
    until("two pods are ready", START, || {
        shown("floorless", "PODS") == "2"
    });
    ask(&Request::get(&scale_path("floorless"))).expect(200);
}

pub(crate) fn kubectl_explains_every_field() {
    for (path, field) in [
        ("fn", "spec"),
        ("fn.spec", "timeoutMs"),
        ("fn.spec.scalingConfig", "minReplicas"),
        ("fn.spec.resources", "memory"),
        ("fn.spec.local", "build"),
        ("fn.status", "wantedPods"),
        ("fn.status.conditions", "lastTransitionTime"),
        ("fn.status.lastFailedStart", "reason"),
    ] {
        let said = kubectl(&["explain", path]);
        assert!(said.contains(field), "{said}");
        assert!(!said.contains("<no description>"), "{said}");
        let of_field = kubectl(&["explain", &format!("{path}.{field}")]);
        assert!(!of_field.contains("<empty>"), "{of_field}");
    }
    let said = kubectl(&["explain", "fn.spec.timeoutMs"]);
    assert!(
        said.contains("milliseconds") && said.contains("300000"),
        "{said}"
    );
}
