//! A small HTTP/1.1 client: one request per connection, plain `http://` only, bounded in time and
//! size. It follows no redirect. Called by `announce`, `job` and the watchdog.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::chunked::{ChunkFault, Chunked};
use crate::request::digits;

const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The largest request body and answer that the platform's default settings let through, and some.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Tries, and the waits between them.
const WAITS_MS: [u64; 2] = [250, 1000];

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    place: Place,
    /// Path and query.
    target: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Fault {
    /// The URL cannot be used; trying again does not help.
    Url(String),
    Io(io::Error),
    TimedOut,
    /// The connection ended in order, before the whole answer.
    Closed(&'static str),
    /// The answer is not HTTP, or over its limits.
    Answer(&'static str),
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub body: Vec<u8>,
}

impl Url {
    /// `http://host[:port][/path]`.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let wrong = |why: &str| Fault::Url(format!("{text:?} {why}"));
        let Some(rest) = text.strip_prefix("http://") else {
            return Err(wrong("must begin with http://"));
        };
        if rest.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
            return Err(wrong("must be plain ASCII without spaces"));
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err(wrong("must not carry a user"));
        }
        let colon = authority.rfind(':');
        // The colons of an IPv6 address are in brackets.
        let colon = colon.filter(|at| !authority[*at..].contains(']'));
        let (host, port) = match colon {
            Some(at) => (&authority[..at], Some(&authority[at + 1..])),
            None => (authority, None),
        };
        let port = match port.map(str::parse) {
            None => 80,
            Some(Ok(port)) => port,
            Some(Err(_)) => return Err(wrong("must have a port from 0 to 65535")),
        };
        if host.is_empty() {
            return Err(wrong("must name a host"));
        }
        let target = match target {
            "" => "/".to_owned(),
            query if query.starts_with('?') => format!("/{query}"),
            path => path.to_owned(),
        };
        let host = host.to_owned();
        Ok(Self {
            place: Place::Tcp { host, port },
            target,
        })
    }

    /// A target on a program that listens on this machine.
    pub fn local(port: u16, target: &str) -> Self {
        Self {
            place: Place::Tcp {
                host: "127.0.0.1".into(),
                port,
            },
            target: target.into(),
        }
    }

    /// A target on a program that listens on a Unix socket.
    pub fn unix(path: &Path, target: &str) -> Self {
        Self {
            place: Place::Unix(path.into()),
            target: target.into(),
        }
    }
}

/// What goes there.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: &'a str,
    /// Besides `Host`, `Connection` and `Content-Length`.
    pub headers: &'a [(&'a str, &'a str)],
    /// None for a request that has no body, not even an empty one.
    pub body: Option<&'a [u8]>,
}

impl<'a> Request<'a> {
    pub const GET: Request<'static> = Request {
        method: "GET",
        headers: &[],
        body: None,
    };

    pub fn post(headers: &'a [(&'a str, &'a str)], body: &'a [u8]) -> Self {
        Self {
            method: "POST",
            headers,
            body: Some(body),
        }
    }
}

/// One request with one answer, `wait` for all of it.
pub async fn request(url: &Url, request: Request<'_>, wait: Duration) -> Result<Answer, Fault> {
    let whole = async {
        match &url.place {
            Place::Tcp { host, port } => {
                let name = host.trim_start_matches('[').trim_end_matches(']');
                let stream = TcpStream::connect((name, *port)).await.map_err(Fault::Io)?;
                stream.set_nodelay(true).map_err(Fault::Io)?;
                exchange(stream, request, &url.target, &format!("{host}:{port}")).await
            }
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(Fault::Io)?;
                exchange(stream, request, &url.target, "localhost").await
            }
        }
    };
    timeout(wait, whole).await.unwrap_or(Err(Fault::TimedOut))
}

/// `request`, three times in all where the network fails, or the answer is 408, 429 or 5xx.
pub async fn request_persistently(
    url: &Url,
    what: Request<'_>,
    wait: Duration,
) -> Result<Answer, Fault> {
    for wait_ms in WAITS_MS {
        match request(url, what, wait).await {
            Ok(answer) if !matches!(answer.status, 408 | 429 | 500..) => return Ok(answer),
            Err(fault @ Fault::Url(_)) => return Err(fault),
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(wait_ms)).await,
        }
    }
    request(url, what, wait).await
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    request: Request<'_>,
    target: &str,
    host: &str,
) -> Result<Answer, Fault> {
    let method = request.method;
    let mut out = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in request.headers {
        out += &format!("{name}: {value}\r\n");
    }
    if let Some(body) = request.body {
        out += &format!("Content-Length: {}\r\n", body.len());
    }
    out += "\r\n";
    let mut out = out.into_bytes();
    out.extend_from_slice(request.body.unwrap_or_default());
    // The answer may be there before the whole body is sent, and closes the connection then.
    let written = stream.write_all(&out).await;
    let answer = read_answer(&mut stream).await;
    match (written, answer) {
        (_, Ok(answer)) => Ok(answer),
        (Err(error), Err(_)) => Err(Fault::Io(error)),
        (Ok(()), Err(fault)) => Err(fault),
    }
}

