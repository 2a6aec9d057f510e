//! These tests call functions whose pods cannot start. The call fails with the cluster's own reason. If a
//! wait cannot help, the call fails long before its deadline. In other cases the call fails at the deadline
//! of the start.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nanofaas_testkit::client::Request;
use serde_json::{Value, json};

use crate::cluster::{NAMESPACE, apply, jobs_of, kubectl, object, staying, until};
use crate::outside::Outside;
use crate::plane::{RunningPlane, image, output, plane, spec};

/// The time within which a failure counts as early. The calls themselves could take a minute.
const EARLY: Duration = Duration::from_secs(20);
/// The name of an image that neither the node nor a registry has.
const ABSENT: &str = "localhost/there-is-no-such-image:1";
const GONE: Duration = Duration::from_secs(30);

/// Calls a function, which must fail to start, and returns the reason.
#[track_caller]
pub(crate) fn refused(plane: &RunningPlane, function: &str) -> String {
    let begun = Instant::now();
    let answer = plane.invoke(function, &json!({"do": "echo"}));
    let body = answer
        .expect_failure(503, "error", "COLD_START_FAILED")
        .json();
    assert!(
        begun.elapsed() < EARLY,
        "{function} took {:?}",
        begun.elapsed()
    );
    let message = body["error"]["message"].as_str().expect("a message");
    println!("    {function}: {message}");
    message.to_owned()
}

/// Registers the same function in both modes, and returns the two names.
#[track_caller]
fn both(plane: &RunningPlane, name: &str, more: &Value) -> [String; 2] {
    ["JOB", "WARM"].map(|mode| {
        let mut fields = json!({"timeoutMs": 60000, "scalingConfig": {"minReplicas": 0}});
        let all = fields.as_object_mut().expect("an object");
        all.extend(more.as_object().expect("an object").clone());
        let name = format!("{name}-{}", mode.to_lowercase());
        plane.register(&spec(&name, mode, fields));
        name
    })
}

/// Registers the same function in both modes, calls both, and returns the reasons why they failed.
#[track_caller]
pub(crate) fn both_refused(plane: &RunningPlane, name: &str, more: &Value) -> [String; 2] {
    both(plane, name, more).map(|name| refused(plane, &name))
}

/// Waits until the Job is gone and its pod is being deleted. If the pod's container never ran, a kubelet of
/// 1.20 may take most of a minute to remove the pod.
#[track_caller]
fn gone(function: &str) {
    until("the call's Job and pod are gone", GONE, || {
        jobs_of(function).is_empty() && staying(function).is_empty()
    });
}

pub(crate) fn an_unavailable_image_is_reported_early() {
    let plane = plane();
    for message in both_refused(&plane, "wrong", &json!({"image": "localhost/NoImage:1"})) {
        assert!(message.contains("InvalidImageName"), "{message}");
        assert!(message.contains("localhost/NoImage:1"), "{message}");
    }
    let never = json!({"image": ABSENT, "imagePullPolicy": "Never"});
    for message in both_refused(&plane, "never", &never) {
        assert!(message.contains("ErrImageNeverPull"), "{message}");
    }
    gone("never-job");
    let starts = plane
        .get("/v1/functions/never-warm/cold-starts")
        .expect(200)
        .json();
    let failure = starts["coldStarts"][0]["failure"]
        .as_str()
        .expect("a failure");
    assert!(failure.contains("ErrImageNeverPull"), "{starts}");
    // With an existing image, the function starts.
    plane.replace(&spec("never-warm", "WARM", json!({"image": image(1)})));
    let answer = plane.invoke("never-warm", &json!({"do": "echo", "value": 1}));
    assert_eq!(output(answer)["echo"], 1);
}

/// Returns the kubelet's reason why the container of a function's pod waits.
fn waits_for(function: &str) -> Option<String> {
    let pods = staying(function);
    let path = "/status/containerStatuses/0/state/waiting/reason";
    let reason = pods.first()?.object.pointer(path)?.as_str()?;
    Some(reason.to_owned())
}

/// The kubelet repeats a failed pull after 10 s, and again 20 s later. The third pull at the latest finds the
/// image, within the minute that a call may take.
pub(crate) fn a_late_image_is_pulled_in_time() {
    let plane = plane();
    // The pid makes the name unique, so no earlier run has left this image on the node.
    let late = format!("localhost/nanofaas-test:late-{}", std::process::id());
    let functions = both(&plane, "late", &json!({"image": late}));
    let calls = functions.clone().map(|function| {
        let plane = plane.clone();
        std::thread::spawn(move || {
            let request = Request::invoke(&function, &json!({"do": "echo", "value": 7}));
            plane.send_and_wait(&request, Duration::from_secs(70))
        })
    });
    for function in &functions {
        until("the pull has failed once", EARLY, || {
            waits_for(function).is_some_and(|reason| reason.contains("ImagePull"))
        });
    }
    load_image(&late);
    for call in calls {
        let answer = call.join().expect("an answer");
        println!("    {}", answer.header("server-timing").unwrap_or_default());
        assert_eq!(output(answer)["echo"], 7);
    }
}

