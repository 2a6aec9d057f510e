//! Parses a request's head in place: bytes in, a small `Head` of offsets out.
//!
//! It never allocates, never copies a byte, and answers the same however the bytes were split. It
//! does not route and does not read bodies. `client` calls it as bytes arrive; the rules are
//! contract §1.2's, in three passes: line discipline (`HeadScan`), httparse, then the headers that
//! decide where the request ends.

use std::mem::MaybeUninit;

use crate::field::{self, Prefer};
use crate::head::{self, Ending, Fault, Framing, HEADERS_MAX, HeadScan, Span};
use crate::scan;

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
    pub idempotency_key: Option<Span>,
    pub timeout_ms: Option<Span>,
    pub trace_id: Option<Span>,
    pub traceparent: Option<Span>,
    pub tracestate: Option<Span>,
}

/// The head at the start of `bytes`, or none while it is not there whole. Hand the same `scan` in
/// again with more bytes: what was searched once is not searched again.
pub fn parse_head(bytes: &[u8], scan: &mut HeadScan) -> Result<Option<Head>, Fault> {
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
    let mut head = Head {
        len: end,
        method,
        minor,
        path: target.path,
        query: target.query,
        framing: Framing::None,
        keep_alive: false,
        expect_continue: false,
        prefer: Prefer::default(),
        host: None,
        origin: None,
        content_type: None,
        idempotency_key: None,
        timeout_ms: None,
        trace_id: None,
        traceparent: None,
        tracestate: None,
    };
    let mut ending = Ending::default();
    for header in request.headers.iter() {
        head.take(bytes, header, &mut ending)?;
    }
    head.settle_host(bytes, target.authority)?;
    head.framing = ending.framing(minor)?;
    head.keep_alive = ending.keep_alive(minor);
    // Nobody waits for leave to send nothing, and HTTP/1.0 does not know the question.
    head.expect_continue &=
        minor == 1 && !matches!(head.framing, Framing::None | Framing::Length(0));
    Ok(Some(head))
}

impl Head {
    #[inline]
    fn take(
        &mut self,
        bytes: &[u8],
        header: &httparse::Header<'_>,
        ending: &mut Ending,
    ) -> Result<(), Fault> {
        let Some(known) = Known::of(header.name.as_bytes()) else {
            return Ok(());
        };
        let value = header.value;
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
            // Read by people and passed on: the first is as good as any.
            Known::Origin => _ = self.origin.get_or_insert(span),
            Known::TraceId => _ = self.trace_id.get_or_insert(span),
            Known::Tracestate => _ = self.tracestate.get_or_insert(span),
        }
        Ok(())
    }

    /// One host and no doubt about it: the header's, which a target in absolute form must repeat.
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
            Some(host)
                if !host
                    .of(bytes)
                    .iter()
                    .all(|&byte| IN_HOST[usize::from(byte)]) =>
            {
                Err(Fault::Malformed(
                    "Host must be a name or an address, with :port where needed",
                ))
            }
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

/// The bytes of a host and port, but the comma: two parsers could take it for a list.
static IN_HOST: [bool; 256] = {
    let (mut table, mut byte) = ([false; 256], 0);
    while byte < table.len() {
        table[byte] = matches!(
            byte as u8,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'['
                | b']' | b'%' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'='
        );
        byte += 1;
    }
    table
};

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
mod tests {
    use super::*;
    use crate::head::{HEAD_MAX, START_LINE_MAX};

    fn parse(bytes: &[u8]) -> Result<Option<Head>, Fault> {
        parse_head(bytes, &mut HeadScan::default())
    }

