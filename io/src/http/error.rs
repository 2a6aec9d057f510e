//! What can be wrong with a request, apart from the outcome of a call. Each says what to do about
//! it. It knows no status code; `response` does.

use nanofaas_core::admission::Refusal;
use nanofaas_core::spec::ExecutionMode;
use nanofaas_http1::error::ParseError;
use nanofaas_http1::error::ValueError;

use crate::http::json::JsonError;

/// Why a request is not answered as it wished.
#[derive(Clone, Debug)]
pub(crate) enum HttpError {
    Http(ParseError),
    /// A value, a body or a name that cannot be; the text says what it can be.
    BadRequest(String),
    /// `field: message`, each.
    Invalid(Vec<String>),
    UnsupportedMediaType,
    /// A JSON body with a `Content-Encoding`.
    Encoded,
    LengthRequired,
    BodyTooLarge {
        bytes_max: u64,
    },
    /// Head or body did not come in time.
    TooSlow(&'static str),
    Forbidden(&'static str),
    NoSuchPath,
    NoSuchFunction(String),
    /// The same where it was to be removed.
    NothingToRemove(String),
    NoSuchExecution,
    MethodNotAllowed {
        allow: &'static str,
    },
    FunctionExists(String),
    /// A function of another mode has no floor of pods.
    NotWarm {
        name: String,
        mode: ExecutionMode,
    },
    KeyMismatch,
    NotEnded,
    /// A Job's result or question that comes too late.
    Stale,
    NoOutput(&'static str),
    RegistryUnavailable(String),
    ShuttingDown,
    /// A queue inside the platform is full.
    Busy,
    /// There is no room for what it needs, and it is not a call that could be refused.
    NoMemory,
    Refused(Refusal),
}

impl From<ParseError> for HttpError {
    fn from(fault: ParseError) -> Self {
        Self::Http(fault)
    }
}

impl From<ValueError> for HttpError {
    fn from(value: ValueError) -> Self {
        Self::BadRequest(value.0.to_owned())
    }
}

impl From<JsonError> for HttpError {
    fn from(fault: JsonError) -> Self {
        Self::BadRequest(format!("the body cannot be taken: {fault}"))
    }
}

impl HttpError {
    /// Whether the bytes that follow on the connection cannot be understood any more.
    pub(crate) const fn spoils_connection(&self) -> bool {
        matches!(
            self,
            Self::Http(_) | Self::TooSlow(_) | Self::BodyTooLarge { .. }
        )
    }
}
