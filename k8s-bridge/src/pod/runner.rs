//! This part of a warm pod's task is only in this backend: it creates the Pod object, evaluates the state
//! that the watch shows, and deletes the object.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod as PodObject;
use nanofaas_backend::announcer::{Announcer, ended};
use nanofaas_backend::pod::life::PodRunner;
use nanofaas_backend::pod::{PodStartError, WarmPod};
use nanofaas_core::cold_start::Phase;
use nanofaas_core::event::Event;
use nanofaas_core::message::{PodAddress, PodEnd};
use serde_json::json;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::ClusterPod;
use crate::api::cluster::ClusterError;
use crate::context::ClusterContext;
use crate::context::report::TaskReport;
use crate::context::start_fault::StartFault;
use crate::podspec::{self, ANNOTATION_SHAPE, LABEL_KIND, PORT, PodParts};

/// The grace period, in seconds, of a pod in which no call runs.
const NO_GRACE_S: u32 = 1;
/// How long a stop waits, after the pod's grace period, until the cluster no longer has the pod.
const GONE_BEHIND: Duration = Duration::from_secs(30);

pub(super) struct ClusterRunner {
    context: Rc<ClusterContext>,
    pod: Rc<ClusterPod>,
    limit: Duration,
    held_up: Option<String>,
    has_reported_probed: bool,
}

impl ClusterRunner {
    pub(super) const fn new(
        context: Rc<ClusterContext>,
        pod: Rc<ClusterPod>,
        limit: Duration,
    ) -> Self {
        Self {
            context,
            pod,
            limit,
            held_up: None,
            has_reported_probed: false,
        }
    }

    /// Reports the first probe of the pod, or its end before a probe. Later calls do nothing.
    pub(super) fn report_probed(&mut self) {
        if !std::mem::replace(&mut self.has_reported_probed, true) {
            self.context
                .report(TaskReport::Probed(self.pod.name.clone()));
        }
    }

    fn delete(&self, grace_s: Option<u32>) {
        let (context, name) = (self.context.clone(), self.pod.name.clone());
        spawn_local(async move { context.cluster.delete::<PodObject>(&name, grace_s).await });
    }

    fn object(&self) -> Result<PodObject, String> {
        let (context, pod) = (&self.context, &self.pod);
        let base = &context.config.callback_base;
        let (token, name) = (&pod.token, &pod.name);
        let ready =
            format!("{base}/v1/internal/{token}/pods/{name}:ready?address=$(NANOFAAS_POD_IP)");
        let (spec, default) = (&pod.function.spec, context.default_template());
        let parts = PodParts {
            labels: BTreeMap::from([(LABEL_KIND, "warm".to_owned())]),
            annotations: BTreeMap::from([(
                ANNOTATION_SHAPE,
                podspec::shape(spec, default.as_deref()),
            )]),
            env: vec![
                ("NANOFAAS_POD", name.clone()),
                ("TIMEOUT_MS", spec.timeout_ms.to_string()),
            ],
            expanded_env: vec![("NANOFAAS_READY_URL", ready)],
        };
        let mut object = context.pod_template(&pod.function, &parts)?;
        object["metadata"]["name"] = json!(name);
        if let Some(owner) = context.identity().and_then(|own| own.deployment.clone()) {
            object["metadata"]["ownerReferences"] = json!([owner]);
        }
        serde_json::from_value(object)
            .map_err(|error| format!("podTemplate does not make a pod: {error}"))
    }

    /// Reports why the start is delayed: to operators at once, and to the scheduler. A call whose deadline
    /// passes while it waits for the pod gets this reason.
    fn report_held_up(&self, why: Option<&str>) {
        let pod = &self.pod;
        if let Some(why) = why {
            self.context.report(TaskReport::StartHeldUp {
                function: pod.function.clone(),
                pod: pod.name.clone(),
                why: why.to_owned(),
            });
        }
        let (pod, why) = (pod.id(), why.map(Into::into));
        let held_up = Event::StartHeldUp { pod, why };
        self.context.with_work_queue(|queue| queue.event(held_up));
    }
}

impl PodRunner for ClusterRunner {
    type Fault = StartFault;

    fn pod(&self) -> &WarmPod {
        &self.pod
    }

    fn announcer(&self) -> &Announcer {
        &self.context.announcer
    }

