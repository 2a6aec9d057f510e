//! Takes over the pods of an earlier control plane, without changing them. Each pod is offered to the
//! scheduler, which gives it an id; after that the pod is probed. Orders for new pods are held until adoption
//! is over, so that an existing pod is used first.
//!
//! A pod that does not answer may be busy with a call of the earlier control plane, because some servers
//! handle one request at a time. Such a pod loses its id, and a new pod may replace it. The busy pod is
//! probed for as long as a call may run, and is offered again if it answers.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod as PodObject;
use nanofaas_core::event::Event;
use nanofaas_core::function::Function;
use nanofaas_core::spec::ExecutionMode;
use nanofaas_core::ticket::PodId;
use tokio::task::spawn_local;
use tokio::time::Instant;

use crate::api::cluster::ClusterError;
use crate::pod::seen::ObservedPod;
use crate::pod::{ClusterPod, Origin};
use crate::podspec::{ANNOTATION_SHAPE, LABEL_FUNCTION, shape};
use crate::reconcile::Reconciler;
use crate::reconcile::pods::{delete, delete_orphan};

/// How long one read of the object of a pod that answered late may take.
const FETCH: Duration = Duration::from_secs(60);

/// The warm pods whose adoption has begun and is not complete.
#[derive(Default)]
pub(crate) struct Adoption {
    /// Pods that have no task in this bridge yet, by name.
    found: HashMap<String, PodObject>,
    /// Pods that were offered to the scheduler, by the token of the offer.
    offered: HashMap<u64, (String, Arc<Function>)>,
    unprobed: HashSet<String>,
    /// Pods that lost their ids because they did not answer.
    busy: HashMap<String, Rc<ClusterPod>>,
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

    pub(crate) fn busy(&self, name: &str) -> Option<Rc<ClusterPod>> {
        self.busy.get(name).cloned()
    }

    pub(crate) fn all_busy(&self) -> Vec<Rc<ClusterPod>> {
        self.busy.values().cloned().collect()
    }

    /// Returns whether an offer of the pod still has no answer.
    pub(crate) fn is_offered(&self, name: &str) -> bool {
        self.offered.values().any(|(of, _)| of == name)
    }

    pub(crate) fn mark_probed(&mut self, name: &str) {
        self.unprobed.remove(name);
    }

    /// Returns whether every offer was answered, and every adopted pod with an address was probed.
    pub(crate) fn is_over(&self) -> bool {
        self.has_begun && self.offered.is_empty() && self.unprobed.is_empty()
    }
}

/// Starts the tasks of this process's pods and Jobs again, and offers the found pods to the scheduler. Pods
/// that cannot be adopted are deleted.
pub(crate) fn begin(reconciler: &Rc<Reconciler>) {
    resume(reconciler);
    let found: Vec<_> = reconciler.adoption.borrow_mut().found.drain().collect();
    for (name, object) in found {
        consider(reconciler, name, object);
    }
    reconciler.adoption.borrow_mut().has_begun = true;
}

/// Offers a pod to the scheduler. Deletes the pod if it has ended or its label names no WARM function.
fn consider(reconciler: &Rc<Reconciler>, name: String, object: PodObject) {
    if object.metadata.deletion_timestamp.is_some() {
        return;
    }
    let labels = object.metadata.labels.as_ref();
    let function = labels.and_then(|labels| labels.get(LABEL_FUNCTION));
    let function = function.and_then(|name| {
        reconciler
            .context
            .with_work_queue(|queue| queue.functions().get(name.as_str()).cloned())
    });
    let wanted = |function: &Arc<Function>| function.spec.execution_mode == ExecutionMode::Warm;
    let has_ended = ObservedPod::of(&object).ended.is_some();
    match function.filter(wanted).filter(|_| !has_ended) {
        Some(function) => offer(reconciler, name, object, function),
        None => delete_orphan(reconciler, name),
    }
}

fn offer(reconciler: &Reconciler, name: String, object: PodObject, function: Arc<Function>) {
    let stale = is_stale(reconciler, &object, &function);
    let lane = function.lane;
    let token = {
        let mut adoption = reconciler.adoption.borrow_mut();
        adoption.next += 1;
        let token = adoption.next;
        adoption.offered.insert(token, (name.clone(), function));
        // `adopted` takes the object when the scheduler has answered.
        adoption.found.insert(name, object);
        token
    };
    reconciler
        .context
        .with_work_queue(|queue| queue.event(Event::Adopt { lane, token, stale }));
}

