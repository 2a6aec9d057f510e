//! The settings, which `serve` reads from the environment one time and checks. This module opens
//! nothing.

use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    /// A port, on all addresses of this machine.
    Tcp(u16),
    Unix(PathBuf),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) execution_id: String,
    pub(crate) trace_id: Option<String>,
    pub(crate) attempt: u32,
    /// The time limit, counted from the start of the process.
    pub(crate) timeout: Option<Duration>,
    /// The base of the URL to which the result is posted: `{callback_url}/{execution_id}:complete`.
    pub(crate) callback_url: String,
    pub(crate) payload: Payload,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// The JSON envelope itself.
    Here(String),
    /// The URL from which the Job fetches the body.
    At(String),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) listen: Listen,
    pub(crate) handler: Option<String>,
    /// The methods of HTTP calls that a handler takes, from `HANDLER_METHODS`.
    pub(crate) methods: Vec<String>,
    pub(crate) ready_url: Option<String>,
    pub(crate) job: Option<Job>,
}

const TIMEOUT_MS_MAX: u64 = 3_600_000;

impl Settings {
    /// Reads the settings. An error names the variable and its allowed values. An empty variable
    /// counts as not set.
    pub(crate) fn read(env: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let get = |name: &str| env(name).filter(|value| !value.is_empty());
        Ok(Self {
            listen: read_listen(&get)?,
            handler: get("FUNCTION_HANDLER"),
            methods: read_methods(&get)?,
            ready_url: get("NANOFAAS_READY_URL"),
            job: read_job(&get)?,
        })
    }
}

/// Returns the socket of `NANOFAAS_SOCKET`, else the port of `PORT`, else port 8080.
pub(crate) fn read_listen(get: &impl Fn(&str) -> Option<String>) -> Result<Listen, String> {
    if let Some(path) = get("NANOFAAS_SOCKET") {
        return Ok(Listen::Unix(path.into()));
    }
    let Some(port) = get("PORT") else {
        return Ok(Listen::Tcp(8080));
    };
    let wrong = |_| format!("PORT must be a whole number from 0 to 65535, is {port:?}");
    port.parse().map(Listen::Tcp).map_err(wrong)
}

fn read_methods(get: &impl Fn(&str) -> Option<String>) -> Result<Vec<String>, String> {
    let text = get("HANDLER_METHODS").unwrap_or_else(|| "POST".to_owned());
    let methods: Vec<String> = text.split(',').map(|one| one.trim().to_owned()).collect();
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_method = |one: &String| !one.is_empty() && one.bytes().all(is_token);
    match methods.iter().all(is_method) {
        true => Ok(methods),
        false => Err(format!(
            "HANDLER_METHODS must be methods, such as GET,POST; it is {text:?}"
        )),
    }
}

fn read_job(get: &impl Fn(&str) -> Option<String>) -> Result<Option<Job>, String> {
    let Some(callback_url) = get("CALLBACK_URL") else {
        return Ok(None);
    };
    let Some(execution_id) = get("EXECUTION_ID") else {
        return Err("EXECUTION_ID must be set where CALLBACK_URL is (Job mode)".into());
    };
    let payload = match (get("INVOCATION_PAYLOAD"), get("INVOCATION_PAYLOAD_URL")) {
        (Some(payload), _) => Payload::Here(payload),
        (None, Some(url)) => Payload::At(url),
        (None, None) => {
            let message = "INVOCATION_PAYLOAD or INVOCATION_PAYLOAD_URL must be set (Job mode)";
            return Err(message.into());
        }
    };
    // `INVOCATION_TIMEOUT_MS` has priority over `TIMEOUT_MS`.
    let name = match get("INVOCATION_TIMEOUT_MS") {
        Some(_) => "INVOCATION_TIMEOUT_MS",
        None => "TIMEOUT_MS",
    };
    let timeout_ms = number(get, name, TIMEOUT_MS_MAX)?;
    let attempt = number(get, "DISPATCH_ATTEMPT", u64::from(u32::MAX))?.unwrap_or(1);
    Ok(Some(Job {
        execution_id,
        trace_id: get("TRACE_ID"),
        attempt: u32::try_from(attempt).unwrap_or(u32::MAX),
        timeout: timeout_ms.map(Duration::from_millis),
        callback_url: callback_url.trim_end_matches('/').to_owned(),
        payload,
    }))
}

fn number(
    get: &impl Fn(&str) -> Option<String>,
    name: &str,
    most: u64,
) -> Result<Option<u64>, String> {
    let Some(text) = get(name) else {
        return Ok(None);
    };
    match text.parse() {
        Ok(number) if number <= most => Ok(Some(number)),
        _ => Err(format!(
            "{name} must be a whole number from 0 to {most}, is {text:?}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::read(|name| {
            let found = set.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_socket_goes_before_a_port() {
        let listen = |set: &[(&str, &str)]| read(set).expect("sound settings").listen;
        assert_eq!(listen(&[]), Listen::Tcp(8080));
        assert_eq!(listen(&[("PORT", "81")]), Listen::Tcp(81));
        let both = [("PORT", "81"), ("NANOFAAS_SOCKET", "/run/a")];
        assert_eq!(listen(&both), Listen::Unix("/run/a".into()));
    }

    #[test]
    fn methods_are_a_list_of_tokens() {
        let methods = |text: &str| read(&[("HANDLER_METHODS", text)]).map(|read| read.methods);
        assert_eq!(methods(""), Ok(vec!["POST".to_owned()]));
        let two = Ok(vec!["GET".to_owned(), "M-SEARCH".to_owned()]);
        assert_eq!(methods("GET, M-SEARCH"), two);
        for wrong in ["GET;POST", "GET,", "G\u{c9}T", "GET POST"] {
            let message = methods(wrong).expect_err(wrong);
            assert!(message.contains("HANDLER_METHODS"), "{message}");
        }
    }

    #[test]
    fn a_wrong_number_names_its_variable() {
        let message = read(&[("PORT", "http")]).expect_err("not a number");
        assert!(
            message.contains("PORT") && message.contains("65535"),
            "{message}"
        );
        let job = [
            ("CALLBACK_URL", "http://a"),
            ("EXECUTION_ID", "e"),
            ("INVOCATION_PAYLOAD", "{}"),
            ("TIMEOUT_MS", "-1"),
        ];
        let message = read(&job).expect_err("negative");
        assert!(message.contains("TIMEOUT_MS"), "{message}");
    }

    #[test]
    fn a_job_needs_its_id_and_its_payload() {
        let message = read(&[("CALLBACK_URL", "http://a")]).expect_err("no id");
        assert!(message.contains("EXECUTION_ID"), "{message}");
        let message = read(&[("CALLBACK_URL", "http://a"), ("EXECUTION_ID", "e")]);
        let message = message.expect_err("no payload");
        assert!(message.contains("INVOCATION_PAYLOAD_URL"), "{message}");
    }
}
