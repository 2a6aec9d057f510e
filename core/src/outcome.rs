//! Defines how a call can end, and who is responsible for its failure. `io/src/http/response.rs` maps each
//! end to a status code.

use std::sync::Arc;

/// Where a call was when its deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Queued,
    Starting,
    Running,
}

impl Stage {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Running => "running",
        }
    }
}

/// The longest time for a call or an attempt, and who set this limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeLimit {
    /// The milliseconds that a client set for one call.
    Client(u32),
    /// The milliseconds that the function's spec sets for each sync call and for each attempt of an async
    /// call.
    Function(u32),
    /// The milliseconds that the process's settings allow for each async call.
    Async(u64),
    /// The milliseconds for which the function's spec lets a call of `/fn/` stand still.
    StreamIdle(u32),
    /// The milliseconds that the function's spec sets for each attempt of a call of `/fn/`.
    StreamMax(u32),
}

impl TimeLimit {
    pub const fn ms(self) -> u64 {
        match self {
            Self::Client(ms) | Self::Function(ms) | Self::StreamIdle(ms) | Self::StreamMax(ms) => {
                ms as u64
            }
            Self::Async(ms) => ms,
        }
    }

    /// Returns the name of the header, field or option that sets the limit.
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Client(_) => "X-Timeout-Ms",
            Self::Function(_) => "timeoutMs",
            Self::Async(_) => "--async-max-age-ms",
            Self::StreamIdle(_) => "streamIdleMs",
            Self::StreamMax(_) => "streamMaxMs",
        }
    }
}

/// A function's report of its failure. `ExecutionError` holds the report behind an `Arc`, so that the results
/// of calls are small, because most calls have no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerError {
    pub code: Arc<str>,
    pub message: Arc<str>,
    /// The `Retry-After` of an answer with status 429, copied unchanged.
    pub retry_after: Option<Arc<str>>,
}

/// The failure of a call that waited for a pod until the call's deadline, if it is known why no pod came up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartTimeout {
    pub limit: TimeLimit,
    pub trouble: StartTrouble,
}

impl StartTimeout {
    pub(crate) fn failure(limit: TimeLimit, trouble: StartTrouble) -> ExecutionError {
        ExecutionError::StartTimeout(Arc::new(Self { limit, trouble }))
    }
}

/// Why no pod came up, with the message of the cluster or of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartTrouble {
    /// The last start failed.
    Failed(Arc<str>),
    /// The start continues, but this reason delays it.
    HeldUp(Arc<str>),
}

impl StartTrouble {
    fn why(&self) -> &str {
        match self {
            Self::Failed(why) | Self::HeldUp(why) => why,
        }
    }
}

/// Why a call did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecutionError {
    /// The function raised an error, or answered with a status other than 2xx.
    Handler(Arc<HandlerError>),
    /// The pod was lost during the call.
    PodLost(Arc<str>),
    /// No pod took the call, so the function cannot have begun.
    PodUnreachable(Arc<str>),
    /// The pod's answer was invalid.
    BadOutput(Arc<str>),
    OutputTooLarge(Arc<str>),
    /// No pod could be started. The text is the message of the cluster or of the process.
    ColdStart(Arc<str>),
    Timeout {
        stage: Stage,
        /// None if a pod reported the timeout; the call's state machine then fills in the call's limit.
        limit: Option<TimeLimit>,
    },
    /// The deadline passed while no pod was up, and the reason is known.
    StartTimeout(Arc<StartTimeout>),
    Cancelled,
    FunctionRemoved,
    Shutdown,
}

/// Who is responsible for a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    Function,
    Pod,
    Cluster,
    Client,
    Plane,
}

impl ExecutionError {
    /// Makes the error for an output that is larger than `bytes_max`.
    pub fn output_too_large(bytes_max: u64) -> Self {
        let why = format!("the output is larger than --max-response, {bytes_max} bytes");
        Self::OutputTooLarge(why.into())
    }

    /// Returns the error's code in the API.
    pub fn code(&self) -> &str {
        match self {
            Self::Handler(failure) => &failure.code,
            Self::PodLost(_) => "POD_LOST",
            Self::PodUnreachable(_) => "POD_UNREACHABLE",
            Self::BadOutput(_) => "BAD_OUTPUT",
            Self::OutputTooLarge(_) => "OUTPUT_TOO_LARGE",
            Self::ColdStart(_) => "COLD_START_FAILED",
            Self::Timeout { .. } | Self::StartTimeout(_) => "TIMEOUT",
            Self::Cancelled => "CANCELLED",
            Self::FunctionRemoved => "FUNCTION_REMOVED",
            Self::Shutdown => "SHUTDOWN",
        }
    }

    /// Returns a description of the failure for people.
    pub fn message(&self) -> Arc<str> {
        match self {
            Self::Handler(failure) => failure.message.clone(),
            Self::PodLost(why)
            | Self::PodUnreachable(why)
            | Self::BadOutput(why)
            | Self::OutputTooLarge(why)
            | Self::ColdStart(why) => why.clone(),
            Self::Timeout { stage, limit } => too_late(*stage, *limit).into(),
            Self::StartTimeout(late) => {
                let too_late = too_late(Stage::Starting, Some(late.limit));
                match &late.trouble {
                    StartTrouble::Failed(why) => {
                        format!("{too_late}; the last start failed: {why}").into()
                    }
                    StartTrouble::HeldUp(why) => {
                        format!("{too_late}; the start is held up: {why}").into()
                    }
                }
            }
            Self::Cancelled => "the call was cancelled".into(),
            Self::FunctionRemoved => "the function was deleted while the call waited".into(),
            Self::Shutdown => {
                "the control plane stopped before the call could end; call again".into()
            }
        }
    }

    /// Returns how many bytes of memory the error holds behind its `Arc`s.
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Handler(failure) => {
                let retry_after = failure.retry_after.as_ref();
                let texts = failure.code.len() + failure.message.len();
                size_of::<HandlerError>() + texts + retry_after.map_or(0, |text| text.len())
            }
            Self::PodLost(why)
            | Self::PodUnreachable(why)
            | Self::BadOutput(why)
            | Self::OutputTooLarge(why)
            | Self::ColdStart(why) => why.len(),
            Self::StartTimeout(late) => size_of::<StartTimeout>() + late.trouble.why().len(),
            Self::Timeout { .. } | Self::Cancelled | Self::FunctionRemoved | Self::Shutdown => 0,
        }
    }

    /// Returns who is responsible for the failure.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Handler(_) | Self::BadOutput(_) | Self::OutputTooLarge(_) => Blame::Function,
            Self::PodLost(_) | Self::PodUnreachable(_) => Blame::Pod,
            Self::ColdStart(_) | Self::StartTimeout(_) => Blame::Cluster,
            Self::Timeout {
                stage: Stage::Running,
                ..
            } => Blame::Function,
            Self::Timeout { .. } | Self::Shutdown => Blame::Plane,
            Self::Cancelled | Self::FunctionRemoved => Blame::Client,
        }
    }
}

fn too_late(stage: Stage, limit: Option<TimeLimit>) -> String {
    let stage = stage.as_str();
    let after = limit.map_or_else(String::new, |limit| {
        format!(", after {} ms ({})", limit.ms(), limit.setting())
    });
    format!("the deadline passed while the call was {stage}{after}")
}
