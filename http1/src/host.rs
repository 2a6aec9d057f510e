//! Parses `Host`: a name or an address, with an optional port (RFC 9110 §7.2), and decides whether
//! it names this machine. This module allocates nothing. `request`, `io` and the management port
//! call it.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A valid host, without its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host<'a> {
    /// A name or an IPv4 address, with its escapes not decoded. It may be empty, because a client
    /// sends an empty `Host` if the target names no host.
    Name(&'a [u8]),
    Ip6(Ipv6Addr),
}

impl<'a> Host<'a> {
    /// Parses the value of `Host`. Returns none if the value is not a host, or if two parsers could
    /// read it differently.
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        if let [b'[', rest @ ..] = value {
            let end = rest.iter().position(|&byte| byte == b']')?;
            // The parser of addresses refuses a zone, which has a meaning only on the client's
            // machine (RFC 6874 §4).
            let address = str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
            return is_port_or_nothing(&rest[end + 1..]).then_some(Self::Ip6(address));
        }
        // The value is read in one pass, because every request has a `Host`.
        let (mut end, mut has_escapes) = (value.len(), false);
        for (at, &byte) in value.iter().enumerate() {
            match CLASS[usize::from(byte)] {
                IN_NAME => {}
                PERCENT => has_escapes = true,
                COLON => {
                    end = at;
                    break;
                }
                _ => return None,
            }
        }
        let (name, port) = value.split_at(end);
        let is_whole = !has_escapes || has_whole_escapes(name);
        let sound = is_whole && is_port_or_nothing(port) && (!name.is_empty() || port.is_empty());
        sound.then_some(Self::Name(name))
    }

    /// Returns whether the host is `localhost` or a loopback address. Other names of this machine do not
    /// count, because a resolver could give them another address.
    // The function is inlined, so that the compiler can omit this match after a call of `parse`,
    // which has just distinguished a name from an address.
    #[inline]
    pub fn is_loopback(self) -> bool {
        match self {
            Self::Ip6(address) => address.is_loopback(),
            // Nearly all local clients send one of these two values.
            Self::Name(b"127.0.0.1" | b"localhost") => true,
            Self::Name(name) => is_loopback_name(name),
        }
    }
}

impl Host<'_> {
    /// Returns whether browsers take the host for this machine: it is a loopback host, or a name below
    /// `localhost` (RFC 6761 §6.3).
    pub fn is_local(self) -> bool {
        const SUFFIX: &[u8] = b".localhost";
        if let Self::Name(name) = self
            && name.len() > SUFFIX.len()
            && name[name.len() - SUFFIX.len()..].eq_ignore_ascii_case(SUFFIX)
        {
            return true;
        }
        self.is_loopback()
    }
}

fn is_loopback_name(name: &[u8]) -> bool {
    let ip = str::from_utf8(name).ok().and_then(|name| name.parse().ok());
    name.eq_ignore_ascii_case(b"localhost") || ip.is_some_and(|ip: Ipv4Addr| ip.is_loopback())
}

/// Returns whether `rest` is empty, or a colon with a valid port number. A colon alone is refused, because
/// some parsers read it as port 80 and others as no port.
fn is_port_or_nothing(rest: &[u8]) -> bool {
    match rest {
        [] => true,
        // More than five digits are refused before the fold, so that the number cannot overflow.
        [b':', digits @ ..] if (1..=5).contains(&digits.len()) => {
            let number = digits.iter().try_fold(0u32, |number, byte| {
                byte.is_ascii_digit()
                    .then(|| number * 10 + u32::from(byte - b'0'))
            });
            number.is_some_and(|number| number <= u32::from(u16::MAX))
        }
        _ => false,
    }
}

fn has_whole_escapes(name: &[u8]) -> bool {
    let mut after = name.split(|&byte| byte == b'%').skip(1);
    after.all(|rest| rest.len() >= 2 && rest[..2].iter().all(u8::is_ascii_hexdigit))
}

const OTHER: u8 = 0;
const IN_NAME: u8 = 1;
const PERCENT: u8 = 2;
const COLON: u8 = 3;

/// The class of each byte in a host. A comma is not allowed in a name, because a parser could take
/// the value for a list.
static CLASS: [u8; 256] = {
    let (mut table, mut byte) = ([OTHER; 256], 0);
    while byte < table.len() {
        table[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => IN_NAME,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'=' => IN_NAME,
            b'%' => PERCENT,
            b':' => COLON,
            _ => OTHER,
        };
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_taken_apart() {
        let of = |value: &'static str| Host::parse(value.as_bytes());
        for name in [
            "",
            "a",
            "a.b-c_d",
            "127.0.0.1",
            "a%2Fb",
            "a.",
            "x!$&'()*+;=",
        ] {
            assert_eq!(of(name), Some(Host::Name(name.as_bytes())), "{name}");
        }
        assert_eq!(of("a:0"), Some(Host::Name(b"a")));
        assert_eq!(of("a:65535"), Some(Host::Name(b"a")));
        assert_eq!(of("[::1]"), Some(Host::Ip6(Ipv6Addr::LOCALHOST)));
        assert_eq!(of("[::1]:8080"), Some(Host::Ip6(Ipv6Addr::LOCALHOST)));
        for bad in [
            "[::1].a",
            "[::1]a",
            "[::1",
            "::1",
            "[]",
            "[",
            "]",
            "a]",
            "[[::1]]",
            "[::1]]",
            "[::1%lo]",
            "[::1%25lo]",
            "[127.0.0.1]",
            "[a]",
            "[v1.a]",
            "[::1]:",
            "[::1]:a",
            "a:",
            "a:b",
            "a:1:1",
            "a:65536",
            "a:99999",
            "a:000080",
            "a:-1",
            "a:+1",
            "a: 1",
            "u@a",
            "a%",
            "a%2",
            "a%zz",
            ":1",
            ":",
            "a,b",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "\u{e9}",
            "a:\u{664}",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn loopback_is_known_by_each_name() {
        let of = |value: &'static str| Host::parse(value.as_bytes()).map(Host::is_loopback);
        for own in [
            "localhost",
            "LocalHost:1",
            "127.0.0.1",
            "127.9.9.9:80",
            "[::1]:80",
        ] {
            assert_eq!(of(own), Some(true), "{own}");
        }
        assert_eq!(of("[0:0:0:0:0:0:0:1]"), Some(true));
        assert!(Host::Name(b"App.LocalHost").is_local() && Host::Name(b"localhost").is_local());
        for other in [&b".localhost"[..], b"localhost.evil", b"xlocalhost"] {
            assert!(!Host::Name(other).is_local());
        }
        for other in [
            "",
            "localhost.",
            "%6cocalhost",
            "a.localhost",
            "10.0.0.1",
            "[::2]",
        ] {
            assert_eq!(of(other), Some(false), "{other}");
        }
    }
}
