//! A small HTTP/1.1 client: one request for each connection, plain `http://` only, with limits of
//! time and size. It follows no redirect. `announce`, `job` and the watchdog use it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nanofaas_http1::chunked::ChunkedDecoder;
use nanofaas_http1::error::ParseError;
use nanofaas_http1::head::{HEAD_MAX, HeadScan};
use nanofaas_http1::response_head::{ResponseBody, parse_response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// The limit of an answer's body, in bytes. The platform's default limits of inputs and outputs are
/// lower.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The pauses between the attempts of `request_persistently`, in milliseconds.
const WAITS_MS: [u64; 2] = [250, 1000];

/// The address of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    place: UrlAddress,
    /// The path and the query.
    target: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum UrlAddress {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// Why a request got no answer.
#[derive(Debug)]
pub enum ClientError {
    /// The URL cannot be used, so another attempt would also fail.
    Url(String),
    Io(io::Error),
    TimedOut,
    /// The peer closed the connection before the answer was complete. The text says at which point.
    Closed(&'static str),
    /// The answer is not HTTP, or exceeds a limit.
    Answer(ParseError),
}

#[derive(Debug)]
pub struct ClientAnswer {
    pub status: u16,
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub body: Vec<u8>,
}

impl Url {
    /// Parses `http://host[:port][/path]`.
    pub fn parse(text: &str) -> Result<Self, ClientError> {
        let wrong = |why: &str| ClientError::Url(format!("{text:?} {why}"));
        let Some(rest) = text.strip_prefix("http://") else {
            return Err(wrong("must begin with http://"));
        };
        // A space or a control character could end the request line early, or add lines to the
        // head.
        if rest.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
            return Err(wrong("must be plain ASCII without spaces"));
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        // `Host` must not contain a user (RFC 9110 §7.2), and the client sends no credentials.
        if authority.contains('@') {
            return Err(wrong("must not carry a user"));
        }
        let colon = authority.rfind(':');
        // A colon before a closing bracket is part of an IPv6 address.
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
            place: UrlAddress::Tcp { host, port },
            target,
        })
    }

    /// Returns the URL of a program on a port of this machine.
    pub fn local(port: u16, target: &str) -> Self {
        Self {
            place: UrlAddress::Tcp {
                host: "127.0.0.1".into(),
                port,
            },
            target: target.into(),
        }
    }

    /// Returns the URL of a program on a Unix socket.
    pub fn unix(path: &Path, target: &str) -> Self {
        Self {
            place: UrlAddress::Unix(path.into()),
            target: target.into(),
        }
    }
}

/// One request, without its address.
#[derive(Clone, Copy, Debug)]
pub struct ClientRequest<'a> {
    pub method: &'a str,
    /// The headers, except `Host`, `Connection` and `Content-Length`.
    pub headers: &'a [(&'a str, &'a str)],
    /// None for a request without a body and without `Content-Length`.
    pub body: Option<&'a [u8]>,
}

impl<'a> ClientRequest<'a> {
    pub const GET: ClientRequest<'static> = ClientRequest {
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

/// Sends one request and reads its answer. `wait` limits the whole exchange.
pub async fn request(
    url: &Url,
    request: ClientRequest<'_>,
    wait: Duration,
) -> Result<ClientAnswer, ClientError> {
    let whole = async {
        match &url.place {
            UrlAddress::Tcp { host, port } => {
                // `Host` needs the brackets of an IPv6 address, but the resolver does not accept
                // them.
                let name = host.trim_start_matches('[').trim_end_matches(']');
                let stream = TcpStream::connect((name, *port))
                    .await
                    .map_err(ClientError::Io)?;
                stream.set_nodelay(true).map_err(ClientError::Io)?;
                exchange(stream, request, &url.target, &format!("{host}:{port}")).await
            }
            UrlAddress::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(ClientError::Io)?;
                exchange(stream, request, &url.target, "localhost").await
            }
        }
    };
    timeout(wait, whole)
        .await
        .unwrap_or(Err(ClientError::TimedOut))
}

/// Sends a request up to three times, if the network fails or the answer is 408, 429 or 5xx.
pub async fn request_persistently(
    url: &Url,
    what: ClientRequest<'_>,
    wait: Duration,
) -> Result<ClientAnswer, ClientError> {
    for wait_ms in WAITS_MS {
        match request(url, what, wait).await {
            Ok(answer) if !matches!(answer.status, 408 | 429 | 500..) => return Ok(answer),
            Err(fault @ ClientError::Url(_)) => return Err(fault),
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(wait_ms)).await,
        }
    }
    request(url, what, wait).await
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    request: ClientRequest<'_>,
    target: &str,
    host: &str,
) -> Result<ClientAnswer, ClientError> {
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
    // A server may answer and close before it has read the whole body, so a failed write is ignored
    // if there is an answer.
    let written = stream.write_all(&out).await;
    let answer = read_answer(&mut stream).await;
    match (written, answer) {
        (_, Ok(answer)) => Ok(answer),
        (Err(error), Err(_)) => Err(ClientError::Io(error)),
        (Ok(()), Err(fault)) => Err(fault),
    }
}

