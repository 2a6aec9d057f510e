//! A `ClusterPod` is one warm pod of the cluster, with the state that the watch showed. The scheduler's
//! orders, the cluster and the pod itself decide when the pod starts and ends.

mod runner;
pub(crate) mod seen;

use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nanofaas_backend::pod::life::{self, Begin, PROBE};
use nanofaas_backend::pod::table::PodTable;
use nanofaas_backend::pod::{PodFate, WarmPod};
use nanofaas_core::function::Function;
use nanofaas_core::message::PodAddress;
use nanofaas_core::spec::Platform;
use nanofaas_core::ticket::PodId;
use nanofaas_core::time::Uptime;
use tokio::time::Instant;

use crate::context::ClusterContext;
use crate::context::report::TaskReport;
use crate::context::start_fault::StartFault;
use crate::pod::runner::ClusterRunner;
use crate::pod::seen::ObservedPod;
use crate::podspec::{PORT, security};

/// The warm pods that have a task.
pub(crate) type ClusterPods = PodTable<ClusterPod>;

/// How this bridge got a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The pod has to be created.
    New,
    /// An earlier control plane created the pod.
    Adopted,
    /// This process created the pod, and then the bridge was rebuilt.
    Resumed { is_up: bool },
}

/// The part of a pod that other tasks use, too.
pub(crate) struct ClusterPod {
    warm: WarmPod,
    /// The hash of the shape of `function`'s spec. If the pod has another shape, `is_stale` is set.
    shape: u64,
    /// Whether an earlier control plane made the pod from another shape or another default template.
    pub(crate) is_stale: Cell<bool>,
    /// The number of the latest listing of pods when the pod was created or adopted; `u64::MAX` before that.
    /// A listing with this or a smaller number may lack the pod.
    pub(crate) since_listing: Cell<u64>,
    pub(crate) is_up: Cell<bool>,
    seen: RefCell<ObservedPod>,
    is_gone: Cell<bool>,
}

impl Deref for ClusterPod {
    type Target = WarmPod;

    fn deref(&self) -> &WarmPod {
        &self.warm
    }
}

impl Borrow<WarmPod> for ClusterPod {
    fn borrow(&self) -> &WarmPod {
        &self.warm
    }
}

impl ClusterPod {
    pub(crate) fn new(
        id: Option<PodId>,
        name: String,
        function: Arc<Function>,
        wanted_at: Uptime,
    ) -> Self {
        Self {
            shape: function.spec.shape_hash(Platform::Kubernetes),
            warm: WarmPod::new(id, name, function, wanted_at),
            is_stale: Cell::new(false),
            since_listing: Cell::new(u64::MAX),
            is_up: Cell::new(false),
            seen: RefCell::default(),
            is_gone: Cell::new(false),
        }
    }

    /// Copies the pod without its id in the scheduler.
    pub(crate) fn without_id(&self) -> Self {
        let (name, function) = (self.name.clone(), self.function.clone());
        let pod = Self::new(None, name, function, self.wanted_at);
        pod.seen.replace(self.seen.borrow().clone());
        pod.is_gone.set(self.is_gone.get());
        pod.since_listing.set(self.since_listing.get());
        pod
    }

    pub(crate) fn observe(&self, context: &ClusterContext, seen: ObservedPod) {
        for phase in seen.phases() {
            context.announcer.reached(&self.function, &self.name, phase);
        }
        let seen = self.seen.borrow().then(seen);
        let (fault, leaving) = (seen.fault, seen.leaving);
        let before = self.seen.replace(seen);
        if (before.fault, before.leaving) != (fault, leaving) {
            context.report(TaskReport::Changed(self.function.name().clone()));
        }
        self.bell.notify_one();
    }

    pub(crate) fn mark_gone(&self) {
        self.is_gone.set(true);
        self.bell.notify_one();
    }

