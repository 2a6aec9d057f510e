//! How a call can end, and whose doing it was. It knows no status code: `io/reply.rs` maps it.

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

/// Why a call did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The function raised, or answered non-2xx.
    Handler {
        code: Arc<str>,
        message: Arc<str>,
    },
    /// The pod went away in the middle of the call.
    PodLost(Arc<str>),
    /// No pod took the call, which cannot have begun.
    PodUnreachable(Arc<str>),
    /// The pod's answer was no answer.
    BadOutput(Arc<str>),
    OutputTooLarge {
        bytes_max: u64,
    },
    /// No pod could be started; the cluster's or the process's own words.
    ColdStart(Arc<str>),
    Timeout(Stage),
    Cancelled,
    FunctionRemoved,
    Shutdown,
}

/// Whose doing a failure was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    Function,
    Pod,
    Cluster,
    Client,
    Plane,
}

impl Failure {
    /// The word on the wire.
    pub fn code(&self) -> &str {
        match self {
            Self::Handler { code, .. } => code,
            Self::PodLost(_) => "POD_LOST",
            Self::PodUnreachable(_) => "POD_UNREACHABLE",
            Self::BadOutput(_) => "BAD_OUTPUT",
            Self::OutputTooLarge { .. } => "OUTPUT_TOO_LARGE",
            Self::ColdStart(_) => "COLD_START_FAILED",
            Self::Timeout(_) => "TIMEOUT",
            Self::Cancelled => "CANCELLED",
            Self::FunctionRemoved => "FUNCTION_REMOVED",
            Self::Shutdown => "SHUTDOWN",
        }
    }

    /// What happened, for people.
    pub fn message(&self) -> Arc<str> {
        match self {
            Self::Handler { message, .. } => message.clone(),
            Self::PodLost(why)
            | Self::PodUnreachable(why)
            | Self::BadOutput(why)
            | Self::ColdStart(why) => why.clone(),
            Self::OutputTooLarge { bytes_max } => {
                format!("the output is larger than --max-response, {bytes_max} bytes").into()
            }
            Self::Timeout(stage) => {
                format!("the deadline passed while the call was {}", stage.as_str()).into()
            }
            Self::Cancelled => "the call was cancelled".into(),
            Self::FunctionRemoved => "the function was deleted while the call waited".into(),
            Self::Shutdown => {
                "the control plane stopped before the call could end; call again".into()
            }
        }
    }

    /// Bytes of the texts that it holds.
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Handler { code, message } => code.len() + message.len(),
            Self::PodLost(why)
            | Self::PodUnreachable(why)
            | Self::BadOutput(why)
            | Self::ColdStart(why) => why.len(),
            Self::OutputTooLarge { .. }
            | Self::Timeout(_)
            | Self::Cancelled
            | Self::FunctionRemoved
            | Self::Shutdown => 0,
        }
    }

    /// Whose doing it was.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Handler { .. } | Self::BadOutput(_) | Self::OutputTooLarge { .. } => {
                Blame::Function
            }
            Self::PodLost(_) | Self::PodUnreachable(_) => Blame::Pod,
            Self::ColdStart(_) => Blame::Cluster,
            Self::Timeout(Stage::Running) => Blame::Function,
            Self::Timeout(Stage::Queued | Stage::Starting) | Self::Shutdown => Blame::Plane,
            Self::Cancelled | Self::FunctionRemoved => Blame::Client,
        }
    }
}