/// Returns whether a pod was made from another shape or default template than the present one.
fn is_stale(reconciler: &Reconciler, object: &PodObject, function: &Function) -> bool {
    let annotations = object.metadata.annotations.as_ref();
    let made_from = annotations.and_then(|all| all.get(ANNOTATION_SHAPE));
    made_from
        != Some(&shape(
            &function.spec,
            reconciler.context.default_template().as_deref(),
        ))
}

/// Deletes the pods that the watch showed after the offers were made. An earlier control plane created these
/// pods shortly before it ended.
pub(crate) fn end(reconciler: &Rc<Reconciler>) {
    let found: Vec<_> = reconciler.adoption.borrow_mut().found.drain().collect();
    for (name, object) in found {
        if object.metadata.deletion_timestamp.is_none() {
            delete_orphan(reconciler, name);
        }
    }
}

/// Handles the scheduler's answer to an offer. `id` is none if the function was removed before the answer.
pub(crate) fn adopted(reconciler: &Rc<Reconciler>, token: u64, id: Option<PodId>) {
    let offered = reconciler.adoption.borrow_mut().offered.remove(&token);
    reconciler.progress.notify_one();
    let Some((name, function)) = offered else {
        // An earlier bridge of this process made the offer. This bridge offers the pod again, so the old id
        // names no pod.
        return id
            .into_iter()
            .for_each(|id| reconciler.context.announcer.unknown(id));
    };
    let object = reconciler.adoption.borrow_mut().found.remove(&name);
    let Some(id) = id else {
        return delete_orphan(reconciler, name);
    };
    let Some(object) = object else {
        return reconciler.context.announcer.unknown(id);
    };
    tracing::info!(function = %function.name(), pod = name, "a pod is adopted");
    let seen = ObservedPod::of(&object);
    let is_stale = is_stale(reconciler, &object, &function);
    // A pod without an address cannot be probed, so adoption does not wait for it.
    if seen.address.is_some() {
        reconciler
            .adoption
            .borrow_mut()
            .unprobed
            .insert(name.clone());
    }
    let pod = Rc::new(ClusterPod::new(
        Some(id),
        name,
        function,
        reconciler.context.announcer.now(),
    ));
    pod.since_listing
        .set(reconciler.context.process.listing.get());
    pod.is_stale.set(is_stale);
    pod.observe(&reconciler.context, seen);
    reconciler.run_pod(pod, Origin::Adopted);
}

/// Probes a pod that did not answer, for as long as a call may still run in it. If it answers, it is offered
/// to the scheduler again; if not, it is deleted.
pub(crate) fn ask_on(reconciler: &Rc<Reconciler>, pod: &Rc<ClusterPod>) {
    let busy = Rc::new(pod.without_id());
    let known = busy.clone();
    reconciler
        .adoption
        .borrow_mut()
        .busy
        .insert(busy.name.clone(), known);
    let reconciler = reconciler.clone();
    spawn_local(async move {
        let answers = busy.answers_within_a_call().await;
        let name = busy.name.clone();
        if answers {
            offer_again(&reconciler, &busy).await;
        } else if !busy.has_gone() {
            tracing::warn!(pod = name, "the pod never answered and is deleted");
            delete(&reconciler, name.clone());
        }
        // Remove the pod from `busy` last, because `pods::there` deletes a pod that is neither offered, nor
        // busy, nor in the table.
        reconciler.adoption.borrow_mut().busy.remove(&name);
    });
}

/// Reads the object of a busy pod that answered late, and offers the pod. The read is repeated until the API
/// server answers, because the pod is healthy and may serve calls.
async fn offer_again(reconciler: &Rc<Reconciler>, pod: &ClusterPod) {
    while !pod.has_gone() {
        let until = Instant::now() + FETCH;
        match reconciler.context.cluster.pod(&pod.name, until).await {
            Ok(object) => return consider(reconciler, pod.name.clone(), object),
            Err(ClusterError::Unreachable(_)) => {}
            Err(ClusterError::Refused(status)) if status.code == 404 => return,
            Err(denied) => {
                let (pod, why) = (&pod.name, denied.message());
                return tracing::warn!(pod, "the pod answers, and cannot be adopted: {why}");
            }
        }
    }
}

/// Starts the tasks of this process's pods and Jobs again after the bridge was rebuilt.
fn resume(reconciler: &Rc<Reconciler>) {
    for pod in reconciler.memory.pods.borrow().all() {
        let is_up = pod.is_up.get();
        let was_created = pod.since_listing.get() != u64::MAX;
        let origin = if was_created {
            Origin::Resumed { is_up }
        } else {
            Origin::New
        };
        reconciler.spawn_pod(pod, origin);
    }
    for job in reconciler.memory.jobs.borrow().all() {
        reconciler.spawn_job(job);
    }
}
