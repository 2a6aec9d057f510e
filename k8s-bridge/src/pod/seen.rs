//! Reads from a Pod object the facts that this crate needs. The conditions of a Job are not used. This module
//! sends no request.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};

use nanofaas_core::cold_start::Phase;

use crate::context::start_fault::StartFault;
use crate::podspec::CONTAINER;

const MESSAGE_MAX: usize = 2048;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ObservedPod {
    pub(crate) scheduled: bool,
    pub(crate) address: Option<IpAddr>,
    pub(crate) running_since_ms: Option<u64>,
    /// Why the pod can never start.
    pub(crate) stuck: Option<String>,
    /// Why the pod has not started yet, if the kubelet or the Kubernetes scheduler tries again.
    pub(crate) held_up: Option<String>,
    /// Why the pod does not run yet. The error of a start that missed its deadline shows it.
    pub(crate) waiting: Option<String>,
    /// The kind of fault in `stuck`, `held_up` or `waiting`; none during the usual steps of a start.
    pub(crate) fault: Option<StartFault>,
    pub(crate) ended: Option<ContainerEnd>,
    /// Whether the pod's deletion was requested.
    pub(crate) leaving: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerEnd {
    pub(crate) oom: bool,
    /// Whether the container exited with status 0.
    pub(crate) well: bool,
    pub(crate) message: String,
}

/// The kubelet's reasons for a container that can never start.
const STUCK: [&str; 2] = ["ErrImageNeverPull", "InvalidImageName"];
/// The reasons after which a kubelet tries to start a container again. The cause may pass, for instance if a
/// registry is down for a moment.
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
/// Parts of the message of a failed pull that show a refusal of the registry. The next try would get the same
/// refusal. The texts come from containerd, CRI-O and Docker.
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
/// Parts of the message of a failed creation of a container that show a wrong spec.
const SPECS: [&str; 5] = [
    "\" not found",
    "couldn't find key",
    "runAsNonRoot",
    "no command specified",
    "executable file not found",
];

fn is_definite(reason: &str, message: &str) -> bool {
    let has = |phrases: &[&str]| phrases.iter().any(|phrase| message.contains(phrase));
    if reason.contains("Image") {
        // "not found" alone may be temporary, because a layer, or the container runtime's own task, may exist
        // at the next try.
        let is_absent = message.contains("resolve reference") && message.contains(": not found");
        is_absent || has(&REGISTRYS)
    } else {
        has(&SPECS)
    }
}

impl ObservedPod {
    /// Returns `now` with two facts of `self`: a final reason, and the reason of the last failed pull. The
    /// second fact is kept, because a kubelet that waits before its next pull reports only the pause.
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
        seen.read_scheduling(pod);
        let all = status.container_statuses.iter().flatten();
        let ours = all.clone().find(|container| container.name == CONTAINER);
        if let Some(container) = ours {
            seen.read_container(container);
        }
        // Until the function's container runs, a sidecar or an init container may delay the pod.
        if seen.running_since_ms.is_none() {
            let others = all.chain(status.init_container_statuses.iter().flatten());
            for container in others.filter(|container| container.name != CONTAINER) {
                seen.read_other(container);
            }
        }
        if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
            seen.read_end(pod);
        }
        seen
    }

    pub(crate) fn phases(&self) -> impl Iterator<Item = Phase> {
        let phases = [
            (Phase::Scheduled, self.scheduled),
            (Phase::Address, self.address.is_some()),
            (Phase::Running, self.running_since_ms.is_some()),
        ];
        phases
            .into_iter()
            .filter_map(|(phase, is_reached)| is_reached.then_some(phase))
    }

    fn read_scheduling(&mut self, pod: &Pod) {
        let conditions = pod.status.iter().flat_map(|status| &status.conditions);
        let mut conditions = conditions.flatten();
        if let Some(condition) = conditions.find(|one| one.type_ == "PodScheduled") {
            self.scheduled = condition.status == "True";
            if !self.scheduled {
                let reason = condition.reason.as_deref().unwrap_or("not scheduled");
                let message = condition.message.as_deref().unwrap_or_default();
                self.waiting = Some(phrase(reason, message));
                // The pod may still start, because a node may join or become free.
                self.held_up = self.waiting.clone().filter(|_| reason == "Unschedulable");
                self.fault = StartFault::of_pod(reason);
            }
        }
    }

    fn read_container(&mut self, container: &ContainerStatus) {
        let Some(state) = &container.state else {
            return;
        };
        self.read_waiting(container, state);
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

    fn read_other(&mut self, container: &ContainerStatus) {
        if let Some(state) = &container.state {
            self.read_waiting(container, state);
        }
    }

    fn read_waiting(&mut self, container: &ContainerStatus, state: &ContainerState) {
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

    /// Reads the end of the whole pod. The container's own status may be missing after an eviction or the
    /// loss of the node.
    fn read_end(&mut self, pod: &Pod) {
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
        self.ended = Some(ContainerEnd {
            oom: false,
            well,
            message: phrase(why, status.message.as_deref().unwrap_or_default()),
        });
    }
}

fn end_of(ended: &ContainerStateTerminated) -> ContainerEnd {
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
    let message = ended.message.as_deref().unwrap_or_default().trim_end();
    ContainerEnd {
        oom,
        well: ended.exit_code == 0 && !oom,
        message: if message.is_empty() {
            how
        } else {
            format!("{how}; its last words:\n{}", tail(message))
        },
    }
}

fn phrase(reason: &str, message: &str) -> String {
    match (reason, message) {
        (reason, "") => reason.to_owned(),
        ("", message) => message.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

fn tail(message: &str) -> &str {
    let mut at = message.len().saturating_sub(MESSAGE_MAX);
    while !message.is_char_boundary(at) {
        at += 1;
    }
    &message[at..]
}

#[cfg(test)]
mod tests;
