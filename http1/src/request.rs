//! Parses a request's head in place: bytes in, a small `Head` of offsets out.
//!
//! It never allocates, never copies a byte, and answers the same however the bytes were split. It
//! does not route and does not read bodies. `client` calls it as bytes arrive; the rules are
//! contract §1.2's, in three passes: line discipline (`HeadScan`), httparse, then the headers that
//! decide where the request ends. Nearly every head needs one pass only: `lines`.

use std::mem::MaybeUninit;

use crate::field::{self, Prefer};
use crate::head::{self, Ending, Fault, Framing, HEADERS_MAX, HeadScan, START_LINE_MAX, Span};
use crate::host::Host;
use crate::lines;
use crate::scan;

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
    Other(Span),
}

/// A request's head. Spans count from the head's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the head, its empty line included: the body starts here.
    pub len: usize,
    pub method: Method,
    /// HTTP/1.`minor`: 0 or 1.
    pub minor: u8,
    /// As sent, escapes and all; `*` only for OPTIONS.
    pub path: Span,
    /// What follows the `?`.
    pub query: Option<Span>,
    pub framing: Framing,
    pub keep_alive: bool,
    /// The client waits for `100 Continue`; never set where no body would follow.
    pub expect_continue: bool,
    pub prefer: Prefer,
    pub host: Option<Span>,
    pub origin: Option<Span>,
    pub content_type: Option<Span>,
    /// `Content-Encoding`, where it is not `identity`.
    pub content_encoding: Option<Span>,
    pub idempotency_key: Option<Span>,
    pub timeout_ms: Option<Span>,
    pub trace_id: Option<Span>,
    pub traceparent: Option<Span>,
    pub tracestate: Option<Span>,
}

// The size is bounded because a `Head` is moved into the future that answers the request. With
// eight bytes more the compiler builds that future elsewhere and copies it, which costs 350
// instructions a call (`tests/counts`).
const _: () = assert!(size_of::<Head>() <= 88);

/// The head at the start of `bytes`, or none while it is incomplete. Pass the same `scan` with more
/// bytes, so that bytes that were searched are not searched again.
pub fn parse_head(bytes: &[u8], scan: &mut HeadScan) -> Result<Option<Head>, Fault> {
    if *scan == HeadScan::default()
        && let Some(head) = plain(bytes)
    {
        return Ok(Some(head));
    }
    careful(bytes, scan)
}

/// A complete head with nothing unusual in it, parsed by `lines`.
fn plain(bytes: &[u8]) -> Option<Head> {
    let (method, target_at) = match bytes {
        [b'P', b'O', b'S', b'T', b' ', ..] => (Method::Post, 5),
        [b'G', b'E', b'T', b' ', ..] => (Method::Get, 4),
        [b'P', b'U', b'T', b' ', ..] => (Method::Put, 4),
        [b'H', b'E', b'A', b'D', b' ', ..] => (Method::Head, 5),
        [b'D', b'E', b'L', b'E', b'T', b'E', b' ', ..] => (Method::Delete, 7),
        _ => return None,
    };
    let target_end = scan::first::<scan::WordEnd>(bytes, target_at);
    if target_end == target_at || target_end >= START_LINE_MAX - VERSION.len() {
        return None;
    }
    let at = target_end + VERSION.len() + 2;
    if bytes.get(target_end..at)?.strip_prefix(VERSION)? != b"\r\n" {
        return None;
    }
    let target = parse_target(bytes, &bytes[target_at..target_end], method).ok()?;
    let mut head = Head::new(method, 1, &target);
    let mut ending = Ending::default();
    let end = lines::headers(bytes, at, |name, value| {
        head.take(bytes, name, value, &mut ending).ok()
    })?;
    head.settle(&bytes[..end], target.authority, &ending).ok()?;
    Some(head)
}

