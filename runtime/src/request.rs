//! The content of a request's head that a pod needs: route, deadline and the call's id.
//! `nanofaas_http1` parses HTTP. `connection` calls this module.

use std::ops::Range;
use std::time::Duration;

use nanofaas_http1::error::ParseError;
use nanofaas_http1::framing::Framing;
use nanofaas_http1::head::{HeadScan, Span, header_lines};
use nanofaas_http1::header_value::digits;
use nanofaas_http1::media_type::{MediaType, media_type};
use nanofaas_http1::request::{Method, RequestHead, parse_request};

use crate::answer::Echo;

/// The limit of a body, in bytes. The platform's default limit is 1 MiB, but its operator can raise
/// it.
pub(crate) const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
const DEADLINE_MS_MAX: u64 = 3_600_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Invoke,
    /// An HTTP call, whatever its path.
    Http,
    Health,
    NotFound,
    /// The path does not allow this method. Holds the allowed methods.
    NotAllowed(&'static str),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PodRequest {
    /// The head's length in bytes, with its empty line.
    pub(crate) len: usize,
    pub(crate) route: Route,
    /// Whether the method is HEAD, whose answer has no body.
    pub(crate) headless: bool,
    pub(crate) keep: bool,
    /// Whether the version is HTTP/1.0.
    pub(crate) is_old: bool,
    pub(crate) framing: Framing,
    pub(crate) expects_continue: bool,
    pub(crate) json: bool,
    pub(crate) target: CallTarget,
    /// The time until the deadline, from `X-Deadline-Ms`.
    pub(crate) left: Option<Duration>,
    /// The range of the value of `X-Execution-Id` within the head.
    pub(crate) id: Option<Range<usize>>,
}

/// The target of a request. The spans are offsets from the head's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallTarget {
    pub(crate) path: Span,
    pub(crate) query: Option<Span>,
}

/// A request that cannot be read, or whose body is not wanted, because the handler does not take its method.
/// The connection closes after the answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadRequest {
    pub(crate) status: u16,
    pub(crate) message: String,
}

impl From<ParseError> for BadRequest {
    fn from(error: ParseError) -> Self {
        let message = match error {
            ParseError::BodyTooLarge => "the body is over 8 MiB".to_owned(),
            error => error.to_string(),
        };
        Self {
            status: error.status(),
            message,
        }
    }
}

/// Parses the head at the start of `bytes`. Returns none if the head is not complete. The caller then calls
/// this function again with the same `scan` when more bytes have come. The next request needs a new `scan`.
pub(crate) fn parse(bytes: &[u8], scan: &mut HeadScan) -> Result<Option<PodRequest>, BadRequest> {
    let Some(head) = parse_request(bytes, scan)? else {
        return Ok(None);
    };
    let mut request = PodRequest::new(&head, bytes);
    for (name, value) in header_lines(&bytes[..head.len]) {
        request.add(bytes, name, value)?;
    }
    if request.route == Route::Http {
        // The encoded body is not JSON itself. Without the mark, the platform refuses such a body.
        request.json &= head.content_encoding.is_none();
    }
    Ok(Some(request))
}

impl PodRequest {
    fn new(head: &RequestHead, bytes: &[u8]) -> Self {
        let content_type = head.content_type.map(|value| value.of(bytes));
        Self {
            len: head.len,
            route: route(head.method, head.path.of(bytes)),
            headless: head.method == Method::Head,
            // An HTTP/1.0 client keeps a connection only if the answer says keep-alive, which this
            // runtime does not.
            keep: head.keep_alive && head.minor == 1,
            is_old: head.minor == 0,
            framing: head.framing,
            expects_continue: head.expect_continue,
            json: media_type(content_type) == MediaType::Json,
            target: CallTarget {
                path: head.path,
                query: head.query,
            },
            left: None,
            id: None,
        }
    }

    /// Refuses a body that is too long to be held whole.
    pub(crate) fn check_length(&self) -> Result<(), BadRequest> {
        match self.framing {
            Framing::Length(length) if length > BODY_BYTES_MAX as u64 => {
                Err(ParseError::BodyTooLarge.into())
            }
            _ => Ok(()),
        }
    }

    fn add(&mut self, bytes: &[u8], name: &[u8], value: &[u8]) -> Result<(), BadRequest> {
        // The length alone excludes nearly every name, so few names are compared.
        match name.len() {
            13 if name.eq_ignore_ascii_case(b"x-deadline-ms") => {
                let number = digits(value).filter(|number| *number <= DEADLINE_MS_MAX);
                let number = number.ok_or_else(|| BadRequest {
                    status: 400,
                    message: "X-Deadline-Ms must be a whole number from 0 to 3600000".into(),
                })?;
                self.left = Some(Duration::from_millis(number));
            }
            14 if name.eq_ignore_ascii_case(b"x-execution-id") => {
                self.id.get_or_insert_with(|| place(bytes, value));
            }
            15 if is_mark(name, value) => self.route = Route::Http,
            _ => {}
        }
        Ok(())
    }
}

