//! Parses the values of the headers and query parameters that the platform knows.
//!
//! The headers of the framing are parsed in `framing`. `request` and `response_head` call this
//! module while they parse, and `io` calls it for values that only some requests need. Only
//! `query_address` allocates.

use std::net::IpAddr;

use crate::error::ValueError;

pub const TIMEOUT_MS_MAX: u32 = 300_000;
pub const IDEMPOTENCY_KEY_MAX: usize = 255;

/// The preferences of RFC 7240 that the platform honours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefer {
    pub respond_async: bool,
    has_wait: bool,
    // Only the first `wait` counts, even if its value is invalid (RFC 7240 §2).
    wait_seen: bool,
    wait_s: u32,
}

/// Returns whether a header's name is `known`, which must be in lower case. The comparison ignores case by
/// setting bit 5 of each byte. This is exact, because among the bytes that a name may hold, bit 5 changes
/// only upper-case letters into a letter, a digit or a hyphen.
#[inline(always)]
pub fn is_named<const N: usize>(name: &[u8], known: &[u8; N]) -> bool {
    // Arrays of one size compare in a few instructions, without a branch for each byte.
    let Ok(name) = <&[u8; N]>::try_from(name) else {
        return false;
    };
    name.iter().zip(known).fold(0, |differ, (&byte, &known)| {
        differ | ((byte | 0x20) ^ known)
    }) == 0
}

/// Returns the value without the spaces and tabs around it.
pub fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Returns the members of a comma-separated list. Empty members are skipped (RFC 9110 §5.6.1).
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(trim)
        .filter(|member| !member.is_empty())
}

/// Parses one or more digits, and nothing else, as a number of 64 bits.
#[inline]
pub fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |number, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Parses `X-Timeout-Ms`: milliseconds, 1 to 300000.
pub fn parse_timeout_ms(value: &[u8]) -> Result<u32, ValueError> {
    digits(value)
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| (1..=TIMEOUT_MS_MAX).contains(number))
        .ok_or(ValueError(
            "X-Timeout-Ms must be a whole number from 1 to 300000",
        ))
}

/// Checks `Idempotency-Key`: 1 to 255 bytes.
pub fn parse_idempotency_key(value: &[u8]) -> Result<&[u8], ValueError> {
    if value.is_empty() || value.len() > IDEMPOTENCY_KEY_MAX {
        return Err(ValueError("Idempotency-Key must have 1 to 255 bytes"));
    }
    Ok(value)
}

/// Returns whether a `Content-Encoding` means that the body is not encoded.
pub fn is_identity(value: &[u8]) -> bool {
    value.is_empty() || value.eq_ignore_ascii_case(b"identity")
}

/// Returns the `timeout` of `Keep-Alive`: for how many seconds the sender keeps an idle connection.
pub fn parse_keep_alive(value: &[u8]) -> Option<u32> {
    list(value).find_map(|parameter| {
        let (name, seconds) = split_unquoted(parameter, b'=');
        let is_timeout = trim(name).eq_ignore_ascii_case(b"timeout");
        let seconds = digits(unquote(trim(seconds))).filter(|_| is_timeout)?;
        // A number over 32 bits becomes the largest value of 32 bits, which is still longer than the platform
        // keeps a connection.
        Some(u32::try_from(seconds).unwrap_or(u32::MAX))
    })
}

pub fn parse_prefer(value: &[u8]) -> Prefer {
    let mut prefer = Prefer::default();
    prefer.add(value);
    prefer
}

impl Prefer {
    pub const NONE: Self = Self {
        respond_async: false,
        has_wait: false,
        wait_seen: false,
        wait_s: 0,
    };

    /// Returns `wait` in seconds. A number over 32 bits becomes the largest value of 32 bits.
    pub const fn wait_s(self) -> Option<u32> {
        if self.has_wait {
            Some(self.wait_s)
        } else {
            None
        }
    }