/// Any head, in the three passes.
fn careful(bytes: &[u8], scan: &mut HeadScan) -> Result<Option<Head>, Fault> {
    let Some(end) = scan.end(bytes, true)? else {
        return Ok(None);
    };
    let bytes = &bytes[..end];
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(bytes, &mut headers);
    match parsed.map_err(|error| head::fault_of(error, version(bytes)))? {
        httparse::Status::Complete(length) if length == end => {}
        _ => return Err(Fault::Malformed("the request's head has no sound end")),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(Fault::Malformed("the request line is not complete"));
    };
    let method = parse_method(bytes, method);
    let target = parse_target(bytes, target.as_bytes(), method)?;
    let mut head = Head::new(method, minor, &target);
    let mut ending = Ending::default();
    for header in request.headers.iter() {
        head.take(bytes, header.name.as_bytes(), header.value, &mut ending)?;
    }
    head.settle(bytes, target.authority, &ending)?;
    Ok(Some(head))
}

impl Head {
    /// Where the request ends; of one in chunks that is not known.
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
        ending: &mut Ending,
    ) -> Result<(), Fault> {
        let Some(known) = Known::of(name) else {
            return Ok(());
        };
        let span = Span::of_piece(bytes, value);
        match known {
            Known::ContentLength => ending.content_length(value)?,
            Known::TransferEncoding => ending.transfer_encoding(value)?,
            Known::Connection => ending.connection(value),
            Known::Expect if value.eq_ignore_ascii_case(b"100-continue") => {
                self.expect_continue = true;
            }
            Known::Expect if self.minor == 0 => {}
            Known::Expect => return Err(Fault::ExpectationFailed),
            Known::Prefer => self.prefer.add(value),
            Known::Host => once(&mut self.host, span, "Host is there twice: send it once")?,
            Known::ContentType => once(
                &mut self.content_type,
                span,
                "Content-Type is there twice: send it once",
            )?,
            Known::ContentEncoding if field::is_identity(value) => {}
            Known::ContentEncoding => once(
                &mut self.content_encoding,
                span,
                "Content-Encoding is there twice: send it once",
            )?,
            Known::IdempotencyKey => once(
                &mut self.idempotency_key,
                span,
                "Idempotency-Key is there twice: send it once",
            )?,
            Known::TimeoutMs => once(
                &mut self.timeout_ms,
                span,
                "X-Timeout-Ms is there twice: send it once",
            )?,
            Known::Traceparent => once(
                &mut self.traceparent,
                span,
                "traceparent is there twice: send it once",
            )?,
            // No decision depends on which of several values is taken, so the first one is.
            Known::Origin => _ = self.origin.get_or_insert(span),
            Known::TraceId => _ = self.trace_id.get_or_insert(span),
            Known::Tracestate => _ = self.tracestate.get_or_insert(span),
        }
        Ok(())
    }

    /// Sets what depends on several headers. `bytes` are the head's.
    fn settle(
        &mut self,
        bytes: &[u8],
        authority: Option<Span>,
        ending: &Ending,
    ) -> Result<(), Fault> {
        self.len = bytes.len();
        self.settle_host(bytes, authority)?;
        self.framing = ending.framing(self.minor)?;
        self.keep_alive = ending.keep_alive(self.minor);
        // No `100 Continue` is sent to a client that sends no body, because it has nothing to wait
        // for, nor to a client of HTTP/1.0, which does not define it.
        self.expect_continue &=
            self.minor == 1 && !matches!(self.framing, Framing::None | Framing::Length(0));
        Ok(())
    }

    /// Settles on one host, that of the `Host` header. A target in absolute form must have the same
    /// host.
    fn settle_host(&mut self, bytes: &[u8], authority: Option<Span>) -> Result<(), Fault> {
        match (self.host, authority) {
            (None, _) if self.minor == 1 => {
                return Err(Fault::Malformed("Host is missing: HTTP/1.1 needs it once"));
            }
            (None, authority) => self.host = authority,
            (Some(host), Some(authority)) => {
                if !host.of(bytes).eq_ignore_ascii_case(authority.of(bytes)) {
                    return Err(Fault::Malformed("Host and the request line name two hosts"));
                }
            }
            (Some(_), None) => {}
        }
        match self.host {
            Some(host) if Host::parse(host.of(bytes)).is_none() => Err(Fault::Malformed(
                "Host must be a name or an address, with :port where needed",
            )),
            _ => Ok(()),
        }
    }
}

