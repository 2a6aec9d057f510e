//! Tests of the head of an answer: which headers count, where the body ends, and what is refused.

use super::*;

fn parse(text: &str) -> Result<ResponseHead, ParseError> {
    parse_response(text.as_bytes(), &mut HeadScan::default())
        .map(|head| head.expect("a whole head"))
}

fn with(status: &str, lines: &str) -> Result<ResponseHead, ParseError> {
    parse(&format!("HTTP/1.1 {status}\r\n{lines}\r\n"))
}

fn is_malformed<T>(outcome: &Result<T, ParseError>) -> bool {
    matches!(outcome, Err(ParseError::Malformed(_)))
}

#[test]
fn all_headers_about_a_call_are_found() {
    let text = "HTTP/1.1 200 OK\r\ncontent-type: image/png \r\nContent-Length: 7\r\n\
        X-Cold-Start: TRUE\r\nX-Init-Duration-Ms: 120\r\nx-not-started:true\r\n\
        X-EXECUTION-ID: abc\r\nRetry-After: 7\r\nContent-Encoding: br\r\n\r\n";
    let head = parse(text).unwrap();
    assert_eq!((head.len, head.status), (text.len(), 200));
    assert_eq!(head.body, ResponseBody::Length(7));
    assert_eq!(head.content_type.unwrap().of(text.as_bytes()), b"image/png");
    assert!(head.keep_alive && head.cold_start && head.not_started);
    assert_eq!(head.init_duration_ms, Some(120));
    assert_eq!(head.execution_id.unwrap().of(text.as_bytes()), b"abc");
    assert_eq!(head.retry_after.unwrap().of(text.as_bytes()), b"7");
    assert_eq!(head.content_encoding.unwrap().of(text.as_bytes()), b"br");
    let head = with("200", "Content-Encoding: Identity\r\n").unwrap();
    assert_eq!(head.content_encoding, None);
    let head = with("503", "X-Cold-Start: yes\r\nX-Init-Duration-Ms: 1.5\r\n").unwrap();
    assert!(!head.cold_start && !head.not_started);
    assert_eq!(
        (head.status, head.init_duration_ms, head.content_type),
        (503, None, None)
    );
}

#[test]
fn knows_where_the_body_ends() {
    for (status, lines, body) in [
        ("200 OK", "", ResponseBody::UntilClose),
        ("200 OK", "Content-Length: 0\r\n", ResponseBody::Length(0)),
        (
            "500 x",
            "Transfer-Encoding: chunked\r\n",
            ResponseBody::Chunked,
        ),
        ("204 No Content", "", ResponseBody::None),
        (
            "204 No Content",
            "Content-Length: 0\r\n",
            ResponseBody::None,
        ),
        (
            "304 Not Modified",
            "Content-Length: 9\r\n",
            ResponseBody::None,
        ),
        ("100 Continue", "", ResponseBody::None),
        ("103 Early Hints", "Link: x\r\n", ResponseBody::None),
    ] {
        let head = with(status, lines).unwrap();
        assert_eq!(head.body, body, "{status} {lines:?}");
        assert_eq!(head.keep_alive, body != ResponseBody::UntilClose);
    }
}

/// The parser selects a known header by its length and first letter before it compares the name.
#[test]
fn similar_names_mean_nothing() {
    let plain = with("200", "Content-Length: 1\r\n").unwrap();
    for line in [
        "Connectiox: close",
        "Keep-Alivx: timeout=5",
        "Content-Lengtx: 2",
        "Transfer-Encodinx: chunked",
        "Content-Typx: a/b",
        "Content-Encodinx: gzip",
        "Retry-Aftex: 7",
        "X-Cold-Starx: true",
        "X-Not-Startex: true",
        "X-Execution-Ix: a",
        "X-Init-Duration-Mx: 5",
    ] {
        let mut head = with("200", &format!("{line}\r\nContent-Length: 1\r\n")).unwrap();
        head.len = plain.len;
        assert_eq!(head, plain, "{line}");
    }
}

#[test]
fn a_switch_needs_a_request() {
    let text = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
    let head = parse_upgrade_response(text, &mut HeadScan::default()).unwrap();
    assert_eq!(head.unwrap().status, 101);
    assert!(is_malformed(&parse_response(
        text,
        &mut HeadScan::default()
    )));
}

#[test]
fn several_ids_are_told() {
    let head = with("200", "X-Execution-Id: a\r\n").unwrap();
    assert!(!head.has_several_ids);
    let text = "HTTP/1.1 200 OK\r\nX-Execution-Id: a\r\nx-execution-id: b\r\n\r\n";
    let head = parse(text).unwrap();
    assert!(head.has_several_ids);
    assert_eq!(head.execution_id.unwrap().of(text.as_bytes()), b"a");
}

