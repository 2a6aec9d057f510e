//! Everything that the scheduler receives, and everything that it sends: one enum for each direction. These
//! types have no behaviour. Io threads, the bridge and the scheduler use them.

use std::sync::Arc;

use crate::queue_stats::QueueStats;
use crate::spec::{ExecutionMode, FunctionSpec};
use crate::ticket::{Done, Grant, LaneId, PodId, Ticket};
use crate::time::{Nanos, Uptime};

/// The part of a spec that the scheduler needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LanePlan {
    pub concurrency: u32,
    pub queue_size: u32,
    /// The function's own pods; none for the modes LOCAL, JOB and POOL.
    pub pods: Option<PodPlan>,
}

/// The limits on a function's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodPlan {
    pub min: u32,
    pub max: u32,
    /// The most calls at once in one pod.
    pub cap: u32,
    pub idle_timeout: Nanos,
}

impl LanePlan {
    /// The plan of a spec.
    pub fn of(spec: &FunctionSpec) -> Self {
        let scaling = &spec.scaling_config;
        let pods = (spec.execution_mode == ExecutionMode::Warm).then(|| PodPlan {
            min: scaling.min_replicas,
            max: scaling.max_replicas,
            cap: scaling.target_in_flight_per_pod,
            idle_timeout: Nanos::from_ms(scaling.idle_timeout_ms.into()),
        });
        Self {
            concurrency: spec.concurrency,
            queue_size: spec.queue_size,
            pods,
        }
    }
}

/// Why a start failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    /// Whether the reason will not go away by itself: no such program, no such image, a wrong spec.
    pub permanent: bool,
    /// The message of the cluster or of the process.
    pub message: Arc<str>,
}

/// What the scheduler receives.
pub enum Event {
    /// A call waits. A first ticket is sent as this event if the scheduler is inline; the ticket of a retry
    /// always is.
    Ticket(Ticket),
    /// An attempt ended.
    Done(Done),
    LaneOpened {
        lane: LaneId,
        stats: Arc<QueueStats>,
        plan: LanePlan,
    },
    /// A spec was replaced. `reshaped` is whether the pods have to be replaced, too.
    LaneChanged {
        lane: LaneId,
        plan: LanePlan,
        reshaped: bool,
    },
    /// The function was removed: its pods drain. `Order::LaneGone` follows when all its calls and pods are
    /// gone.
    LaneRemoved {
        lane: LaneId,
    },
    /// A pod may be used, for the first time or again.
    PodUp(PodId),
    /// A pod is gone.
    PodDown(PodId),
    /// The pod is being ended from outside the control plane (by a node drain, for instance): it gets no new
    /// call.
    PodLeaving(PodId),
    StartFailed {
        pod: PodId,
        failure: StartFailure,
    },
    /// A pod does not come up, for a reason that may go away by itself. `why` is none once the reason has
    /// gone away.
    StartHeldUp {
        pod: PodId,
        why: Option<Arc<str>>,
    },
    /// The bridge found a running pod of an earlier control plane. `Order::Adopted` answers with the pod's
    /// place.
    Adopt {
        lane: LaneId,
        token: u64,
        stale: bool,
    },
}

/// What the scheduler sends to the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Start a pod. There is one answer: `PodUp` or `StartFailed`.
    Start {
        lane: LaneId,
        pod: PodId,
        wanted_at: Uptime,
    },
    /// End a pod in which no call runs. The answer is `PodDown`.
    Stop { pod: PodId },
    /// Probe a pod. The answer is `PodUp`, or `PodDown` if the probe fails for 5 s.
    Probe { pod: PodId },
    /// Answers `Event::Adopt`. `pod` is none if the function is gone or the table of pods is full. The bridge
    /// then has to end the pod.
    Adopted {
        lane: LaneId,
        token: u64,
        pod: Option<PodId>,
    },
    /// All calls and pods of a removed function are gone, so its lane is free again.
    LaneGone { lane: LaneId },
}

/// What the scheduler sends to every io thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The calls that wait in this lane end, because no pod can be started.
    StartsFail { lane: LaneId, why: Arc<str> },
}

/// What a turn produced; the scheduler's driver delivers it.
#[derive(Default)]
pub struct Outbox {
    pub grants: Vec<Grant>,
    pub orders: Vec<Order>,
    pub notices: Vec<Notice>,
}

impl Outbox {
    /// An outbox that is large enough for a full turn, so that a turn does not allocate.
    pub fn with_room() -> Self {
        Self {
            grants: Vec::with_capacity(crate::limits::GRANTS_PER_TURN * 2),
            orders: Vec::with_capacity(64),
            notices: Vec::with_capacity(16),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.grants.is_empty() && self.orders.is_empty() && self.notices.is_empty()
    }
}
