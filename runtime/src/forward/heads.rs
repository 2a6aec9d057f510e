//! Reads the heads of requests and answers that are passed on, and writes the answer's head for the
//! platform. `nanofaas_http1` does the parsing. `forward` calls this module.

use nanofaas_http1::framing::Framing;
use nanofaas_http1::head::{HeadScan, header_lines};
use nanofaas_http1::request::{Method, parse_request};
use nanofaas_http1::response_head::{ResponseBody, parse_response};

use crate::answer::Echo;
use crate::request::is_mark;

/// Bytes that are not HTTP/1.1, or that two parsers could read differently.
#[derive(Debug)]
pub(super) struct NotHttp;

pub(super) struct ForwardedRequest {
    pub(super) len: usize,
    pub(super) minor: u8,
    /// Whether the method is HEAD, whose answer has no body.
    pub(super) headless: bool,
    pub(super) body: ResponseBody,
    pub(super) keep: bool,
    /// The first `X-Execution-Id`.
    pub(super) id: Option<Vec<u8>>,
    pub(super) echo: Echo,
}

pub(super) struct ForwardedAnswer {
    pub(super) len: usize,
    pub(super) status: u16,
    pub(super) body: ResponseBody,
    pub(super) keep: bool,
}

pub(super) fn request_head(bytes: &[u8]) -> Result<Option<ForwardedRequest>, NotHttp> {
    // Programs treat an empty line before the head differently, so the bytes are passed on without
    // parsing.
    if bytes.starts_with(b"\r") {
        return Err(NotHttp);
    }
    let Some(head) = parse_request(bytes, &mut HeadScan::default()).map_err(|_| NotHttp)? else {
        return Ok(None);
    };
    let (mut id, mut echo) = (None, Echo::ExecutionId);
    for (name, value) in header_lines(&bytes[..head.len]) {
        if name.eq_ignore_ascii_case(b"x-execution-id") {
            id = id.or(Some(value));
        } else if is_mark(name, value) {
            echo = Echo::HttpAnswer;
        }
    }
    Ok(Some(ForwardedRequest {
        len: head.len,
        minor: head.minor,
        headless: head.method == Method::Head,
        body: match head.framing {
            Framing::None => ResponseBody::None,
            Framing::Length(length) => ResponseBody::Length(length),
            Framing::Chunked => ResponseBody::Chunked,
        },
        keep: head.keep_alive,
        id: id.map(<[u8]>::to_vec),
        echo,
    }))
}

/// Reads the answer's head, and writes it to `out` in the form that the platform gets.
pub(super) fn answer_head(
    bytes: &[u8],
    request: &ForwardedRequest,
    out: &mut Vec<u8>,
) -> Result<Option<ForwardedAnswer>, NotHttp> {
    let Some(mut head) = parse_response(bytes, &mut HeadScan::default()).map_err(|_| NotHttp)?
    else {
        return Ok(None);
    };
    if request.headless {
        head = head.to_head_request();
    }
    out.clear();
    // The platform reads the id of the final answer only.
    let id = request.id.as_deref().filter(|_| head.status >= 200);
    put_answer(out, &bytes[..head.len], request.echo, id);
    if head.body == ResponseBody::UntilClose && request.minor == 1 {
        // HTTP/1.0 has no chunks. An intermediary sends its own version (RFC 9112 §2.3 and §6.1).
        out[..VERSION.len()].copy_from_slice(VERSION);
        // Removes the empty line at the end of the head.
        out.truncate(out.len() - 2);
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
    }
    Ok(Some(ForwardedAnswer {
        len: head.len,
        status: head.status,
        body: head.body,
        keep: head.keep_alive,
    }))
}

const VERSION: &[u8] = b"HTTP/1.1";

/// Appends the lines of `head` without the program's own ids, a line with `id`, and the empty line.
fn put_answer(out: &mut Vec<u8>, head: &[u8], echo: Echo, id: Option<&[u8]>) {
    let lines = head.split_inclusive(|byte| *byte == b'\n');
    for line in lines.filter(|line| *line != b"\r\n") {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if !name.eq_ignore_ascii_case(echo.name().as_bytes()) {
            out.extend_from_slice(line);
        }
    }
    if let Some(id) = id {
        echo.put(out, id);
    }
    out.extend_from_slice(b"\r\n");
}