    /// A request that is sound but for `lines`.
    fn with(lines: &str) -> Result<Head, Fault> {
        let text = format!("POST /a HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
        parse(text.as_bytes()).map(|head| head.expect("a whole head"))
    }

    fn first(line: &str) -> Result<Head, Fault> {
        let text = format!("{line}\r\nHost: h\r\n\r\n");
        parse(text.as_bytes()).map(|head| head.expect("a whole head"))
    }

    fn is_malformed<T: std::fmt::Debug>(outcome: Result<T, Fault>) -> bool {
        matches!(outcome, Err(Fault::Malformed(_)))
    }

    #[test]
    fn finds_everything_that_the_platform_knows() {
        let text: &[u8] = b"POST /v1/functions/f:invoke?a=b?c HTTP/1.1\r\nhOST: h:80\r\n\
            Content-Type:application/json \r\nORIGIN: null\r\nIdempotency-Key:\t k \t\r\n\
            X-Trace-Id: t\r\ntraceparent: p\r\nTraceState: s\r\nX-Timeout-Ms: 5\r\n\
            Prefer: wait=4\r\nPrefer: respond-async\r\nContent-Length: 3\r\n\
            X-Other: 1\r\nExpect: 100-Continue\r\n\r\nabcGET";
        let head = parse(text).unwrap().unwrap();
        let of = |span: Option<Span>| span.map(|span| str::from_utf8(span.of(text)).unwrap());
        assert_eq!(&text[head.len..], b"abcGET");
        assert_eq!((head.method, head.minor), (Method::Post, 1));
        assert_eq!(head.path.of(text), b"/v1/functions/f:invoke");
        assert_eq!(of(head.query), Some("a=b?c"));
        assert_eq!(head.framing, Framing::Length(3));
        assert!(head.keep_alive && head.expect_continue);
        assert!(head.prefer.respond_async);
        assert_eq!(head.prefer.wait_s, Some(4));
        assert_eq!(of(head.host), Some("h:80"));
        assert_eq!(of(head.origin), Some("null"));
        assert_eq!(of(head.content_type), Some("application/json"));
        assert_eq!(of(head.idempotency_key), Some("k"));
        assert_eq!(of(head.timeout_ms), Some("5"));
        assert_eq!(of(head.trace_id), Some("t"));
        assert_eq!(of(head.traceparent), Some("p"));
        assert_eq!(of(head.tracestate), Some("s"));
    }

    #[test]
    fn waits_for_the_end_of_the_head_and_searches_nothing_twice() {
        let text = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
        let mut scan = HeadScan::default();
        for end in 0..text.len() {
            assert_eq!(parse_head(&text[..end], &mut scan), Ok(None), "{end} bytes");
        }
        assert!(parse_head(text, &mut scan).unwrap().is_some());
        // Bytes that were searched are not looked at again: a change in them goes unseen.
        let mut scan = HeadScan::default();
        assert_eq!(parse_head(&text[..20], &mut scan), Ok(None));
        let mut changed = text.to_vec();
        changed[10] = b'\n';
        assert!(is_malformed(parse(&changed)));
        assert_eq!(parse_head(&changed[..22], &mut scan), Ok(None));
    }

    #[test]
    fn names_the_methods() {
        for (name, method) in [
            ("GET", Method::Get),
            ("HEAD", Method::Head),
            ("POST", Method::Post),
            ("PUT", Method::Put),
            ("DELETE", Method::Delete),
            ("OPTIONS", Method::Options),
            ("PATCH", Method::Patch),
        ] {
            assert_eq!(first(&format!("{name} / HTTP/1.1")).unwrap().method, method);
        }
        for other in ["get", "TRACE", "CONNECT", "GETS", "!"] {
            let Method::Other(span) = first(&format!("{other} / HTTP/1.1")).unwrap().method else {
                panic!("{other} is taken for a method that is known");
            };
            assert_eq!((span.start(), span.end()), (0, other.len()));
        }
    }

    #[test]
    fn takes_the_forms_of_target_that_name_one_thing() {
        let of = |line: &str| {
            let text = format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n");
            let head = parse(text.as_bytes())?.expect("a whole head");
            let piece = |span: Span| String::from_utf8(span.of(text.as_bytes()).to_vec()).unwrap();
            Ok::<_, Fault>((piece(head.path), head.query.map(piece)))
        };
        let plain = |path: &str| Ok((path.to_owned(), None));
        assert_eq!(of("GET /"), plain("/"));
        assert_eq!(of("GET //a/%2f/../:x"), plain("//a/%2f/../:x"));
        assert_eq!(of("GET /?"), Ok(("/".to_owned(), Some(String::new()))));
        assert_eq!(of("OPTIONS *"), plain("*"));
        assert_eq!(
            of("GET HTTP://H/a?b"),
            Ok(("/a".to_owned(), Some("b".to_owned())))
        );
        assert_eq!(of("GET https://h"), plain(""));
        for bad in [
            "GET *",
            "GET a",
            "GET ?a",
            "GET http://other/a",
            "GET http:///a",
            "GET http://",
            "GET ftp://h/a",
            "CONNECT h:443",
            "GET /a#b",
            "GET /a?b#c",
            "GET /\u{e9}",
            "GET /?\u{e9}",
        ] {
            assert!(is_malformed(of(bad)), "{bad}");
        }
        let old = b"GET http://a:1/ HTTP/1.0\r\n\r\n";
        assert_eq!(parse(old).unwrap().unwrap().host.unwrap().of(old), b"a:1");
        assert!(is_malformed(parse(b"GET http://a@b/ HTTP/1.0\r\n\r\n")));
    }

    #[test]
    fn refuses_request_lines_that_are_not_quite_http() {
        for line in [
            "GET",
            "GET /",
            "GET  / HTTP/1.1",
            "GET /  HTTP/1.1",
            "GET / HTTP/1.1 ",
            " GET / HTTP/1.1",
            "\tGET / HTTP/1.1",
            "GET\t/ HTTP/1.1",
            "GET /a b HTTP/1.1",
            "GET / http/1.1",
            "GET / HTTP/1.1x",
            "GET / HTTP/11",
            "GET / HTTP/1.",
            "GET / HTTPS/1.1",
            "G@T / HTTP/1.1",
            " / HTTP/1.1",
        ] {
            assert!(is_malformed(first(line)), "{line:?}: {:?}", first(line));
        }
        for version in ["2.0", "1.2", "0.9", "3.0"] {
            let outcome = first(&format!("GET / HTTP/{version}"));
            assert_eq!(outcome, Err(Fault::VersionUnsupported), "{version}");
        }
    }

    #[test]
    fn passes_over_one_empty_line_before_the_request() {
        let text = b"\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n";
        let head = parse(text).unwrap().unwrap();
        assert_eq!((head.len, head.path.of(text)), (text.len(), &b"/a"[..]));
        assert_eq!(parse(b"\r\n"), Ok(None));
        assert!(is_malformed(parse(b"\r\n\r\n")));
        assert_eq!(
            parse(b"\r\nGET / HTTP/2.0\r\n\r\n"),
            Err(Fault::VersionUnsupported)
        );
    }

    #[test]
    fn refuses_lines_that_parsers_end_or_fold_differently() {
        for lines in [
            "A: b\nC: d\r\n",
            "A: b\rC: d\r\n",
            "A: b\r\r\n",
            "A: b\r\n c\r\n",
            "A: b\r\n\tc\r\n",
            "A: b\r\n \r\n",
            "A : b\r\n",
            "A\t: b\r\n",
            ": b\r\n",
            "A\r\n",
            "A b\r\n",
            "A: b\0\r\n",
            "A: \u{1}\r\n",
            "A: \u{7f}\r\n",
            "A\u{e9}: b\r\n",
            "A(: b\r\n",
            "\u{b}A: b\r\n",
        ] {
            assert!(is_malformed(with(lines)), "{lines:?}: {:?}", with(lines));
        }
        // The line after the request line cannot be folded onto it either.
        assert!(is_malformed(parse(b"GET / HTTP/1.1\r\n Host: h\r\n\r\n")));
        assert!(is_malformed(parse(b"GET / HTTP/1.1\nHost: h\n\n")));
        // What can be told early is told early.
        assert!(is_malformed(parse(b"\x16\x03\x01")));
        assert!(is_malformed(parse(b"GET / HTTP/1.1\n")));
        assert!(with("A: \u{e9} \t b\r\nB:\r\nC: \r\n").is_ok());
    }

    #[test]
    fn holds_every_limit_on_both_sides() {
        let line = |length: usize| {
            let target = "a".repeat(length - "GET / HTTP/1.1".len());
            first(&format!("GET /{target} HTTP/1.1"))
        };
        assert!(line(START_LINE_MAX).is_ok());
        assert_eq!(line(START_LINE_MAX + 1), Err(Fault::TargetTooLong));
        let endless = vec![b'a'; START_LINE_MAX + 1];
        assert_eq!(parse(&endless[1..]), Ok(None));
        assert_eq!(parse(&endless), Err(Fault::TargetTooLong));

        let plain = "POST /a HTTP/1.1\r\nHost: h\r\nA: \r\n\r\n".len();
        let long = |length: usize| with(&format!("A: {}\r\n", "b".repeat(length - plain)));
        assert_eq!(long(HEAD_MAX).map(|head| head.len), Ok(HEAD_MAX));
        assert_eq!(long(HEAD_MAX + 1), Err(Fault::HeadTooLarge));
        let mut endless = b"GET / HTTP/1.1\r\nA: ".to_vec();
        endless.resize(HEAD_MAX - 1, b'b');
        assert_eq!(parse(&endless), Ok(None));
        endless.push(b'b');
        assert_eq!(parse(&endless), Err(Fault::HeadTooLarge));

        assert!(with(&"A: b\r\n".repeat(HEADERS_MAX - 1)).is_ok());
        assert_eq!(
            with(&"A: b\r\n".repeat(HEADERS_MAX)),
            Err(Fault::HeadTooLarge)
        );
    }

    #[test]
    fn frames_the_body_in_one_way_or_not_at_all() {
        let framing = |lines: &str| with(lines).map(|head| head.framing);
        assert_eq!(framing(""), Ok(Framing::None));
        assert_eq!(framing("Content-Length: 0\r\n"), Ok(Framing::Length(0)));
        assert_eq!(framing("content-length: 0012\r\n"), Ok(Framing::Length(12)));
        assert_eq!(
            framing("Transfer-Encoding: Chunked\r\n"),
            Ok(Framing::Chunked)
        );
        for bad in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "Transfer-Encoding: identity\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: \r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -5\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: 5 5\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: chunked, gzip\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: chunked;a=b\r\n",
            "Transfer-Encoding: \"chunked\"\r\n",
            "Transfer-Encoding: chunked,\r\n",
            "Transfer-Encoding: ,chunked\r\n",
            "Transfer-Encoding:\r\n",
        ] {
            assert!(is_malformed(framing(bad)), "{bad:?}: {:?}", framing(bad));
        }
        for unknown in ["gzip, chunked", "gzip\r\nTransfer-Encoding: chunked"] {
            let lines = format!("Transfer-Encoding: {unknown}\r\n");
            assert_eq!(framing(&lines), Err(Fault::CodingUnsupported), "{unknown}");
        }
        let old = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(is_malformed(parse(old)));
    }

