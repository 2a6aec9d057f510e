use super::*;
use serde_json::{Value, json};

fn seen(status: Value) -> ObservedPod {
    let pod = json!({"metadata": {"name": "p"}, "status": status});
    ObservedPod::of(&serde_json::from_value(pod).expect("a pod"))
}

fn container(state: Value) -> Value {
    json!({"name": "function", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": state})
}

#[test]
fn nothing_is_known_of_a_new_pod() {
    assert_eq!(seen(json!({"phase": "Pending"})), ObservedPod::default());
}

#[test]
fn a_pod_that_finds_no_node_says_why() {
    let seen = seen(
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled",
        "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"}]}),
    );
    assert!(!seen.scheduled && seen.stuck.is_none());
    assert_eq!(seen.held_up, seen.waiting);
    assert_eq!(
        seen.waiting.as_deref(),
        Some("Unschedulable: 0/1 nodes are available")
    );
}

fn waiting(reason: &str, message: &str) -> ObservedPod {
    let waiting = json!({"waiting": {"reason": reason, "message": message}});
    seen(json!({"containerStatuses": [container(waiting)]}))
}

/// Kubelets, containerd and CRI-O really send these messages.
#[test]
fn only_a_definite_answer_is_final() {
    const STARTS: (bool, bool) = (false, false);
    const HELD_UP: (bool, bool) = (false, true);
    const STUCK: (bool, bool) = (true, false);
    for (reason, message, expected) in [
        ("ContainerCreating", "", STARTS),
        ("PodInitializing", "", STARTS),
        (
            "InvalidImageName",
            "couldn't parse image name \"A B\"",
            STUCK,
        ),
        (
            "ErrImageNeverPull",
            "Container image \"i\" is not present",
            STUCK,
        ),
        (
            "ErrImagePull",
            "failed to resolve reference \"r/i:1\": r/i:1: not found",
            STUCK,
        ),
        (
            "ErrImagePull",
            "reading manifest 1 in r/i: manifest unknown",
            STUCK,
        ),
        (
            "ErrImagePull",
            "pull access denied, repository does not exist or may require \
            authorization: server message: insufficient_scope: authorization failed",
            STUCK,
        ),
        (
            "ErrImagePull",
            "failed to do request: Head \"https://r\": dial tcp 10.0.0.1:443: \
            connect: connection refused",
            HELD_UP,
        ),
        (
            "ErrImagePull",
            "failed to do request: lookup r on 10.0.0.2:53: no such host",
            HELD_UP,
        ),
        (
            "ErrImagePull",
            "unexpected status from HEAD request: 429 Too Many Requests",
            HELD_UP,
        ),
        (
            "ErrImagePull",
            "unexpected status code: 503 Service Unavailable",
            HELD_UP,
        ),
        ("ImagePullBackOff", "Back-off pulling image \"i\"", HELD_UP),
        (
            "ImagePullBackOff",
            "Back-off pulling image \"i\": ErrImagePull: failed to resolve reference \"i\": \
            i: not found",
            STUCK,
        ),
        (
            "ErrImagePull",
            "failed to copy: content digest sha256:1: not found",
            HELD_UP,
        ),
        (
            "ErrImagePull",
            "unauthorized: access to the requested resource is not authorized",
            STUCK,
        ),
        (
            "ErrImagePull",
            "denied: Permission denied on resource",
            STUCK,
        ),
        (
            "CreateContainerError",
            "failed to get sandbox container task: no running task found: task 2b1c not found: \
            not found",
            HELD_UP,
        ),
        ("RegistryUnavailable", "", HELD_UP),
        (
            "CreateContainerConfigError",
            "secret \"s\" not found",
            STUCK,
        ),
        (
            "CreateContainerConfigError",
            "couldn't find key k in Secret ns/s",
            STUCK,
        ),
        (
            "CreateContainerConfigError",
            "container has runAsNonRoot and image will run as root \
            (pod: p, container: function)",
            STUCK,
        ),
        (
            "CreateContainerConfigError",
            "failed to sync secret cache: timed out waiting for the \
            condition",
            HELD_UP,
        ),
        ("CreateContainerError", "context deadline exceeded", HELD_UP),
        (
            "CreateContainerError",
            "failed to generate spec: no command specified",
            STUCK,
        ),
    ] {
        let seen = waiting(reason, message);
        let found = (seen.stuck.is_some(), seen.held_up.is_some());
        assert_eq!(found, expected, "{reason}: {message}");
        assert_eq!(seen.fault.is_some(), expected != STARTS, "{reason}");
        let why = phrase(reason, message);
        let message = seen.stuck.or(seen.held_up).unwrap_or_else(|| why.clone());
        assert_eq!((message, seen.waiting), (why.clone(), Some(why)));
    }
}

