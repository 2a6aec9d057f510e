//! Defines the messages of the scheduler: the events that it receives, the grants that it sends to calls, its
//! orders to the bridge, and its notices to the io threads. These types decide nothing. Io threads, the
//! bridge and the scheduler use them.

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
    /// The limits on the function's own pods; none for the modes LOCAL, JOB and POOL.
    pub pods: Option<PodPlan>,
}

/// The limits on a function's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodPlan {
    pub min: u32,
    pub max: u32,
    /// The largest number of calls that one pod gets at once.
    pub cap: u32,
    pub idle_timeout: Nanos,
}

impl LanePlan {
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
    /// Whether later starts will fail for the same reason, for example because the program does not exist.
    pub permanent: bool,
    /// The message of the cluster or of the process.
    pub message: Arc<str>,
}

/// What the scheduler receives.
pub enum Event {
    /// A call waits for another attempt. The first ticket of a call comes in another way: as an argument of
    /// `Scheduler::ticket` (inline) or through the lane's ring (pinned).
    Ticket(Ticket),
    /// An attempt ended.
    Done(Done),
    LaneOpened {
        lane: LaneId,
        stats: Arc<QueueStats>,
        plan: LanePlan,
    },
    /// The plan of a function changed. `reshaped` is whether the function's pods have to be replaced.
    LaneChanged {
        lane: LaneId,
        plan: LanePlan,
        reshaped: bool,
    },
    /// The function was removed: its pods drain. `Order::LaneGone` follows when the function's last call has
    /// ended and its last pod is gone, unless the function is registered again before that.
    LaneRemoved {
        lane: LaneId,
    },
    /// A pod came up, or the probe of a quarantined pod succeeded.
    PodUp(PodId),
    /// A pod is gone.
    PodDown(PodId),
    /// Something outside the control plane, for example a node drain, ends the pod. The pod gets no new call.
    PodLeaving(PodId),
    StartFailed {
        pod: PodId,
        failure: StartFailure,
    },
    /// A start takes longer, for a reason that may go away. `why` is none when the reason has gone away.
    StartHeldUp {
        pod: PodId,
        why: Option<Arc<str>>,
    },
    /// The bridge found a running pod of an earlier control plane. `Order::Adopted` answers with the id that
    /// the scheduler gives to the pod.
    Adopt {
        lane: LaneId,
        token: u64,
        stale: bool,
    },
}

/// What the scheduler sends to the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Start a pod. The answer is `PodUp` or `StartFailed`, or `PodDown` if the bridge no longer has the
    /// function.
    Start {
        lane: LaneId,
        pod: PodId,
        wanted_at: Uptime,
    },
    /// End a pod in which no call runs. The answer is `PodDown`.
    Stop { pod: PodId },
    /// Probe a pod. The answer is `PodUp`, or `PodDown` if no probe succeeds within 5 s.
    Probe { pod: PodId },
    /// Answers `Event::Adopt`. `pod` is none if the function is gone or the table of pods is full; the bridge
    /// then has to end the pod.
    Adopted {
        lane: LaneId,
        token: u64,
        pod: Option<PodId>,
    },
    /// All calls and pods of a removed function are gone, so its lane is free again.
    LaneGone { lane: LaneId },
}

/// What the scheduler sends to all io threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Ends all calls that wait in this lane, because no pod can be started for them.
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
    /// Makes an outbox with room for the grants of a full turn, so that a turn with only warm calls does not
    /// allocate.
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
