//! Decides which headers of a message the platform passes on as an intermediary (RFC 9110 §7.6). It reads
//! heads that `request` or `response_head` has accepted, and writes nothing. `io` calls it for `/fn/`.

use crate::error::ParseError;
use crate::head::header_lines;
use crate::header_value::list;

/// The name by which this intermediary is known in `Via`.
pub const PSEUDONYM: &[u8] = b"nanofaas";

/// What happens to a header of a client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestHeader {
    /// The header goes to the pod unchanged.
    Kept,
    /// The header belongs to one hop, is meant for the platform, or may be set only by the platform.
    Dropped,
    /// The header describes the way from the client to this hop. The platform drops it, and writes
    /// `X-Forwarded-*` headers of its own.
    Forwarding,
    /// The header frames the message or names its host; the platform writes it itself.
    Rewritten,
}

impl RequestHeader {
    pub fn of(name: &[u8]) -> Self {
        // A server that passes headers as environment variables (CGI, WSGI) does not distinguish `_` from
        // `-`, so a rule for a name with `-` also holds for the name with `_`.
        let is = |known: &[u8]| is_like(name, known);
        let is_exactly = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match (name.len(), name[0] | 0x20) {
            (2, b't') if is(b"te") => Self::Dropped,
            (4, b'h') if is_exactly(b"host") => Self::Rewritten,
            (5, b'p') if is(b"proxy") => Self::Dropped,
            (7, b't') if is(b"trailer") => Self::Dropped,
            (7, b'u') if is(b"upgrade") => Self::Dropped,
            (9, b'f') if is(b"forwarded") => Self::Forwarding,
            (9, b'x') if is_exactly(b"x-real-ip") => Self::Forwarding,
            (9, b'x') if is(b"x-real-ip") => Self::Dropped,
            (10, b'c') if is(b"connection") => Self::Dropped,
            (10, b'k') if is(b"keep-alive") => Self::Dropped,
            (12, b'x') if is(b"x-timeout-ms") => Self::Dropped,
            (13, b'x') if is(b"x-deadline-ms") => Self::Dropped,
            (14, b'c') if is(b"content-length") => Self::Rewritten,
            (14, b'h') if is(b"http2-settings") => Self::Dropped,
            (14, b'x') if is(b"x-execution-id") => Self::Dropped,
            (16, b'p') if is(b"proxy-connection") => Self::Dropped,
            (17, b't') if is(b"transfer-encoding") => Self::Dropped,
            (18, b'x') if is(b"x-dispatch-attempt") => Self::Dropped,
            (19, b'p') if is(b"proxy-authorization") => Self::Dropped,
            (11.., b'x') if is_like(&name[..11], b"x-nanofaas-") => Self::Dropped,
            (12.., b'x') if is_like(&name[..12], b"x-forwarded-") => Self::of_forwarded(name),
            _ => Self::Kept,
        }
    }

    fn of_forwarded(name: &[u8]) -> Self {
        let known = [&b"for"[..], b"proto", b"host", b"prefix"];
        let is_known = known.iter().any(|known| is_like(&name[12..], known));
        match (name.contains(&b'_'), is_known) {
            (true, _) => Self::Dropped,
            (false, true) => Self::Forwarding,
            (false, false) => Self::Kept,
        }
    }
}

/// Returns whether a header of a pod's answer goes to the client.
pub fn is_for_client(name: &[u8]) -> bool {
    let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
    let kept_back = match (name.len(), name[0] | 0x20) {
        (2, b't') => is(b"te"),
        (7, b't') => is(b"trailer"),
        (7, b'u') => is(b"upgrade"),
        (10, b'c') => is(b"connection"),
        (10, b'k') => is(b"keep-alive"),
        (12, b'x') if is(b"x-cold-start") => true,
        (13, b'x') if is(b"x-not-started") => true,
        (14, b'x') if is(b"x-execution-id") => true,
        (16, b'p') => is(b"proxy-connection"),
        (17, b't') => is(b"transfer-encoding"),
        (18, b'x') if is(b"x-init-duration-ms") => true,
        (22, b's') => is(b"service-worker-allowed"),
        (11.., b'x') => name[..11].eq_ignore_ascii_case(b"x-nanofaas-"),
        _ => false,
    };
    !kept_back
}

