//! The HTTP client of all commands sends a request and reads the whole answer. The client never follows
//! redirects and never retries, and every wait has a deadline.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use ureq::http::{HeaderMap, Request, Uri};

use super::error::{ApiError, CliError};

/// The longest answer that is read, in bytes. The server's default limit is 6 MiB.
const ANSWER_LEN_MAX: u64 = 256 * 1024 * 1024;
const CONNECT_LONGEST: Duration = Duration::from_secs(10);
/// The time limit of a request that the server answers at once.
pub(super) const ANSWER_LONGEST: Duration = Duration::from_secs(30);
/// A server that was asked to hold a request gets this time in addition to the time of the hold.
pub(super) const ANSWER_EXTRA: Duration = Duration::from_secs(15);
/// A longer body is sent with `Expect: 100-continue`, so that the server can refuse the head before the body
/// is sent.
const ASK_FIRST_LEN: usize = 64 * 1024;

pub(super) struct ApiClient {
    agent: ureq::Agent,
    /// The URL without a slash at its end.
    base: String,
    loopback: bool,
}

#[derive(Debug)]
pub(super) struct ApiResponse {
    pub(super) status: u16,
    headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

#[derive(Default)]
pub(super) struct ApiRequest {
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Option<Vec<u8>>,
    /// `None` means `ANSWER_LONGEST`.
    pub(super) longest: Option<Duration>,
}

impl ApiClient {
    pub(super) fn new(server: &str) -> Result<Self, CliError> {
        let (base, loopback) = parse_server(server).map_err(|reason| {
            CliError::Usage(format!(
                "--server {server:?}: {reason}, as in http://127.0.0.1:8080"
            ))
        })?;
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_LONGEST))
            .user_agent(concat!("nanofaas/", env!("CARGO_PKG_VERSION")));
        if loopback {
            config = config.proxy(None);
        }
        Ok(Self {
            agent: config.build().new_agent(),
            base,
            loopback,
        })
    }

    pub(super) fn is_loopback(&self) -> bool {
        self.loopback
    }

    pub(super) fn get(&self, path: &str) -> Result<ApiResponse, CliError> {
        self.send("GET", path, ApiRequest::default())
    }

    pub(super) fn put_json(&self, path: &str, body: Vec<u8>) -> Result<ApiResponse, CliError> {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        self.send(
            "PUT",
            path,
            ApiRequest {
                headers,
                body: Some(body),
                longest: None,
            },
        )
    }

    /// Sends a request. Fails if the request cannot be written as HTTP, or if no complete answer comes. A
    /// refusal is an answer.
    pub(super) fn send(
        &self,
        method: &str,
        path: &str,
        sent: ApiRequest,
    ) -> Result<ApiResponse, CliError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base));
        for (name, value) in &sent.headers {
            request = request.header(name, value);
        }
        if sent
            .body
            .as_ref()
            .is_some_and(|body| body.len() > ASK_FIRST_LEN)
        {
            request = request.header("expect", "100-continue");
        }
        let wrong = |error: ureq::http::Error| CliError::Usage(format!("cannot be sent: {error}"));
        let longest = Some(sent.longest.unwrap_or(ANSWER_LONGEST));
        let answered = match sent.body {
            Some(body) => {
                let request = request.body(body).map_err(wrong)?;
                let request = self.agent.configure_request(request);
                self.agent.run(request.timeout_global(longest).build())
            }
            None => {
                let request = request.body(()).map_err(wrong)?;
                let request = self.agent.configure_request(request);
                self.agent.run(request.timeout_global(longest).build())
            }
        };
        let response = answered.map_err(|error| self.broken(&error))?;
        let (parts, body) = response.into_parts();
        let body = body.into_with_config().limit(ANSWER_LEN_MAX).read_to_vec();
        let body = body.map_err(|error| self.broken(&error))?;
        Ok(ApiResponse {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        })
    }

    fn broken(&self, error: &ureq::Error) -> CliError {
        let server = &self.base;
        let message = match error {
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                format!("nothing listens at {server}: start it with `nanofaas serve`")
            }
            ureq::Error::ConnectionFailed => {
                format!("nothing listens at {server}: start it with `nanofaas serve`")
            }
            ureq::Error::HostNotFound => format!("there is no host of the name in {server}"),
            ureq::Error::Timeout(_) => format!("{server} did not answer in time ({error})"),
            other => format!("the connection to {server} broke: {other}"),
        };
        CliError::Connection(message)
    }
}