/// Returns whether this header marks an HTTP call. Such a call is the client's own request, and the
/// contract has other rules for its answer (§1.7).
pub(crate) fn is_mark(name: &[u8], value: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"x-nanofaas-call") && value.eq_ignore_ascii_case(b"http")
}

/// Returns which header names the call in the answer to this request. If `parse` refused the head, the header
/// lines are searched in `bytes`.
pub(crate) fn echo(parsed: &Result<Option<PodRequest>, BadRequest>, bytes: &[u8]) -> Echo {
    let is_http = match parsed {
        Ok(head) => head.as_ref().is_some_and(|head| head.route == Route::Http),
        Err(_) => refused_lines(bytes).any(|(name, value)| is_mark(name, value)),
    };
    match is_http {
        true => Echo::HttpAnswer,
        false => Echo::ExecutionId,
    }
}

/// Returns the method of a request whose head is in `bytes`.
pub(crate) fn method(bytes: &[u8]) -> &[u8] {
    let line = bytes.trim_ascii_start();
    line.split(|byte| *byte == b' ').next().unwrap_or_default()
}

/// Returns the target of a request whose head is in `bytes`.
pub(crate) fn target(bytes: &[u8]) -> &[u8] {
    let line = bytes.trim_ascii_start();
    line.split(|byte| *byte == b' ').nth(1).unwrap_or_default()
}

/// Returns the range of `part` within `whole`. `part` must be borrowed from `whole`.
fn place(whole: &[u8], part: &[u8]) -> Range<usize> {
    let from = part.as_ptr() as usize - whole.as_ptr() as usize;
    from..from + part.len()
}

/// Returns the value of `X-Execution-Id`, also for a head that `parse` refused, because its answer
/// needs the id.
pub(crate) fn id<'b>(
    parsed: &Result<Option<PodRequest>, BadRequest>,
    bytes: &'b [u8],
) -> Option<&'b [u8]> {
    match parsed {
        Ok(head) => Some(&bytes[head.as_ref()?.id.clone()?]),
        Err(_) => id_of_refused(bytes),
    }
}

/// Returns the headers of a head that was refused; none if the head is not complete.
fn refused_lines(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let lines = end.map(|end| header_lines(&bytes[..end + 2]));
    lines.into_iter().flatten()
}

fn id_of_refused(bytes: &[u8]) -> Option<&[u8]> {
    // The answer repeats the value, so a value with a byte that no header may hold is skipped.
    let is_sound = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    let mut ids = refused_lines(bytes).filter(|(name, value)| {
        name.eq_ignore_ascii_case(b"x-execution-id") && value.iter().all(is_sound)
    });
    ids.next().map(|(_, value)| value)
}

