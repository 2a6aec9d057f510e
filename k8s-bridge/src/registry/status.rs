//! Writes each function's status in the cluster: its conditions, its numbers of pods, and the last failed
//! start. A status is written only if it has changed. Changed numbers of one function are written at most
//! every 10 s. A changed condition is written at the next poll, at most `URGENT_MAX` times in 10 s. `ready`
//! decides whether a function is ready.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::podspec::{LABEL_FUNCTION, LABEL_KIND};
use crate::registry::ClusterRegistry;
use crate::registry::events::EventReason;
use crate::registry::functions::{ObservedFunction, SpecVerdict};
use crate::registry::object::{FunctionObject, FunctionStatus};
use crate::registry::ready::{PODS_READY, Readiness, ReplicaCounts};
use crate::registry::starts::now;

const BETWEEN: Duration = Duration::from_secs(10);
/// The largest number of writes of one function's status within `BETWEEN` if conditions change. A changed
/// condition is written early, because `kubectl wait` waits for conditions.
const URGENT_MAX: usize = 5;
const POLL: Duration = Duration::from_millis(500);
/// How long one write may take. If it fails, a later write sends the newest status.
const WRITE: Duration = Duration::from_secs(10);

const ACCEPTED: &str = "Accepted";
pub(crate) const READY: &str = "Ready";

#[derive(Default)]
struct WritePace {
    writes: Vec<Instant>,
    failed: bool,
}

impl WritePace {
    /// Drops the writes older than `BETWEEN`; returns whether any are left.
    fn keep_recent(&mut self) -> bool {
        self.writes.retain(|at| at.elapsed() < BETWEEN);
        !self.writes.is_empty()
    }

    fn may_write(&self, is_urgent: bool) -> bool {
        let most = if is_urgent && !self.failed {
            URGENT_MAX
        } else {
            1
        };
        self.writes.len() < most
    }
}

struct StatusChange {
    /// The uid of the object for which the status was computed. Another object may have the same name at the
    /// time of the write.
    uid: String,
    old: FunctionStatus,
    new: FunctionStatus,
}

pub(crate) async fn keep(registry: &ClusterRegistry) {
    let mut paces: HashMap<String, WritePace> = HashMap::new();
    loop {
        sleep(POLL).await;
        paces.retain(|_, pace| pace.keep_recent());
        let may_be = |name: &&String| paces.get(*name).is_none_or(|pace| pace.may_write(true));
        let mut names: Vec<String> = {
            let changed = registry.functions.changed.borrow();
            changed.iter().filter(may_be).cloned().collect()
        };
        names.sort_unstable();
        for name in names {
            update_status(registry, &mut paces, name).await;
        }
    }
}

async fn update_status(
    registry: &ClusterRegistry,
    paces: &mut HashMap<String, WritePace>,
    name: String,
) {
    let change = new_status(registry, &name);
    let pace = paces.entry(name.clone()).or_default();
    if let Some(change) = &change
        && !pace.may_write(is_urgent(&change.old, &change.new))
    {
        return;
    }
    registry.functions.changed.borrow_mut().remove(&name);
    let Some(change) = change else { return };
    pace.writes.push(Instant::now());
    pace.failed = !write(registry, &name, &change).await;
    if pace.failed {
        registry.functions.mark_changed(&name);
    } else {
        for (reason, text) in events(&change.old, &change.new) {
            registry.note(&name, reason, &text);
        }
    }
}

fn new_status(registry: &ClusterRegistry, name: &str) -> Option<StatusChange> {
    let function = registry
        .context
        .with_work_queue(|queue| queue.functions().get(name).cloned());
    let pods = ReplicaCounts::of(registry.pods.borrow().of(name), function.as_deref());
    let change = registry.functions.with(name, |known| {
        let readiness = Readiness::of(known, function.as_deref(), &pods);
        StatusChange {
            uid: known.uid.clone(),
            old: known.status.clone().unwrap_or_default(),
            new: status(name, known, readiness, &pods),
        }
    });
    change.filter(|change| change.old != change.new)
}