impl ApiResponse {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the texts of the server's `Warning` headers.
    pub(super) fn warnings(&self) -> Vec<String> {
        let values = self.headers.get_all("warning").iter();
        let texts = values.filter_map(|value| value.to_str().ok());
        texts
            .map(|text| warn_text(text).unwrap_or_else(|| text.to_owned()))
            .collect()
    }

    /// Returns an answer with a 2xx status. Any other answer becomes an error.
    pub(super) fn accepted(self) -> Result<Self, CliError> {
        if (200..300).contains(&self.status) {
            Ok(self)
        } else {
            Err(CliError::Refused(ApiError::read(&self)))
        }
    }

    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, CliError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let message = format!("the server's answer is not what this version knows: {error}");
            CliError::Connection(message)
        })
    }
}

/// Extracts the text of a `Warning` value such as `299 - "text"`.
fn warn_text(value: &str) -> Option<String> {
    let (_, quoted) = value.split_once(" \"")?;
    let mut text = String::new();
    let mut escaped = false;
    for c in quoted.strip_suffix('"')?.chars() {
        escaped = c == '\\' && !escaped;
        if !escaped {
            text.push(c);
        }
    }
    Some(text)
}

/// Returns the address without its last slash, and whether it is a loopback address.
fn parse_server(server: &str) -> Result<(String, bool), String> {
    let full = if server.contains("://") {
        server.to_owned()
    } else {
        format!("http://{server}")
    };
    let uri: Uri = full.parse().map_err(|_| "must be an address".to_owned())?;
    if uri.scheme_str() != Some("http") {
        return Err("must begin with http:// (TLS is not built in)".to_owned());
    }
    if uri.query().is_some() {
        return Err("must not have a query".to_owned());
    }
    let host = uri.host().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| "must name a host".to_owned())?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = bare == "localhost" || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    Ok((full.trim_end_matches('/').to_owned(), loopback))
}

/// RFC 3986 §2.3: all other characters of a path segment are encoded.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        let known = [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080", true),
            ("http://localhost:1/", "http://localhost:1", true),
            ("localhost:8080", "http://localhost:8080", true),
            ("http://[::1]:8080", "http://[::1]:8080", true),
            ("http://127.9.9.9", "http://127.9.9.9", true),
            (
                "http://example.org:80/faas/",
                "http://example.org:80/faas",
                false,
            ),
            ("http://10.0.0.1:8080", "http://10.0.0.1:8080", false),
        ];
        for (given, base, loopback) in known {
            assert_eq!(parse_server(given), Ok((base.to_owned(), loopback)));
        }
        for given in [
            "",
            "https://h:1",
            "http://",
            "http://h:1/?a",
            "ftp://h",
            "http://a b",
        ] {
            assert!(parse_server(given).is_err(), "{given}");
        }
    }

    #[test]
    fn warnings() {
        for (value, text) in [
            ("299 - \"plain\"", Some("plain")),
            (r#"299 - "a \"b\" \\ c""#, Some(r#"a "b" \ c"#)),
            ("299 - none", None),
        ] {
            assert_eq!(warn_text(value).as_deref(), text);
        }
    }

    #[test]
    fn segments() {
        assert_eq!(segment("word-stats_1.x~"), "word-stats_1.x~");
        assert_eq!(segment("a/b:c?ä"), "a%2Fb%3Ac%3F%C3%A4");
    }
}
