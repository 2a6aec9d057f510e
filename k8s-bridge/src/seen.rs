//! What a Pod object says of the pod, as far as anybody here cares: read from its status alone,
//! never from a Job's conditions. It asks nobody and decides nothing.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};

use crate::podspec::CONTAINER;

/// How much of a container's last words is kept, in bytes.
const WORDS_MAX: usize = 2048;

/// A pod as the cluster last showed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) scheduled: bool,
    pub(crate) address: Option<IpAddr>,
    /// The function's container runs, or did; since when, in milliseconds since the epoch.
    pub(crate) running_since_ms: Option<u64>,
    /// It will not start, for a reason that does not mend by itself.
    pub(crate) stuck: Option<String>,
    /// Why it does not run yet, for who asks at the deadline.
    pub(crate) waiting: Option<String>,
    pub(crate) ended: Option<Ended>,
    /// Somebody wants it gone: we, a node drain, an eviction.
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

/// Reasons that kubelets give for containers that cannot start, and that time does not heal.
const STUCK: [&str; 9] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "RegistryUnavailable",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

impl Seen {
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
        // A sidecar or an init container may be what holds it up.
        let others = all.chain(status.init_container_statuses.iter().flatten());
        for container in others.filter(|container| container.name != CONTAINER) {
            seen.look_at_other(container);
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
        if STUCK.contains(&reason) {
            self.stuck.get_or_insert_with(|| why.clone());
        }
        self.waiting = Some(why);
    }

    /// The whole pod is over, perhaps with no word of its containers (an eviction, a lost node).
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

/// `Reason: message`, or whichever there is.
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
        assert_eq!(
            seen.waiting.as_deref(),
            Some("Unschedulable: 0/1 nodes are available")
        );
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_stuck_and_one_that_is_being_made_is_not() {
        for (reason, is_stuck) in [
            ("ErrImagePull", true),
            ("CreateContainerConfigError", true),
            ("ContainerCreating", false),
            ("PodInitializing", false),
        ] {
            let waiting = json!({"waiting": {"reason": reason, "message": "why"}});
            let seen = seen(json!({"containerStatuses": [container(waiting)]}));
            assert_eq!(seen.stuck.is_some(), is_stuck, "{reason}");
            assert_eq!(seen.waiting, Some(format!("{reason}: why")));
        }
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
