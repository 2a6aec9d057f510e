//! Reads the parts of a request's head that only `/fn/` needs, and writes the head of the request that the
//! pod gets.

use std::net::IpAddr;

use nanofaas_core::spec::{ExecutionMode, SpecFields};
use nanofaas_core::time::{Nanos, Uptime};
use nanofaas_http1::forward::{NamedHeaders, PSEUDONYM, RequestHeader, method_of, passes};
use nanofaas_http1::framing::Framing;
use nanofaas_http1::head::header_lines;
use nanofaas_http1::request::{Method, RequestHead};

use crate::http::error::HttpError;
use crate::http::response::number;
use crate::invoke::call::ServedCall;

/// A request whose `Via` names this proxy this many times is refused, because it goes in a circle.
const PASSES_MAX: usize = 16;
/// The spare bytes of a buffer for the header lines that are added to a request.
const ADDED_ROOM: usize = 512;

/// The parts of a request's head that only `/fn/` needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForwardHead {
    pub(crate) named: NamedHeaders,
    /// The position in the head at which the path for the pod begins, which is behind the function's name.
    pub(crate) path_at: usize,
    path_end: usize,
    /// Whether the request asks for a WebSocket.
    pub(crate) is_websocket: bool,
}

impl ForwardHead {
    /// Checks that this spec serves the request; the error says why it does not. The spec may be newer than the
    /// one that admission has read.
    pub(crate) fn check(self, spec: &SpecFields, head: &[u8]) -> Result<(), &'static str> {
        if !spec.http {
            return Err("the function is not served at /fn/ any more");
        }
        if spec.execution_mode == ExecutionMode::Pool && climbs(&head[self.path_at..self.path_end])
        {
            return Err(CLIMBS);
        }
        Ok(())
    }

    /// Reads the head of a request; fails if the request goes in a circle. `name_len` is the length of the
    /// function's name as the path spells it.
    pub(crate) fn read(
        head: &RequestHead,
        bytes: &[u8],
        name_len: usize,
    ) -> Result<Self, HttpError> {
        let bytes = &bytes[..head.len];
        let named = NamedHeaders::of(bytes)?;
        if passes(bytes) >= PASSES_MAX {
            return Err(HttpError::Loop);
        }
        let path_at = head.path.start() + PREFIX.len() + name_len;
        Ok(Self {
            named,
            path_at,
            path_end: head.path.end(),
            is_websocket: is_websocket(head, named, bytes),
        })
    }
}

/// Returns whether a request opens a WebSocket (RFC 6455 §4.1). All other upgrades are ignored, as RFC 9110
/// §7.8 allows.
fn is_websocket(head: &RequestHead, named: NamedHeaders, bytes: &[u8]) -> bool {
    let mut upgrades =
        header_lines(bytes).filter(|(name, _)| name.eq_ignore_ascii_case(b"upgrade"));
    head.method == Method::Get
        && head.minor == 1
        && head.framing == Framing::None
        && named.contain(bytes, b"upgrade")
        && upgrades
            .next()
            .is_some_and(|(_, value)| value.eq_ignore_ascii_case(b"websocket"))
        && upgrades.next().is_none()
}

/// The part of a path before the name of a function that is served as an HTTP server.
pub(crate) const PREFIX: &[u8] = b"/fn/";

/// Returns an endpoint's path without its query and its last slash. The path of a request is appended to it.
fn base(path: &str) -> &str {
    let path = path.split('?').next().unwrap_or_default();
    path.strip_suffix('/').unwrap_or(path)
}

/// The advice about a path that climbs.
pub(crate) const CLIMBS: &str =
    "the path has a segment . or .., which could leave the endpoint's paths; resolve it first";

/// Returns whether a path has a segment `.` or `..`, by which a request could leave the endpoint's path.
/// Backslashes and escapes count, too, because some servers interpret them.
pub(crate) fn climbs(path: &[u8]) -> bool {
    let (mut dots, mut others, mut at) = (0, 0, 0);
    while at <= path.len() {
        let (byte, width) = match path.get(at..) {
            Some([b'%', high, low, ..]) => {
                let digits = [*high, *low];
                let text = str::from_utf8(&digits).unwrap_or_default();
                match u8::from_str_radix(text, 16) {
                    Ok(byte @ (b'.' | b'/' | b'\\')) => (Some(byte), 3),
                    _ => (Some(b'%'), 1),
                }
            }
            Some([byte, ..]) => (Some(*byte), 1),
            _ => (None, 1),
        };
        match byte {
            Some(b'.') => dots += 1,
            None | Some(b'/' | b'\\') => {
                if others == 0 && (dots == 1 || dots == 2) {
                    return true;
                }
                (dots, others) = (0, 0);
            }
            Some(_) => others += 1,
        }
        at += width;
    }
    false
}

