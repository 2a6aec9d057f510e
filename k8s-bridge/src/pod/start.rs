//! How a warm pod starts: it is created from its function's spec and the templates; the bridge
//! waits until the pod reports that it is ready or answers its health path, and then announces it.
//! Except for a pod whose creation was not answered, this file ends no pod; `pod.rs` does.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod as PodObject;
use nanofaas_core::cold_start::Phase;
use nanofaas_core::event::{Event, StartFailure};
use nanofaas_core::message::{Message, PodAddress};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::{AbortOnDrop, Fate, NO_GRACE_S, Pod, ended};
use crate::api::cluster::Denied;
use crate::context::ClusterContext;
use crate::context::report::Report;
use crate::context::start_fault::StartFault;
use crate::podspec::{self, ANNOTATION_SHAPE, LABEL_KIND, PORT, Parts};

impl Pod {
    /// Creates the pod; returns the failure if that is not possible.
    pub(super) async fn create(
        &self,
        context: &Rc<ClusterContext>,
        deadline: Instant,
    ) -> Option<Fate> {
        let object = match self.object(context) {
            Ok(object) => object,
            Err(why) => return Some(failed(StartFault::Config, true, why)),
        };
        let created = context.cluster.create(&object, deadline).await;
        self.since_listing.set(context.process.listing.get());
        match created {
            Ok(()) => {
                context.reached(&self.function, &self.name, Phase::Created);
                None
            }
            Err(denied) => {
                if let Denied::Unreachable(_) = denied {
                    // The API server may have created it without an answer.
                    self.delete(context, Some(NO_GRACE_S));
                }
                let fault = StartFault::of_denial(&denied);
                Some(failed(fault, denied.is_permanent(), denied.message()))
            }
        }
    }

    fn object(&self, context: &ClusterContext) -> Result<PodObject, String> {
        let base = &context.config.callback_base;
        let (token, name) = (&self.token, &self.name);
        let ready =
            format!("{base}/v1/internal/{token}/pods/{name}:ready?address=$(NANOFAAS_POD_IP)");
        let (spec, default) = (&self.function.spec, context.default_template());
        let parts = Parts {
            labels: BTreeMap::from([(LABEL_KIND, "warm".to_owned())]),
            annotations: BTreeMap::from([(
                ANNOTATION_SHAPE,
                podspec::shape(spec, default.as_deref()),
            )]),
            env: vec![
                ("NANOFAAS_POD", name.clone()),
                ("TIMEOUT_MS", self.function.spec.timeout_ms.to_string()),
            ],
            expanded_env: vec![("NANOFAAS_READY_URL", ready)],
        };
        let mut object = context.pod_template(&self.function, &parts)?;
        object["metadata"]["name"] = json!(name);
        if let Some(owner) = context.identity().and_then(|own| own.deployment.clone()) {
            object["metadata"]["ownerReferences"] = json!([owner]);
        }
        serde_json::from_value(object)
            .map_err(|error| format!("podTemplate does not make a pod: {error}"))
    }

    /// Waits until the pod is ready; returns its address, or how it ended before.
    pub(super) async fn starting(
        self: &Rc<Self>,
        context: &Rc<ClusterContext>,
        deadline: Instant,
        limit: Duration,
    ) -> Result<IpAddr, Fate> {
        let mut asking: Option<AbortOnDrop> = None;
        let mut told: Option<String> = None;
        loop {
            let seen = self.seen.borrow().clone();
            if self.stop.get() {
                return Err(ended("it was stopped before it was ready"));
            }
            if seen.held_up != told && seen.stuck.is_none() {
                told.clone_from(&seen.held_up);
                self.tell_held_up(context, seen.held_up.as_deref());
            }
            if let Some(why) = seen.stuck {
                let fault = seen.fault.unwrap_or(StartFault::Config);
                return Err(failed(fault, true, why));
            }
            if let Some(end) = seen.ended {
                let why = format!("the pod was not ready yet when {}", end.message);
                return Err(failed(StartFault::CrashLoop, false, why));
            }
            if self.is_gone.get() || seen.leaving {
                let why = "somebody deleted the pod before it was ready";
                return Err(failed(StartFault::Deleted, false, why.to_owned()));
            }
            let address = self.address();
            if let Some(address) = address.filter(|_| self.ready.get()) {
                return Ok(address);
            }
            if let Some(address) = address
                && asking.is_none()
            {
                asking = Some(self.ask(context, address));
            }
            if timeout_at(deadline, self.bell.notified()).await.is_err() {
                let why = seen.held_up.or(seen.waiting);
                let why = why.unwrap_or_else(|| self.not_ready());
                let limit = limit.as_millis();
                let message = format!("the pod was not ready within {limit} ms: {why}").into();
                let failure = StartFailure {
                    permanent: false,
                    message,
                };
                let fault = seen.fault.unwrap_or(StartFault::NotReady);
                return Err(Fate::NotReady(fault, failure));
            }
        }
    }

    /// Reports why the start is delayed: to operators at once, and to the scheduler for the calls
    /// that wait for the pod, which get the reason at their deadline.
    fn tell_held_up(&self, context: &ClusterContext, why: Option<&str>) {
        if let Some(why) = why {
            context.report(Report::StartHeldUp {
                function: self.function.clone(),
                pod: self.name.clone(),
                why: why.to_owned(),
            });
        }
        let (pod, why) = (self.place(), why.map(Into::into));
        context.say(|desk| desk.event(Event::StartHeldUp { pod, why }));
    }

    fn not_ready(&self) -> String {
        let (path, word) = (&self.function.spec.health_path, self.questions.last_word());
        format!("it neither said so nor answered GET {path} on port {PORT} with 2xx{word}")
    }

    /// Announces the pod. The address goes to the io threads before the scheduler hears of the pod,
    /// because the scheduler may then send calls to it at once.
    pub(super) fn up(&self, context: &ClusterContext, address: IpAddr) {
        let function = self.function.name();
        context.reached(&self.function, &self.name, Phase::Usable);
        self.is_up.set(true);
        context.report(Report::Changed(function.clone()));
        if !self.is_stale.get() {
            context.report(Report::StartWorked(self.function.clone()));
        }
        let (pod, address) = (self.place(), SocketAddr::new(address, PORT));
        context.say(|desk| {
            let start = desk.starts.phases(function, &self.name);
            desk.broadcast(|| Message::PodAddress {
                pod,
                address: PodAddress::Tcp(address),
                start: start.clone(),
            });
            desk.event(Event::PodUp(pod));
        });
    }
}

fn failed(fault: StartFault, permanent: bool, message: String) -> Fate {
    let failure = StartFailure {
        permanent,
        message: message.into(),
    };
    Fate::StartFailed(fault, failure)
}