async fn read_answer<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Answer, Fault> {
    let mut buffer = Vec::with_capacity(4096);
    let head = loop {
        if let Some(head) = parse_head(&buffer)? {
            if head.status >= 200 {
                break head;
            }
            buffer.drain(..head.len);
            continue;
        }
        if read_more(stream, &mut buffer).await? == 0 {
            return Err(Fault::Closed("the connection closed before the answer"));
        }
    };
    buffer.drain(..head.len);
    let body = match head.framing {
        _ if matches!(head.status, 204 | 304) => Vec::new(),
        Framing::Length(length) => {
            while buffer.len() < length {
                if read_more(stream, &mut buffer).await? == 0 {
                    return Err(Fault::Closed("the connection closed within the answer"));
                }
            }
            buffer.truncate(length);
            buffer
        }
        Framing::Chunked => read_chunked(stream, buffer).await?,
        Framing::UntilClose => {
            while read_more(stream, &mut buffer).await? > 0 {}
            buffer
        }
    };
    Ok(Answer {
        status: head.status,
        content_type: head.content_type,
        content_encoding: head.content_encoding,
        body,
    })
}

async fn read_chunked<S: AsyncRead + Unpin>(
    stream: &mut S,
    mut buffer: Vec<u8>,
) -> Result<Vec<u8>, Fault> {
    let mut chunked = Chunked::new(BODY_BYTES_MAX);
    let mut body = Vec::new();
    loop {
        let used = chunked
            .take(&buffer, &mut body)
            .map_err(|fault| match fault {
                ChunkFault::Malformed(why) => Fault::Answer(why),
                ChunkFault::TooLarge => TOO_LARGE,
            })?;
        buffer.drain(..used);
        if chunked.done() {
            return Ok(body);
        }
        if read_more(stream, &mut buffer).await? == 0 {
            return Err(Fault::Closed("the connection closed within the answer"));
        }
    }
}

const TOO_LARGE: Fault = Fault::Answer("the answer is over 8 MiB");

async fn read_more<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
) -> Result<usize, Fault> {
    if buffer.len() > BODY_BYTES_MAX + HEAD_BYTES_MAX {
        return Err(TOO_LARGE);
    }
    buffer.reserve(4096);
    stream.read_buf(buffer).await.map_err(Fault::Io)
}

struct Head {
    len: usize,
    status: u16,
    framing: Framing,
    content_type: Option<String>,
    content_encoding: Option<String>,
}

enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

fn parse_head(bytes: &[u8]) -> Result<Option<Head>, Fault> {
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut response = httparse::Response::new(&mut headers);
    let len = match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(Fault::Answer("the head is over 16 KiB")),
        Err(_) => return Err(Fault::Answer("the answer is not HTTP/1.1")),
    };
    let mut head = Head {
        len,
        status: response.code.unwrap_or(0),
        framing: Framing::UntilClose,
        content_type: None,
        content_encoding: None,
    };
    for header in response.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") && !matches!(head.framing, Framing::Chunked) {
            let length = digits(header.value).and_then(|length| usize::try_from(length).ok());
            let Some(length) = length else {
                return Err(Fault::Answer("Content-Length is no whole number"));
            };
            if length > BODY_BYTES_MAX {
                return Err(TOO_LARGE);
            }
            head.framing = Framing::Length(length);
        } else if is("transfer-encoding") {
            head.framing = Framing::Chunked;
        } else if is("content-type") {
            head.content_type = String::from_utf8(header.value.to_vec()).ok();
        } else if is("content-encoding") {
            head.content_encoding = String::from_utf8(header.value.to_vec()).ok();
        }
    }
    Ok(Some(head))
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(why) => out.write_str(why),
            Self::Io(error) => error.fmt(out),
            Self::TimedOut => out.write_str("no answer in time"),
            Self::Closed(why) | Self::Answer(why) => out.write_str(why),
        }
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, target: &str) -> Url {
        Url {
            place: Place::Tcp {
                host: host.into(),
                port,
            },
            target: target.into(),
        }
    }

    #[test]
    fn urls_are_taken_apart() {
        let parsed = |text| Url::parse(text).expect("a sound URL");
        assert_eq!(parsed("http://a"), tcp("a", 80, "/"));
        assert_eq!(parsed("http://a:81/b/c?d"), tcp("a", 81, "/b/c?d"));
        assert_eq!(parsed("http://a?d:e"), tcp("a", 80, "/?d:e"));
        assert_eq!(parsed("http://[::1]:81/b"), tcp("[::1]", 81, "/b"));
        assert_eq!(parsed("http://[::1]"), tcp("[::1]", 80, "/"));
    }

    #[test]
    fn other_urls_are_named() {
        for wrong in [
            "https://a",
            "a",
            "http://",
            "http://a:b",
            "http://u@a",
            "http://a/ b",
        ] {
            let fault = Url::parse(wrong).expect_err("not a URL for this client");
            assert!(fault.to_string().contains(wrong), "{fault}");
        }
    }
}
