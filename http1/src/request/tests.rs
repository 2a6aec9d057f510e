use super::*;
use crate::head::HEAD_MAX;

fn parse(bytes: &[u8]) -> Result<Option<RequestHead>, ParseError> {
    parse_request(bytes, &mut HeadScan::default())
}

fn with(lines: &str) -> Result<RequestHead, ParseError> {
    let text = format!("POST /a HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
    parse(text.as_bytes()).map(|head| head.expect("a whole head"))
}

fn first(line: &str) -> Result<RequestHead, ParseError> {
    let text = format!("{line}\r\nHost: h\r\n\r\n");
    parse(text.as_bytes()).map(|head| head.expect("a whole head"))
}

fn is_malformed<T: std::fmt::Debug>(outcome: Result<T, ParseError>) -> bool {
    matches!(outcome, Err(ParseError::Malformed(_)))
}

#[test]
fn finds_everything_that_the_platform_knows() {
    let text: &[u8] = b"POST /v1/functions/f:invoke?a=b?c HTTP/1.1\r\nhOST: h:80\r\n\
        Content-Type:application/json \r\nORIGIN: null\r\nIdempotency-Key:\t k \t\r\n\
        X-Trace-Id: t\r\ntraceparent: p\r\nTraceState: s\r\nX-Timeout-Ms: 5\r\n\
        Prefer: wait=4\r\nPrefer: respond-async\r\nContent-Length: 3\r\n\
        X-Other: 1\r\nExpect: 100-Continue\r\nContent-Encoding: gzip\r\n\r\nabcGET";
    let head = parse(text).unwrap().unwrap();
    let of = |span: Option<Span>| span.map(|span| str::from_utf8(span.of(text)).unwrap());
    assert_eq!(&text[head.len..], b"abcGET");
    assert_eq!((head.method, head.minor), (Method::Post, 1));
    assert_eq!(head.path.of(text), b"/v1/functions/f:invoke");
    assert_eq!(of(head.query), Some("a=b?c"));
    assert_eq!(head.framing, Framing::Length(3));
    assert!(head.keep_alive && head.expect_continue);
    assert!(head.prefer.respond_async);
    assert_eq!(head.prefer.wait_s(), Some(4));
    assert_eq!(of(head.host), Some("h:80"));
    assert_eq!(of(head.origin), Some("null"));
    assert_eq!(of(head.content_type), Some("application/json"));
    assert_eq!(of(head.content_encoding), Some("gzip"));
    assert_eq!(of(head.idempotency_key), Some("k"));
    assert_eq!(of(head.timeout_ms), Some("5"));
    assert_eq!(of(head.trace_id), Some("t"));
    assert_eq!(of(head.traceparent), Some("p"));
    assert_eq!(of(head.tracestate), Some("s"));
}

#[test]
fn the_heads_end_is_searched_for_once() {
    let text = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut scan = HeadScan::default();
    for end in 0..text.len() {
        assert_eq!(
            parse_request(&text[..end], &mut scan),
            Ok(None),
            "{end} bytes"
        );
    }
    assert!(parse_request(text, &mut scan).unwrap().is_some());
    // The search does not read a byte twice. A change before its position must therefore stay unnoticed.
    let mut scan = HeadScan::default();
    assert_eq!(parse_request(&text[..20], &mut scan), Ok(None));
    let mut changed = text.to_vec();
    changed[10] = b'\n';
    assert!(is_malformed(parse(&changed)));
    assert_eq!(parse_request(&changed[..22], &mut scan), Ok(None));
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
        ("CONNECT", Method::Connect),
        ("TRACE", Method::Trace),
    ] {
        assert_eq!(first(&format!("{name} / HTTP/1.1")).unwrap().method, method);
    }
    for other in ["get", "TRACER", "GETS", "!"] {
        let Method::Other(span) = first(&format!("{other} / HTTP/1.1")).unwrap().method else {
            panic!("{other} is taken for a method that is known");
        };
        assert_eq!((span.start(), span.end()), (0, other.len()));
    }
}

