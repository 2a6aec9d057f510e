//! Pods that cannot start: the call fails with the cluster's own reason, long before its deadline
//! where waiting cannot help, and at the start's own deadline where it might have.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{NAMESPACE, apply, jobs_of, kubectl, object, staying, until};
use crate::outside::Outside;
use crate::plane::{Plane, image, output, plane, spec};

/// Long before the deadline of these calls, which is a minute.
const EARLY: Duration = Duration::from_secs(20);
const GONE: Duration = Duration::from_secs(30);

/// The reason for which a call of the function failed.
#[track_caller]
fn refused(plane: &Plane, function: &str) -> String {
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

/// Registers the same function in both modes, and gives the reasons that calls fail for.
#[track_caller]
fn both_refused(plane: &Plane, name: &str, more: &Value) -> [String; 2] {
    ["JOB", "WARM"].map(|mode| {
        let mut fields = json!({"timeoutMs": 60000, "scalingConfig": {"minReplicas": 0}});
        let all = fields.as_object_mut().expect("an object");
        all.extend(more.as_object().expect("an object").clone());
        let name = format!("{name}-{}", mode.to_lowercase());
        plane.register(&spec(&name, mode, fields));
        refused(plane, &name)
    })
}

/// The Job is gone and nobody wants its pod any more; a kubelet of 1.20 may take most of a minute
/// to let go of a pod whose container never ran.
#[track_caller]
fn gone(function: &str) {
    until("nothing of it is left", GONE, || {
        jobs_of(function).is_empty() && staying(function).is_empty()
    });
}

pub(crate) fn an_image_that_cannot_be_pulled_is_told_early() {
    let plane = plane();
    let absent = "localhost/there-is-no-such-image:1";
    for message in both_refused(&plane, "absent", &json!({"image": absent})) {
        assert!(message.contains("ErrImagePull") || message.contains("ImagePullBackOff"));
        assert!(message.contains("there-is-no-such-image"), "{message}");
    }
    let never = json!({"image": absent, "imagePullPolicy": "Never"});
    for message in both_refused(&plane, "never", &never) {
        assert!(message.contains("ErrImageNeverPull"), "{message}");
    }
    gone("absent-job");
    let starts = plane
        .get("/v1/functions/absent-warm/cold-starts")
        .expect(200)
        .json();
    let failure = starts["coldStarts"][0]["failure"]
        .as_str()
        .expect("a failure");
    assert!(failure.contains("ErrImagePull"), "{starts}");
    // Mended, it starts.
    plane.replace(&spec("absent-warm", "WARM", json!({"image": image(1)})));
    let answer = plane.invoke("absent-warm", &json!({"do": "echo", "value": 1}));
    assert_eq!(output(answer)["echo"], 1);
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

/// No pod may be created in the platform's namespace until this is dropped.
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

/// A namespace of its own, and what is in it.
struct Namespace(&'static str);

impl Namespace {
    fn new(name: &'static str) -> Self {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name}});
        apply(&namespace).expect("a namespace");
        let namespace = Self(name);
        until("it has its service account", GONE, || {
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

pub(crate) fn an_unschedulable_pod_is_told_at_the_start_deadline() {
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
    // Everything else goes there as it does inside.
    let plane = &outside.plane;
    plane.register(&spec("small", "JOB", json!({})));
    let answer = plane.invoke("small", &json!({"do": "echo", "value": 1}));
    assert!(matches!(answer.status, 200 | 503), "{}", answer.text());
    outside.end();
}
