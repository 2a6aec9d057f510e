//! Parses a request's head in place: bytes in, a small `RequestHead` of offsets out.
//!
//! This module allocates nothing and copies no byte, and its outcome does not depend on how the
//! bytes were split. It neither routes requests nor reads bodies. `io`, the pod and the watchdog
//! call it as bytes arrive. The rules are those of the contract for requests and bodies. The slow
//! path reads a head three times: for the line discipline (`HeadScan`), by httparse, and for the
//! headers that have a meaning here. For nearly every head `fast_path` is enough, which reads it
//! once.

use std::mem::MaybeUninit;

use crate::byte_scan;
use crate::error::ParseError;
use crate::fast_path;
use crate::framing::{Framing, FramingHeaders};
use crate::head::{HEADERS_MAX, HeadScan, START_LINE_MAX, Span};
use crate::header_value::{self, Prefer};
use crate::host::Host;

const VERSION: &[u8] = b" HTTP/1.1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Connect,
    Trace,
    Other(Span),
}

/// Where a browser's request comes from, according to its header `Sec-Fetch-Site` (Fetch Metadata). No page
/// can set or remove this header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchSite {
    /// The header is missing: the client is no browser, or an old one.
    Unknown,
    /// The browser's user asked for this request, for example by its address bar.
    User,
    /// The request comes from a page of this origin.
    SameOrigin,
    /// The request comes from a page of another origin, or the value is unknown.
    Foreign,
}

impl FetchSite {
    fn of(value: &[u8]) -> Self {
        if value.eq_ignore_ascii_case(b"none") {
            Self::User
        } else if value.eq_ignore_ascii_case(b"same-origin") {
            Self::SameOrigin
        } else {
            Self::Foreign
        }
    }

    /// Returns the stricter of two values, for a request that has the header twice.
    fn and(self, other: Self) -> Self {
        if other as u8 > self as u8 {
            other
        } else {
            self
        }
    }
}