fn status(
    name: &str,
    known: &ObservedFunction,
    readiness: Readiness,
    pods: &ReplicaCounts,
) -> FunctionStatus {
    let (is_accepted, reason, message) = match &known.verdict {
        SpecVerdict::Accepted => (true, "Valid", "the control plane serves this spec"),
        SpecVerdict::Rejected(why) => (false, "Invalid", &**why),
    };
    let old = known.status.as_ref();
    let accepted = Condition {
        observed_generation: Some(known.generation),
        ..condition(old, ACCEPTED, is_accepted, reason, message)
    };
    let Readiness {
        is_ready,
        reason,
        message,
    } = readiness;
    // Use the accepted generation, because `kubectl wait` must not take a rejected spec for a ready one.
    let ready = Condition {
        observed_generation: Some(known.accepted.unwrap_or(known.generation)),
        ..condition(old, READY, is_ready, reason, &message)
    };
    FunctionStatus {
        conditions: vec![accepted, ready],
        ready_pods: pods.ready,
        wanted_pods: pods.wanted,
        replicas: pods.all,
        selector: format!("{LABEL_FUNCTION}={name},{LABEL_KIND}=warm"),
        last_failed_start: known.starts.last_failed.clone(),
        observed_generation: known.generation,
        accepted_spec: match &known.verdict {
            SpecVerdict::Accepted => None,
            SpecVerdict::Rejected(_) => known.accepted_spec.clone(),
        },
    }
}

/// Makes a condition. The transition time stays if the old condition has the same status.
fn condition(
    old: Option<&FunctionStatus>,
    kind: &str,
    is_true: bool,
    reason: &str,
    message: &str,
) -> Condition {
    let status = if is_true { "True" } else { "False" };
    let before = old.and_then(|old| old.condition(kind));
    let since = before.filter(|before| before.status == status);
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: None,
        last_transition_time: since.map_or_else(now, |before| before.last_transition_time.clone()),
    }
}

/// Returns whether a client may wait for this change: a condition has another status or generation, or is
/// false for another reason. The reason of a true condition may change as often as the number of pods, so it
/// is not urgent.
fn is_urgent(old: &FunctionStatus, new: &FunctionStatus) -> bool {
    new.conditions.iter().any(|new| {
        old.condition(&new.type_).is_none_or(|old| {
            let is_false = new.status == "False";
            old.status != new.status
                || old.observed_generation != new.observed_generation
                || is_false && old.reason != new.reason
        })
    })
}

fn events(old: &FunctionStatus, new: &FunctionStatus) -> Vec<(EventReason, String)> {
    let mut events = Vec::new();
    for now in &new.conditions {
        let before = old.condition(&now.type_);
        let was = before.map_or("", |before| &before.status);
        let generation = now.observed_generation.unwrap_or_default();
        let is_new = before.is_none_or(|before| {
            before.status != now.status || before.observed_generation != now.observed_generation
        });
        match (&*now.type_, &*now.status) {
            (ACCEPTED, "True") if is_new => {
                let text = format!("generation {generation} is in force");
                events.push((EventReason::Accepted, text));
            }
            (ACCEPTED, "False") if is_new => {
                events.push((EventReason::Rejected, now.message.clone()));
            }
            // A new function that is ready without a pod was ready from the start, so it gets no Event
            // `Ready`.
            (READY, "True") if was == "False" || (was.is_empty() && now.reason == PODS_READY) => {
                events.push((EventReason::Ready, now.message.clone()));
            }
            _ => {}
        }
    }
    let (before, after) = (old.wanted_pods, new.wanted_pods);
    if before != after && !old.conditions.is_empty() {
        let text = format!("from {before} to {after} wanted pods");
        events.push((EventReason::Scaled, text));
    }
    events
}