/// Writes the head of the request for the pod, into a buffer with room for `more` bytes behind the head.
pub(crate) fn write_head(
    call: &ServedCall<'_>,
    forward: ForwardHead,
    peer: Option<IpAddr>,
    deadline: Uptime,
    more: usize,
) -> Vec<u8> {
    let thread = call.thread;
    let head = &call.request.head;
    let bytes = &call.request.head_bytes()[..head.len];
    let entry = call.entry();
    let mut out = thread.buffers.take(head.len + ADDED_ROOM + more);
    out.extend_from_slice(method_of(bytes));
    out.push(b' ');
    let spec = &entry.function.spec;
    let is_pool = spec.execution_mode == ExecutionMode::Pool;
    if let Some(endpoint) = spec.endpoint_url.as_ref().filter(|_| is_pool) {
        out.extend_from_slice(base(endpoint.path()).as_bytes());
    }
    let path = &bytes[forward.path_at..head.path.end()];
    out.extend_from_slice(if path.is_empty() { b"/" } else { path });
    if let Some(query) = head.query {
        out.push(b'?');
        out.extend_from_slice(query.of(bytes));
    }
    out.extend_from_slice(b" HTTP/1.1");
    let mut line = |name: &[u8], value: &[u8]| {
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
    };
    let host = head.host.map(|host| host.of(bytes));
    let name = entry.function.name().as_bytes();
    line(
        b"Host",
        match host {
            Some(host) if !is_pool => host,
            _ => &entry.host,
        },
    );
    for (header, value) in header_lines(bytes) {
        let is_kept = RequestHeader::of(header) == RequestHeader::Kept;
        if is_kept && !forward.named.contain(bytes, header) {
            line(header, value);
        }
    }
    line(b"X-Nanofaas-Call", b"http");
    line(b"X-Execution-Id", &call.id.text());
    line(b"Via", VIA);
    if let Some(peer) = peer {
        let mut text = [0; 45];
        line(b"X-Forwarded-For", address(peer, &mut text));
    }
    line(b"X-Forwarded-Proto", b"http");
    line(b"X-Forwarded-Host", host.unwrap_or(name));
    line(b"X-Forwarded-Prefix", PREFIX);
    out.extend_from_slice(name);
    match head.framing {
        Framing::None if forward.is_websocket => out.extend_from_slice(SWITCH),
        Framing::None => {}
        Framing::Length(length) => {
            out.extend_from_slice(b"\r\nContent-Length: ");
            number(&mut out, length);
        }
        Framing::Chunked => out.extend_from_slice(b"\r\nTransfer-Encoding: chunked"),
    }
    out.extend_from_slice(b"\r\nX-Deadline-Ms: ");
    let left = deadline.since(thread.recent()).as_ns();
    number(&mut out, left.div_ceil(Nanos::from_ms(1).as_ns()));
    out.extend_from_slice(b"\r\n\r\n");
    out
}

/// The header lines of a request or an answer that switches to WebSocket.
pub(crate) const SWITCH: &[u8] = b"\r\nConnection: upgrade\r\nUpgrade: websocket";

/// The entry of this proxy in `Via`.
pub(crate) const VIA: &[u8] = b"1.1 nanofaas";

const _: () = assert!(VIA.len() == b"1.1 ".len() + PSEUDONYM.len());

/// Writes an address into `text`, which has room for the longest address.
fn address(ip: IpAddr, text: &mut [u8; 45]) -> &[u8] {
    use std::io::Write;
    // An IPv4 client of an IPv6 listener has a mapped address. The pod gets the plain IPv4 address.
    let ip = ip.to_canonical();
    let mut left = &mut text[..];
    let written = write!(left, "{ip}");
    let unused = left.len();
    match written {
        Ok(()) => &text[..45 - unused],
        Err(_) => b"unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_climbs_is_known() {
        for path in [
            "/..",
            "/../a",
            "/a/./b",
            "/%2e%2E/a",
            "/.%2e",
            "/a\\..\\b",
            "/a%5c..%5Cb",
            "/a%2f..",
            ".",
        ] {
            assert!(climbs(path.as_bytes()), "{path}");
        }
        for path in [
            "",
            "/",
            "/a..b/...",
            "/.a/b.",
            "/%2ea",
            "/a//b",
            "/%",
            "/%2",
            "/..%zz",
        ] {
            assert!(!climbs(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn an_endpoints_path_is_a_base() {
        assert_eq!(base("/"), "");
        assert_eq!(base("/a/b/?c=/"), "/a/b");
        assert_eq!(base("/invoke"), "/invoke");
    }

    #[test]
    fn an_address_is_written_without_its_mapping() {
        let of = |text: &str| {
            let mut room = [0; 45];
            String::from_utf8_lossy(address(text.parse().unwrap(), &mut room)).into_owned()
        };
        assert_eq!(of("127.0.0.1"), "127.0.0.1");
        assert_eq!(of("::ffff:10.1.2.3"), "10.1.2.3");
        assert_eq!(
            of("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"),
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"
        );
    }
}