    #[test]
    fn wants_one_host_that_can_be_one() {
        let hosts =
            |minor, lines: &str| parse(format!("GET / HTTP/1.{minor}\r\n{lines}\r\n").as_bytes());
        assert!(is_malformed(hosts(1, "")));
        assert!(hosts(0, "").is_ok());
        for minor in [0, 1] {
            for good in ["a", "a.b-c:80", "[::1]:8080", "", "127.0.0.1"] {
                assert!(hosts(minor, &format!("Host: {good}\r\n")).is_ok(), "{good}");
            }
            for bad in ["a, b", "a b", "a/b", "u@a", "a?b", "a#b", "\u{e9}", "a\\b"] {
                let lines = format!("Host: {bad}\r\n");
                assert!(is_malformed(hosts(minor, &lines)), "{bad}");
            }
            assert!(is_malformed(hosts(minor, "Host: a\r\nHost: a\r\n")));
        }
    }

    #[test]
    fn refuses_to_choose_between_repeated_headers() {
        for name in [
            "Content-Type",
            "Idempotency-Key",
            "X-Timeout-Ms",
            "Traceparent",
        ] {
            assert!(with(&format!("{name}: 1\r\n")).is_ok());
            assert!(
                is_malformed(with(&format!("{name}: 1\r\n{name}: 1\r\n"))),
                "{name}"
            );
        }
        let base = "POST /a HTTP/1.1\r\nHost: h\r\n".len();
        for name in ["X-Trace-Id", "tracestate", "Origin"] {
            let head = with(&format!("{name}: 1\r\n{name}: 2\r\n")).unwrap();
            let kept = head.trace_id.or(head.tracestate).or(head.origin).unwrap();
            assert_eq!(
                kept.start(),
                base + name.len() + 2,
                "{name}: the first is kept"
            );
        }
    }

