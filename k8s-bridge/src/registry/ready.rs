//! Computes whether a function can serve calls, for its condition `Ready`. This module sends no request.

use std::rc::Rc;

use nanofaas_core::function::Function;
use nanofaas_core::spec::{ExecutionMode, Platform};

use crate::context::start_fault::StartFault;
use crate::pod::ClusterPod;
use crate::registry::functions::ObservedFunction;
use crate::registry::starts::{Outlook, StartKey};

/// The condition `Ready`, without its time and generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) is_ready: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The reason if a pod of the present shape takes calls.
pub(crate) const PODS_READY: &str = "PodsReady";

impl Readiness {
    fn yes(reason: &'static str, message: &str) -> Self {
        let message = message.to_owned();
        Self {
            is_ready: true,
            reason,
            message,
        }
    }

    fn no(reason: &'static str, message: &str) -> Self {
        Self {
            is_ready: false,
            ..Self::yes(reason, message)
        }
    }

    fn failing(fault: StartFault, message: &str) -> Self {
        Self::no(fault.as_str(), message)
    }

    pub(crate) fn of(
        known: &ObservedFunction,
        function: Option<&Function>,
        pods: &ReplicaCounts,
    ) -> Self {
        let function = function.filter(|_| known.accepted.is_some());
        let Some(function) = function else {
            let why = "no spec of this function was accepted; the condition Accepted says why";
            return Self::no("NotAccepted", why);
        };
        match function.spec.execution_mode {
            ExecutionMode::Pool => {
                let why = "calls go to its endpointUrl, which is not checked";
                return Self::yes("Endpoint", why);
            }
            ExecutionMode::Local => {
                return Self::yes("BuiltIn", "the control plane itself answers calls");
            }
            ExecutionMode::Warm if pods.current > 0 => {
                return Self::yes(PODS_READY, "pods of the present spec take calls");
            }
            ExecutionMode::Warm | ExecutionMode::Job => {}
        }
        if let Some((fault, message)) = failing(known, function) {
            return Self::failing(fault, message);
        }
        match (
            function.spec.execution_mode,
            function.spec.scaling_config.min_replicas,
        ) {
            (ExecutionMode::Warm, 0) => Self::yes(
                "ScaledToZero",
                "the first call starts a pod, and waits for it",
            ),
            (ExecutionMode::Warm, _) => match &pods.held_up {
                Some((fault, message)) => Self::failing(*fault, message),
                None => Self::no("Starting", "no pod of the present spec is ready yet"),
            },
            _ => Self::yes("OnDemand", "every call starts a pod of its own"),
        }
    }
}