async fn read_answer<S: AsyncRead + Unpin>(stream: &mut S) -> Result<ClientAnswer, ClientError> {
    let mut buffer = Vec::with_capacity(4096);
    let mut scan = HeadScan::default();
    let head = loop {
        match parse_response(&buffer, &mut scan)? {
            Some(head) if head.status >= 200 => break head,
            // RFC 9110 §15.2: interim answers may come before the final answer.
            Some(interim) => {
                buffer.drain(..interim.len);
                scan = HeadScan::default();
            }
            None if read_more(stream, &mut buffer).await? > 0 => {}
            None => {
                return Err(ClientError::Closed(
                    "the connection closed before the answer",
                ));
            }
        }
    };
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).ok();
    let content_type = head.content_type.and_then(|span| text(span.of(&buffer)));
    let content_encoding = head
        .content_encoding
        .and_then(|span| text(span.of(&buffer)));
    buffer.drain(..head.len);
    let body = match head.body {
        ResponseBody::None => Vec::new(),
        ResponseBody::Length(length) if length > BODY_BYTES_MAX as u64 => return Err(TOO_LARGE),
        ResponseBody::Length(length) => {
            let length = length as usize;
            while buffer.len() < length {
                if read_more(stream, &mut buffer).await? == 0 {
                    return Err(ClientError::Closed(
                        "the connection closed within the answer",
                    ));
                }
            }
            buffer.truncate(length);
            buffer
        }
        ResponseBody::Chunked => read_chunked(stream, buffer).await?,
        ResponseBody::UntilClose => {
            while read_more(stream, &mut buffer).await? > 0 {}
            buffer
        }
    };
    Ok(ClientAnswer {
        status: head.status,
        content_type,
        content_encoding,
        body,
    })
}

async fn read_chunked<S: AsyncRead + Unpin>(
    stream: &mut S,
    mut buffer: Vec<u8>,
) -> Result<Vec<u8>, ClientError> {
    let mut decoder = ChunkedDecoder::default();
    let mut body = Vec::new();
    loop {
        let decoded = decoder.decode(&buffer, &mut body, BODY_BYTES_MAX)?;
        buffer.drain(..decoded.consumed);
        if decoded.done {
            return Ok(body);
        }
        if read_more(stream, &mut buffer).await? == 0 {
            return Err(ClientError::Closed(
                "the connection closed within the answer",
            ));
        }
    }
}

const TOO_LARGE: ClientError = ClientError::Answer(ParseError::BodyTooLarge);

async fn read_more<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
) -> Result<usize, ClientError> {
    if buffer.len() > BODY_BYTES_MAX + HEAD_MAX {
        return Err(TOO_LARGE);
    }
    buffer.reserve(4096);
    stream.read_buf(buffer).await.map_err(ClientError::Io)
}

impl From<ParseError> for ClientError {
    fn from(error: ParseError) -> Self {
        Self::Answer(error)
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(why) => out.write_str(why),
            Self::Io(error) => error.fmt(out),
            Self::TimedOut => out.write_str("no answer in time"),
            Self::Closed(why) => out.write_str(why),
            Self::Answer(ParseError::BodyTooLarge) => out.write_str("the answer is over 8 MiB"),
            Self::Answer(why) => why.fmt(out),
        }
    }
}

impl std::error::Error for ClientError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, target: &str) -> Url {
        Url {
            place: UrlAddress::Tcp {
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

    fn read(answer: &str) -> Result<ClientAnswer, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let mut stream = answer.as_bytes();
        runtime
            .expect("a runtime")
            .block_on(read_answer(&mut stream))
    }

    #[test]
    fn answers_are_read_to_their_end() {
        for (answer, status, body) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc", 200, "ab"),
            ("HTTP/1.0 200 OK\r\n\r\nabc", 200, "abc"),
            ("HTTP/1.1 204 No Content\r\n\r\nabc", 204, ""),
            // A 204 with a `Content-Length` is common, though RFC 9110 §8.6 forbids it. By RFC 9112
            // §6.3 a 204 ends with its head.
            (
                "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc",
                204,
                "",
            ),
            ("HTTP/1.1 304 X\r\nContent-Length: 3\r\n\r\n", 304, ""),
            (
                "HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 500 X\r\n\r\nab",
                500,
                "ab",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\na\r\n0\r\nT: x\r\n\r\nb",
                200,
                "a",
            ),
        ] {
            let read = read(answer).expect(answer);
            assert_eq!((read.status, &*read.body), (status, body.as_bytes()));
        }
        let typed = "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Encoding: br\r\n\r\n";
        let typed = read(typed).expect("an answer");
        assert_eq!(typed.content_type.as_deref(), Some("a/b"));
        assert_eq!(typed.content_encoding.as_deref(), Some("br"));
    }

    /// Two parsers could find different bodies in most of these answers (RFC 9112 §2.2, §6.1 and
    /// §6.3). The others use a coding or a protocol that the client does not support.
    #[test]
    fn answers_of_two_meanings_are_refused() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\nContent-Length: 1\n\na",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n",
        ] {
            let outcome = read(answer);
            assert!(
                matches!(outcome, Err(ClientError::Answer(_))),
                "{answer:?}: {outcome:?}"
            );
        }
        let long = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            BODY_BYTES_MAX + 1
        );
        let fault = read(&long).expect_err("too large").to_string();
        assert_eq!(fault, "the answer is over 8 MiB");
        let cut = read("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na");
        assert!(matches!(cut, Err(ClientError::Closed(_))), "{cut:?}");
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
