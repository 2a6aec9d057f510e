//! How pods of an earlier plane become this one's, without being touched: each is offered to the
//! scheduler, which gives it a place, and asked whether it is well. New pods wait until then, so
//! that none is started in the place of one that is there.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod as PodObject;
use nanofaas_core::event::Event;
use nanofaas_core::function::Function;
use nanofaas_core::spec::ExecutionMode;
use nanofaas_core::ticket::PodRef;
use tokio::task::spawn_local;

use crate::bridge::Plane;
use crate::pods::stray;
use crate::podspec::{ANNOTATION_SHAPE, LABEL_FUNCTION, shape};
use crate::seen::Seen;
use crate::warm::{Origin, Pod};

/// What is found until the plane acts.
#[derive(Default)]
pub(crate) struct Adoption {
    /// Pods that nobody here knows yet, by name.
    found: HashMap<String, PodObject>,
    /// Pods that the scheduler was told of, by the number it was told.
    offered: HashMap<u64, (String, Arc<Function>)>,
    /// Adopted pods that were not asked yet.
    unasked: HashSet<String>,
    next: u64,
    has_begun: bool,
}

impl Adoption {
    pub(crate) fn find(&mut self, name: String, object: PodObject) {
        self.found.insert(name, object);
    }

    pub(crate) fn lose(&mut self, name: &str) {
        self.found.remove(name);
    }

    pub(crate) fn was_asked(&mut self, name: &str) {
        self.unasked.remove(name);
    }

    /// Whether every pod that was there has its place and was asked.
    pub(crate) fn is_over(&self) -> bool {
        self.has_begun && self.offered.is_empty() && self.unasked.is_empty()
    }
}

/// Offers what was found to the scheduler; what no function wants is deleted.
pub(crate) fn begin(plane: &Rc<Plane>) {
    resume(plane);
    let found: Vec<_> = plane.adoption.borrow_mut().found.drain().collect();
    for (name, object) in found {
        if object.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let labels = object.metadata.labels.as_ref();
        let function = labels.and_then(|labels| labels.get(LABEL_FUNCTION));
        let function = function
            .and_then(|name| plane.say(|desk| desk.functions().get(name.as_str()).cloned()));
        let wanted = |function: &Arc<Function>| function.spec.execution_mode == ExecutionMode::Warm;
        let has_ended = Seen::of(&object).ended.is_some();
        let Some(function) = function.filter(wanted).filter(|_| !has_ended) else {
            stray(plane, name);
            continue;
        };
        offer(plane, name, object, function);
    }
    plane.adoption.borrow_mut().has_begun = true;
}

fn offer(plane: &Plane, name: String, object: PodObject, function: Arc<Function>) {
    let annotations = object.metadata.annotations.as_ref();
    let made_from = annotations.and_then(|all| all.get(ANNOTATION_SHAPE));
    let stale = made_from != Some(&shape(&function.spec));
    let lane = function.lane;
    let token = {
        let mut adoption = plane.adoption.borrow_mut();
        adoption.next += 1;
        let token = adoption.next;
        adoption.offered.insert(token, (name.clone(), function));
        // It is looked at again when it has its place.
        adoption.found.insert(name, object);
        token
    };
    plane.say(|desk| desk.event(Event::Adopt { lane, token, stale }));
}

/// Deletes what came to light after the offers were made: an earlier plane's last doings.
pub(crate) fn end(plane: &Rc<Plane>) {
    let found: Vec<_> = plane.adoption.borrow_mut().found.drain().collect();
    for (name, object) in found {
        if object.metadata.deletion_timestamp.is_none() {
            stray(plane, name);
        }
    }
}

/// The scheduler answered: the pod has a place, or none where its function went meanwhile.
pub(crate) fn adopted(plane: &Rc<Plane>, token: u64, place: PodRef) {
    let offered = plane.adoption.borrow_mut().offered.remove(&token);
    plane.progress.notify_one();
    let Some((name, function)) = offered else {
        // Another building of the bridge offered it; that pod was found anew since.
        return plane.is_unknown(place);
    };
    let object = plane.adoption.borrow_mut().found.remove(&name);
    if !place.is_some() {
        return stray(plane, name);
    }
    let Some(object) = object else {
        return plane.is_unknown(place);
    };
    tracing::info!(function = %function.name(), pod = name, "a pod is adopted");
    let seen = Seen::of(&object);
    // One that has no address yet cannot be asked, and the plane does not wait for it.
    if seen.address.is_some() {
        plane.adoption.borrow_mut().unasked.insert(name.clone());
    }
    let pod = Rc::new(Pod::new(place, name, function, plane.now_ns()));
    pod.since_listing.set(plane.memory.listing.get());
    pod.see(plane, seen);
    plane.run_pod(&pod, Origin::Adopted);
}

/// Pods and Jobs of this process, whose bridge was built anew, go on where they are.
fn resume(plane: &Rc<Plane>) {
    for pod in plane.memory.pods.borrow().all() {
        let is_up = pod.is_up.get();
        let was_created = pod.since_listing.get() != u64::MAX;
        let origin = if was_created {
            Origin::Resumed { is_up }
        } else {
            Origin::New
        };
        spawn_local(pod.live(plane.clone(), origin));
    }
    for job in plane.memory.jobs.borrow().all() {
        spawn_local(job.live(plane.clone()));
    }
}
