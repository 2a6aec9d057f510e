//! The facts of a Pod object that this crate needs: read from the object alone, never from a Job's
//! conditions. It sends no request and decides nothing.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};

use crate::fault::StartFault;
use crate::podspec::CONTAINER;

/// How much of a container's termination message is kept, in bytes.
const WORDS_MAX: usize = 2048;

/// A pod as the cluster last showed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) scheduled: bool,
    pub(crate) address: Option<IpAddr>,
    /// The function's container runs, or did; since when, in milliseconds since the epoch.
    pub(crate) running_since_ms: Option<u64>,
    /// Why it cannot start, if a retry cannot help.
    pub(crate) stuck: Option<String>,
    /// Why it has not started so far, if the cluster tries again.
    pub(crate) held_up: Option<String>,
    /// Why it does not run yet, for the message of a start that missed its deadline.
    pub(crate) waiting: Option<String>,
    /// The kind of that fault; none during the usual steps of a start.
    pub(crate) fault: Option<StartFault>,
    pub(crate) ended: Option<Ended>,
    /// Its deletion was requested: by this plane, a node drain, an eviction or a user.
    pub(crate) leaving: bool,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) oom: bool,
    /// With status 0.
    pub(crate) well: bool,
    pub(crate) message: String,
}

/// Reasons that kubelets give for containers that can never start.
const STUCK: [&str; 2] = ["ErrImageNeverPull", "InvalidImageName"];
/// Reasons after which a kubelet tries again, because the cause may pass: a registry that does not
/// answer may be up in a moment, and a cache of Secrets may still be filled.
const TRIED_ON: [&str; 8] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];
/// Parts of the message of a failed pull that are a definite answer of the registry: the next try
/// gets the same. The texts are those of containerd, CRI-O and Docker.
const REGISTRYS: [&str; 10] = [
    "manifest unknown",
    "name unknown",
    "access denied",
    "access to the resource is denied",
    "authorization failed",
    "unauthorized:",
    "denied:",
    "401 Unauthorized",
    "403 Forbidden",
    "no match for platform",
];
/// Parts of the message of a failed creation of a container that mean that its spec is wrong.
const SPECS: [&str; 5] = [
    "\" not found",
    "couldn't find key",
    "runAsNonRoot",
    "no command specified",
    "executable file not found",
];

/// Whether the next try must fail for the same reason.
fn is_definite(reason: &str, message: &str) -> bool {
    let has = |words: &[&str]| words.iter().any(|words| message.contains(words));
    if reason.contains("Image") {
        // "not found" alone is not definite: a missing layer, or the runtime's own task, may be
        // there at the next try.
        let is_absent = message.contains("resolve reference") && message.contains(": not found");
        is_absent || has(&REGISTRYS)
    } else {
        has(&SPECS)
    }
}

impl Seen {
    /// The same pod as the cluster shows it now. A final reason is kept. So is the reason of the
    /// last failed pull, because a kubelet that waits for its next try reports only the pause.
    pub(crate) fn then(&self, now: Self) -> Self {
        let is_pause = |why: &String| why.starts_with("ImagePullBackOff");
        let stuck = self.stuck.clone().or(now.stuck);
        let (held_up, fault) = match (&self.held_up, now.held_up) {
            (Some(before), Some(now)) if is_pause(&now) => (Some(before.clone()), self.fault),
            (_, held_up) => (held_up, now.fault),
        };
        Self {
            stuck,
            held_up,
            fault,
            ..now
        }
    }

    pub(crate) fn of(pod: &Pod) -> Self {
        let mut seen = Self {
            leaving: pod.metadata.deletion_timestamp.is_some(),
            ..Self::default()
        };
        let Some(status) = &pod.status else {
            return seen;
        };
        let address = status.pod_ip.as_deref().unwrap_or_default();
        seen.address = address.parse().ok();
        seen.look_at_scheduling(pod);
        let all = status.container_statuses.iter().flatten();
        let ours = all.clone().find(|container| container.name == CONTAINER);
        if let Some(container) = ours {
            seen.look_at(container);
        }
        // Until the function's container runs, a sidecar or an init container may hold the pod up.
        if seen.running_since_ms.is_none() {
            let others = all.chain(status.init_container_statuses.iter().flatten());
            for container in others.filter(|container| container.name != CONTAINER) {
                seen.look_at_other(container);
            }
        }
        if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
            seen.look_at_end(pod);
        }
        seen
    }

    fn look_at_scheduling(&mut self, pod: &Pod) {
        let conditions = pod.status.iter().flat_map(|status| &status.conditions);
        let mut conditions = conditions.flatten();
        if let Some(condition) = conditions.find(|one| one.type_ == "PodScheduled") {
            self.scheduled = condition.status == "True";
            if !self.scheduled {
                let reason = condition.reason.as_deref().unwrap_or("not scheduled");
                let message = condition.message.as_deref().unwrap_or_default();
                self.waiting = Some(phrase(reason, message));
                // A node may join, or an existing node may get room for the pod.
                self.held_up = self.waiting.clone().filter(|_| reason == "Unschedulable");
                self.fault = StartFault::of_pod(reason);
            }
        }
    }

    fn look_at(&mut self, container: &ContainerStatus) {
        let Some(state) = &container.state else {
            return;
        };
        self.look_at_waiting(container, state);
        let started = state.running.as_ref().map(|running| &running.started_at);
        let ended = state.terminated.as_ref();
        let started = started.or_else(|| ended.map(|ended| &ended.started_at));
        if let Some(started) = started {
            let since_ms = started.as_ref().map(|time| time.0.as_millisecond());
            let since_ms = since_ms.and_then(|ms| u64::try_from(ms).ok());
            self.running_since_ms = Some(since_ms.unwrap_or_default());
        }
        self.ended = ended.map(end_of);
    }

    fn look_at_other(&mut self, container: &ContainerStatus) {
        if let Some(state) = &container.state {
            self.look_at_waiting(container, state);
        }
    }

    fn look_at_waiting(&mut self, container: &ContainerStatus, state: &ContainerState) {
        let Some(waiting) = &state.waiting else {
            return;
        };
        let reason = waiting.reason.as_deref().unwrap_or("waiting");
        let message = waiting.message.as_deref().unwrap_or_default();
        let why = phrase(reason, message);
        let name = &container.name;
        let why = if name == CONTAINER {
            why
        } else {
            format!("container {name}: {why}")
        };
        let is_tried_on = TRIED_ON.contains(&reason);
        if STUCK.contains(&reason) || is_tried_on && is_definite(reason, message) {
            self.stuck.get_or_insert_with(|| why.clone());
        } else if is_tried_on {
            self.held_up.get_or_insert_with(|| why.clone());
        }
        self.waiting = Some(why);
        self.fault = self.fault.or_else(|| StartFault::of_pod(reason));
    }

    /// Reads the end of the whole pod, which may come without a container's status (after an
    /// eviction or when its node is lost).
    fn look_at_end(&mut self, pod: &Pod) {
        let Some(status) = &pod.status else { return };
        let well = status.phase.as_deref() == Some("Succeeded");
        let reason = status.reason.as_deref();
        if let Some(ended) = &mut self.ended {
            if let Some(reason) = reason {
                let why = phrase(reason, status.message.as_deref().unwrap_or_default());
                ended.message = format!("{why}; {}", ended.message);
            }
            return;
        }
        let why = reason.unwrap_or(if well { "it finished" } else { "it failed" });
        self.ended = Some(Ended {
            oom: false,
            well,
            message: phrase(why, status.message.as_deref().unwrap_or_default()),
        });
    }
}

