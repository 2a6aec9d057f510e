//! Parses the head of a request. Pure: bytes in, facts out; what two parsers could read
//! differently is refused. Called by `connection`.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::time::Duration;

pub(crate) const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 100;
/// The platform sends at most 1 MiB unless its operator says otherwise.
pub(crate) const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
const DEADLINE_MS_MAX: u64 = 3_600_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Invoke,
    Health,
    NotFound,
    /// The methods that would do.
    NotAllowed(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(usize),
    Chunked,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes, the empty line included.
    pub(crate) len: usize,
    pub(crate) route: Route,
    /// HEAD: the answer has no body.
    pub(crate) headless: bool,
    pub(crate) keep: bool,
    pub(crate) framing: Framing,
    pub(crate) expects_continue: bool,
    /// The body is `application/json`.
    pub(crate) json: bool,
    /// `X-Deadline-Ms`.
    pub(crate) left: Option<Duration>,
    /// Where in the head the value of `X-Execution-Id` lies.
    pub(crate) id: Option<Range<usize>>,
}

/// A request that cannot be read; the connection closes after the answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) message: &'static str,
}

impl Refusal {
    pub(crate) const fn new(status: u16, message: &'static str) -> Self {
        Self { status, message }
    }
}

/// The head at the start of `bytes`; none while it is not there whole.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Head>, Refusal> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(_) => return Err(Refusal::new(431, "the head is over 16 KiB")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::new(431, "there are more than 100 headers"));
        }
        Err(httparse::Error::Version) => {
            return Err(Refusal::new(
                505,
                "only HTTP/1.1 and HTTP/1.0 are spoken here",
            ));
        }
        Err(_) => return Err(Refusal::new(400, "the head is not HTTP/1.1")),
    };
    if bare_line_end(&bytes[..length]) {
        return Err(Refusal::new(
            400,
            "every line of the head must end with CRLF",
        ));
    }
    let minor = request.version.unwrap_or(0);
    let method = request.method.unwrap_or_default();
    let mut head = Head {
        len: length,
        route: route(method, request.path.unwrap_or_default()),
        headless: method == "HEAD",
        keep: minor == 1,
        framing: Framing::Length(0),
        expects_continue: false,
        json: false,
        left: None,
        id: None,
    };
    let mut ending = Ending::default();
    for header in request.headers.iter() {
        head.take(header.name, header.value, &mut ending)?;
        if header.name.len() == 14 && header.name.eq_ignore_ascii_case("x-execution-id") {
            head.id.get_or_insert_with(|| place(bytes, header.value));
        }
    }
    head.framing = ending.framing(minor)?;
    Ok(Some(head))
}

/// Where `part`, which was borrowed from `whole`, lies in it.
fn place(whole: &[u8], part: &[u8]) -> Range<usize> {
    let from = part.as_ptr() as usize - whole.as_ptr() as usize;
    from..from + part.len()
}

/// The value of `X-Execution-Id` in what was `parsed` of `bytes`, a head that was refused included.
pub(crate) fn id<'b>(parsed: &Result<Option<Head>, Refusal>, bytes: &'b [u8]) -> Option<&'b [u8]> {
    match parsed {
        Ok(head) => Some(&bytes[head.as_ref()?.id.clone()?]),
        Err(_) => id_of_refused(bytes),
    }
}

/// None while the head is not there whole.
fn id_of_refused(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let lines = bytes[..end].split(|byte| *byte == b'\n').skip(1);
    let mut ids = lines.filter_map(|line| {
        let (name, value) = line.split_at_checked(15)?;
        let sound = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
        let value = value.strip_suffix(b"\r").unwrap_or(value).trim_ascii();
        let is_id = name.eq_ignore_ascii_case(b"x-execution-id:") && value.iter().all(sound);
        is_id.then_some(value)
    });
    ids.next()
}