    /// Adds the value of a further header. Several `Prefer` headers form one list.
    pub fn add(&mut self, value: &[u8]) {
        let mut rest = value;
        while !rest.is_empty() {
            let (preference, after) = split_unquoted(rest, b',');
            rest = after;
            let (preference, _parameters) = split_unquoted(preference, b';');
            let (name, word) = split_unquoted(preference, b'=');
            self.take(trim(name), unquote(trim(word)));
        }
    }

    fn take(&mut self, name: &[u8], word: &[u8]) {
        if name.eq_ignore_ascii_case(b"respond-async") {
            // RFC 7240 §4.1: `respond-async` has no value.
            self.respond_async |= word.is_empty();
        } else if name.eq_ignore_ascii_case(b"wait") && !self.wait_seen {
            self.wait_seen = true;
            self.has_wait = !word.is_empty() && word.iter().all(u8::is_ascii_digit);
            let seconds = digits(word).and_then(|number| u32::try_from(number).ok());
            self.wait_s = seconds.unwrap_or(u32::MAX);
        }
    }
}

/// Returns the parts before and after the first `mark` that is not inside a quoted string. If there is no
/// such `mark`, the second part is empty.
pub fn split_unquoted(value: &[u8], mark: u8) -> (&[u8], &[u8]) {
    let mut quoted = false;
    let mut at = 0;
    while at < value.len() {
        match value[at] {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            byte if byte == mark && !quoted => return (&value[..at], &value[at + 1..]),
            _ => {}
        }
        at += 1;
    }
    (value, &[])
}

/// Returns the content of a quoted string, or any other value unchanged. Escapes stay undecoded,
/// because no known value needs one.
fn unquote(word: &[u8]) -> &[u8] {
    word.strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""))
        .unwrap_or(word)
}

/// Returns the value of the parameter `name`, undecoded; none if there is no such parameter. `query` does not
/// include the `?`.
fn query_value<'q>(query: &'q [u8], name: &str) -> Result<Option<&'q [u8]>, ValueError> {
    let mut found = None;
    for pair in query.split(|&byte| byte == b'&') {
        let end = pair.iter().position(|&byte| byte == b'=');
        let (key, value) = end.map_or((pair, &b""[..]), |end| (&pair[..end], &pair[end + 1..]));
        if !name.bytes().map(Some).eq(decoded(key)) {
            continue;
        }
        if found.is_some() {
            return Err(ValueError("a query parameter is there twice: give it once"));
        }
        found = Some(value);
    }
    Ok(found)
}

/// Returns the value of the parameter `name`, a whole number; none if there is no such parameter.
pub fn query_number(query: &[u8], name: &str) -> Result<Option<u32>, ValueError> {
    let Some(value) = query_value(query, name)? else {
        return Ok(None);
    };
    let number = decoded(value).try_fold(0u32, |number, byte| {
        let digit = byte.filter(u8::is_ascii_digit)? - b'0';
        number.checked_mul(10)?.checked_add(u32::from(digit))
    });
    let number = number.filter(|_| !value.is_empty());
    number.map(Some).ok_or(ValueError(
        "a query parameter that counts must be a whole number",
    ))
}

/// Returns the IP address that a query has under `name`; none if the query has no such parameter.
pub fn query_address(query: &[u8], name: &str) -> Result<Option<IpAddr>, ValueError> {
    let Some(value) = query_value(query, name)? else {
        return Ok(None);
    };
    let text: Option<Vec<u8>> = decoded(value).collect();
    let text = text.and_then(|text| String::from_utf8(text).ok());
    let address = text.and_then(|text| text.parse().ok());
    address.map(Some).ok_or(ValueError(
        "a query parameter that is an address must be an IP address",
    ))
}

/// Decodes the `%XX` of one path segment into `room`. A segment without a `%` is returned as it is.
/// A decoded segment that is longer than `room` is refused, because no name is that long.
pub fn percent_decode<'b>(segment: &'b [u8], room: &'b mut [u8]) -> Result<&'b str, ValueError> {
    const BAD: ValueError =
        ValueError("the path must be UTF-8 text, with % only before two hex digits");
    if !segment.contains(&b'%') {
        return str::from_utf8(segment).map_err(|_| BAD);
    }
    let mut length = 0;
    for byte in decoded(segment) {
        let byte = byte.filter(|byte| !byte.is_ascii_control()).ok_or(BAD)?;
        *room
            .get_mut(length)
            .ok_or(ValueError("a part of the path is longer than any name"))? = byte;
        length += 1;
    }
    str::from_utf8(&room[..length]).map_err(|_| BAD)
}