fn once(place: &mut Option<Span>, span: Span, twice: &'static str) -> Result<(), Fault> {
    match place.replace(span) {
        None => Ok(()),
        Some(_) => Err(Fault::Malformed(twice)),
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
        other => Method::Other(Span::of_piece(bytes, other.as_bytes())),
    }
}

struct Target {
    path: Span,
    query: Option<Span>,
    authority: Option<Span>,
}

/// `/path?query`, `http://host/path?query`, or `*` for OPTIONS.
fn parse_target(bytes: &[u8], target: &[u8], method: Method) -> Result<Target, Fault> {
    const BAD: Fault = Fault::Malformed("the request's target must be a path that begins with /");
    let start = Span::of_piece(bytes, target).start();
    let (mut at, mut authority) = (0, None);
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
    let mark = scan::first::<scan::PathEnd>(target, at);
    let query = (target.get(mark) == Some(&b'?')).then_some(mark + 1);
    if scan::first::<scan::Foreign>(target, query.unwrap_or(mark)) < end {
        return Err(Fault::Malformed(
            "a # or a non-ASCII byte in the URL: write it as %XX",
        ));
    }
    Ok(Target {
        path: Span::new(start + at, start + mark),
        query: query.map(|query| Span::new(start + query, start + end)),
        authority,
    })
}

/// The third word of the request line.
fn version(head: &[u8]) -> &[u8] {
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    line.splitn(3, |&byte| byte == b' ')
        .nth(2)
        .unwrap_or_default()
}

/// The headers that mean something here; every other one is passed over.
#[derive(Clone, Copy)]
enum Known {
    Connection,
    ContentEncoding,
    ContentLength,
    ContentType,
    Expect,
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

impl Known {
    /// Length and first letter leave one candidate, so most headers cost no comparison.
    #[inline]
    fn of(name: &[u8]) -> Option<Self> {
        let (is, known) = match (name.len(), name[0] | 0x20) {
            (4, b'h') => (field::is_named(name, b"host"), Self::Host),
            (6, b'e') => (field::is_named(name, b"expect"), Self::Expect),
            (6, b'o') => (field::is_named(name, b"origin"), Self::Origin),
            (6, b'p') => (field::is_named(name, b"prefer"), Self::Prefer),
            (10, b'c') => (field::is_named(name, b"connection"), Self::Connection),
            (10, b't') => (field::is_named(name, b"tracestate"), Self::Tracestate),
            (10, b'x') => (field::is_named(name, b"x-trace-id"), Self::TraceId),
            (11, b't') => (field::is_named(name, b"traceparent"), Self::Traceparent),
            (12, b'c') => (field::is_named(name, b"content-type"), Self::ContentType),
            (12, b'x') => (field::is_named(name, b"x-timeout-ms"), Self::TimeoutMs),
            (14, b'c') => (
                field::is_named(name, b"content-length"),
                Self::ContentLength,
            ),
            (15, b'i') => (
                field::is_named(name, b"idempotency-key"),
                Self::IdempotencyKey,
            ),
            (16, b'c') => (
                field::is_named(name, b"content-encoding"),
                Self::ContentEncoding,
            ),
            (17, b't') => (
                field::is_named(name, b"transfer-encoding"),
                Self::TransferEncoding,
            ),
            _ => return None,
        };
        is.then_some(known)
    }
}

#[cfg(test)]
mod tests;