    #[test]
    fn knows_when_the_connection_stays_open() {
        let stays = |minor, lines: &str| {
            let text = format!("GET / HTTP/1.{minor}\r\nHost: h\r\n{lines}\r\n");
            parse(text.as_bytes()).unwrap().unwrap().keep_alive
        };
        for (lines, new, old) in [
            ("", true, false),
            ("Connection: keep-alive\r\n", true, true),
            ("Connection: Keep-Alive, Upgrade\r\n", true, true),
            ("Connection: close\r\n", false, false),
            ("Connection: x,\tCLOSE ,,y\r\n", false, false),
            (
                "Connection: keep-alive\r\nConnection: close\r\n",
                false,
                false,
            ),
            ("Connection: close, keep-alive\r\n", false, false),
            ("Connection: closed\r\n", true, false),
            ("Connection:\r\n", true, false),
        ] {
            assert_eq!((stays(1, lines), stays(0, lines)), (new, old), "{lines:?}");
        }
    }

    #[test]
    fn meets_one_expectation_where_a_body_follows() {
        let waits = |lines: &str| with(lines).map(|head| head.expect_continue);
        assert_eq!(
            waits("Expect: 100-continue\r\nContent-Length: 1\r\n"),
            Ok(true)
        );
        assert_eq!(
            waits("Transfer-Encoding: chunked\r\nExpect: 100-CONTINUE\r\n"),
            Ok(true)
        );
        assert_eq!(waits("Expect: 100-continue\r\n"), Ok(false));
        assert_eq!(
            waits("Expect: 100-continue\r\nContent-Length: 0\r\n"),
            Ok(false)
        );
        assert_eq!(
            waits("Expect: 200-maybe\r\n"),
            Err(Fault::ExpectationFailed)
        );
        assert_eq!(waits("Expect:\r\n"), Err(Fault::ExpectationFailed));
        let old = b"POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n";
        assert!(!parse(old).unwrap().unwrap().expect_continue);
    }
}
