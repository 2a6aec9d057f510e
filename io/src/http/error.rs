//! The errors of requests, apart from the outcomes of calls. Each message advises the client what to do. This
//! module knows no status code; `response` does.

use nanofaas_core::admission::AdmissionError;
use nanofaas_core::spec::ExecutionMode;
use nanofaas_http1::error::ParseError;
use nanofaas_http1::error::ValueError;

use crate::http::json::JsonError;

/// Why a request fails.
#[derive(Clone, Debug)]
pub(crate) enum HttpError {
    Http(ParseError),
    /// An invalid value, body or name; the text says what is valid.
    BadRequest(String),
    /// The invalid fields, each as `field: message`.
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
    /// There is no function of this name to remove.
    NothingToRemove(String),
    NoSuchExecution,
    MethodNotAllowed {
        allow: &'static str,
    },
    FunctionExists(String),
    /// A function that is not WARM has no floor of pods.
    NotWarm {
        name: String,
        mode: ExecutionMode,
    },
    KeyMismatch,
    NotEnded,
    /// A Job posted its result, or asked for its input, too late.
    Stale,
    NoOutput(&'static str),
    RegistryUnavailable(String),
    ShuttingDown,
    /// A queue inside the platform is full.
    Busy,
    /// There is no memory for the request, which is not a call, or for its answer.
    NoMemory,
    Refused(AdmissionError),
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
