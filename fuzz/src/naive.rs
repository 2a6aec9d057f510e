//! A second implementation of the rules for a request's head and a chunked body. It is slow, and reads the
//! input as a whole. It was written from the contract and not from the parser, so that the two are unlikely
//! to have the same fault.

use nanofaas_http1::framing::Framing;
use nanofaas_http1::request::{Method, RequestHead};

#[derive(Debug, PartialEq)]
pub(crate) enum NaiveRefusal {
    Incomplete,
    Refused(&'static str),
}

/// The full meaning of a request's head.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Meaning {
    len: usize,
    method: String,
    minor: u8,
    path: Vec<u8>,
    query: Option<Vec<u8>>,
    framing: Framing,
    keep_alive: bool,
    expect_continue: bool,
    /// The header values, in the order of `VALUES`.
    values: [Option<Vec<u8>>; 9],
}

impl Meaning {
    pub(crate) fn of(head: &RequestHead, bytes: &[u8]) -> Self {
        let method = match head.method {
            Method::Other(span) => String::from_utf8(span.of(bytes).to_vec()).unwrap(),
            known => format!("{known:?}").to_uppercase(),
        };
        let spans = [
            head.host,
            head.origin,
            head.content_type,
            head.idempotency_key,
            head.timeout_ms,
            head.trace_id,
            head.traceparent,
            head.tracestate,
            head.content_encoding,
        ];
        Self {
            len: head.len,
            method,
            minor: head.minor,
            path: head.path.of(bytes).to_vec(),
            query: head.query.map(|query| query.of(bytes).to_vec()),
            framing: head.framing,
            keep_alive: head.keep_alive,
            expect_continue: head.expect_continue,
            values: spans.map(|span| span.map(|span| span.of(bytes).to_vec())),
        }
    }

    pub(crate) fn with_len(self, len: usize) -> Self {
        Self { len, ..self }
    }

    /// Writes a head with this meaning, in the plainest form.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = self.method.clone().into_bytes();
        out.push(b' ');
        // A target without a path needs the absolute form.
        if self.path.is_empty() {
            out.extend_from_slice(b"http://");
            out.extend_from_slice(self.values[0].as_deref().unwrap_or_default());
        }
        out.extend_from_slice(&self.path);
        if let Some(query) = &self.query {
            out.push(b'?');
            out.extend_from_slice(query);
        }
        out.extend_from_slice(format!(" HTTP/1.{}\r\n", self.minor).as_bytes());
        let mut line = |name: &str, value: &[u8]| {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        };
        for (name, value) in VALUES.iter().zip(&self.values) {
            if let Some(value) = value {
                line(name, value);
            }
        }
        match self.framing {
            Framing::None => {}
            Framing::Length(length) => line("content-length", length.to_string().as_bytes()),
            Framing::Chunked => line("transfer-encoding", b"chunked"),
        }
        match (self.minor, self.keep_alive) {
            (0, true) => line("connection", b"keep-alive"),
            (1, false) => line("connection", b"close"),
            _ => {}
        }
        if self.expect_continue {
            line("expect", b"100-continue");
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}

/// The names of `Meaning::values`.
const VALUES: [&str; 9] = [
    "host",
    "origin",
    "content-type",
    "idempotency-key",
    "x-timeout-ms",
    "x-trace-id",
    "traceparent",
    "tracestate",
    "content-encoding",
];

pub(crate) fn require(holds: bool, rule: &'static str) -> Result<(), NaiveRefusal> {
    if holds {
        Ok(())
    } else {
        Err(NaiveRefusal::Refused(rule))
    }
}

fn is_token(text: &[u8]) -> bool {
    let is_tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(is_tchar)
}

fn trim(text: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !b" \t".contains(byte);
    let start = text.iter().position(is_text).unwrap_or(text.len());
    let end = text
        .iter()
        .rposition(is_text)
        .map_or(start, |last| last + 1);
    &text[start..end]
}

pub(crate) fn lower(text: &[u8]) -> String {
    String::from_utf8_lossy(text).to_ascii_lowercase()
}

pub(crate) struct Headers(Vec<(String, Vec<u8>)>);

impl Headers {
    pub(crate) fn all(&self, name: &str) -> Vec<&[u8]> {
        let named = self.0.iter().filter(|(key, _)| key == name);
        named.map(|(_, value)| value.as_slice()).collect()
    }

    fn tokens(&self, name: &str) -> Vec<String> {
        let values = self.all(name);
        values
            .iter()
            .flat_map(|value| value.split(|&b| b == b','))
            .map(|t| lower(trim(t)))
            .collect()
    }

    pub(crate) fn keeps_alive(&self, minor: u8) -> bool {
        let connection = self.tokens("connection");
        let says = |word: &str| connection.iter().any(|token| token == word);
        !says("close") && (minor == 1 || says("keep-alive"))
    }

    pub(crate) fn at_most_once(&self, name: &'static str) -> Result<Option<Vec<u8>>, NaiveRefusal> {
        self.at_most_once_of(name, |_| true)
    }

