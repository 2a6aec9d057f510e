//! Keeps the history of a function's starts: the last failed start, and whether the next start is expected to
//! work. The tasks of warm pods and Jobs report how their starts ended. The condition `Ready` is derived from
//! this history.

use jiff_0_2::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use nanofaas_core::function::Function;
use nanofaas_core::message::PodEnd;
use nanofaas_core::spec::{ImagePullPolicy, Platform, SpecFields};
use serde::{Deserialize, Serialize};

use crate::context::report::TaskReport;
use crate::context::start_fault::StartFault;
use crate::registry::ClusterRegistry;
use crate::registry::events::EventReason;

/// The largest length of a text in a status or an Event, in bytes.
pub(crate) const TEXT_MAX: usize = 1024;

/// The content of `status.lastFailedStart`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct FailedStart {
    pub(crate) at: Time,
    /// The name of the pod, or of the Job of a call.
    pub(crate) pod: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// The part of a spec that decides whether a start fails. A start from another spec with an equal key would
/// fail in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StartKey(u64, ImagePullPolicy);

impl StartKey {
    pub(crate) fn of(spec: &SpecFields) -> Self {
        Self(
            spec.shape_hash(Platform::Kubernetes),
            spec.image_pull_policy,
        )
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Outlook {
    /// No start has ended in this process, so the status that an earlier process wrote counts.
    #[default]
    Unknown,
    /// The last start worked, or pods are made in another way since the last failed start.
    Good,
    /// The last start failed; its spec had this key.
    Bad(StartKey, StartFault),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct StartHistory {
    pub(crate) last_failed: Option<FailedStart>,
    pub(crate) outlook: Outlook,
}

impl StartHistory {
    pub(crate) fn after(last_failed: Option<FailedStart>) -> Self {
        Self {
            last_failed,
            outlook: Outlook::Unknown,
        }
    }
}

impl ClusterRegistry {
    pub(crate) fn apply(&self, report: TaskReport) {
        match report {
            TaskReport::Changed(name) => self.functions.mark_changed(&name),
            TaskReport::StartFailed {
                function,
                pod,
                fault,
                why,
            } => self.start_failed(&function, &pod, fault, &why),
            TaskReport::StartHeldUp { function, pod, why } => {
                self.start_held_up(&function, &pod, &why)
            }
            TaskReport::StartWorked(function) => self.start_worked(&function),
            TaskReport::PodLost { function, pod, end } => self.pod_lost(&function, &pod, &end),
            // The adoption has already handled this report.
            TaskReport::Probed(_) => {}
        }
    }

    fn start_failed(&self, function: &Function, pod: &str, fault: StartFault, why: &str) {
        let name = function.name();
        let message = shortened(why, TEXT_MAX);
        let text = format!("{pod}: {}: {message}", fault.as_str());
        self.functions.with(name, |known| {
            known.starts.outlook = Outlook::Bad(StartKey::of(&function.spec), fault);
            known.starts.last_failed = Some(FailedStart {
                at: now(),
                pod: pod.to_owned(),
                reason: fault.as_str().to_owned(),
                message,
            });
        });
        self.note(name, EventReason::StartFailed, &text);
        self.functions.mark_changed(name);
    }

    fn start_held_up(&self, function: &Function, pod: &str, why: &str) {
        let name = function.name();
        tracing::warn!(function = %name, pod, "the start is held up: {why}");
        self.note(name, EventReason::StartHeldUp, &format!("{pod}: {why}"));
    }

    fn start_worked(&self, function: &Function) {
        let name = function.name();
        let is_change = self.functions.with(name, |known| {
            let is_change = match known.starts.outlook {
                Outlook::Good => false,
                Outlook::Unknown => true,
                // A start of a pod with an older spec may work although pods of the present spec fail.
                Outlook::Bad(key, _) => key == StartKey::of(&function.spec),
            };
            if is_change {
                known.starts.outlook = Outlook::Good;
            }
            is_change
        });
        if is_change == Some(true) {
            self.functions.mark_changed(name);
        }
    }

    fn pod_lost(&self, function: &Function, pod: &str, end: &PodEnd) {
        let reason = if end.oom {
            EventReason::OomKilled
        } else {
            EventReason::PodLost
        };
        let text = format!("{pod}: {}", end.message);
        self.note(function.name(), reason, &text);
    }

    pub(crate) fn note(&self, function: &str, reason: EventReason, text: &str) {
        let uid = self.functions.with(function, |known| known.uid.clone());
        if let Some(uid) = uid {
            let text = shortened(text, TEXT_MAX);
            self.events.note(function, uid, reason, text);
        }
    }
}

/// Returns the current time in whole seconds, because the API server stores no fractions, and a time that is
/// read again must equal the written time.
pub(crate) fn now() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// Returns at most the first `max` bytes of a text, and cuts no character.
pub(crate) fn shortened(text: &str, max: usize) -> String {
    let end = (0..=max.min(text.len())).rev();
    let mut end = end.skip_while(|at| !text.is_char_boundary(*at));
    text[..end.next().unwrap_or_default()].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        assert_eq!(shortened("short", 10), "short");
        // Each of these characters has two bytes.
        assert_eq!(shortened("ééé", 5), "éé");
        assert_eq!(shortened("ééé", 6), "ééé");
    }
}
