//! Everything that can reach the scheduler, and everything that it sends: one enum for each
//! direction. It holds no behaviour. Io threads, the bridge and the scheduler use it.

use std::sync::Arc;

use crate::queue_stats::QueueStats;
use crate::spec::{ExecutionMode, FunctionSpec};
use crate::ticket::{Done, Grant, LaneId, PodId, Ticket};
use crate::time::{Nanos, Uptime};

/// What the scheduler has to know of a spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LanePlan {
    pub concurrency: u32,
    pub queue_size: u32,
    /// Pods of the platform's own; none for LOCAL, JOB and POOL.
    pub pods: Option<PodPlan>,
}

/// How many pods a function has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodPlan {
    pub min: u32,
    pub max: u32,
    /// Calls at once in one pod, a hard cap.
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
    /// It will not mend by itself: no such program, no such image, a wrong spec.
    pub permanent: bool,
    /// The cluster's or the process's own words.
    pub message: Arc<str>,
}

/// What reaches the scheduler.
pub enum Event {
    /// A call waits (inline, and every retry).
    Ticket(Ticket),
    /// An attempt ended.
    Done(Done),
    LaneOpened {
        lane: LaneId,
        stats: Arc<QueueStats>,
        plan: LanePlan,
    },
    /// A spec was replaced; `reshaped` where its pods have to be replaced too.
    LaneChanged {
        lane: LaneId,
        plan: LanePlan,
        reshaped: bool,
    },
    /// The function is gone: its pods drain, and `Order::LaneGone` says when all is quiet.
    LaneRemoved {
        lane: LaneId,
    },
    /// A pod may be used, for the first time or again.
    PodUp(PodId),
    /// A pod is gone.
    PodDown(PodId),
    /// The pod is being ended from outside the plane (a node drain, for instance): no new grant.
    PodLeaving(PodId),
    StartFailed {
        pod: PodId,
        failure: StartFailure,
    },
    /// A pod does not come up, for a reason that may still go away by itself; none once it has.
    StartHeldUp {
        pod: PodId,
        why: Option<Arc<str>>,
    },
    /// A running pod of an earlier plane; `Order::Adopted` answers with its place.
    Adopt {
        lane: LaneId,
        token: u64,
        stale: bool,
    },
}

/// What the scheduler asks of the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Start a pod; answered by `PodUp` or `StartFailed`, once.
    Start {
        lane: LaneId,
        pod: PodId,
        wanted_at: Uptime,
    },
    /// End a pod that nothing runs in; answered by `PodDown`.
    Stop { pod: PodId },
    /// Ask its `/health`; answered by `PodUp`, or by `PodDown` after 5 s without.
    Probe { pod: PodId },
    /// Answers `Event::Adopt`. `pod` is none where the function is gone or the table of pods is
    /// full; the bridge then has to end the pod.
    Adopted {
        lane: LaneId,
        token: u64,
        pod: Option<PodId>,
    },
    /// Nothing is left of a removed function.
    LaneGone { lane: LaneId },
}

/// What the scheduler tells every io thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Calls that wait in this lane end: no pod can be started.
    StartsFail { lane: LaneId, why: Arc<str> },
}

/// What a turn leaves for its driver to deliver.
#[derive(Default)]
pub struct Outbox {
    pub grants: Vec<Grant>,
    pub orders: Vec<Order>,
    pub notices: Vec<Notice>,
}

impl Outbox {
    /// Room for a full turn, so that a turn does not allocate.
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