fn route(method: &str, target: &str) -> Route {
    let path = target.split('?').next().unwrap_or_default();
    match (path, method) {
        ("/invoke", "POST") => Route::Invoke,
        ("/invoke", _) => Route::NotAllowed("POST"),
        ("/health", "GET" | "HEAD") => Route::Health,
        ("/health", _) => Route::NotAllowed("GET, HEAD"),
        _ => Route::NotFound,
    }
}

/// httparse takes a bare LF for a line's end. Looks at all pairs, without a way out on the first
/// find, so that the compiler takes many at once.
pub(crate) fn bare_line_end(head: &[u8]) -> bool {
    let pairs = head.iter().zip(head.iter().skip(1));
    let bare = |(before, byte): (&u8, &u8)| (*byte == b'\n') & (*before != b'\r');
    head.first() == Some(&b'\n') || pairs.fold(false, |found, pair| found | bare(pair))
}

/// What the headers say about where the body ends.
#[derive(Default)]
struct Ending {
    length: Option<usize>,
    chunked: bool,
}

impl Ending {
    fn framing(&self, minor: u8) -> Result<Framing, Refusal> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Refusal::new(
                400,
                "both Content-Length and Transfer-Encoding are there: send one",
            )),
            (true, None) if minor == 0 => {
                Err(Refusal::new(400, "HTTP/1.0 has no Transfer-Encoding"))
            }
            (true, None) => Ok(Framing::Chunked),
            (false, length) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
}

impl Head {
    fn take(&mut self, name: &str, value: &[u8], ending: &mut Ending) -> Result<(), Refusal> {
        // The length decides for nearly every header, so that few names are compared.
        match name.len() {
            6 if name.eq_ignore_ascii_case("expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal::new(417, "Expect can only be 100-continue"));
                }
                self.expects_continue = true;
            }
            10 if name.eq_ignore_ascii_case("connection") => {
                let mut words = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                if words.any(|word| word.eq_ignore_ascii_case(b"close")) {
                    self.keep = false;
                }
            }
            12 if name.eq_ignore_ascii_case("content-type") => self.json = is_json(value),
            13 if name.eq_ignore_ascii_case("x-deadline-ms") => {
                let wrong = "X-Deadline-Ms must be a whole number from 0 to 3600000";
                let number = digits(value).filter(|number| *number <= DEADLINE_MS_MAX);
                let number = number.ok_or_else(|| Refusal::new(400, wrong))?;
                self.left = Some(Duration::from_millis(number));
            }
            14 if name.eq_ignore_ascii_case("content-length") => {
                let wrong = Refusal::new(400, "Content-Length must be one whole number");
                let Some(length) = digits(value) else {
                    return Err(wrong);
                };
                if ending.length.is_some() {
                    return Err(wrong);
                }
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                if length > BODY_BYTES_MAX {
                    return Err(TOO_LARGE);
                }
                ending.length = Some(length);
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                if ending.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::new(400, "Transfer-Encoding can only be chunked"));
                }
                ending.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }
}

pub(crate) const TOO_LARGE: Refusal = Refusal::new(413, "the body is over 8 MiB");

/// Whether a body of this type is JSON: by its name, or by its suffix (RFC 6839).
pub(crate) fn is_json(content_type: &[u8]) -> bool {
    let kind = essence(content_type).to_ascii_lowercase();
    let subtype = kind.strip_prefix(b"application/").unwrap_or_default();
    subtype == b"json"
        || subtype
            .strip_suffix(b"+json")
            .is_some_and(|name| !name.is_empty())
}

/// Whether it is `application/json` itself, which has no type of its own to be told.
pub(crate) fn is_plain_json(content_type: &[u8]) -> bool {
    essence(content_type).eq_ignore_ascii_case(b"application/json")
}

fn essence(content_type: &[u8]) -> &[u8] {
    let kind = content_type.split(|byte| *byte == b';').next();
    kind.unwrap_or_default().trim_ascii()
}

