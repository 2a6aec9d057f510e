//! Defines the messages between io threads and the bridge. These types decide nothing. The messages are rare
//! compared with grants and ends of attempts, which are sent in other ways.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use crate::event::{Event, Notice, Order};
use crate::function::Function;
use crate::outcome::ExecutionError;
use crate::shard::ShardId;
use crate::spec::{ExecutionMode, FieldError, FunctionDraft};
use crate::ticket::{CallId, LaneId, PodId};
use crate::time::{Nanos, Uptime};

/// Where a pod listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PodAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for PodAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(out),
            Self::Unix(path) => path.display().fmt(out),
        }
    }
}

/// How a pod ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEnd {
    /// Whether the pod was killed because it used too much memory.
    pub oom: bool,
    /// The message of the cluster or of the process.
    pub message: Arc<str>,
}

/// A message to an io thread.
pub enum Message {
    /// An event for the scheduler. Only the inline scheduler, which runs on this io thread, gets events in
    /// this way.
    Event(Event),
    Notice(Notice),
    /// A new or changed function. The io thread answers with `BridgeMessage::Ack` of the function's version
    /// or a later one.
    Function(Arc<Function>),
    /// A function was removed. The io thread answers with `BridgeMessage::Ack` of this version or a later
    /// one.
    FunctionRemoved {
        lane: LaneId,
        name: Arc<str>,
        version: u64,
    },
    /// Where a pod listens. The message is sent before the scheduler gets `PodUp`, because a grant for the
    /// pod may follow at once.
    PodAddress {
        pod: PodId,
        address: PodAddress,
        /// The phases of the pod's start, for the record of the call that waited for this start.
        start: Phases,
    },
    /// The pod is gone, and its connections have to be closed. Calls that wait for the pod's end before a
    /// retry get `end`.
    PodGone {
        pod: PodId,
        end: PodEnd,
    },
    /// The endpoint of a POOL function was resolved, or failed to resolve.
    Endpoint {
        lane: LaneId,
        address: Result<PodAddress, Arc<str>>,
    },
    /// A Job's start made progress.
    JobStarting {
        call: CallId,
        attempt: u32,
        /// Since when the Job's container has been running; none if it does not run yet.
        running_since: Option<Uptime>,
        /// The phases that the start has reached so far.
        start: Phases,
        /// What keeps the Job from starting; none if nothing does. The Job may still start.
        held_up: Option<Arc<str>>,
    },
    /// A Job ended without a callback, or could not be started.
    JobEnded {
        call: CallId,
        attempt: u32,
        failure: ExecutionError,
        oom: bool,
    },
    /// The answer to a request.
    Reply {
        token: u64,
        reply: Reply,
    },
    /// All existing functions have been sent. After this message an unknown function does not exist.
    Begun,
    /// The thread accepts no new call. Accepted calls continue.
    Drain,
    /// The remaining calls end as `SHUTDOWN`, and are answered and counted. Then the thread ends.
    Stop,
}

/// A message to the bridge.
pub enum BridgeMessage {
    Order(Order),
    Request {
        request: BridgeRequest,
        reply: ReplyTo,
    },
    /// An io thread has taken over all changes of functions up to this version.
    Ack {
        shard: ShardId,
        version: u64,
    },
    Job(Box<JobStart>),
    /// The attempt is over, so the bridge deletes its Job or ends its process. The message is sent after a
    /// success, too, and then has the runtime's timestamps.
    JobStop {
        call: CallId,
        attempt: u32,
        timestamps: Option<ReadyTimestamps>,
    },
}

/// The io thread to which the answer to a request goes, and the token of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    pub shard: ShardId,
    pub token: u64,
}

/// What a client or a pod asks of the bridge.
pub enum BridgeRequest {
    Register {
        draft: Box<FunctionDraft>,
        replace: bool,
    },
    Remove {
        name: Arc<str>,
    },
    Scale {
        name: Arc<str>,
        replicas: u32,
    },
    ColdStarts {
        name: Arc<str>,
    },
    /// A warm pod reports that it is ready. The bridge compares `token` with the token of the pod.
    PodReady {
        token: Box<str>,
        pod: Box<str>,
        /// The pod's address; none if the pod did not report it.
        address: Option<IpAddr>,
        timestamps: ReadyTimestamps,
    },
}

/// A runtime's timestamps of its own start, in milliseconds since the Unix epoch; none for a phase that was
/// not reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadyTimestamps {
    pub started_at_ms: Option<u64>,
    pub loaded_at_ms: Option<u64>,
    pub ready_at_ms: Option<u64>,
}

/// The phases of a start, in the order of time, each with the time since the pod was wanted. Phases that are
/// not known are left out.
pub type Phases = Arc<[(&'static str, Nanos)]>;

/// What is known about one cold start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColdStart {
    pub pod: String,
    /// When the pod was wanted, in milliseconds since the Unix epoch.
    pub wanted_at_ms: u64,
    pub phases: Phases,
    pub failure: Option<Arc<str>>,
}

/// The bridge's answer to a request.
pub enum Reply {
    Registered {
        function: Arc<Function>,
        created: bool,
    },
    Removed,
    Scaled {
        function: Arc<str>,
        replicas: u32,
    },
    ColdStarts(Vec<ColdStart>),
    Ready,
    Refused(BridgeError),
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BridgeError {
    NotFound,
    Exists,
    Invalid(Vec<FieldError>),
    /// The registry cannot be changed now, for this reason.
    Unavailable(String),
    /// The token is not that of the pod.
    Forbidden,
    /// The table of functions is full.
    TooMany,
    /// A function of this mode keeps no pods.
    NotWarm(ExecutionMode),
}

/// A Job to start: one process or pod for one attempt of one call.
pub struct JobStart {
    pub call: CallId,
    pub function: Arc<Function>,
    pub execution_id: Box<str>,
    pub attempt: u32,
    pub trace_id: Option<Box<str>>,
    /// The token in the URL of the callback.
    pub token: Box<str>,
    /// The whole envelope, if it is JSON that fits into an environment variable. If not, the Job fetches the
    /// envelope from the io thread. The io thread keeps a reference to this text, because a Job that has the
    /// variable may fetch the envelope, too.
    pub payload: Option<Arc<str>>,
    /// The time that is left for the call, in milliseconds.
    pub deadline_ms: u64,
}