#[test]
fn a_forbidden_body_ends_the_connection() {
    for (status, lines) in [
        ("204 x", "Content-Length: 1\r\n"),
        ("204 x", "Transfer-Encoding: chunked\r\n"),
        ("100 x", "Content-Length: 1\r\n"),
    ] {
        let head = with(status, lines).unwrap();
        assert_eq!(head.body, ResponseBody::None);
        assert!(head.has_forbidden_body && !head.keep_alive, "{status}");
    }
    for (status, lines) in [
        ("204 x", "Content-Length: 0\r\n"),
        ("304 x", "Content-Length: 1\r\n"),
        ("200 x", "Content-Length: 1\r\n"),
    ] {
        let head = with(status, lines).unwrap();
        assert!(!head.has_forbidden_body && head.keep_alive, "{status}");
    }
}

#[test]
fn an_answer_to_head_has_no_body() {
    for lines in [
        "",
        "Content-Length: 9\r\n",
        "Transfer-Encoding: chunked\r\n",
    ] {
        let head = with("200 OK", lines).unwrap().to_head_request();
        assert_eq!((head.body, head.keep_alive), (ResponseBody::None, true));
    }
    let head = with("200 OK", "Connection: close\r\n").unwrap();
    assert!(!head.to_head_request().keep_alive);
}

#[test]
fn knows_when_the_connection_stays_open() {
    let stays = |minor, lines: &str| {
        let text = format!("HTTP/1.{minor} 200 OK\r\nContent-Length: 1\r\n{lines}\r\n");
        parse(&text).unwrap().keep_alive
    };
    assert!(stays(1, "") && !stays(0, ""));
    assert!(stays(1, "Connection: keep-alive\r\n") && stays(0, "Connection: Keep-Alive\r\n"));
    assert!(!stays(1, "Connection: x, Close\r\n"));
    let head = with("200", "Keep-Alive: timeout=5, max=9\r\n").unwrap();
    assert_eq!(head.keep_alive_s, Some(5));
}

#[test]
fn refuses_what_a_client_would_be_refused_too() {
    for (status, lines) in [
        (
            "200 OK",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        ),
        ("200 OK", "Content-Length: 1\r\nContent-Length: 1\r\n"),
        ("200 OK", "Content-Length: 1, 1\r\n"),
        ("200 OK", "Content-Length: -1\r\n"),
        ("200 OK", "Transfer-Encoding: chunked, gzip\r\n"),
        ("200 OK", "Transfer-Encoding: gzip\r\n"),
        ("200 OK", "Content-Type: a\r\nContent-Type: a\r\n"),
        (
            "200 OK",
            "Content-Encoding: gzip\r\nContent-Encoding: br\r\n",
        ),
        ("200 OK", "A: b\r\n c\r\n"),
        ("200 OK", "A : b\r\n"),
        ("200 OK", "A: b\nC: d\r\n"),
        ("200 OK", "A: b\rC: d\r\n"),
        ("101 Switching Protocols", ""),
        ("099 x", ""),
        ("600 x", ""),
        ("20 x", ""),
        ("2000 x", ""),
        (" 200 OK", ""),
        ("", ""),
    ] {
        let outcome = with(status, lines);
        assert!(is_malformed(&outcome), "{status} {lines:?}: {outcome:?}");
    }
    assert!(is_malformed(&parse("\r\nHTTP/1.1 200 OK\r\n\r\n")));
    assert!(is_malformed(&parse(
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    )));
    assert!(is_malformed(&parse("ICY 200 OK\r\n\r\n")));
    assert_eq!(
        parse("HTTP/2.0 200 OK\r\n\r\n"),
        Err(ParseError::VersionUnsupported)
    );
    let outcome = with("200 OK", "Transfer-Encoding: gzip, chunked\r\n");
    assert_eq!(outcome, Err(ParseError::CodingUnsupported));
    assert_eq!(
        with("200 OK", &"A: b\r\n".repeat(101)),
        Err(ParseError::HeadTooLarge)
    );
    assert!(is_malformed(&with(
        &format!("200 {}", "x".repeat(START_LINE_MAX)),
        ""
    )));
    assert!(with("200", "").is_ok() && with("200 ", "").is_ok());
}

#[test]
fn waits_for_the_end_of_the_head() {
    let text = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n";
    let mut scan = HeadScan::default();
    for end in 0..text.len() {
        assert_eq!(
            parse_response(&text[..end], &mut scan),
            Ok(None),
            "{end} bytes"
        );
    }
    assert!(parse_response(text, &mut scan).unwrap().is_some());
}
