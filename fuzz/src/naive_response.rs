//! A second, slow implementation of the rules for an answer's head, as `naive` is for a request's
//! head.

use nanofaas_http1::framing::Framing;
use nanofaas_http1::response_head::{ResponseBody, ResponseHead};

use crate::naive::{CutHead, NaiveRefusal, framing, is_encoding, lower, require};

/// The meaning of an answer's head: everything that a decision depends on.
#[derive(Debug, PartialEq)]
pub(crate) struct ResponseMeaning {
    len: usize,
    status: u16,
    body: ResponseBody,
    keep_alive: bool,
    persistent: bool,
    has_forbidden_body: bool,
    has_several_ids: bool,
    cold_start: bool,
    not_started: bool,
    init_duration_ms: Option<u32>,
    /// The values of Content-Type, Content-Encoding, X-Execution-Id and Retry-After.
    values: [Option<Vec<u8>>; 4],
}

impl ResponseMeaning {
    pub(crate) fn of(head: &ResponseHead, bytes: &[u8]) -> Self {
        let spans = [
            head.content_type,
            head.content_encoding,
            head.execution_id,
            head.retry_after,
        ];
        Self {
            len: head.len,
            status: head.status,
            body: head.body,
            keep_alive: head.keep_alive,
            persistent: head.persistent,
            has_forbidden_body: head.has_forbidden_body,
            has_several_ids: head.has_several_ids,
            cold_start: head.cold_start,
            not_started: head.not_started,
            init_duration_ms: head.init_duration_ms,
            values: spans.map(|span| span.map(|span| span.of(bytes).to_vec())),
        }
    }
}

/// Returns the meaning of the head at the start of `bytes`.
pub(crate) fn response(bytes: &[u8]) -> Result<ResponseMeaning, NaiveRefusal> {
    let head = CutHead::of(bytes, 0)?;
    let mut words = head.first.splitn(3, |&byte| byte == b' ');
    let minor = match words.next() {
        Some(b"HTTP/1.0") => 0,
        Some(b"HTTP/1.1") => 1,
        _ => return Err(NaiveRefusal::Refused("version")),
    };
    let digits = words.next().unwrap_or_default();
    let is_number = digits.len() == 3 && digits.iter().all(u8::is_ascii_digit);
    require(is_number, "status")?;
    let status: u16 = str::from_utf8(digits).unwrap().parse().unwrap();
    require((100..600).contains(&status) && status != 101, "status")?;
    let headers = head.headers;
    let framing = framing(&headers, minor)?;
    let says_body = !matches!(framing, Framing::None | Framing::Length(0));
    let has_forbidden_body = says_body && (status < 200 || status == 204);
    let body = match (status, framing) {
        (100..200 | 204 | 304, _) => ResponseBody::None,
        (_, Framing::None) => ResponseBody::UntilClose,
        (_, Framing::Length(length)) => ResponseBody::Length(length),
        (_, Framing::Chunked) => ResponseBody::Chunked,
    };
    let persistent = headers.keeps_alive(minor) && !has_forbidden_body;
    let is_said = |name| {
        let values = headers.all(name);
        values.iter().any(|value| lower(value) == "true")
    };
    let first = |name| headers.all(name).first().map(|value| value.to_vec());
    let number = |value: &[u8]| {
        let digits = value.iter().all(u8::is_ascii_digit);
        let text = str::from_utf8(value).ok().filter(|_| digits)?;
        text.parse().ok()
    };
    Ok(ResponseMeaning {
        len: head.len,
        status,
        body,
        keep_alive: persistent && body != ResponseBody::UntilClose,
        persistent,
        has_forbidden_body,
        has_several_ids: headers.all("x-execution-id").len() > 1,
        cold_start: is_said("x-cold-start"),
        not_started: is_said("x-not-started"),
        init_duration_ms: headers.all("x-init-duration-ms").pop().and_then(number),
        values: [
            headers.at_most_once("content-type")?,
            headers.at_most_once_of("content-encoding", is_encoding)?,
            first("x-execution-id"),
            first("retry-after"),
        ],
    })
}