/// A request's head. Spans are offsets from the head's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The head's length in bytes, with its empty line. This is also the offset of the body.
    pub len: usize,
    pub method: Method,
    /// HTTP/1.`minor`: 0 or 1.
    pub minor: u8,
    /// The path as it was sent, with its escapes not decoded. `*` is possible only for OPTIONS.
    pub path: Span,
    /// The part of the target after the `?`.
    pub query: Option<Span>,
    pub framing: Framing,
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue`; false if no body follows.
    pub expect_continue: bool,
    pub prefer: Prefer,
    pub host: Option<Span>,
    pub origin: Option<Span>,
    pub fetch_site: FetchSite,
    pub content_type: Option<Span>,
    /// `Content-Encoding`, unless it is empty or `identity`.
    pub content_encoding: Option<Span>,
    pub idempotency_key: Option<Span>,
    pub timeout_ms: Option<Span>,
    pub trace_id: Option<Span>,
    pub traceparent: Option<Span>,
    pub tracestate: Option<Span>,
}

// The size is limited because a `RequestHead` is moved into the future that answers the request. If
// the head has eight bytes more, the compiler builds that future elsewhere and copies it, which
// costs 350 instructions a call (`tests/counts`).
const _: () = assert!(size_of::<RequestHead>() <= 88);

/// Parses the head at the start of `bytes`. Returns none if the head is not complete yet; call the
/// function again with the same `scan` when more bytes have come, so that the search continues
/// where it ended.
pub fn parse_request(bytes: &[u8], scan: &mut HeadScan) -> Result<Option<RequestHead>, ParseError> {
    // After an incomplete head only the slow path is used, because the fast path would read all
    // bytes again.
    if *scan == HeadScan::default()
        && let Some(head) = parse_fast(bytes)
    {
        return Ok(Some(head));
    }
    parse_slow(bytes, scan)
}

/// Parses a complete head with nothing unusual in it. Returns none for every other head.
fn parse_fast(bytes: &[u8]) -> Option<RequestHead> {
    // Nearly all requests have one of these methods. Every other method takes the slow path.
    let (method, target_at) = match bytes {
        [b'P', b'O', b'S', b'T', b' ', ..] => (Method::Post, 5),
        [b'G', b'E', b'T', b' ', ..] => (Method::Get, 4),
        [b'P', b'U', b'T', b' ', ..] => (Method::Put, 4),
        [b'H', b'E', b'A', b'D', b' ', ..] => (Method::Head, 5),
        [b'D', b'E', b'L', b'E', b'T', b'E', b' ', ..] => (Method::Delete, 7),
        _ => return None,
    };
    let target_end = byte_scan::first::<byte_scan::WordEnd>(bytes, target_at);
    // An empty target and a line that is too long take the slow path, which returns the error.
    if target_end == target_at || target_end >= START_LINE_MAX - VERSION.len() {
        return None;
    }
    let at = target_end + VERSION.len() + 2;
    if bytes.get(target_end..at)?.strip_prefix(VERSION)? != b"\r\n" {
        return None;
    }
    let target = parse_target(bytes, &bytes[target_at..target_end], method).ok()?;
    let mut head = RequestHead::new(method, 1, &target);
    let mut framing_headers = FramingHeaders::default();
    let end = fast_path::headers(bytes, at, |name, value| {
        head.take(bytes, name, value, &mut framing_headers).ok()
    })?;
    head.finish(&bytes[..end], target.authority, &framing_headers)
        .ok()?;
    Some(head)
}

/// Parses any head.
fn parse_slow(bytes: &[u8], scan: &mut HeadScan) -> Result<Option<RequestHead>, ParseError> {
    let Some(end) = scan.end(bytes, true)? else {
        return Ok(None);
    };
    let bytes = &bytes[..end];
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(bytes, &mut headers);
    // The line discipline and httparse must find the same end, because a difference could hide a
    // second message.
    match parsed.map_err(|error| ParseError::of_httparse(error, version(bytes)))? {
        httparse::Status::Complete(length) if length == end => {}
        _ => return Err(ParseError::Malformed("the request's head has no sound end")),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(ParseError::Malformed("the request line is not complete"));
    };
    let method = parse_method(bytes, method);
    let target = parse_target(bytes, target.as_bytes(), method)?;
    let mut head = RequestHead::new(method, minor, &target);
    let mut framing_headers = FramingHeaders::default();
    for header in request.headers.iter() {
        head.take(
            bytes,
            header.name.as_bytes(),
            header.value,
            &mut framing_headers,
        )?;
    }
    head.finish(bytes, target.authority, &framing_headers)?;
    Ok(Some(head))
}

impl RequestHead {
    /// Returns the length of the head and the body together; `usize::MAX` for a chunked body,
    /// because its length is unknown.
    pub fn whole(&self) -> usize {
        match self.framing {
            Framing::None => self.len,
            Framing::Length(length) => self.len.saturating_add(length as usize),
            Framing::Chunked => usize::MAX,
        }
    }

    const fn new(method: Method, minor: u8, target: &Target) -> Self {
        Self {
            len: 0,
            method,
            minor,
            path: target.path,
            query: target.query,
            framing: Framing::None,
            keep_alive: false,
            expect_continue: false,
            prefer: Prefer::NONE,
            host: None,
            origin: None,
            fetch_site: FetchSite::Unknown,
            content_type: None,
            content_encoding: None,
            idempotency_key: None,
            timeout_ms: None,
            trace_id: None,
            traceparent: None,
            tracestate: None,
        }
    }

    #[inline]
    fn take(
        &mut self,
        bytes: &[u8],
        name: &[u8],
        value: &[u8],
        framing_headers: &mut FramingHeaders,
    ) -> Result<(), ParseError> {
        let Some(known) = HeaderName::of(name) else {
            return Ok(());
        };
        let span = Span::of_piece(bytes, value);
        match known {
            HeaderName::ContentLength => framing_headers.content_length(value)?,
            HeaderName::TransferEncoding => framing_headers.transfer_encoding(value)?,
            HeaderName::Connection => framing_headers.connection(value),
            HeaderName::Expect if value.eq_ignore_ascii_case(b"100-continue") => {
                self.expect_continue = true;
            }
            // RFC 9110 §10.1.1: an expectation of an HTTP/1.0 request is ignored.
            HeaderName::Expect if self.minor == 0 => {}
            HeaderName::Expect => return Err(ParseError::ExpectationFailed),
            HeaderName::Prefer => self.prefer.add(value),
            HeaderName::Host => once(&mut self.host, span, "Host is there twice: send it once")?,
            HeaderName::ContentType => once(
                &mut self.content_type,
                span,
                "Content-Type is there twice: send it once",
            )?,
            HeaderName::ContentEncoding if header_value::is_identity(value) => {}
            HeaderName::ContentEncoding => once(
                &mut self.content_encoding,
                span,
                "Content-Encoding is there twice: send it once",
            )?,
            HeaderName::IdempotencyKey => once(
                &mut self.idempotency_key,
                span,
                "Idempotency-Key is there twice: send it once",
            )?,
            HeaderName::TimeoutMs => once(
                &mut self.timeout_ms,
                span,
                "X-Timeout-Ms is there twice: send it once",
            )?,
            HeaderName::Traceparent => once(
                &mut self.traceparent,
                span,
                "traceparent is there twice: send it once",
            )?,
            // A second value of one of these headers is no error. The first value is used, but of two values
            // of `Sec-Fetch-Site` the stricter one.
            HeaderName::Origin => _ = self.origin.get_or_insert(span),
            HeaderName::FetchSite => self.fetch_site = self.fetch_site.and(FetchSite::of(value)),
            HeaderName::TraceId => _ = self.trace_id.get_or_insert(span),
            HeaderName::Tracestate => _ = self.tracestate.get_or_insert(span),
        }
        Ok(())
    }

    /// Sets the fields that depend on several headers. `bytes` is the head.
    fn finish(
        &mut self,
        bytes: &[u8],
        authority: Option<Span>,
        framing_headers: &FramingHeaders,
    ) -> Result<(), ParseError> {
        self.len = bytes.len();
        self.settle_host(bytes, authority)?;
        self.framing = framing_headers.framing(self.minor)?;
        self.keep_alive = framing_headers.keep_alive(self.minor);
        // A client that sends no body does not wait for `100 Continue`, and HTTP/1.0 does not
        // define it.
        self.expect_continue &=
            self.minor == 1 && !matches!(self.framing, Framing::None | Framing::Length(0));
        Ok(())
    }

    /// Determines the request's host and checks it. The host is that of `Host`, or that of the
    /// target if an HTTP/1.0 request has no `Host`. If both name a host, it must be the same one.
    fn settle_host(&mut self, bytes: &[u8], authority: Option<Span>) -> Result<(), ParseError> {
        match (self.host, authority) {
            (None, _) if self.minor == 1 => {
                return Err(ParseError::Malformed(
                    "Host is missing: HTTP/1.1 needs it once",
                ));
            }
            (None, authority) => self.host = authority,
            (Some(host), Some(authority)) => {
                if !host.of(bytes).eq_ignore_ascii_case(authority.of(bytes)) {
                    return Err(ParseError::Malformed(
                        "Host and the request line name two hosts",
                    ));
                }
            }
            (Some(_), None) => {}
        }
        match self.host {
            Some(host) if Host::parse(host.of(bytes)).is_none() => Err(ParseError::Malformed(
                "Host must be a name or an address, with :port where needed",
            )),
            _ => Ok(()),
        }
    }
}

/// Sets `place`. Refuses a second value, because two parsers could each use a different value.
fn once(place: &mut Option<Span>, span: Span, twice: &'static str) -> Result<(), ParseError> {
    match place.replace(span) {
        None => Ok(()),
        Some(_) => Err(ParseError::Malformed(twice)),
    }
}

fn parse_method(bytes: &[u8], method: &str) -> Method {
    match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        "PATCH" => Method::Patch,
        "CONNECT" => Method::Connect,
        "TRACE" => Method::Trace,
        other => Method::Other(Span::of_piece(bytes, other.as_bytes())),
    }
}

struct Target {
    path: Span,
    query: Option<Span>,
    authority: Option<Span>,
}

/// Parses `/path?query`, `http://host/path?query`, or `*` for OPTIONS.
fn parse_target(bytes: &[u8], target: &[u8], method: Method) -> Result<Target, ParseError> {
    const BAD: ParseError =
        ParseError::Malformed("the request's target must be a path that begins with /");
    let start = Span::of_piece(bytes, target).start();
    let (mut at, mut authority) = (0, None);
    // The target has at least one byte, because httparse and `parse_fast` refuse an empty one.
    if target[0] != b'/' {
        if target == b"*" && method == Method::Options {
            let path = Span::new(start, start + 1);
            return Ok(Target {
                path,
                query: None,
                authority,
            });
        }
        let scheme = [&b"http://"[..], b"https://"]
            .into_iter()
            .find(|scheme| {
                target.len() > scheme.len() && target[..scheme.len()].eq_ignore_ascii_case(scheme)
            })
            .ok_or(BAD)?;
        let host = &target[scheme.len()..];
        let length = host
            .iter()
            .position(|byte| b"/?".contains(byte))
            .unwrap_or(host.len());
        if length == 0 {
            return Err(BAD);
        }
        at = scheme.len() + length;
        authority = Some(Span::new(start + scheme.len(), start + at));
    }
    let end = target.len();
    let mark = byte_scan::first::<byte_scan::PathEnd>(target, at);
    let query = (target.get(mark) == Some(&b'?')).then_some(mark + 1);
    if byte_scan::first::<byte_scan::Foreign>(target, query.unwrap_or(mark)) < end {
        return Err(ParseError::Malformed(
            "a # or a non-ASCII byte in the URL: write it as %XX",
        ));
    }
    Ok(Target {
        path: Span::new(start + at, start + mark),
        query: query.map(|query| Span::new(start + query, start + end)),
        authority,
    })
}