#[test]
fn the_last_reason_stays_while_the_kubelet_pauses() {
    let refused = waiting("ErrImagePull", "connection refused");
    let paused = refused.then(waiting("ImagePullBackOff", "Back-off pulling image \"i\""));
    let why = Some("ErrImagePull: connection refused".to_owned());
    assert_eq!(paused.held_up, why);
    let other = paused.then(waiting("CreateContainerError", "context deadline exceeded"));
    assert!(other.held_up.is_some_and(|why| why.contains("deadline")));
    // The kubelet creates the container, so the pull has succeeded and nothing delays the start.
    let goes_on = paused.then(waiting("ContainerCreating", ""));
    assert_eq!((goes_on.held_up, goes_on.fault), (None, None));
    let stuck = refused.then(waiting("ErrImagePull", "manifest unknown"));
    let after = stuck.then(waiting("ImagePullBackOff", ""));
    assert!(
        after
            .stuck
            .is_some_and(|why| why.contains("manifest unknown"))
    );
}

#[test]
fn a_sidecar_holds_up_no_running_function() {
    let side = json!({"name": "side", "image": "", "imageID": "", "ready": false,
        "restartCount": 0,
        "state": {"waiting": {"reason": "ErrImagePull", "message": "manifest unknown"}}});
    let creating = container(json!({"waiting": {"reason": "ContainerCreating"}}));
    let before = seen(json!({"containerStatuses": [creating, side]}));
    assert!(
        before
            .stuck
            .is_some_and(|why| why.starts_with("container side: ErrImagePull"))
    );
    let running = container(json!({"running": {"startedAt": "1970-01-01T00:00:02Z"}}));
    let after = seen(json!({"containerStatuses": [running, side]}));
    assert_eq!((after.stuck, after.held_up), (None, None));
}

#[test]
fn a_running_pod_has_address_and_start() {
    let running = json!({"running": {"startedAt": "1970-01-01T00:00:02Z"}});
    let seen = seen(json!({"podIP": "10.1.2.3", "phase": "Running",
        "containerStatuses": [container(running)]}));
    assert_eq!(seen.address, "10.1.2.3".parse().ok());
    assert_eq!(seen.running_since_ms, Some(2000));
    assert!(seen.ended.is_none() && !seen.leaving);
}

#[test]
fn ends_are_told_apart() {
    let of = |state: Value| {
        let status = json!({"phase": "Failed", "containerStatuses": [container(state)]});
        seen(status).ended.expect("an end")
    };
    let oom = of(json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}));
    assert!(oom.oom && !oom.well && oom.message.starts_with("OOMKilled"));
    let crash = of(json!({"terminated": {"exitCode": 3, "reason": "Error",
        "message": "Traceback\nboom\n"}}));
    assert!(!crash.oom && !crash.well);
    assert_eq!(
        crash.message,
        "it exited with status 3; its last words:\nTraceback\nboom"
    );
    let done = of(json!({"terminated": {"exitCode": 0, "reason": "Completed"}}));
    assert!(done.well);
    let killed = of(json!({"terminated": {"exitCode": 137, "reason": "Error"}}));
    assert!(killed.message.contains("signal 9"), "{}", killed.message);
}

#[test]
fn an_evicted_pod_ends_without_its_containers() {
    let seen = seen(json!({"phase": "Failed", "reason": "Evicted",
        "message": "The node was low on resource: memory."}));
    let ended = seen.ended.expect("an end");
    assert!(ended.message.starts_with("Evicted: The node was low"));
    assert!(!ended.well);
}
