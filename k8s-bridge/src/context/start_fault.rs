//! Translates the reason why a pod did not start into one word, which the condition `Ready` and
//! `status.lastFailedStart` show. The reasons come from the kubelet and from the API server. The scheduler
//! decides whether a start is tried again.

use crate::api::cluster::ClusterError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartFault {
    /// The node cannot get the image.
    ImagePull,
    /// The container could not be made, for instance because a Secret is missing or the command is wrong.
    Config,
    /// The container ended before it was ready.
    CrashLoop,
    /// No node can take the pod.
    Unschedulable,
    /// A quota of the namespace is used up.
    Quota,
    /// The API server refused the pod for another reason.
    Refused,
    /// The API server did not answer in time.
    ApiServer,
    /// The pod was deleted before it was ready.
    Deleted,
    /// The start deadline passed, and the pod neither reported ready nor answered a probe with success.
    NotReady,
}

impl StartFault {
    const ALL: [Self; 9] = [
        Self::ImagePull,
        Self::Config,
        Self::CrashLoop,
        Self::Unschedulable,
        Self::Quota,
        Self::Refused,
        Self::ApiServer,
        Self::Deleted,
        Self::NotReady,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::ImagePull => "ImagePull",
            Self::Config => "Config",
            Self::CrashLoop => "CrashLoop",
            Self::Unschedulable => "Unschedulable",
            Self::Quota => "Quota",
            Self::Refused => "Refused",
            Self::ApiServer => "ApiServer",
            Self::Deleted => "Deleted",
            Self::NotReady => "NotReady",
        }
    }

    /// Parses a name that an earlier control plane may have written into a status.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == name)
    }

    /// Translates the reason why a container or a pod waits. Returns none if such a wait is a usual step of a
    /// start.
    pub(crate) fn of_pod(reason: &str) -> Option<Self> {
        Some(match reason {
            "ErrImagePull"
            | "ImagePullBackOff"
            | "ErrImageNeverPull"
            | "InvalidImageName"
            | "ImageInspectError"
            | "RegistryUnavailable"
            | "SignatureValidationFailed" => Self::ImagePull,
            "CreateContainerConfigError"
            | "CreateContainerError"
            | "RunContainerError"
            | "PreCreateHookError"
            | "PreStartHookError"
            | "PostStartHookError" => Self::Config,
            "CrashLoopBackOff" => Self::CrashLoop,
            "Unschedulable" | "SchedulingGated" => Self::Unschedulable,
            _ => return None,
        })
    }

    pub(crate) fn of_denial(denied: &ClusterError) -> Self {
        match denied {
            ClusterError::Refused(status) => Self::of_refusal(&status.message),
            ClusterError::Unreachable(_) => Self::ApiServer,
        }
    }

    /// Finds the kind of fault in the message of a refusal. The status code cannot show an exceeded quota,
    /// because the quota's admission plugin answers 403 like other plugins.
    pub(crate) fn of_refusal(message: &str) -> Self {
        if message.contains("exceeded quota") {
            Self::Quota
        } else {
            Self::Refused
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name() {
        for fault in StartFault::ALL {
            assert_eq!(StartFault::named(fault.as_str()), Some(fault));
        }
        assert_eq!(StartFault::named("PodsReady"), None);
    }

    #[test]
    fn every_kind_is_explained_to_users() {
        for page in ["k8s/base/crd.yaml", "docs/kubernetes.md"] {
            let path = format!("{}/../{page}", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(&path).expect("a page");
            for fault in StartFault::ALL {
                let name = fault.as_str();
                assert!(text.contains(name), "{page} does not have {name}");
            }
        }
    }

    #[test]
    fn a_pod_being_created_has_no_fault() {
        for reason in ["ContainerCreating", "PodInitializing", "", "waiting"] {
            assert_eq!(StartFault::of_pod(reason), None, "{reason}");
        }
        assert_eq!(
            StartFault::of_pod("ImagePullBackOff"),
            Some(StartFault::ImagePull)
        );
    }
}