/// Builds an image and puts it on the node, like the images of all tests.
fn load_image(name: &str) {
    let loader = std::env::var("NANOFAAS_TEST_IMAGE_LOADER");
    let loader = loader.expect("./ci kubernetes says how an image is loaded");
    let mut words = loader.lines();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes/image");
    let output = Command::new(words.next().expect("a command"))
        .args(words)
        .args([
            name.as_ref(),
            folder.join("Dockerfile").as_os_str(),
            folder.as_os_str(),
        ])
        .output()
        .expect("the loader runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} is not loaded: {said}");
}

pub(crate) fn a_start_hold_up_is_named_finally() {
    let plane = plane();
    let absent = both(&plane, "absent", &json!({"image": ABSENT}));
    let huge = both(&plane, "vast", &json!({"resources": {"cpu": "1000"}}));
    let why = ["ErrImagePull: ", "Unschedulable: "];
    for (function, why) in absent
        .iter()
        .zip([why[0]; 2])
        .chain(huge.iter().zip([why[1]; 2]))
    {
        let request = Request::invoke(function, &json!({"do": "echo"}));
        let answer = plane.send(&request.header("X-Timeout-Ms", "8000"));
        let body = answer.expect_failure(408, "timeout", "TIMEOUT").json();
        let message = body["error"]["message"].as_str().expect("a message");
        println!("    {function}: {message}");
        assert!(message.contains("starting"), "{message}");
        assert!(
            message.contains(&format!("the start is held up: {why}")),
            "{message}"
        );
    }
    gone("absent-job");
}

pub(crate) fn a_missing_secret_is_told_early() {
    let plane = plane();
    let key = json!({"secretKeyRef": {"name": "there-is-no-such-secret", "key": "k"}});
    let container = json!({"name": "function", "env": [{"name": "KEY", "valueFrom": key}]});
    let template = json!({"podTemplate": {"spec": {"containers": [container]}}});
    for message in both_refused(&plane, "secret", &template) {
        assert!(message.contains("CreateContainerConfigError"), "{message}");
        assert!(message.contains("there-is-no-such-secret"), "{message}");
    }
    gone("secret-job");
}

/// A quota allows no pod in the platform's namespace until this value is dropped.
struct Quota;

impl Quota {
    fn none() -> Self {
        let quota = json!({
            "apiVersion": "v1", "kind": "ResourceQuota",
            "metadata": {"name": "no-pods", "namespace": NAMESPACE},
            "spec": {"hard": {"pods": "0"}},
        });
        apply(&quota).expect("a quota");
        let quota = Self;
        let path = format!("/api/v1/namespaces/{NAMESPACE}/resourcequotas/no-pods");
        until("the quota holds", GONE, || {
            let quota = object(&path).unwrap_or_default();
            quota["status"]["hard"]["pods"] == "0"
        });
        quota
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let delete = ["-n", NAMESPACE, "delete", "resourcequota", "no-pods"];
        crate::cluster::kubectl_with(&delete, "");
    }
}

pub(crate) fn a_quota_is_told_early() {
    let plane = plane();
    let quota = Quota::none();
    for message in both_refused(&plane, "quota", &json!({})) {
        assert!(message.contains("exceeded quota: no-pods"), "{message}");
    }
    drop(quota);
    gone("quota-job");
    until("without the quota it is called", GONE, || {
        let answer = plane.invoke("quota-job", &json!({"do": "echo", "value": 1}));
        answer.status == 200
    });
}

/// A namespace for one test. Dropping this value deletes the namespace with all its objects.
struct Namespace(&'static str);

impl Namespace {
    fn new(name: &'static str) -> Self {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name}});
        apply(&namespace).expect("a namespace");
        let namespace = Self(name);
        until("the namespace has its service account", GONE, || {
            object(&format!(
                "/api/v1/namespaces/{name}/serviceaccounts/default"
            ))
            .is_some()
        });
        namespace
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let wait = "--wait=false";
        kubectl(&["delete", "namespace", self.0, "--ignore-not-found", wait]);
    }
}

pub(crate) fn an_unschedulable_pod_fails_at_the_start_deadline() {
    let installed = plane();
    let namespace = Namespace::new("nanofaas-starts");
    let limit = ["--start-timeout-ms", "5000"];
    let outside = Outside::start(namespace.0, installed.api, &limit);
    outside.wait_until_ready();
    let huge = json!({"resources": {"cpu": "1000"}});
    for message in both_refused(&outside.plane, "huge", &huge) {
        assert!(message.contains("Insufficient cpu"), "{message}");
        assert!(message.contains("5000 ms"), "{message}");
    }
    // A plane outside the cluster can start pods, so this call may succeed. The call may also fail with 503
    // at the start deadline of 5 s.
    let plane = &outside.plane;
    plane.register(&spec("small", "JOB", json!({})));
    let answer = plane.invoke("small", &json!({"do": "echo", "value": 1}));
    assert!(matches!(answer.status, 200 | 503), "{}", answer.text());
    outside.end();
}