/// The headers that `Connection` names, which therefore belong to one hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamedHeaders {
    /// Whether `Connection` names a header that is not always of one hop.
    any: bool,
}

impl NamedHeaders {
    /// Reads the `Connection` headers of a head. Fails if they name a header that every hop needs, because
    /// the next hop would read another message without this header.
    pub fn of(head: &[u8]) -> Result<Self, ParseError> {
        let mut any = false;
        for option in options(head) {
            let is = |known: &[u8]| option.eq_ignore_ascii_case(known);
            if is(b"host") || is(b"content-length") || is(b"content-type") {
                return Err(ParseError::Malformed(
                    "Connection names Host, Content-Length or Content-Type, which every hop needs",
                ));
            }
            any |= !(is(b"close") || is(b"keep-alive"));
        }
        Ok(Self { any })
    }

    /// Returns whether `Connection` names this header. `head` has to be the head that `of` has read.
    pub fn contain(self, head: &[u8], name: &[u8]) -> bool {
        self.any && options(head).any(|option| option.eq_ignore_ascii_case(name))
    }
}

/// Returns the options of all `Connection` headers.
fn options(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    header_lines(head)
        .filter(|(name, _)| name.eq_ignore_ascii_case(b"connection"))
        .flat_map(|(_, value)| list(value))
}

/// Returns how many entries of `Via` have this intermediary's name.
pub fn passes(head: &[u8]) -> usize {
    header_lines(head)
        .filter(|(name, _)| name.eq_ignore_ascii_case(b"via"))
        .flat_map(|(_, value)| list(value))
        .filter(|hop| {
            let mut words = hop.split(|byte| matches!(byte, b' ' | b'\t'));
            words.nth(1) == Some(PSEUDONYM)
        })
        .count()
}

/// Returns the value of the first header of this name; case does not count.
pub fn value_of<'a>(head: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    header_lines(head)
        .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
        .map(|(_, value)| value)
}

/// Returns the method of a request, as it was sent.
pub fn method_of(head: &[u8]) -> &[u8] {
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    head.split(|byte| *byte == b' ').next().unwrap_or_default()
}

/// Returns the reason phrase of an answer, as it was sent.
pub fn reason_of(head: &[u8]) -> &[u8] {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    line.splitn(3, |byte| *byte == b' ')
        .nth(2)
        .unwrap_or_default()
}