/// Returns the text after the second space of the request line.
fn version(head: &[u8]) -> &[u8] {
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    line.splitn(3, |&byte| byte == b' ')
        .nth(2)
        .unwrap_or_default()
}

/// The headers that have a meaning here. Every other header is skipped.
#[derive(Clone, Copy)]
enum HeaderName {
    Connection,
    ContentEncoding,
    ContentLength,
    ContentType,
    Expect,
    FetchSite,
    Host,
    IdempotencyKey,
    Origin,
    Prefer,
    TimeoutMs,
    TraceId,
    Traceparent,
    Tracestate,
    TransferEncoding,
}

impl HeaderName {
    /// Returns the known header with this name. The length and the first letter leave at most one known name,
    /// so most headers need no comparison.
    #[inline]
    fn of(name: &[u8]) -> Option<Self> {
        let (is, known) = match (name.len(), name[0] | 0x20) {
            (4, b'h') => (header_value::is_named(name, b"host"), Self::Host),
            (6, b'e') => (header_value::is_named(name, b"expect"), Self::Expect),
            (6, b'o') => (header_value::is_named(name, b"origin"), Self::Origin),
            (6, b'p') => (header_value::is_named(name, b"prefer"), Self::Prefer),
            (10, b'c') => (
                header_value::is_named(name, b"connection"),
                Self::Connection,
            ),
            (10, b't') => (
                header_value::is_named(name, b"tracestate"),
                Self::Tracestate,
            ),
            (10, b'x') => (header_value::is_named(name, b"x-trace-id"), Self::TraceId),
            (11, b't') => (
                header_value::is_named(name, b"traceparent"),
                Self::Traceparent,
            ),
            (12, b'c') => (
                header_value::is_named(name, b"content-type"),
                Self::ContentType,
            ),
            (12, b'x') => (
                header_value::is_named(name, b"x-timeout-ms"),
                Self::TimeoutMs,
            ),
            (14, b'c') => (
                header_value::is_named(name, b"content-length"),
                Self::ContentLength,
            ),
            (14, b's') => (
                header_value::is_named(name, b"sec-fetch-site"),
                Self::FetchSite,
            ),
            (15, b'i') => (
                header_value::is_named(name, b"idempotency-key"),
                Self::IdempotencyKey,
            ),
            (16, b'c') => (
                header_value::is_named(name, b"content-encoding"),
                Self::ContentEncoding,
            ),
            (17, b't') => (
                header_value::is_named(name, b"transfer-encoding"),
                Self::TransferEncoding,
            ),
            _ => return None,
        };
        is.then_some(known)
    }
}

#[cfg(test)]
mod tests;
