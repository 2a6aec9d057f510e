//! What io threads and the bridge say to each other. It holds no behaviour.
//! Grants and dones have rings of their own; these messages are the cold rest.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use crate::event::{Event, Notice, Order};
use crate::function::Function;
use crate::outcome::Failure;
use crate::shard::ShardId;
use crate::spec::{ExecutionMode, FieldFault, FunctionDraft};
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
    /// Killed for its memory.
    pub oom: bool,
    /// The cluster's or the process's own words.
    pub message: Arc<str>,
}

/// To an io thread.
pub enum Message {
    /// Inline only: the scheduler lives on this thread.
    Event(Event),
    Notice(Notice),
    /// A new or changed function; answered by `BridgeMessage::Ack` with its version.
    Function(Arc<Function>),
    /// A function is gone; answered by `BridgeMessage::Ack` with this version.
    FunctionRemoved {
        lane: LaneId,
        name: Arc<str>,
        version: u64,
    },
    /// Comes before the scheduler hears that the pod is up.
    PodAddress {
        pod: PodId,
        address: PodAddress,
        /// How its start went, for the call that it was started for.
        start: Phases,
    },
    /// Connections to it are closed; `end` says how, for who waits to know before a retry.
    PodGone {
        pod: PodId,
        end: PodEnd,
    },
    /// A POOL function's endpoint was resolved, or why not.
    Endpoint {
        lane: LaneId,
        address: Result<PodAddress, Arc<str>>,
    },
    /// A Job's start came further.
    JobStarting {
        call: CallId,
        attempt: u32,
        /// Since when its container runs, once it does.
        running_since: Option<Uptime>,
        /// What was reached so far.
        start: Phases,
        /// What is in its way, where that may still mend by itself.
        held_up: Option<Arc<str>>,
    },
    /// A Job ended without a callback, or could not be started.
    JobEnded {
        call: CallId,
        attempt: u32,
        failure: Failure,
        oom: bool,
    },
    /// The answer to a request.
    Reply {
        token: u64,
        reply: Reply,
    },
    /// Every function there is was told: one that is unknown from now on does not exist.
    Begun,
    /// No new calls; what runs goes on.
    Drain,
    /// What is left ends as `SHUTDOWN`, is answered and counted; then the thread ends.
    Stop,
}

/// To the bridge.
pub enum BridgeMessage {
    Order(Order),
    Request {
        request: Request,
        reply: ReplyTo,
    },
    /// An io thread has taken over the version of a function.
    Ack {
        version: u64,
    },
    Job(Box<JobStart>),
    /// The call is over: its Job is deleted, its process ended. Also said after a good end, with
    /// what its runtime stamped.
    JobStop {
        call: CallId,
        attempt: u32,
        stamps: Option<ReadyStamps>,
    },
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    pub shard: ShardId,
    pub token: u64,
}

/// What a client wants changed or told.
pub enum Request {
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
    /// A warm pod says that it is ready; the bridge knows its token.
    PodReady {
        token: Box<str>,
        pod: Box<str>,
        /// Where it says that it listens, if it does.
        address: Option<IpAddr>,
        stamps: ReadyStamps,
    },
}

/// What a runtime stamped while it started, in milliseconds since the epoch; none of what it did not stamp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadyStamps {
    pub started_at_ms: Option<u64>,
    pub loaded_at_ms: Option<u64>,
    pub ready_at_ms: Option<u64>,
}

/// Phases of a start in order, with how long after it was wanted each was reached;
/// none where a phase was not seen.
pub type Phases = Arc<[(&'static str, Nanos)]>;

/// One cold start taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColdStart {
    pub pod: String,
    /// Milliseconds since the epoch.
    pub wanted_at_ms: u64,
    pub phases: Phases,
    pub failure: Option<Arc<str>>,
}

/// The bridge's answer.
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
    Refused(Refused),
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    NotFound,
    Exists,
    Invalid(Vec<FieldFault>),
    /// The registry cannot be changed now; why.
    Unavailable(String),
    /// Another pod's token.
    Forbidden,
    /// The table of functions is full.
    TooMany,
    /// It keeps no pods, being of this mode.
    NotWarm(ExecutionMode),
}

/// A Job to start: one process or pod for one attempt of one call.
pub struct JobStart {
    pub call: CallId,
    pub function: Arc<Function>,
    pub execution_id: Box<str>,
    pub attempt: u32,
    pub trace_id: Option<Box<str>>,
    /// For the callback's URL.
    pub token: Box<str>,
    /// The whole envelope, where it is JSON that fits a variable; else the Job fetches it. Shared with the io
    /// thread, of which the Job may fetch it all the same.
    pub payload: Option<Arc<str>>,
    /// What the call has left, in milliseconds.
    pub deadline_ms: u64,
}