/// Returns whether two names are the same if case does not count and `_` stands for `-`. `known` is in lower
/// case.
fn is_like(name: &[u8], known: &[u8]) -> bool {
    let folded = |byte: &u8| match byte {
        b'_' => b'-',
        byte => byte.to_ascii_lowercase(),
    };
    name.len() == known.len() && name.iter().map(folded).eq(known.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_header_of_one_hop_is_dropped() {
        for name in [
            "Connection",
            "keep-alive",
            "Proxy-Connection",
            "Proxy-Authorization",
            "proxy",
            "TE",
            "Trailer",
            "Transfer-Encoding",
            "Upgrade",
            "HTTP2-Settings",
            "X-Timeout-Ms",
            "X-Execution-Id",
            "X-Deadline-Ms",
            "X-Dispatch-Attempt",
            "X-Nanofaas-Call",
            "x-nanofaas-anything",
        ] {
            let twin = name.replace('-', "_");
            for name in [name, &twin] {
                let found = RequestHeader::of(name.as_bytes());
                assert_eq!(found, RequestHeader::Dropped, "{name}");
            }
        }
        for name in [
            "X-Forwarded_For",
            "X_Forwarded_For",
            "x_forwarded-port",
            "X-Forwarded-Ssl_Id",
            "X_Real_IP",
        ] {
            let found = RequestHeader::of(name.as_bytes());
            assert_eq!(found, RequestHeader::Dropped, "{name}");
        }
    }

    #[test]
    fn forwarding_headers_are_set_apart() {
        for name in [
            "Forwarded",
            "X-Forwarded-For",
            "x-forwarded-proto",
            "X-Forwarded-Host",
            "X-Forwarded-Prefix",
            "X-Real-IP",
        ] {
            let found = RequestHeader::of(name.as_bytes());
            assert_eq!(found, RequestHeader::Forwarding, "{name}");
        }
    }

    #[test]
    fn other_headers_are_kept() {
        for name in [
            "Accept",
            "X-Forwarded-Port",
            "X-Nanofaas",
            "Authorization",
            "Cookie",
            "X-Trace-Id",
            "t",
            "x",
            "Content-Type",
            "Expect",
            "Sec-WebSocket-Key",
        ] {
            let found = RequestHeader::of(name.as_bytes());
            assert_eq!(found, RequestHeader::Kept, "{name}");
        }
        for name in ["Host", "Content-Length", "content_length"] {
            let found = RequestHeader::of(name.as_bytes());
            assert_eq!(found, RequestHeader::Rewritten, "{name}");
        }
    }

    #[test]
    fn what_a_pod_tells_the_platform_stays_here() {
        for name in [
            "X-Nanofaas-Answer",
            "X-Nanofaas-Own",
            "X-Not-Started",
            "x-cold-start",
            "X-Init-Duration-Ms",
            "X-Execution-Id",
            "Service-Worker-Allowed",
            "Connection",
            "Keep-Alive",
            "Transfer-Encoding",
            "Trailer",
            "Upgrade",
            "TE",
            "Proxy-Connection",
        ] {
            assert!(!is_for_client(name.as_bytes()), "{name}");
        }
        for name in [
            "Set-Cookie",
            "X-Nanofaas",
            "X-Cold-Stare",
            "Date",
            "Server-Timing",
            "Via",
            "X",
        ] {
            assert!(is_for_client(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn connection_names_headers_of_one_hop() {
        let head =
            b"GET / HTTP/1.1\r\nConnection: close, X-Own\r\nX-Own: 1\r\nconnection: b\r\n\r\n";
        let named = NamedHeaders::of(head).unwrap();
        assert!(named.contain(head, b"x-OWN") && named.contain(head, b"B"));
        assert!(!named.contain(head, b"X-Other"));
        let plain = b"GET / HTTP/1.1\r\nConnection: Keep-Alive\r\n\r\n";
        assert_eq!(
            NamedHeaders::of(plain).unwrap(),
            NamedHeaders { any: false }
        );
        for needed in ["host", "Content-Length", "CONTENT-TYPE"] {
            let head = format!("GET / HTTP/1.1\r\nConnection: x, {needed}\r\n\r\n");
            assert!(NamedHeaders::of(head.as_bytes()).is_err(), "{needed}");
        }
    }

    #[test]
    fn own_hops_of_via_are_counted() {
        let of = |head: &str| passes(head.as_bytes());
        assert_eq!(
            of("GET / HTTP/1.1\r\nVia: 1.1 nanofaas, 1.0 b\r\nvia: 1.1 nanofaas (x)\r\n\r\n"),
            2
        );
        assert_eq!(
            of("GET / HTTP/1.1\r\nVia: nanofaas\r\nX: 1.1 nanofaas\r\n\r\n"),
            0
        );
    }

    #[test]
    fn first_words_are_found() {
        assert_eq!(method_of(b"\r\nPROPFIND /a HTTP/1.1\r\n\r\n"), b"PROPFIND");
        assert_eq!(
            reason_of(b"HTTP/1.1 404 Not Here\r\nA: b\r\n\r\n"),
            b"Not Here"
        );
        assert_eq!(reason_of(b"HTTP/1.1 200 \r\n\r\n"), b"");
        assert_eq!(
            value_of(b"GET / HTTP/1.1\r\nA: 1\r\na: 2\r\n\r\n", b"a"),
            Some(&b"1"[..])
        );
    }
}
