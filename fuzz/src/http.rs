//! Checks the readers of heads, chunked bodies and header values (`nanofaas_http1`). An accepted head or body
//! must have the same meaning for a second reader (`naive`, `naive_response` or httparse), and must read back
//! as the same after it is written anew.

use nanofaas_http1::chunked::ChunkedDecoder;
use nanofaas_http1::error::ParseError;
use nanofaas_http1::head::{HeadScan, header_lines};
use nanofaas_http1::request::{RequestHead, parse_request};
use nanofaas_http1::response_head::{ResponseBody, ResponseHead, parse_response};
use nanofaas_http1::{header_value, media_type};

use crate::connection::{BODY_MAX, reads_the_same_however_split};
use crate::naive::{self, Meaning, NaiveRefusal};
use crate::naive_response::{self, ResponseMeaning};
use crate::rng::Rng;

/// Only heads shorter than this, in bytes, are written anew. The new form of a longer head could exceed the
/// parser's limit.
const REWRITTEN_MAX: usize = 6 * 1024;
const HEADERS_MAX: usize = 128;

pub(crate) fn request(rng: &mut Rng, bytes: &[u8]) -> bool {
    let taken = reads_the_same_however_split::<RequestHead>(rng, bytes);
    let ours = parse_request(bytes, &mut HeadScan::default());
    let theirs = naive::request(bytes);
    match (&ours, &theirs) {
        (Ok(Some(head)), Ok(meaning)) => {
            assert_eq!(Meaning::of(head, bytes), *meaning);
            agrees_on_request(head, bytes);
            if head.len < REWRITTEN_MAX {
                reads_back(meaning);
            }
        }
        // Both need more bytes, or both refuse. `(Err(_), Err(_))` includes a head that `naive` still finds
        // incomplete, because our parser may refuse it earlier.
        (Ok(None), Err(NaiveRefusal::Incomplete)) | (Err(_), Err(_)) => {}
        _ => panic!("ours {ours:?}, theirs {theirs:?}"),
    }
    assert_eq!(taken, theirs.is_ok());
    taken
}

fn agrees_on_request(head: &RequestHead, bytes: &[u8]) {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut theirs = httparse::Request::new(&mut headers);
    let len = theirs.parse(bytes);
    assert_eq!(len, Ok(httparse::Status::Complete(head.len)));
    assert_eq!(theirs.version, Some(head.minor));
    // `header_lines` expects a head without the empty line that may come first.
    let text = &bytes[..head.len];
    agrees_on_lines(text.strip_prefix(b"\r\n").unwrap_or(text), theirs.headers);
}