/// Returns why the last start failed, if the next pod would be made in the same way.
fn failing<'a>(known: &'a ObservedFunction, function: &Function) -> Option<(StartFault, &'a str)> {
    match known.starts.outlook {
        Outlook::Good => None,
        Outlook::Bad(key, fault) => {
            let last = known.starts.last_failed.as_ref();
            let message = last.map_or("", |last| last.message.as_str());
            (key == StartKey::of(&function.spec)).then_some((fault, message))
        }
        Outlook::Unknown => {
            let before = known
                .status
                .as_ref()?
                .condition(crate::registry::status::READY)?;
            let is_same = before.status == "False" && before.observed_generation == known.accepted;
            let fault = StartFault::named(&before.reason).filter(|_| is_same)?;
            Some((fault, &before.message))
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReplicaCounts {
    /// The number of pods that exist, also of those that are ending.
    pub(crate) all: u32,
    /// The number of pods that start or take calls; at least `minReplicas`.
    pub(crate) wanted: u32,
    /// The number of pods that take calls.
    pub(crate) ready: u32,
    /// The number of pods that take calls and have the present shape.
    pub(crate) current: u32,
    /// What delays the start of a pod of the present shape; none during the usual steps of a start.
    pub(crate) held_up: Option<(StartFault, String)>,
}

impl ReplicaCounts {
    pub(crate) fn of(pods: &[Rc<ClusterPod>], function: Option<&Function>) -> Self {
        let mut counts = Self::default();
        let warm = function.filter(|one| one.spec.execution_mode == ExecutionMode::Warm);
        let shape = warm.map(|one| one.spec.shape_hash(Platform::Kubernetes));
        for pod in pods {
            counts.all += 1;
            if pod.is_going() {
                continue;
            }
            counts.wanted += 1;
            let is_current = shape.is_some_and(|shape| pod.has_shape(shape));
            if pod.is_up.get() {
                counts.ready += 1;
                counts.current += u32::from(is_current);
            } else if is_current {
                counts.held_up = counts.held_up.or_else(|| pod.held_up());
            }
        }
        // The scheduler may wait before it orders the next start.
        let floor = warm.map_or(0, |one| one.spec.scaling_config.min_replicas);
        counts.wanted = counts.wanted.max(floor);
        counts
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
    use serde_json::{Value, json};

    use super::*;
    use crate::podspec::tests::function;
    use crate::registry::functions::SpecVerdict;
    use crate::registry::object::FunctionStatus;
    use crate::registry::starts::now;

    fn warm(min: u32, more: &Value) -> Function {
        let mut fields = json!({"name": "f", "image": "i:1", "executionMode": "WARM",
            "scalingConfig": {"minReplicas": min, "maxReplicas": 4}});
        for (name, value) in more.as_object().expect("an object") {
            fields[name] = value.clone();
        }
        function(fields)
    }

    fn accepted() -> ObservedFunction {
        ObservedFunction::for_test(3, SpecVerdict::Accepted, None)
    }

    /// Returns whether the function is ready, and the reason.
    fn of(
        known: &ObservedFunction,
        function: &Function,
        pods: &ReplicaCounts,
    ) -> (bool, &'static str) {
        let readiness = Readiness::of(known, Some(function), pods);
        assert!(!readiness.message.is_empty());
        (readiness.is_ready, readiness.reason)
    }

    fn failed(known: &mut ObservedFunction, function: &Function, fault: StartFault) {
        known.starts.outlook = Outlook::Bad(StartKey::of(&function.spec), fault);
        known.starts.last_failed = Some(crate::registry::starts::FailedStart {
            at: now(),
            pod: "fn-f-1".to_owned(),
            reason: fault.as_str().to_owned(),
            message: "the cluster's words".to_owned(),
        });
    }

    #[test]
    fn warm_is_ready_with_a_current_pod() {
        let (known, function) = (accepted(), warm(1, &json!({})));
        let none = ReplicaCounts::default();
        assert_eq!(of(&known, &function, &none), (false, "Starting"));
        let old = ReplicaCounts {
            all: 1,
            wanted: 1,
            ready: 1,
            ..ReplicaCounts::default()
        };
        assert_eq!(of(&known, &function, &old), (false, "Starting"));
        let current = ReplicaCounts { current: 1, ..old };
        assert_eq!(of(&known, &function, &current), (true, PODS_READY));
        let stuck = ReplicaCounts {
            held_up: Some((StartFault::Unschedulable, "0/1 nodes".to_owned())),
            ..none
        };
        assert_eq!(of(&known, &function, &stuck), (false, "Unschedulable"));
    }

    #[test]
    fn a_failed_start_counts_until_another_outcome() {
        for min in [0, 1] {
            let mut known = accepted();
            let function = warm(min, &json!({}));
            failed(&mut known, &function, StartFault::ImagePull);
            let none = ReplicaCounts::default();
            assert_eq!(of(&known, &function, &none), (false, "ImagePull"));
            let readiness = Readiness::of(&known, Some(&function), &none);
            assert_eq!(readiness.message, "the cluster's words");
            let well = if min == 0 {
                (true, "ScaledToZero")
            } else {
                (false, "Starting")
            };
            for other in [json!({"image": "i:2"}), json!({"imagePullPolicy": "Never"})] {
                assert_eq!(of(&known, &warm(min, &other), &none), well, "{other}");
            }
            // Another `concurrency` does not change the pod, so the failure still counts.
            let same = warm(min, &json!({"concurrency": 9}));
            assert_eq!(of(&known, &same, &none), (false, "ImagePull"));
            known.starts.outlook = Outlook::Good;
            assert_eq!(of(&known, &function, &none), well);
        }
    }

    #[test]
    fn an_earlier_process_failure_counts_for_its_generation() {
        let function = warm(0, &json!({}));
        let none = ReplicaCounts::default();
        for (generation, reason, expected) in [
            (3, "CrashLoop", (false, "CrashLoop")),
            (2, "CrashLoop", (true, "ScaledToZero")),
            (3, "Starting", (true, "ScaledToZero")),
        ] {
            let condition = Condition {
                type_: "Ready".to_owned(),
                status: "False".to_owned(),
                reason: reason.to_owned(),
                message: "it exited".to_owned(),
                observed_generation: Some(generation),
                last_transition_time: now(),
            };
            let status = FunctionStatus {
                conditions: vec![condition],
                ..FunctionStatus::default()
            };
            let known = ObservedFunction::for_test(3, SpecVerdict::Accepted, Some(status));
            assert_eq!(of(&known, &function, &none), expected);
        }
    }

    #[test]
    fn modes_without_pods_are_always_ready() {
        let none = ReplicaCounts::default();
        let job = function(json!({"name": "f", "image": "i:1"}));
        let mut known = accepted();
        assert_eq!(of(&known, &job, &none), (true, "OnDemand"));
        failed(&mut known, &job, StartFault::Quota);
        assert_eq!(of(&known, &job, &none), (false, "Quota"));
        let pool = json!({"name": "f", "executionMode": "POOL", "endpointUrl": "http://h:1"});
        assert_eq!(of(&known, &function(pool), &none), (true, "Endpoint"));
        let local = json!({"name": "f", "executionMode": "LOCAL"});
        assert_eq!(of(&known, &function(local), &none), (true, "BuiltIn"));
    }

    #[test]
    fn the_floor_is_wanted_without_any_pod() {
        assert_eq!(ReplicaCounts::of(&[], Some(&warm(2, &json!({})))).wanted, 2);
        let job = function(json!({"name": "f", "image": "i:1"}));
        assert_eq!(ReplicaCounts::of(&[], Some(&job)), ReplicaCounts::default());
    }

    #[test]
    fn nothing_is_ready_that_was_never_accepted() {
        let rejected = ObservedFunction::for_test(1, SpecVerdict::Rejected("no".to_owned()), None);
        let readiness = Readiness::of(&rejected, None, &ReplicaCounts::default());
        assert_eq!(
            (readiness.is_ready, readiness.reason),
            (false, "NotAccepted")
        );
    }
}