    /// True if the pod gets no new call: the scheduler stopped it, its deletion was requested, or it is gone.
    pub(crate) fn is_going(&self) -> bool {
        self.is_stopped() || self.is_gone.get() || self.seen.borrow().leaving
    }

    pub(crate) fn has_shape(&self, shape: u64) -> bool {
        !self.is_stale.get() && self.shape == shape
    }

    /// Returns what delays the pod's start; none during the usual steps of a start.
    pub(crate) fn held_up(&self) -> Option<(StartFault, String)> {
        let seen = self.seen.borrow();
        let why = seen.held_up.clone().or_else(|| seen.waiting.clone());
        seen.fault.zip(why)
    }

    /// Returns whether the pod has ended, is gone, or its deletion was requested.
    pub(crate) fn has_gone(&self) -> bool {
        self.is_over() || self.seen.borrow().leaving
    }

    fn is_over(&self) -> bool {
        self.is_gone.get() || self.seen.borrow().ended.is_some()
    }

    /// Prefers the address that the pod reported to the address that the cluster showed.
    fn address(&self) -> Option<PodAddress> {
        let ip: Option<IpAddr> = self.reported_address().or(self.seen.borrow().address);
        ip.map(|ip| PodAddress::Tcp(SocketAddr::new(ip, PORT)))
    }

    /// Runs the pod's task until the pod has ended. It announces every step except the end; for that, the
    /// caller passes the result to `report_end`.
    pub(crate) async fn live(
        self: &Rc<Self>,
        context: &Rc<ClusterContext>,
        origin: Origin,
    ) -> PodFate<StartFault> {
        let is_running = self.seen.borrow().running_since_ms.is_some();
        let start_timeout = context.config.start_timeout;
        let (begin, limit) = match origin {
            Origin::New => (Begin::Create, start_timeout),
            Origin::Adopted if is_running => (Begin::Adopt, PROBE),
            Origin::Adopted | Origin::Resumed { is_up: false } => (Begin::Start, start_timeout),
            Origin::Resumed { is_up: true } => (Begin::Serve, start_timeout),
        };
        let mut runner = ClusterRunner::new(context.clone(), self.clone(), limit);
        let fate = life::live(&mut runner, begin, limit).await;
        self.is_up.set(false);
        runner.report_probed();
        context.report(TaskReport::Changed(self.function.name().clone()));
        fate
    }

    /// Announces and reports how the pod ended. The pod must no longer be in its table.
    pub(crate) fn report_end(&self, context: &ClusterContext, mut fate: PodFate<StartFault>) {
        let (function, pod) = (self.function.clone(), self.name.clone());
        match &mut fate {
            PodFate::StartFailed(failed) | PodFate::Unanswered(failed) => {
                let advised = security::advised(&function.spec, &failed.failure.message);
                failed.failure.message = advised.into();
                context.report(TaskReport::StartFailed {
                    function,
                    pod,
                    fault: failed.fault,
                    why: failed.failure.message.clone(),
                });
            }
            PodFate::Ended(end) if !self.is_stopped() => {
                let end = end.clone();
                context.report(TaskReport::PodLost { function, pod, end });
            }
            PodFate::Ended(_) => {}
        }
        self.announce_end(&context.announcer, fate, self.is_stopped());
    }

    /// Probes the pod for as long as a call may run in it. Returns whether it became ready and has not gone.
    pub(crate) async fn answers_within_a_call(&self) -> bool {
        let Some(address) = self.address() else {
            return false;
        };
        let (pod, patience) = (&self.name, u64::from(self.function.spec.grace_s()));
        tracing::info!(
            pod,
            "a pod of an earlier control plane does not answer; it may be busy, and is asked for \
             {patience} s more"
        );
        let until = Instant::now() + Duration::from_secs(patience);
        let _asking = self.health.begin(vec![address], |_| true);
        while !self.is_ready() && !self.has_gone() && self.rung_before(until).await {}
        self.is_ready() && !self.has_gone()
    }
}