/// Compares all header lines, because pods, the watchdog and the forwarding of `/fn/` search them.
fn agrees_on_lines(head: &[u8], theirs: &[httparse::Header<'_>]) {
    let theirs = theirs
        .iter()
        .map(|header| (header.name.as_bytes(), header.value));
    assert!(header_lines(head).eq(theirs));
}

fn reads_back(meaning: &Meaning) {
    let written = meaning.write();
    let head = parse_request(&written, &mut HeadScan::default());
    let text = written.escape_ascii();
    let head = head
        .ok()
        .flatten()
        .unwrap_or_else(|| panic!("refused b\"{text}\""));
    assert_eq!(head.len, written.len());
    let again = Meaning::of(&head, &written);
    assert_eq!(again, meaning.clone().with_len(head.len), "b\"{text}\"");
}

pub(crate) fn response(rng: &mut Rng, bytes: &[u8]) -> bool {
    let taken = reads_the_same_however_split::<ResponseHead>(rng, bytes);
    let ours = parse_response(bytes, &mut HeadScan::default());
    let theirs = naive_response::response(bytes);
    let head = match (&ours, &theirs) {
        (Ok(Some(head)), Ok(meaning)) => {
            assert_eq!(ResponseMeaning::of(head, bytes), *meaning);
            head
        }
        // Our parser may refuse a head that `naive_response` still finds incomplete.
        (Ok(None), Err(NaiveRefusal::Incomplete)) | (Err(_), Err(_)) => {
            assert!(!taken);
            return false;
        }
        _ => panic!("ours {ours:?}, theirs {theirs:?}"),
    };
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut theirs = httparse::Response::new(&mut headers);
    let len = theirs.parse(bytes);
    assert_eq!(len, Ok(httparse::Status::Complete(head.len)));
    assert_eq!(theirs.code, Some(head.status));
    agrees_on_lines(&bytes[..head.len], theirs.headers);
    if head.len < REWRITTEN_MAX {
        reads_back_as_response(head, bytes);
    }
    taken
}

fn reads_back_as_response(head: &ResponseHead, bytes: &[u8]) {
    let written = write_response(head, bytes);
    let text = written.escape_ascii();
    let again = parse_response(&written, &mut HeadScan::default());
    let again = again
        .ok()
        .flatten()
        .unwrap_or_else(|| panic!("refused b\"{text}\""));
    assert_eq!(again.len, written.len());
    let values = |head: &ResponseHead, bytes: &[u8]| {
        let spans = [
            head.content_type,
            head.content_encoding,
            head.retry_after,
            head.execution_id,
        ];
        spans.map(|span| span.map(|span| span.of(bytes).to_vec()))
    };
    assert_eq!(values(&again, &written), values(head, bytes), "b\"{text}\"");
    let plain = |head: &ResponseHead| ResponseHead {
        len: 0,
        content_type: None,
        content_encoding: None,
        retry_after: None,
        execution_id: None,
        ..*head
    };
    assert_eq!(plain(&again), plain(head), "b\"{text}\"");
}

fn write_response(head: &ResponseHead, bytes: &[u8]) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {} X\r\n", head.status).into_bytes();
    let mut line = |name: &str, value: &[u8]| {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    };
    match head.body {
        ResponseBody::Length(length) => line("Content-Length", length.to_string().as_bytes()),
        ResponseBody::Chunked => line("Transfer-Encoding", b"chunked"),
        ResponseBody::None if head.has_forbidden_body => line("Content-Length", b"1"),
        ResponseBody::None | ResponseBody::UntilClose => {}
    }
    if !head.persistent {
        line("Connection", b"close");
    }
    if let Some(seconds) = head.keep_alive_s {
        line("Keep-Alive", format!("timeout={seconds}").as_bytes());
    }
    if let Some(ms) = head.init_duration_ms {
        line("X-Init-Duration-Ms", ms.to_string().as_bytes());
    }
    let spans = [
        ("Content-Type", head.content_type),
        ("Content-Encoding", head.content_encoding),
        ("Retry-After", head.retry_after),
        ("X-Execution-Id", head.execution_id),
    ];
    for (name, span) in spans {
        if let Some(span) = span {
            line(name, span.of(bytes));
        }
    }
    if head.has_several_ids {
        line("X-Execution-Id", b"another");
    }
    for (name, is_said) in [
        ("X-Cold-Start", head.cold_start),
        ("X-Not-Started", head.not_started),
    ] {
        if is_said {
            line(name, b"true");
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

pub(crate) fn chunked(rng: &mut Rng, bytes: &[u8]) -> bool {
    let mut out = Vec::new();
    let ours = ChunkedDecoder::default().decode(bytes, &mut out, BODY_MAX);
    let theirs = naive::chunked(bytes, BODY_MAX);
    match (&ours, &theirs) {
        (Ok(progress), Ok((data, length))) => {
            assert_eq!((progress.done, progress.consumed), (true, *length));
            assert_eq!(out, *data);
            assert_eq!(decoded_in_pieces(rng, bytes), out);
            let written = write_chunked(rng, data);
            assert_eq!(decoded_in_pieces(rng, &written), out);
        }
        (Ok(progress), Err(NaiveRefusal::Incomplete)) => assert!(!progress.done),
        (Err(_), Err(_)) => {}
        _ => panic!("ours {ours:?}, theirs {theirs:?}"),
    }
    ends_where_it_is_decoded_to(rng, bytes);
    theirs.is_ok()
}

/// Checks that `skip` finds the same end as `decode`, for the whole input and for two pieces.
fn ends_where_it_is_decoded_to(rng: &mut Rng, bytes: &[u8]) {
    let decoded = ChunkedDecoder::default().decode(bytes, &mut Vec::new(), usize::MAX);
    if decoded == Err(ParseError::BodyTooLarge) {
        return;
    }
    assert_eq!(ChunkedDecoder::default().skip(bytes), decoded);
    let (first, second) = bytes.split_at(rng.below(bytes.len() + 1));
    let mut decoder = ChunkedDecoder::default();
    let pieces = decoder.skip(first).and_then(|before| {
        let after = decoder.skip(second)?;
        Ok((before.consumed + after.consumed, after.done))
    });
    assert_eq!(pieces, decoded.map(|whole| (whole.consumed, whole.done)));
}

/// Decodes a valid body a few bytes at a time, and returns its data.
fn decoded_in_pieces(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let (mut decoder, mut out) = (ChunkedDecoder::default(), Vec::new());
    let mut at = 0;
    loop {
        let end = (at + 1 + rng.below(8)).min(bytes.len());
        let progress = decoder.decode(&bytes[at..end], &mut out, BODY_MAX);
        let progress = progress.expect("it is sound as a whole");
        at += progress.consumed;
        if progress.done {
            return out;
        }
        assert!(
            at == end && at < bytes.len(),
            "it ends where the whole does"
        );
    }
}

fn write_chunked(rng: &mut Rng, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(1 + rng.below(rest.len()));
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
        rest = after;
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

pub(crate) fn values(_: &mut Rng, bytes: &[u8]) -> bool {
    let prefer = header_value::parse_prefer(bytes);
    assert_eq!(prefer, header_value::parse_prefer(bytes));
    let kind = media_type::media_type(Some(bytes));
    let lower = bytes.to_ascii_lowercase();
    let is_suffixed = lower.windows(5).any(|five| five == b"+json");
    let json = is_suffixed || lower.trim_ascii_start().starts_with(b"application/json");
    assert!(kind != media_type::MediaType::Json || json, "{kind:?}");
    if let Ok(timeout_ms) = header_value::parse_timeout_ms(bytes) {
        assert_eq!(str::from_utf8(bytes).unwrap().parse(), Ok(timeout_ms));
    }
    let _ = header_value::query_number(bytes, "waitMs");
    let room = &mut [0; 16];
    if let Ok(name) = header_value::percent_decode(bytes, room) {
        assert!(name.len() <= bytes.len());
    }
    prefer != header_value::Prefer::default() || kind != media_type::MediaType::Other
}