    async fn create(&mut self, deadline: Instant) -> Result<(), PodStartError<StartFault>> {
        let context = &self.context;
        let object = self.object();
        let object = object.map_err(|why| PodStartError::new(StartFault::Config, true, why))?;
        let created = context.cluster.create(&object, deadline).await;
        self.pod.since_listing.set(context.process.listing.get());
        created.map_err(|denied| {
            if let ClusterError::Unreachable(_) = denied {
                // The API server may have created the pod although the answer was lost.
                self.delete(Some(NO_GRACE_S));
            }
            let fault = StartFault::of_denial(&denied);
            PodStartError::new(fault, denied.is_permanent(), denied.message())
        })?;
        let (function, name) = (&self.pod.function, &self.pod.name);
        context.announcer.reached(function, name, Phase::Created);
        Ok(())
    }

    fn observe_start(&mut self) {
        if self.pod.health.was_probed() {
            self.report_probed();
        }
        let seen = self.pod.seen.borrow().clone();
        if seen.stuck.is_none() && seen.held_up != self.held_up {
            self.report_held_up(seen.held_up.as_deref());
            self.held_up = seen.held_up;
        }
    }

    async fn start_fault(&mut self) -> Option<PodStartError<StartFault>> {
        let seen = self.pod.seen.borrow();
        if let Some(why) = &seen.stuck {
            let fault = seen.fault.unwrap_or(StartFault::Config);
            return Some(PodStartError::new(fault, true, &**why));
        }
        if let Some(end) = &seen.ended {
            let why = format!("the pod was not ready yet when {}", end.message);
            return Some(PodStartError::new(StartFault::CrashLoop, false, why));
        }
        let why = "somebody deleted the pod before it was ready";
        let is_deleted = self.pod.is_gone.get() || seen.leaving;
        is_deleted.then(|| PodStartError::new(StartFault::Deleted, false, why))
    }

    fn addresses(&self) -> Vec<PodAddress> {
        self.pod.address().into_iter().collect()
    }

    fn owner(&self) -> impl Fn(SocketAddr) -> bool + 'static {
        // Every server at this pod's IP is the pod's own, because no other pod has the IP.
        |_| true
    }

    fn ready_at(&self) -> Option<PodAddress> {
        self.pod.address().filter(|_| self.pod.is_ready())
    }

    async fn not_ready(&mut self) -> PodStartError<StartFault> {
        let seen = self.pod.seen.borrow().clone();
        let why = seen.held_up.or(seen.waiting).unwrap_or_else(|| {
            let path = &self.pod.function.spec.health_path;
            let last = self.pod.health.last_answer();
            format!("it neither said so nor answered GET {path} on port {PORT} with 2xx{last}")
        });
        let limit = self.limit.as_millis();
        let why = format!("the pod was not ready within {limit} ms: {why}");
        PodStartError::new(seen.fault.unwrap_or(StartFault::NotReady), false, why)
    }

    async fn abandon(&mut self) {
        self.delete(Some(NO_GRACE_S));
    }

    fn on_up(&mut self, _address: &PodAddress) {
        let (context, pod) = (&self.context, &self.pod);
        pod.is_up.set(true);
        context.report(TaskReport::Changed(pod.function.name().clone()));
        if !pod.is_stale.get() {
            context.report(TaskReport::StartWorked(pod.function.clone()));
        }
    }

    fn end(&mut self) -> Option<PodEnd> {
        if let Some(how) = self.pod.seen.borrow().ended.clone() {
            self.delete(Some(NO_GRACE_S));
            let (oom, message) = (how.oom, how.message.into());
            return Some(PodEnd { oom, message });
        }
        let is_gone = self.pod.is_gone.get();
        is_gone.then(|| ended("the pod was deleted"))
    }

    fn is_leaving(&self) -> bool {
        self.pod.seen.borrow().leaving
    }

    async fn stop(&mut self) -> PodEnd {
        let grace = Duration::from_secs(u64::from(self.pod.function.spec.grace_s()));
        self.delete(None);
        let until = Instant::now() + grace + GONE_BEHIND;
        while !self.pod.is_over() && self.pod.rung_before(until).await {}
        ended("it was not needed any more")
    }

    async fn end_unwell(&mut self, why: String) -> PodEnd {
        self.delete(Some(NO_GRACE_S));
        ended(&why)
    }
}