    /// Does what `at_most_once` does, but only for the values for which `counts` returns true.
    pub(crate) fn at_most_once_of(
        &self,
        name: &'static str,
        counts: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Vec<u8>>, NaiveRefusal> {
        let mut values = self.all(name);
        values.retain(|value| counts(value));
        require(values.len() < 2, name)?;
        Ok(values.first().map(|value| value.to_vec()))
    }
}

/// Returns whether the value names an encoding. An empty value and `identity` name none.
pub(crate) fn is_encoding(value: &[u8]) -> bool {
    !matches!(&*lower(value), "" | "identity")
}

/// A head, split into its lines.
pub(crate) struct CutHead<'b> {
    pub(crate) len: usize,
    pub(crate) first: &'b [u8],
    pub(crate) headers: Headers,
}

impl<'b> CutHead<'b> {
    /// Splits the head, which begins after `blank` bytes. `len` includes these bytes.
    pub(crate) fn of(bytes: &'b [u8], blank: usize) -> Result<Self, NaiveRefusal> {
        let end = bytes[blank..]
            .windows(4)
            .position(|four| four == b"\r\n\r\n");
        let end = end.ok_or(NaiveRefusal::Incomplete)? + blank;
        let len = end + 4;
        require(len <= 16 * 1024, "head size")?;
        let head = &bytes[blank..end];
        let control = |byte: &u8| *byte == 0x7f || *byte < 0x20 && !b"\t\r\n".contains(byte);
        require(!head.iter().any(control), "control bytes")?;
        // The head is split at CRLF, so a CR or LF that is left in a line is bare.
        let text: Vec<&[u8]> = split_lines(head);
        let is_bare = |line: &&[u8]| line.contains(&b'\r') || line.contains(&b'\n');
        require(!text.iter().any(is_bare), "bare")?;
        require(text[0].len() <= 8 * 1024 && text.len() <= 101, "limits")?;
        let mut headers = Headers(Vec::new());
        for line in &text[1..] {
            let colon = line.iter().position(|&byte| byte == b':').unwrap_or(0);
            require(is_token(&line[..colon]), "header name")?;
            let value = trim(&line[colon + 1..]).to_vec();
            headers.0.push((lower(&line[..colon]), value));
        }
        Ok(Self {
            len,
            first: text[0],
            headers,
        })
    }
}

/// Returns the meaning of the head at the start of `bytes`.
pub(crate) fn request(bytes: &[u8]) -> Result<Meaning, NaiveRefusal> {
    let blank = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let head = CutHead::of(bytes, blank)?;
    let words: Vec<&[u8]> = head.first.split(|&byte| byte == b' ').collect();
    require(words.len() == 3 && is_token(words[0]), "request line")?;
    let method = String::from_utf8(words[0].to_vec()).unwrap();
    let minor = match words[2] {
        b"HTTP/1.0" => 0,
        b"HTTP/1.1" => 1,
        _ => return Err(NaiveRefusal::Refused("version")),
    };
    let headers = head.headers;
    let (authority, path, query) = target(words[1], &method)?;
    let framing = framing(&headers, minor)?;
    let expects = headers.all("expect");
    let all_known = expects.iter().all(|value| lower(value) == "100-continue");
    require(minor == 0 || all_known, "expectation")?;
    let body_follows = !matches!(framing, Framing::None | Framing::Length(0));
    let first = |name| headers.all(name).first().map(|value| value.to_vec());
    Ok(Meaning {
        len: head.len,
        method,
        minor,
        path,
        query,
        framing,
        keep_alive: headers.keeps_alive(minor),
        expect_continue: minor == 1 && body_follows && !expects.is_empty(),
        values: [
            host(&headers, minor, authority)?,
            first("origin"),
            headers.at_most_once("content-type")?,
            headers.at_most_once("idempotency-key")?,
            headers.at_most_once("x-timeout-ms")?,
            first("x-trace-id"),
            headers.at_most_once("traceparent")?,
            first("tracestate"),
            headers.at_most_once_of("content-encoding", is_encoding)?,
        ],
    })
}

fn split_lines(mut head: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    while let Some(at) = head.windows(2).position(|two| two == b"\r\n") {
        lines.push(&head[..at]);
        head = &head[at + 2..];
    }
    lines.push(head);
    lines
}

/// The authority, path and query of a target.
type NaiveTarget = (Option<Vec<u8>>, Vec<u8>, Option<Vec<u8>>);

fn target(target: &[u8], method: &str) -> Result<NaiveTarget, NaiveRefusal> {
    let text = str::from_utf8(target).map_err(|_| NaiveRefusal::Refused("target"))?;
    let graphic = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#');
    require(graphic && !text.is_empty(), "target")?;
    if text == "*" && method == "OPTIONS" {
        return Ok((None, b"*".to_vec(), None));
    }
    let (mut authority, mut rest) = (None, text);
    if !text.starts_with('/') {
        let (scheme, after) = text
            .split_once("://")
            .ok_or(NaiveRefusal::Refused("target"))?;
        let scheme = scheme.to_ascii_lowercase();
        require(scheme == "http" || scheme == "https", "scheme")?;
        let end = after.find(['/', '?']).unwrap_or(after.len());
        require(end > 0, "authority")?;
        authority = Some(after.as_bytes()[..end].to_vec());
        rest = &after[end..];
    }
    Ok(match rest.split_once('?') {
        Some((path, query)) => (authority, path.into(), Some(query.into())),
        None => (authority, rest.into(), None),
    })
}

pub(crate) fn framing(headers: &Headers, minor: u8) -> Result<Framing, NaiveRefusal> {
    let lengths = headers.all("content-length");
    let codings = headers.tokens("transfer-encoding");
    require(lengths.len() < 2, "two lengths")?;
    require(
        lengths.is_empty() || codings.is_empty(),
        "length and coding",
    )?;
    if let Some(coding) = codings.last() {
        require(
            minor == 1 && coding == "chunked" && codings.len() == 1,
            "coding",
        )?;
        return Ok(Framing::Chunked);
    }
    let Some(length) = lengths.first() else {
        return Ok(Framing::None);
    };
    require(
        !length.is_empty() && length.iter().all(u8::is_ascii_digit),
        "length",
    )?;
    let number = str::from_utf8(length)
        .unwrap()
        .parse()
        .map_err(|_| NaiveRefusal::Refused("length"))?;
    Ok(Framing::Length(number))
}

fn host(
    headers: &Headers,
    minor: u8,
    authority: Option<Vec<u8>>,
) -> Result<Option<Vec<u8>>, NaiveRefusal> {
    let host = headers.at_most_once("host")?;
    require(host.is_some() || minor == 0, "no host")?;
    if let (Some(host), Some(authority)) = (&host, &authority) {
        require(lower(host) == lower(authority), "two hosts")?;
    }
    let host = host.or(authority);
    require(
        host.as_deref().is_none_or(is_host),
        "no host that can be one",
    )?;
    Ok(host)
}

/// Returns whether `host` is empty, or a name or a bracketed address, each with or without a port.
fn is_host(host: &[u8]) -> bool {
    let Ok(host) = str::from_utf8(host) else {
        return false;
    };
    let (name, port) = match host.rfind(':') {
        Some(at) if !host.ends_with(']') => (&host[..at], Some(&host[at + 1..])),
        _ => (host, None),
    };
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let is_port = |port: &str| port.len() <= 5 && digits(port) && port.parse::<u16>().is_ok();
    let in_brackets = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    let is_name = || {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%".contains(&byte);
        let mut escapes = name.split('%').skip(1);
        let hex = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
        name.bytes().all(known) && escapes.all(hex) && (!name.is_empty() || port.is_none())
    };
    let is_ip = |ip: &str| ip.parse::<std::net::Ipv6Addr>().is_ok();
    port.is_none_or(is_port) && in_brackets.map_or_else(is_name, is_ip)
}

/// Returns the data of a complete chunked body, and the length of the body as sent. The limits of lines and
/// trailers are not checked, because random inputs are too short to reach them. The tests of `chunked` check
/// these limits.
pub(crate) fn chunked(bytes: &[u8], max: usize) -> Result<(Vec<u8>, usize), NaiveRefusal> {
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let line = line(bytes, &mut at)?;
        let digits = line
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        require((1..=16).contains(&digits), "size")?;
        let size = usize::from_str_radix(str::from_utf8(&line[..digits]).unwrap(), 16).unwrap();
        let extension = trim(&line[digits..]);
        require(
            line.len() == digits || extension.starts_with(b";"),
            "after the size",
        )?;
        if size == 0 {
            break;
        }
        require(size <= max - data.len(), "too large")?;
        let chunk = bytes
            .get(at..at + size + 2)
            .ok_or(NaiveRefusal::Incomplete)?;
        require(chunk.ends_with(b"\r\n"), "after the data")?;
        data.extend_from_slice(&chunk[..size]);
        at += size + 2;
    }
    loop {
        let line = line(bytes, &mut at)?;
        if line.is_empty() {
            return Ok((data, at));
        }
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        require(is_token(name) && name.len() < line.len(), "trailer")?;
    }
}

/// Returns the next line without its CRLF, and moves `at` to the line after it.
fn line<'b>(bytes: &'b [u8], at: &mut usize) -> Result<&'b [u8], NaiveRefusal> {
    let rest = &bytes[*at..];
    let end = rest
        .windows(2)
        .position(|two| two == b"\r\n")
        .ok_or(NaiveRefusal::Incomplete)?;
    let is_text = |&byte: &u8| byte == b'\t' || byte >= 0x20 && byte != 0x7f;
    require(rest[..end].iter().all(is_text), "bytes of a line")?;
    *at += end + 2;
    Ok(&rest[..end])
}
