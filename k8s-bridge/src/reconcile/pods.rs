//! Follows the platform's pods in the cluster. Each update of the watch goes to the task of its pod. After
//! adoption, each pod in use has a task, so a warm pod without a task is deleted.

use std::rc::Rc;

use k8s_openapi::api::batch::v1::Job as JobObject;
use k8s_openapi::api::core::v1::Pod as PodObject;
use tokio::task::spawn_local;

use crate::api::watch::WatchUpdate;
use crate::pod::seen::ObservedPod;
use crate::podspec::{LABEL_INSTANCE, LABEL_JOB, LABEL_KIND};
use crate::reconcile::{BridgeStage, Reconciler};

fn label<'a>(object: &'a PodObject, name: &str) -> Option<&'a str> {
    let labels = object.metadata.labels.as_ref()?;
    labels.get(name).map(String::as_str)
}

pub(crate) fn apply_update(reconciler: &Rc<Reconciler>, update: WatchUpdate<PodObject>) {
    match update {
        WatchUpdate::Listing => reconciler
            .context
            .process
            .listing
            .set(reconciler.context.process.listing.get() + 1),
        WatchUpdate::There(object) => there(reconciler, object),
        WatchUpdate::Gone(object) => gone(reconciler, &object),
        WatchUpdate::Listed(names) => {
            let listing = reconciler.context.process.listing.get();
            let with_id = reconciler.memory.pods.borrow().all();
            let busy = reconciler.adoption.borrow().all_busy();
            for pod in with_id.into_iter().chain(busy) {
                // A pod that was created after the list began may be missing from it.
                if pod.since_listing.get() < listing && !names.contains(&pod.name) {
                    pod.mark_gone();
                }
            }
            for job in reconciler.memory.jobs.borrow().all() {
                job.look_for_pod(&names);
            }
            reconciler.pods_listed.set(true);
            reconciler.progress.notify_one();
        }
    }
}

fn there(reconciler: &Rc<Reconciler>, object: PodObject) {
    let name = object.metadata.name.clone().unwrap_or_default();
    if label(&object, LABEL_KIND) == Some("job") {
        let job = label(&object, LABEL_JOB).unwrap_or_default();
        if let Some(job) = reconciler.memory.jobs.borrow().named(job) {
            job.observe(&reconciler.context, name, ObservedPod::of(&object));
        } else if label(&object, LABEL_INSTANCE) != Some(&reconciler.context.process.instance) {
            end_job(reconciler, job.to_owned());
        }
        return;
    }
    let known = reconciler.memory.pods.borrow().named(&name);
    let known = known.or_else(|| reconciler.adoption.borrow().busy(&name));
    if let Some(pod) = known {
        pod.observe(&reconciler.context, ObservedPod::of(&object));
    } else if reconciler.stage.get() == BridgeStage::Acting {
        let is_offered = reconciler.adoption.borrow().is_offered(&name);
        if object.metadata.deletion_timestamp.is_none() && !is_offered {
            delete_orphan(reconciler, name);
        }
    } else {
        reconciler.adoption.borrow_mut().find(name, object);
    }
}

fn gone(reconciler: &Reconciler, object: &PodObject) {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    if label(object, LABEL_KIND) == Some("job") {
        let job = label(object, LABEL_JOB).unwrap_or_default();
        if let Some(job) = reconciler.memory.jobs.borrow().named(job) {
            // The deleted object may say how the container ended, so observe it before `mark_gone`.
            job.observe(
                &reconciler.context,
                name.to_owned(),
                ObservedPod::of(object),
            );
            job.mark_gone();
        }
        return;
    }
    reconciler.adoption.borrow_mut().lose(name);
    let known = reconciler.memory.pods.borrow().named(name);
    let known = known.or_else(|| reconciler.adoption.borrow().busy(name));
    if let Some(pod) = known {
        pod.observe(&reconciler.context, ObservedPod::of(object));
        pod.mark_gone();
    }
}

/// Deletes the Job of an earlier process. Its request to create the Job may have been in flight when that
/// process ended.
fn end_job(reconciler: &Rc<Reconciler>, name: String) {
    let reconciler = reconciler.clone();
    spawn_local(async move {
        reconciler
            .context
            .cluster
            .delete::<JobObject>(&name, None)
            .await
    });
}

/// Deletes a pod that has ended, that no function has, or whose creation got no answer.
pub(crate) fn delete_orphan(reconciler: &Rc<Reconciler>, name: String) {
    tracing::info!(pod = name, "a pod that no function has is deleted");
    delete(reconciler, name);
}

/// Deletes a pod that has no task in this bridge. The pod keeps its whole grace period.
pub(crate) fn delete(reconciler: &Rc<Reconciler>, name: String) {
    let reconciler = reconciler.clone();
    spawn_local(async move {
        reconciler
            .context
            .cluster
            .delete::<PodObject>(&name, None)
            .await
    });
}
