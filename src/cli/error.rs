//! Defines the error of a command, with its message and its exit code. The server's code, message and details
//! are shown unchanged.

use std::io;
use std::process::ExitCode;

use serde::Deserialize;

use super::client::ApiResponse;
use super::show;

#[derive(Debug)]
pub(super) enum CliError {
    /// The arguments make no sense, a file cannot be read, or stdout cannot be written.
    Usage(String),
    /// No server answers, or no complete answer came.
    Connection(String),
    Refused(ApiError),
    /// A call did not succeed. Its result is already shown.
    Call,
    /// The process that read our stdout has closed it.
    ReaderGone,
}

/// An error body of the API, and a hint for the user.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) details: Vec<String>,
    hint: Option<String>,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: String,
    message: String,
    #[serde(default)]
    details: Vec<String>,
}

impl CliError {
    pub(super) fn report(&self) {
        match self {
            Self::Usage(message) | Self::Connection(message) => {
                eprintln!("error: {}", show::plain(message));
            }
            Self::Refused(error) => error.report(),
            Self::Call | Self::ReaderGone => {}
        }
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) | Self::Connection(_) => ExitCode::from(2),
            Self::Refused(_) | Self::Call => ExitCode::from(1),
            Self::ReaderGone => ExitCode::SUCCESS,
        }
    }
}

/// Converts the error of a write to stdout. The errors of files need the file's name, so they are converted
/// elsewhere.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => Self::Usage(format!("cannot write to stdout: {error}")),
        }
    }
}

impl ApiError {
    /// Reads an unsuccessful answer. If the body is not an error of our API, its beginning becomes the
    /// message.
    pub(super) fn read(answer: &ApiResponse) -> Self {
        const SHOWN_MAX: usize = 200;
        let hint = |code: &str| hint(code, answer.header("retry-after"));
        if let Ok(body) = serde_json::from_slice::<ErrorBody>(&answer.body) {
            let hint = hint(&body.error);
            return Self {
                code: body.error,
                message: body.message,
                details: body.details,
                hint,
            };
        }
        let text = String::from_utf8_lossy(&answer.body);
        let shown: String = text.trim().chars().take(SHOWN_MAX).collect();
        Self {
            code: format!("HTTP {}", answer.status),
            message: if shown.is_empty() {
                "no explanation".to_owned()
            } else {
                shown
            },
            details: Vec::new(),
            hint: Some("is this address a nanofaas server's API (port 8080)?".to_owned()),
        }
    }

    pub(super) fn report(&self) {
        eprintln!(
            "{}: {}",
            show::plain(&self.code),
            show::plain(&self.message)
        );
        for detail in &self.details {
            eprintln!("  {}", show::plain(detail));
        }
        self.report_hint();
    }

    pub(super) fn report_hint(&self) {
        if let Some(hint) = &self.hint {
            eprintln!("  hint: {hint}");
        }
    }
}

fn hint(code: &str, retry_after: Option<&str>) -> Option<String> {
    let hint = match code {
        "FUNCTION_NOT_FOUND" => "`nanofaas list` shows the functions that there are",
        "EXECUTION_NOT_FOUND" => "finished executions are kept for a while only",
        "FUNCTION_EXISTS" => "`nanofaas apply` replaces a function",
        "IDEMPOTENCY_MISMATCH" => "take another key for another body",
        "SHUTTING_DOWN" => "try again when the server is back",
        "TOO_MANY_REQUESTS" => {
            let seconds = retry_after.unwrap_or("1");
            return Some(format!("try again in {} s", show::plain(seconds)));
        }
        _ => return None,
    };
    Some(hint.to_owned())
}
