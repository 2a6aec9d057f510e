//! The pods of this platform in the cluster: what the watch shows goes to the task of each pod. A
//! warm pod without a task is deleted once adoption is over, because each wanted pod has one then.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job as JobObject;
use k8s_openapi::api::core::v1::Pod as PodObject;
use nanofaas_core::ticket::PodRef;
use tokio::task::spawn_local;

use crate::api::watch::News;
use crate::bridge::{Plane, Stage};
use crate::pod::Pod;
use crate::pod::seen::Seen;
use crate::podspec::{LABEL_INSTANCE, LABEL_JOB, LABEL_KIND};

/// Warm pods by place and by name.
#[derive(Default)]
pub(crate) struct Pods {
    by_place: HashMap<PodRef, Rc<Pod>>,
    by_name: HashMap<String, Rc<Pod>>,
    by_function: HashMap<Arc<str>, Vec<Rc<Pod>>>,
}

impl Pods {
    pub(crate) fn add(&mut self, pod: &Rc<Pod>) {
        self.by_place.insert(pod.place(), pod.clone());
        self.by_name.insert(pod.name.clone(), pod.clone());
        let function = pod.function.name().clone();
        self.by_function
            .entry(function)
            .or_default()
            .push(pod.clone());
    }

    pub(crate) fn remove(&mut self, pod: &Pod) {
        self.by_place.remove(&pod.place());
        self.by_name.remove(&pod.name);
        let function = pod.function.name();
        if let Some(pods) = self.by_function.get_mut(function) {
            pods.retain(|one| one.name != pod.name);
            if pods.is_empty() {
                self.by_function.remove(function);
            }
        }
    }

    pub(crate) fn at(&self, place: PodRef) -> Option<Rc<Pod>> {
        self.by_place.get(&place).cloned()
    }

    pub(crate) fn named(&self, name: &str) -> Option<Rc<Pod>> {
        self.by_name.get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Rc<Pod>> {
        self.by_place.values().cloned().collect()
    }

    /// Pods of a function.
    pub(crate) fn of(&self, function: &str) -> &[Rc<Pod>] {
        self.by_function.get(function).map_or(&[], Vec::as_slice)
    }
}

fn label<'a>(object: &'a PodObject, name: &str) -> Option<&'a str> {
    let labels = object.metadata.labels.as_ref()?;
    labels.get(name).map(String::as_str)
}

/// Handles one piece of news from the watch of pods.
pub(crate) fn hear(plane: &Rc<Plane>, news: News<PodObject>) {
    match news {
        News::Listing => plane.memory.listing.set(plane.memory.listing.get() + 1),
        News::There(object) => there(plane, object),
        News::Gone(object) => gone(plane, &object),
        News::Listed(names) => {
            let listing = plane.memory.listing.get();
            let with_place = plane.memory.pods.borrow().all();
            let busy = plane.adoption.borrow().all_busy();
            for pod in with_place.into_iter().chain(busy) {
                // A pod that was created after the listing began may be missing from it.
                if pod.since_listing.get() < listing && !names.contains(&pod.name) {
                    pod.is_no_more();
                }
            }
            for job in plane.memory.jobs.borrow().all() {
                job.look_for_pod(&names);
            }
            plane.pods_listed.set(true);
            plane.progress.notify_one();
        }
    }
}

fn there(plane: &Rc<Plane>, object: PodObject) {
    let name = object.metadata.name.clone().unwrap_or_default();
    if label(&object, LABEL_KIND) == Some("job") {
        let job = label(&object, LABEL_JOB).unwrap_or_default();
        if let Some(job) = plane.memory.jobs.borrow().named(job) {
            job.see(plane, name, Seen::of(&object));
        } else if label(&object, LABEL_INSTANCE) != Some(&plane.memory.instance) {
            end_job(plane, job.to_owned());
        }
        return;
    }
    let known = plane.memory.pods.borrow().named(&name);
    let known = known.or_else(|| plane.adoption.borrow().busy(&name));
    if let Some(pod) = known {
        pod.see(plane, Seen::of(&object));
    } else if plane.stage.get() == Stage::Acting {
        let is_offered = plane.adoption.borrow().is_offered(&name);
        if object.metadata.deletion_timestamp.is_none() && !is_offered {
            stray(plane, name);
        }
    } else {
        plane.adoption.borrow_mut().find(name, object);
    }
}

fn gone(plane: &Plane, object: &PodObject) {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    if label(object, LABEL_KIND) == Some("job") {
        let job = label(object, LABEL_JOB).unwrap_or_default();
        if let Some(job) = plane.memory.jobs.borrow().named(job) {
            job.see(plane, name.to_owned(), Seen::of(object));
            job.is_no_more();
        }
        return;
    }
    plane.adoption.borrow_mut().lose(name);
    let known = plane.memory.pods.borrow().named(name);
    let known = known.or_else(|| plane.adoption.borrow().busy(name));
    if let Some(pod) = known {
        pod.see(plane, Seen::of(object));
        pod.is_no_more();
    }
}

/// Deletes the Job of an earlier process, whose request to create it may have been in flight when
/// the process ended.
fn end_job(plane: &Rc<Plane>, name: String) {
    let plane = plane.clone();
    spawn_local(async move { plane.cluster.delete::<JobObject>(&name, None).await });
}

/// Deletes a pod whose creation was never answered, or whose function is gone.
pub(crate) fn stray(plane: &Rc<Plane>, name: String) {
    tracing::info!(pod = name, "a pod that no function has is deleted");
    delete(plane, name);
}

/// Deletes a pod that has no task in this bridge, with its whole grace period.
pub(crate) fn delete(plane: &Rc<Plane>, name: String) {
    let plane = plane.clone();
    spawn_local(async move { plane.cluster.delete::<PodObject>(&name, None).await });
}
