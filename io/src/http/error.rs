//! The errors of requests, apart from the outcomes of calls. `response` chooses their status codes and
//! messages.

use nanofaas_core::admission::AdmissionError;
use nanofaas_core::spec::ExecutionMode;
use nanofaas_http1::error::ParseError;
use nanofaas_http1::error::ValueError;

use crate::http::json::JsonError;

#[derive(Clone, Debug)]
pub(crate) enum HttpError {
    Http(ParseError),
    /// A value, a body or a name is invalid; the text says what is valid.
    BadRequest(String),
    /// The invalid fields, each as `field: message`.
    Invalid(Vec<String>),
    UnsupportedMediaType,
    /// A JSON body has a `Content-Encoding`.
    Encoded,
    LengthRequired,
    BodyTooLarge {
        bytes_max: u64,
    },
    /// The head or the body did not come in time.
    TooSlow(&'static str),
    Forbidden(&'static str),
    NoSuchPath,
    NoSuchFunction(String),
    /// The function that has to be removed does not exist.
    NothingToRemove(String),
    NoSuchExecution,
    /// The function is not served at `/fn/`; the text says what to change.
    NotHttp(&'static str),
    /// No function of this mode is served at `/fn/`.
    NeverHttp {
        name: String,
        mode: ExecutionMode,
    },
    /// A page of another origin may not send this request.
    CrossOrigin,
    /// The request has passed this proxy too often, because a function or another proxy sends it back.
    Loop,
    MethodNotAllowed {
        allow: &'static str,
    },
    FunctionExists(String),
    /// The function is not WARM, so its number of replicas cannot be set.
    NotWarm {
        name: String,
        mode: ExecutionMode,
    },
    KeyMismatch,
    NotEnded,
    /// A Job posted its result, or asked for its input, after its attempt was over.
    Stale,
    NoOutput(&'static str),
    RegistryUnavailable(String),
    ShuttingDown,
    /// A queue inside the control plane is full.
    Busy,
    /// There is no memory for the request or its answer. If admission finds no memory for a call, the error
    /// is `Refused` instead.
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
    /// Returns whether the bytes that follow on the connection can no longer be split into requests.
    pub(crate) const fn spoils_connection(&self) -> bool {
        matches!(
            self,
            Self::Http(_) | Self::TooSlow(_) | Self::BodyTooLarge { .. }
        )
    }
}
