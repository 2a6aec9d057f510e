//! A `WarmPod` is the data that the task of a warm pod shares with other tasks. The scheduler's orders and
//! the pod's own reports reach the task through these data. `life` acts on them.

pub mod life;
pub mod table;

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use nanofaas_core::event::StartFailure;
use nanofaas_core::function::Function;
use nanofaas_core::id::pod_token;
use nanofaas_core::message::PodEnd;
use nanofaas_core::ticket::PodId;
use nanofaas_core::time::Uptime;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::announcer::Announcer;
use crate::health::HealthCheck;
use crate::random::random;

/// The part of a pod that other tasks use, too.
pub struct WarmPod {
    /// None for a pod to which the scheduler gives no id any more; such a pod is only probed.
    id: Option<PodId>,
    pub name: String,
    /// The secret that the pod's ready report must carry.
    pub token: String,
    pub function: Arc<Function>,
    pub wanted_at: Uptime,
    /// Wakes the pod's task after a change of the pod.
    pub bell: Rc<Notify>,
    pub health: Rc<HealthCheck>,
    stop: Cell<bool>,
    probe: Cell<bool>,
    reported_ready: Cell<bool>,
    reported_address: Cell<Option<IpAddr>>,
}

impl WarmPod {
    pub fn new(
        id: Option<PodId>,
        name: String,
        function: Arc<Function>,
        wanted_at: Uptime,
    ) -> Self {
        let bell = Rc::new(Notify::new());
        let path = &function.spec.health_path;
        Self {
            id,
            name,
            token: pod_token(u128::from_ne_bytes(random())),
            health: Rc::new(HealthCheck::new(path, function.name(), bell.clone())),
            function,
            wanted_at,
            bell,
            stop: Cell::new(false),
            probe: Cell::new(false),
            reported_ready: Cell::new(false),
            reported_address: Cell::new(None),
        }
    }

    /// Returns the pod's id. Panics if the pod has none.
    pub fn id(&self) -> PodId {
        self.id.expect("a pod that runs has an id")
    }

    /// Asks the pod's task to end the pod. Calls that run in the pod may finish within the grace period.
    pub fn stop(&self) {
        self.stop.set(true);
        self.bell.notify_one();
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.get()
    }

    pub fn probe(&self) {
        self.probe.set(true);
        self.bell.notify_one();
    }

    /// Notes the pod's ready report, and the IP address in it, if any.
    pub fn report_ready(&self, address: Option<IpAddr>) {
        self.reported_address.set(address);
        self.reported_ready.set(true);
        self.bell.notify_one();
    }

    /// Returns whether the pod has reported ready or answered a probe well.
    pub fn is_ready(&self) -> bool {
        self.has_reported_ready() || self.health.answered().is_some()
    }

    pub fn has_reported_ready(&self) -> bool {
        self.reported_ready.get()
    }

    pub fn reported_address(&self) -> Option<IpAddr> {
        self.reported_address.get()
    }

    /// Waits for `bell`. Returns false if the deadline comes first.
    pub async fn rung_before(&self, deadline: Instant) -> bool {
        timeout_at(deadline, self.bell.notified()).await.is_ok()
    }

    /// Announces how the pod's life ended. The pod must no longer be in its table.
    pub fn announce_end<F>(&self, announcer: &Announcer, fate: PodFate<F>, is_expected: bool) {
        let (function, pod) = (self.function.name(), &self.name);
        match fate {
            PodFate::StartFailed(PodStartError { failure, .. })
            | PodFate::Unanswered(PodStartError { failure, .. }) => {
                let why = failure.message.clone();
                tracing::warn!(%function, pod, "the pod did not start: {why}");
                announcer.with_work_queue(|queue| queue.starts.failed(function, pod, why));
                announcer.start_failed(self.id(), failure);
            }
            PodFate::Ended(end) => {
                if !is_expected {
                    tracing::warn!(%function, pod, "the pod is gone: {}", end.message);
                }
                announcer.gone(self.id(), &end);
            }
        }
    }
}

/// Why a pod did not start. `F` is the backend's kind of fault.
pub struct PodStartError<F> {
    pub fault: F,
    pub failure: StartFailure,
}

impl<F> PodStartError<F> {
    pub fn new(fault: F, permanent: bool, message: impl Into<Arc<str>>) -> Self {
        let message = message.into();
        let failure = StartFailure { permanent, message };
        Self { fault, failure }
    }
}

pub enum PodFate<F> {
    StartFailed(PodStartError<F>),
    /// The pod ran before this backend knew it, and did not answer in time. It may be busy and still runs.
    Unanswered(PodStartError<F>),
    /// The pod ended after it was announced, or was stopped during its start.
    Ended(PodEnd),
}