pub(crate) fn digits(value: &[u8]) -> Option<u64> {
    let sound = (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| sound)?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_told_by_name_and_suffix() {
        for (content_type, json, plain) in [
            ("application/json", true, true),
            ("Application/JSON ; charset=utf-8", true, true),
            ("application/vnd.api+json; ext=a", true, false),
            ("application/problem+JSON", true, false),
            ("application/+json", false, false),
            ("application/jsonl", false, false),
            ("image/a+json", false, false),
            ("", false, false),
        ] {
            let bytes = content_type.as_bytes();
            assert_eq!(
                (is_json(bytes), is_plain_json(bytes)),
                (json, plain),
                "{content_type}"
            );
        }
    }

    fn status(head: &str) -> u16 {
        match parse(head.as_bytes()) {
            Ok(Some(_)) => 200,
            Ok(None) => 0,
            Err(refusal) => refusal.status,
        }
    }

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let text = "POST /invoke?a HTTP/1.1\r\nContent-Length: 5\r\n\
                    content-type: Application/JSON; charset=utf-8\r\nX-Deadline-Ms: 70\r\n\r\n";
        for at in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..at]), Ok(None));
        }
        let head = parse(text.as_bytes()).expect("sound").expect("whole");
        assert_eq!(head.len, text.len());
        assert_eq!(head.route, Route::Invoke);
        assert_eq!(head.framing, Framing::Length(5));
        assert!(head.json && head.keep && !head.expects_continue);
        assert_eq!(head.left, Some(Duration::from_millis(70)));
    }

    #[test]
    fn the_first_execution_id_is_found() {
        fn found(text: &str) -> Option<&[u8]> {
            id(&parse(text.as_bytes()), text.as_bytes())
        }
        let text = "POST /invoke HTTP/1.1\r\nx-EXECUTION-id:  e 1\t \r\nX-Execution-Id: e2\r\n\r\n";
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
            let text = format!("POST /invoke HTTP/1.1\r\n{none}\r\n\r\nX-Execution-Id: e\r\n\r\n");
            assert_eq!(
                (found(&text), id_of_refused(text.as_bytes())),
                (None, None),
                "{none}"
            );
        }
    }

    #[test]
    fn ambiguous_and_wrong_heads_are_refused() {
        let with = |headers: &str| status(&format!("POST /invoke HTTP/1.1\r\n{headers}\r\n\r\n"));
        assert_eq!(with("Content-Length: 1\r\nTransfer-Encoding: chunked"), 400);
        assert_eq!(with("Content-Length: 1\r\nContent-Length: 1"), 400);
        assert_eq!(with("Content-Length: 1, 1"), 400);
        assert_eq!(with("Content-Length: +1"), 400);
        assert_eq!(with("Transfer-Encoding: gzip, chunked"), 400);
        assert_eq!(with("X-Deadline-Ms: soon"), 400);
        assert_eq!(with("Expect: more"), 417);
        assert_eq!(with("Content-Length: 8388608"), 200);
        assert_eq!(with("Content-Length: 8388609"), 413);
        assert_eq!(with("A : b"), 400);
        assert_eq!(with(&format!("A: {}", "b".repeat(HEAD_BYTES_MAX))), 431);
        assert_eq!(with(&"A: b\r\n".repeat(101)), 431);
        assert_eq!(status("POST /invoke HTTP/1.1\nA: b\n\n"), 400);
        assert_eq!(status("GET / HTTP/2.0\r\n\r\n"), 505);
        let old = "POST /invoke HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(status(old), 400);
    }

    #[test]
    fn routes_name_the_methods_that_would_do() {
        assert_eq!(route("GET", "/health"), Route::Health);
        assert_eq!(route("POST", "/health"), Route::NotAllowed("GET, HEAD"));
        assert_eq!(route("GET", "/invoke"), Route::NotAllowed("POST"));
        assert_eq!(route("POST", "/invoke/x"), Route::NotFound);
    }
}