fn route(method: Method, path: &[u8]) -> Route {
    match (path, method) {
        (b"/invoke", Method::Post) => Route::Invoke,
        (b"/invoke", _) => Route::NotAllowed("POST"),
        (b"/health", Method::Get | Method::Head) => Route::Health,
        (b"/health", _) => Route::NotAllowed("GET, HEAD"),
        _ => Route::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use nanofaas_http1::head::HEAD_MAX;

    use super::*;

    fn parsed(head: &str) -> Result<Option<PodRequest>, BadRequest> {
        parse(head.as_bytes(), &mut HeadScan::default())
    }

    fn status(head: &str) -> u16 {
        match parsed(head) {
            Ok(Some(head)) => head
                .check_length()
                .map_or_else(|refusal| refusal.status, |()| 200),
            Ok(None) => 0,
            Err(refusal) => refusal.status,
        }
    }

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let text = "POST /invoke?a HTTP/1.1\r\nHost: f\r\nContent-Length: 5\r\n\
                    content-type: Application/JSON; charset=utf-8\r\nX-Deadline-Ms: 70\r\n\r\n";
        let mut scan = HeadScan::default();
        for at in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..at], &mut scan), Ok(None));
        }
        let head = parse(text.as_bytes(), &mut scan);
        let head = head.expect("sound").expect("whole");
        assert_eq!(parsed(text).expect("sound").as_ref(), Some(&head));
        assert_eq!(head.len, text.len());
        assert_eq!(head.route, Route::Invoke);
        assert_eq!(head.framing, Framing::Length(5));
        assert!(head.json && head.keep && !head.expects_continue);
        assert_eq!(head.left, Some(Duration::from_millis(70)));
    }

    #[test]
    fn the_first_execution_id_is_found() {
        fn found(text: &str) -> Option<&[u8]> {
            id(&parsed(text), text.as_bytes())
        }
        let text = "POST /invoke HTTP/1.1\r\nHost: f\r\nx-EXECUTION-id:  e 1\t \r\n\
                    X-Execution-Id: e2\r\n\r\n";
        assert_eq!(found(text), Some(&b"e 1"[..]));
        let refused = text.replace("\r\n\r\n", "\r\nExpect: more\r\n\r\n");
        assert_eq!(
            (status(&refused), found(&refused)),
            (417, Some(&b"e 1"[..]))
        );
        assert_eq!(found(&text[..text.len() - 1]), None);
        for none in [
            "X-Execution-I: e",
            "X-Execution-Id : e",
            "a: b",
            "X-Execution-Id: \0",
        ] {
            let text = format!(
                "POST /invoke HTTP/1.1\r\nHost: f\r\n{none}\r\n\r\nX-Execution-Id: e\r\n\r\n"
            );
            assert_eq!(
                (found(&text), id_of_refused(text.as_bytes())),
                (None, None),
                "{none}"
            );
        }
    }

    #[test]
    fn ambiguous_and_wrong_heads_are_refused() {
        let with = |headers: &str| {
            status(&format!(
                "POST /invoke HTTP/1.1\r\nHost: f\r\n{headers}\r\n\r\n"
            ))
        };
        assert_eq!(with("Content-Length: 1\r\nTransfer-Encoding: chunked"), 400);
        assert_eq!(with("Content-Length: 1\r\nContent-Length: 1"), 400);
        assert_eq!(with("Content-Length: 1, 1"), 400);
        assert_eq!(with("Content-Length: +1"), 400);
        assert_eq!(with("X-Deadline-Ms: soon"), 400);
        assert_eq!(with("X-Deadline-Ms: 3600000"), 200);
        assert_eq!(with("X-Deadline-Ms: 3600001"), 400);
        assert_eq!(with("Expect: more"), 417);
        assert_eq!(with("Content-Length: 8388608"), 200);
        assert_eq!(with("Content-Length: 8388609"), 413);
        assert_eq!(with("A : b"), 400);
        assert_eq!(with(&format!("A: {}", "b".repeat(HEAD_MAX))), 431);
        assert_eq!(with(&"A: b\r\n".repeat(101)), 431);
        assert_eq!(status("POST /invoke HTTP/1.1\nHost: f\nA: b\n\n"), 400);
        assert_eq!(status("GET / HTTP/2.0\r\n\r\n"), 505);
        let old = "POST /invoke HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(status(old), 400);
    }

    #[test]
    fn heads_mean_what_they_mean_to_the_platform() {
        let with = |headers: &str| {
            status(&format!(
                "POST /invoke HTTP/1.1\r\nHost: f\r\n{headers}\r\n\r\n"
            ))
        };
        // §3.2: a request of HTTP/1.1 has one Host.
        assert_eq!(status("POST /invoke HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(with("Host: f"), 400);
        assert_eq!(status("POST /invoke HTTP/1.0\r\n\r\n"), 200);
        // §6.1: an unknown coding before `chunked` gets 501. A list that does not end in `chunked`,
        // or has it two times, gets 400.
        assert_eq!(with("Transfer-Encoding: gzip, chunked"), 501);
        assert_eq!(with("Transfer-Encoding: gzip"), 400);
        assert_eq!(with("Transfer-Encoding: chunked, chunked"), 400);
        // RFC 9110 §8.6: a length may have any number of digits.
        assert_eq!(with("Content-Length: 0000000000000000000005"), 200);
        assert_eq!(with("Content-Length: 9999999999999999999"), 413);
        // RFC 9110 §10.1.1: an expectation of an HTTP/1.0 request is ignored.
        assert_eq!(status("POST /invoke HTTP/1.0\r\nExpect: x\r\n\r\n"), 200);
        // Two readers could use different types.
        assert_eq!(with("Content-Type: a/b\r\nContent-Type: c/d"), 400);
        // §3: a request line over 8 KiB gets 414.
        let long = format!("GET /{} HTTP/1.1\r\nHost: f\r\n\r\n", "a".repeat(8192));
        assert_eq!(status(&long), 414);
        // §3.2.2: a target in absolute form is accepted.
        let absolute = "POST http://f/invoke HTTP/1.1\r\nHost: f\r\n\r\n";
        let route = parsed(absolute).map(|head| head.expect("whole").route);
        assert_eq!(route, Ok(Route::Invoke));
        // §2.2: one empty line may come before the head, but not two.
        assert_eq!(status("\r\nGET /health HTTP/1.1\r\nHost: f\r\n\r\n"), 200);
        assert_eq!(
            status("\r\n\r\nGET /health HTTP/1.1\r\nHost: f\r\n\r\n"),
            400
        );
        // The platform sends a JSON body whose charset is not UTF-8 unchanged, and not in an
        // envelope, so the pod must take it as bytes.
        let json = |content_type: &str| {
            let head = format!("POST /invoke HTTP/1.0\r\nContent-Type: {content_type}\r\n\r\n");
            parsed(&head).map(|head| head.expect("whole").json)
        };
        assert_eq!(json("application/a+json"), Ok(true));
        assert_eq!(json("application/json; charset=utf-16"), Ok(false));
    }

    #[test]
    fn routes_name_the_methods_that_would_do() {
        assert_eq!(route(Method::Get, b"/health"), Route::Health);
        assert_eq!(
            route(Method::Post, b"/health"),
            Route::NotAllowed("GET, HEAD")
        );
        assert_eq!(route(Method::Get, b"/invoke"), Route::NotAllowed("POST"));
        assert_eq!(route(Method::Post, b"/invoke/x"), Route::NotFound);
    }
}
