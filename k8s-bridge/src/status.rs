//! Each function's status in the cluster: whether it is accepted, and how many of its pods are
//! ready. Written only where it changed, and at most every 10 s for one function.

use std::collections::HashMap;
use std::time::Duration;

use jiff_0_2::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::bridge::Plane;
use crate::functions::{Known, Verdict};
use crate::object::{FunctionObject, FunctionStatus};

/// Between two writes of one function's status.
const BETWEEN: Duration = Duration::from_secs(10);
/// Between two looks at whose changed.
const LOOK: Duration = Duration::from_millis(500);
/// How long one write may take; a later one says the same and more.
const WRITE: Duration = Duration::from_secs(10);

const ACCEPTED: &str = "Accepted";

/// Writes what changed, for ever.
pub(crate) async fn keep(plane: &Plane) {
    let mut written: HashMap<String, Instant> = HashMap::new();
    loop {
        sleep(LOOK).await;
        written.retain(|_, at| at.elapsed() < BETWEEN);
        let mut due: Vec<String> = {
            let changed = plane.functions.changed.borrow();
            let due = changed.iter().filter(|name| !written.contains_key(*name));
            due.cloned().collect()
        };
        due.sort_unstable();
        for name in due {
            plane.functions.changed.borrow_mut().remove(&name);
            let ready_pods = plane.ready_pods(&name);
            let status = plane
                .functions
                .with(&name, |known| new_status(known, ready_pods));
            let Some(Some(status)) = status else { continue };
            written.insert(name.clone(), Instant::now());
            if !write(plane, &name, &status).await {
                plane.functions.is_changed(&name);
            }
        }
    }
}

/// The status that has to be written, where it is another one than the object's.
fn new_status(known: &Known, ready_pods: u32) -> Option<FunctionStatus> {
    let (status, reason, message) = match &known.verdict {
        Verdict::Accepted => ("True", "Valid", "the control plane serves this spec"),
        Verdict::Rejected(why) => ("False", "Invalid", &**why),
    };
    let old = known.status.as_ref();
    let old_condition = old.and_then(|old| old.conditions.iter().find(|one| one.type_ == ACCEPTED));
    let same = old_condition
        .is_some_and(|old| old.status == status && old.message == message && old.reason == reason);
    let is_current = old.is_some_and(|old| {
        old.ready_pods == ready_pods && old.observed_generation == known.generation
    });
    if same && is_current {
        return None;
    }
    let since = old_condition.filter(|old| old.status == status);
    let since = since.map(|old| old.last_transition_time.clone());
    Some(FunctionStatus {
        conditions: vec![Condition {
            type_: ACCEPTED.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            observed_generation: Some(known.generation),
            last_transition_time: since.unwrap_or_else(|| Time(Timestamp::now())),
        }],
        ready_pods,
        observed_generation: known.generation,
    })
}

async fn write(plane: &Plane, name: &str, status: &FunctionStatus) -> bool {
    let api = plane.cluster.api::<FunctionObject>();
    let patch = Patch::Merge(json!({"status": status}));
    let parameters = PatchParams::default();
    let write = async |_| api.patch_status(name, &parameters, &patch).await;
    match plane.cluster.change(Instant::now() + WRITE, write).await {
        Ok(_) => {
            plane
                .functions
                .with(name, |known| known.status = Some(status.clone()));
            true
        }
        Err(denied) => {
            tracing::debug!(
                function = name,
                "its status is not written: {}",
                denied.message()
            );
            // Whoever is gone needs none.
            denied.code() == 404
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(verdict: Verdict, status: Option<FunctionStatus>) -> Known {
        Known::for_test(3, verdict, status)
    }

    #[test]
    fn a_status_is_written_only_where_it_changed() {
        let first = new_status(&known(Verdict::Accepted, None), 1).expect("new");
        assert_eq!(first.conditions[0].status, "True");
        let again = known(Verdict::Accepted, Some(first.clone()));
        assert!(new_status(&again, 1).is_none());
        let more = new_status(&again, 2).expect("another number");
        assert_eq!(more.ready_pods, 2);
        let (old, new) = (&first.conditions[0], &more.conditions[0]);
        assert_eq!(old.last_transition_time, new.last_transition_time);
        let wrong = known(Verdict::Rejected("image: is required".into()), Some(first));
        let wrong = new_status(&wrong, 1).expect("another verdict");
        assert_eq!(wrong.conditions[0].status, "False");
        assert_eq!(wrong.conditions[0].message, "image: is required");
        assert_eq!(wrong.observed_generation, 3);
    }
}