/// Returns the bytes with `%XX` decoded. `None` stands for a `%` without two hex digits after it.
fn decoded(text: &[u8]) -> impl Iterator<Item = Option<u8>> {
    let mut rest = text.iter();
    std::iter::from_fn(move || {
        let &byte = rest.next()?;
        if byte != b'%' {
            return Some(Some(byte));
        }
        let mut nibble = || rest.next().and_then(|&byte| char::from(byte).to_digit(16));
        let (high, low) = (nibble(), nibble());
        Some(high.zip(low).map(|(high, low)| (high << 4 | low) as u8))
    })
}

/// Returns the trace id of a `traceparent`: the 32 digits after the version. Returns none if the
/// value has no valid trace id; the other parts are not checked.
pub fn trace_of(traceparent: &[u8]) -> Option<&[u8]> {
    let (_, rest) = traceparent.split_at_checked(3)?;
    let (id, rest) = rest.split_at_checked(32)?;
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    // By W3C Trace Context, digits are in lower case, and an id that has only zeros is invalid.
    let is_id = id.iter().all(is_digit) && id.iter().any(|byte| *byte != b'0');
    (traceparent[2] == b'-' && rest.first() == Some(&b'-') && is_id).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_named_by_its_parent() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        let sound = format!("00-{id}-b7ad6b7169203331-01");
        assert_eq!(trace_of(sound.as_bytes()), Some(id.as_bytes()));
        for no_trace in [
            "",
            "00",
            &sound[..34],
            &format!("00-{id}"),
            &format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            &format!("00-{}-b7ad6b7169203331-01", id.to_uppercase()),
            &format!("00+{id}-b7ad6b7169203331-01"),
        ] {
            assert_eq!(trace_of(no_trace.as_bytes()), None, "{no_trace}");
        }
    }

    #[test]
    fn numbers_are_digits_within_their_bounds() {
        assert_eq!(digits(b"0"), Some(0));
        assert_eq!(digits(b"007"), Some(7));
        assert_eq!(digits(b"18446744073709551615"), Some(u64::MAX));
        for bad in [
            "",
            "18446744073709551616",
            "+1",
            "-1",
            "1 ",
            "0x1",
            "1,1",
            "\u{664}",
        ] {
            assert_eq!(digits(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parse_timeout_ms(b"1"), Ok(1));
        assert_eq!(parse_timeout_ms(b"300000"), Ok(300_000));
        for bad in ["", "0", "300001", "1.5", "4294967297", "-1", "1s"] {
            assert!(parse_timeout_ms(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse_idempotency_key(&[b'k'; 255]).is_ok());
        assert!(parse_idempotency_key(&[b'k'; 256]).is_err());
        assert!(parse_idempotency_key(b"").is_err());
    }

    #[test]
    fn names_compare_without_case_and_whole() {
        assert!(is_named(b"X-Trace-ID", b"x-trace-id"));
        for other in [
            "x-trace-i",
            "x-trace-idx",
            "x_trace-id",
            "x-trace-ie",
            "x-trace-i$",
            "xmtrace-id",
            "",
        ] {
            assert!(!is_named(other.as_bytes(), b"x-trace-id"), "{other}");
        }
    }

    #[test]
    fn a_keep_alive_says_seconds_or_nothing() {
        for (value, seconds) in [
            ("timeout=5", Some(5)),
            ("max=100, Timeout = \"7\"", Some(7)),
            ("timeout=0", Some(0)),
            ("timeout=99999999999", Some(u32::MAX)),
            ("timeout=5.5", None),
            ("timeout=-1", None),
            ("timeout", None),
            ("max=5", None),
            ("", None),
        ] {
            assert_eq!(parse_keep_alive(value.as_bytes()), seconds, "{value}");
        }
    }

    #[test]
    fn the_first_of_listed_preferences_counts() {
        for (value, respond_async, wait_s) in [
            ("", false, None),
            ("respond-async", true, None),
            ("Respond-Async, WAIT=10", true, Some(10)),
            ("wait = 10 ; x=y, respond-async; foo", true, Some(10)),
            ("wait=\"7\"", false, Some(7)),
            ("wait=3, wait=9", false, Some(3)),
            ("wait=x, wait=9", false, None),
            ("wait", false, None),
            ("wait=-1", false, None),
            ("wait=0", false, Some(0)),
            ("wait=99999999999999999999999", false, Some(u32::MAX)),
            ("respond-async=\"\"", true, None),
            ("respond-async=no", false, None),
            ("foo=\"a, respond-async\", handling=lenient", false, None),
            ("foo=\"a\\\", respond-async\", wait=2", false, Some(2)),
            ("foo=\"open, respond-async", false, None),
            (",,; =,respond-async,", true, None),
            ("return=minimal;wait=4", false, None),
        ] {
            let prefer = parse_prefer(value.as_bytes());
            assert_eq!(
                (prefer.respond_async, prefer.wait_s()),
                (respond_async, wait_s),
                "{value}"
            );
        }
        let mut two = parse_prefer(b"wait=5");
        two.add(b"respond-async, wait=6");
        assert_eq!((two.respond_async, two.wait_s()), (true, Some(5)));
    }

    #[test]
    fn query_addresses_are_of_both_families() {
        let of = |query: &str| query_address(query.as_bytes(), "address").map_err(|_| ());
        assert_eq!(of("a=1"), Ok(None));
        assert_eq!(of("address=10.1.2.3"), Ok("10.1.2.3".parse().ok()));
        assert_eq!(of("x&address=fd00::5"), Ok("fd00::5".parse().ok()));
        assert_eq!(of("address=fd00%3A%3A5"), Ok("fd00::5".parse().ok()));
        for bad in [
            "address=",
            "address=pod",
            "address=::1&address=::1",
            "address=1.2.3.4:80",
        ] {
            assert_eq!(of(bad), Err(()), "{bad}");
        }
    }

    #[test]
    fn query_numbers_are_found_however_they_are_spelled() {
        for (query, expected) in [
            ("", Ok(None)),
            ("a=1&waitMs", Err(())),
            ("waitMs=", Err(())),
            ("waitMs=250", Ok(Some(250))),
            ("a&b=2&%77aitMs=2%350", Ok(Some(250))),
            ("waitms=1&xwaitMs=1&waitMsx=1&wait%4=1", Ok(None)),
            ("waitMs=1&waitMs=1", Err(())),
            ("waitMs=1x", Err(())),
            ("waitMs=%31%", Err(())),
            ("waitMs=4294967295", Ok(Some(u32::MAX))),
            ("waitMs=4294967296", Err(())),
            ("waitMs=1=2", Err(())),
        ] {
            assert_eq!(
                query_number(query.as_bytes(), "waitMs").map_err(|_| ()),
                expected,
                "{query}"
            );
        }
    }

    #[test]
    fn path_segments_are_decoded_once_within_their_room() {
        let room = &mut [0; 8];
        assert_eq!(
            percent_decode(b"longer than the room", room),
            Ok("longer than the room")
        );
        assert_eq!(percent_decode(b"a%2Eb", room), Ok("a.b"));
        assert_eq!(percent_decode(b"%2541", room), Ok("%41"));
        assert_eq!(percent_decode(b"%C3%a9", room), Ok("é"));
        assert_eq!(percent_decode(b"%312345678", room), Ok("12345678"));
        for bad in [
            &b"%312345678x"[..],
            b"%",
            b"%4",
            b"%4g",
            b"%+1",
            b"%ff",
            b"\xff",
            b"%00",
            b"%7f",
        ] {
            assert!(percent_decode(bad, room).is_err(), "{bad:?}");
        }
    }
}
