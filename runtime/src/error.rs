//! The error of a call: a code and a message, which the platform passes on to the client. The
//! platform chooses the status that the client gets. Handlers, this library and the watchdog make
//! errors.

use std::borrow::Cow;
use std::fmt;

use crate::answer::Echo;

/// The error that a handler returns. `?` converts any `std::error::Error` to this type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub(crate) status: u16,
    pub(crate) code: Cow<'static, str>,
    pub(crate) message: String,
}

impl Error {
    /// Makes an error with the code `HANDLER_ERROR`.
    pub fn new(message: impl Into<String>) -> Self {
        Self::with_code("HANDLER_ERROR", message)
    }

    /// Makes an error with the function's own code, which becomes the execution's `error.code`.
    pub fn with_code(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            status: 500,
            code: code.into(),
            message: message.into(),
        }
    }

    /// Makes a `BAD_INPUT` error: the caller must send a different input.
    pub fn bad_input(message: impl Into<String>) -> Self {
        Self {
            status: 400,
            ..Self::with_code("BAD_INPUT", message)
        }
    }

    /// Makes a `BAD_OUTPUT` error: the output cannot be sent.
    pub fn bad_output(message: impl Into<String>) -> Self {
        Self::with_code("BAD_OUTPUT", message)
    }

    /// Makes a `POD_LOST` error: the process that ran the call ended before the call did.
    pub fn pod_lost(message: impl Into<String>) -> Self {
        Self {
            status: 502,
            ..Self::with_code("POD_LOST", message)
        }
    }

    pub(crate) fn timeout() -> Self {
        Self {
            status: 504,
            ..Self::with_code("TIMEOUT", "the call's deadline passed while it was running")
        }
    }

    /// Returns the code, for example `HANDLER_ERROR`.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// Returns the message that the client gets.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the body of the answer: `{"code","message"}`, or `{"error","message"}` for an HTTP
    /// call. The client of an HTTP call gets this body unchanged.
    pub(crate) fn json(&self, echo: Echo) -> String {
        let code = match echo {
            Echo::ExecutionId => "code",
            Echo::HttpAnswer => "error",
        };
        serde_json::json!({ code: self.code, "message": self.message }).to_string()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.code, self.message)
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        Self::new(error.to_string())
    }
}