async fn write(registry: &ClusterRegistry, name: &str, change: &StatusChange) -> bool {
    let status = &change.new;
    let api = registry.context.cluster.api::<FunctionObject>();
    let patch = Patch::Merge(json!({"status": status}));
    let parameters = PatchParams::default();
    let write = async |_| api.patch_status(name, &parameters, &patch).await;
    match registry
        .context
        .cluster
        .change(Instant::now() + WRITE, write)
        .await
    {
        Ok(_) => {
            registry.functions.with(name, |known| {
                if known.uid == change.uid {
                    known.status = Some(status.clone());
                }
            });
            true
        }
        Err(denied) => {
            tracing::debug!(
                function = name,
                "its status is not written: {}",
                denied.message()
            );
            // An object that is gone needs no status, so this is no failure.
            denied.code() == 404
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a readiness with this reason, which is ready if the reason is `PODS_READY`.
    fn readiness(reason: &'static str) -> Readiness {
        Readiness {
            is_ready: reason == PODS_READY,
            reason,
            message: "why".to_owned(),
        }
    }

    fn of(known: &ObservedFunction, reason: &'static str, pods: u32) -> FunctionStatus {
        let counts = ReplicaCounts {
            all: pods,
            wanted: pods,
            ready: pods,
            ..ReplicaCounts::default()
        };
        status("f", known, readiness(reason), &counts)
    }

    fn known(verdict: SpecVerdict, status: Option<FunctionStatus>) -> ObservedFunction {
        ObservedFunction::for_test(3, verdict, status)
    }

    /// Sets the conditions' times to the past, so that a time that is set now differs from them.
    fn long_ago(mut status: FunctionStatus) -> FunctionStatus {
        for condition in &mut status.conditions {
            let time = "2020-01-01T00:00:00Z".parse().expect("a time");
            condition.last_transition_time =
                k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time);
        }
        status
    }

    #[test]
    fn a_condition_keeps_its_time_with_its_status() {
        let first = long_ago(of(&known(SpecVerdict::Accepted, None), PODS_READY, 1));
        let again = known(SpecVerdict::Accepted, Some(first.clone()));
        assert_eq!(of(&again, PODS_READY, 1), first);
        let more = of(&again, PODS_READY, 2);
        assert_eq!(
            (more.ready_pods, more.wanted_pods, more.replicas),
            (2, 2, 2)
        );
        let less = of(&again, "Starting", 0);
        for kind in [ACCEPTED, READY] {
            let [first, more, less] =
                [&first, &more, &less].map(|one| one.condition(kind).expect("there"));
            assert_eq!(first.last_transition_time, more.last_transition_time);
            let is_kept = first.last_transition_time == less.last_transition_time;
            assert_eq!(is_kept, kind == ACCEPTED);
            assert_eq!(more.observed_generation, Some(3));
        }
    }

    #[test]
    fn a_rejected_spec_is_never_ready() {
        let mut known = known(SpecVerdict::Rejected("image: is required".into()), None);
        known.accepted = Some(2);
        let status = of(&known, PODS_READY, 1);
        assert_eq!(status.observed_generation, 3);
        let accepted = status.condition(ACCEPTED).expect("there");
        assert_eq!(accepted.status, "False");
        assert_eq!(accepted.message, "image: is required");
        assert_eq!(accepted.observed_generation, Some(3));
        let ready = status.condition(READY).expect("there");
        assert_eq!(ready.observed_generation, Some(2));
    }

    #[test]
    fn a_changed_condition_is_urgent_and_numbers_not() {
        let accepted = known(SpecVerdict::Accepted, None);
        let one = of(&accepted, PODS_READY, 1);
        let urgent = |reason, pods| is_urgent(&one, &of(&accepted, reason, pods));
        assert!(!urgent(PODS_READY, 2) && urgent("ImagePull", 1));
        assert!(is_urgent(&FunctionStatus::default(), &one));
        let (pull, crash) = (of(&accepted, "ImagePull", 0), of(&accepted, "CrashLoop", 0));
        assert!(is_urgent(&pull, &crash) && !is_urgent(&pull, &pull));
        let newer = ObservedFunction::for_test(4, SpecVerdict::Accepted, None);
        assert!(is_urgent(&one, &of(&newer, PODS_READY, 1)));
    }

    #[test]
    fn events_say_what_changed_between_two_statuses() {
        let accepted = known(SpecVerdict::Accepted, None);
        let rejected = known(SpecVerdict::Rejected("no".into()), None);
        let none = FunctionStatus::default();
        let reasons = |old: &FunctionStatus, new: &FunctionStatus| -> Vec<EventReason> {
            events(old, new)
                .into_iter()
                .map(|(reason, _)| reason)
                .collect()
        };
        let starting = of(&accepted, "Starting", 0);
        let up = of(&accepted, PODS_READY, 2);
        assert_eq!(reasons(&none, &starting), [EventReason::Accepted]);
        let of_new = [EventReason::Ready, EventReason::Scaled];
        assert_eq!(reasons(&starting, &up), of_new);
        assert_eq!(reasons(&up, &up), []);
        let wrong = of(&rejected, PODS_READY, 2);
        assert_eq!(reasons(&up, &wrong), [EventReason::Rejected]);
        assert_eq!(reasons(&wrong, &wrong), []);
    }

    #[test]
    fn urgent_writes_go_at_once_within_a_budget() {
        let mut pace = WritePace::default();
        assert!(pace.may_write(false) && !pace.keep_recent());
        pace.writes.push(Instant::now());
        assert!(!pace.may_write(false) && pace.may_write(true) && pace.keep_recent());
        pace.writes.resize(URGENT_MAX, Instant::now());
        assert!(!pace.may_write(true));
        pace.writes.truncate(1);
        pace.failed = true;
        assert!(!pace.may_write(true));
    }
}