fn end_of(ended: &ContainerStateTerminated) -> Ended {
    let reason = ended.reason.as_deref().unwrap_or_default();
    let oom = reason == "OOMKilled";
    let how = match ended.signal.filter(|signal| *signal != 0) {
        _ if oom => "OOMKilled: it used more memory than its limit".to_owned(),
        Some(signal) => format!("it was ended by signal {signal}"),
        None if ended.exit_code > 128 => {
            let signal = ended.exit_code - 128;
            format!(
                "it exited with status {} (signal {signal})",
                ended.exit_code
            )
        }
        None => format!("it exited with status {}", ended.exit_code),
    };
    let known = ["", "Error", "Completed", "OOMKilled"];
    let how = if known.contains(&reason) {
        how
    } else {
        format!("{reason}: {how}")
    };
    let words = ended.message.as_deref().unwrap_or_default().trim_end();
    Ended {
        oom,
        well: ended.exit_code == 0 && !oom,
        message: if words.is_empty() {
            how
        } else {
            format!("{how}; its last words:\n{}", tail(words))
        },
    }
}

/// `Reason: message`, or only the one that is not empty.
fn phrase(reason: &str, message: &str) -> String {
    match (reason, message) {
        (reason, "") => reason.to_owned(),
        ("", message) => message.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

fn tail(words: &str) -> &str {
    let mut at = words.len().saturating_sub(WORDS_MAX);
    while !words.is_char_boundary(at) {
        at += 1;
    }
    &words[at..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn seen(status: Value) -> Seen {
        let pod = json!({"metadata": {"name": "p"}, "status": status});
        Seen::of(&serde_json::from_value(pod).expect("a pod"))
    }

    fn container(state: Value) -> Value {
        json!({"name": "function", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": state})
    }

    #[test]
    fn nothing_is_known_of_a_new_pod() {
        assert_eq!(seen(json!({"phase": "Pending"})), Seen::default());
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

    fn waiting(reason: &str, message: &str) -> Seen {
        let waiting = json!({"waiting": {"reason": reason, "message": message}});
        seen(json!({"containerStatuses": [container(waiting)]}))
    }

    /// Texts of kubelets, containerd and CRI-O.
    #[test]
    fn what_is_tried_on_is_final_only_with_a_definite_answer() {
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
            let said = seen.stuck.or(seen.held_up).unwrap_or_else(|| why.clone());
            assert_eq!((said, seen.waiting), (why.clone(), Some(why)));
        }
    }

    #[test]
    fn the_reason_of_the_last_try_is_kept_while_the_kubelet_pauses() {
        let refused = waiting("ErrImagePull", "connection refused");
        let paused = refused.then(waiting("ImagePullBackOff", "Back-off pulling image \"i\""));
        let why = Some("ErrImagePull: connection refused".to_owned());
        assert_eq!(paused.held_up, why);
        let other = paused.then(waiting("CreateContainerError", "context deadline exceeded"));
        assert!(other.held_up.is_some_and(|why| why.contains("deadline")));
        // The image is pulled, or the pod has a node at last.
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
    fn a_sidecar_holds_nothing_up_once_the_function_runs() {
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
    fn a_running_pod_has_an_address_and_a_beginning() {
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
    fn an_evicted_pod_ends_though_no_container_says_so() {
        let seen = seen(json!({"phase": "Failed", "reason": "Evicted",
            "message": "The node was low on resource: memory."}));
        let ended = seen.ended.expect("an end");
        assert!(ended.message.starts_with("Evicted: The node was low"));
        assert!(!ended.well);
    }
}