#[test]
fn targets_may_have_any_unambiguous_form() {
    let of = |line: &str| {
        let text = format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n");
        let head = parse(text.as_bytes())?.expect("a whole head");
        let piece = |span: Span| String::from_utf8(span.of(text.as_bytes()).to_vec()).unwrap();
        Ok::<_, ParseError>((piece(head.path), head.query.map(piece)))
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
        assert_eq!(outcome, Err(ParseError::VersionUnsupported), "{version}");
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
        Err(ParseError::VersionUnsupported)
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
    assert!(is_malformed(parse(b"GET / HTTP/1.1\r\n Host: h\r\n\r\n")));
    assert!(is_malformed(parse(b"GET / HTTP/1.1\nHost: h\n\n")));
    // An error that is certain is reported before the head is complete.
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
    assert_eq!(line(START_LINE_MAX + 1), Err(ParseError::TargetTooLong));
    let endless = vec![b'a'; START_LINE_MAX + 1];
    assert_eq!(parse(&endless[1..]), Ok(None));
    assert_eq!(parse(&endless), Err(ParseError::TargetTooLong));

    let plain = "POST /a HTTP/1.1\r\nHost: h\r\nA: \r\n\r\n".len();
    let long = |length: usize| with(&format!("A: {}\r\n", "b".repeat(length - plain)));
    assert_eq!(long(HEAD_MAX).map(|head| head.len), Ok(HEAD_MAX));
    assert_eq!(long(HEAD_MAX + 1), Err(ParseError::HeadTooLarge));
    let mut endless = b"GET / HTTP/1.1\r\nA: ".to_vec();
    endless.resize(HEAD_MAX - 1, b'b');
    assert_eq!(parse(&endless), Ok(None));
    endless.push(b'b');
    assert_eq!(parse(&endless), Err(ParseError::HeadTooLarge));

    assert!(with(&"A: b\r\n".repeat(HEADERS_MAX - 1)).is_ok());
    assert_eq!(
        with(&"A: b\r\n".repeat(HEADERS_MAX)),
        Err(ParseError::HeadTooLarge)
    );
}

#[test]
fn a_body_has_one_framing_or_none() {
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
        assert_eq!(
            framing(&lines),
            Err(ParseError::CodingUnsupported),
            "{unknown}"
        );
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
        for good in ["a", "a.b-c:80", "[::1]:8080", "", "127.0.0.1", "a%2fb:0"] {
            assert!(hosts(minor, &format!("Host: {good}\r\n")).is_ok(), "{good}");
        }
        for bad in [
            "a, b",
            "a b",
            "a/b",
            "u@a",
            "a?b",
            "a#b",
            "\u{e9}",
            "a\\b",
            "a:b",
            "a:",
            "a:65536",
            "[::1].a",
            "[::1",
            "::1",
            "[::1%25a]",
            "a%2",
        ] {
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
        Err(ParseError::ExpectationFailed)
    );
    assert_eq!(waits("Expect:\r\n"), Err(ParseError::ExpectationFailed));
    let old = b"POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n";
    assert!(!parse(old).unwrap().unwrap().expect_continue);
}

/// The parser selects a known header by its length and first letter before it compares the name.
#[test]
fn similar_names_mean_nothing() {
    let with = |line: &str| first(&format!("GET / HTTP/1.1\r\n{line}Content-Length: 1")).unwrap();
    let plain = with("");
    for line in [
        "Connectiox: close",
        "Content-Encodinx: gzip",
        "Content-Lengtx: 2",
        "Content-Typx: a/b",
        "Expecx: 100-continue",
        "Hosx: other",
        "Idempotency-Kex: k",
        "Origix: o",
        "Prefex: wait=1",
        "Sec-Fetch-Sitx: same-origin",
        "X-Timeout-Mx: 5",
        "X-Trace-Ix: t",
        "Traceparenx: t",
        "Tracestatx: t",
        "Transfer-Encodinx: chunked",
    ] {
        let mut head = with(&format!("{line}\r\n"));
        assert!(head.len > plain.len);
        head.len = plain.len;
        head.host = plain.host;
        assert_eq!(head, plain, "{line}");
    }
}

#[test]
fn lengths_of_whole_requests_are_known() {
    let whole = |text: &str| first(text).unwrap().whole();
    let head = "GET / HTTP/1.1";
    let len = first(head).unwrap().len;
    assert_eq!(whole(head), len);
    let body = first(&format!("{head}\r\nContent-Length: 5")).unwrap();
    assert_eq!(body.whole(), body.len + 5);
    assert_eq!(
        whole(&format!("{head}\r\nTransfer-Encoding: chunked")),
        usize::MAX
    );
}

#[test]
fn a_browsers_word_on_the_page_is_read() {
    let of = |lines: &str| {
        let text = format!("GET / HTTP/1.1\r\n{lines}A: b");
        first(&text).unwrap().fetch_site
    };
    assert_eq!(of(""), FetchSite::Unknown);
    assert_eq!(of("Sec-Fetch-Site: None\r\n"), FetchSite::User);
    assert_eq!(of("sec-fetch-site: same-origin\r\n"), FetchSite::SameOrigin);
    for foreign in ["same-site", "cross-site", "other", ""] {
        assert_eq!(
            of(&format!("Sec-Fetch-Site: {foreign}\r\n")),
            FetchSite::Foreign
        );
    }
    // The stricter one of two values counts, in either order.
    let two = [
        "Sec-Fetch-Site: none\r\n",
        "Sec-Fetch-Site: same-origin\r\n",
    ];
    assert_eq!(of(&two.concat()), FetchSite::SameOrigin);
    assert_eq!(of(&[two[1], two[0]].concat()), FetchSite::SameOrigin);
}

#[test]
fn values_that_change_nothing_are_left_out() {
    let head = first("GET / HTTP/1.1\r\nContent-Encoding: Identity").unwrap();
    assert_eq!(head.content_encoding, None);
    let old = first("GET / HTTP/1.0\r\nExpect: something").unwrap();
    assert!(!old.expect_continue);
}
