//! Parses the values of the flags, and checks the allowed range of each flag. A parser sees only its own
//! value. clap calls the parsers.

use std::fmt::Display;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ops::RangeInclusive;
use std::str::FromStr;

use clap::error::{ContextKind, ContextValue};
use nanofaas_core::limits::{FUNCTIONS_MAX, IO_THREADS_MAX};
use nanofaas_core::rate::RateLimit;
use nanofaas_core::spec::bound;

const KIB: u64 = 1024;
/// The allowed sizes of a message, in bytes.
const MESSAGE_BYTES: RangeInclusive<u64> = KIB..=KIB * KIB * KIB;
/// The largest size that is accepted, in bytes: more memory than any machine has.
const BYTES_MAX: u64 = 1 << 50;
const HOUR_MS: u64 = 3_600_000;
const WEEK_MS: u64 = 7 * 24 * HOUR_MS;

fn number<T>(text: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let read = text.parse().ok().filter(|number| range.contains(number));
    read.ok_or_else(|| {
        let (least, most) = (range.start(), range.end());
        format!("must be a whole number from {least} to {most}")
    })
}

pub(super) fn io_threads(text: &str) -> Result<u32, String> {
    number(text, 1..=IO_THREADS_MAX as u32)
}

/// Parses a spin time of at most 10 ms. A longer spin would only take CPU time from the functions.
pub(super) fn spin_us(text: &str) -> Result<u32, String> {
    number(text, 0..=10_000)
}

pub(super) fn short_ms(text: &str) -> Result<u64, String> {
    number(text, 1..=HOUR_MS)
}

pub(super) fn drain_ms(text: &str) -> Result<u64, String> {
    number(text, 0..=HOUR_MS)
}

pub(super) fn long_ms(text: &str) -> Result<u64, String> {
    number(text, 1..=WEEK_MS)
}

pub(super) fn timeout_ms(text: &str) -> Result<u32, String> {
    number(text, bound::TIMEOUT_MS)
}

pub(super) fn concurrency(text: &str) -> Result<u32, String> {
    number(text, bound::CONCURRENCY)
}

pub(super) fn queue_size(text: &str) -> Result<u32, String> {
    number(text, bound::QUEUE_SIZE)
}

pub(super) fn max_retries(text: &str) -> Result<u32, String> {
    number(text, bound::MAX_RETRIES)
}

pub(super) fn functions(text: &str) -> Result<u32, String> {
    number(text, 0..=FUNCTIONS_MAX as u32)
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let read = text.parse();
    read.map_err(|_| "must be an IP address and a port, such as 127.0.0.1:8080".to_owned())
}

pub(super) fn rate(text: &str) -> Result<RateLimit, String> {
    if text == "off" {
        return Ok(RateLimit::Off);
    }
    let read = number(text, 0..=1_000_000_000);
    read.map(RateLimit::PerSecond)
        .map_err(|message| format!("{message}, or off"))
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 3] = [("KiB", KIB), ("MiB", KIB * KIB), ("GiB", KIB * KIB * KIB)];
    let split = UNITS
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?.trim_end(), *unit)));
    let (digits, unit) = split.unwrap_or((text, 1));
    let bytes = digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(unit))
        .filter(|bytes| *bytes <= BYTES_MAX);
    bytes.ok_or_else(|| "must be a number of bytes, such as 65536, 64KiB or 2MiB".to_owned())
}

pub(super) fn message_size(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    if MESSAGE_BYTES.contains(&bytes) {
        Ok(bytes)
    } else {
        Err("must be from 1KiB to 1GiB".to_owned())
    }
}

pub(super) fn dns_label(text: &str) -> Result<String, String> {
    let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let sound = bytes.len() <= 63
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|byte| edge(byte) || *byte == b'-');
    if sound {
        Ok(text.to_owned())
    } else {
        Err("must be a namespace: lower-case letters, digits and -, at most 63".to_owned())
    }
}

/// Parses a base URL, `http://host[:port]`, and removes its last slash.
pub(super) fn base_url(text: &str) -> Result<String, String> {
    let base = text.strip_suffix('/').unwrap_or(text);
    let authority = base.strip_prefix("http://").unwrap_or_default();
    if let Some((host, port)) = authority.rsplit_once(':')
        && host.parse::<Ipv6Addr>().is_ok()
    {
        return Err(format!(
            "an IPv6 address needs brackets: http://[{host}]:{port}"
        ));
    }
    if authority.contains(['[', ']']) && authority.parse::<SocketAddrV6>().is_err() {
        return Err("must be http://[address]:port where the host is an IPv6 address".to_owned());
    }
    let host = |byte: &u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(byte);
    if !authority.is_empty() && authority.as_bytes().iter().all(host) {
        Ok(base.to_owned())
    } else {
        Err("must be http://host:port, without a path".to_owned())
    }
}

/// Returns the environment variable of a refused value that did not come from the command line. clap names
/// only the flag, which a user who set the variable may not know.
pub(crate) fn name_the_variable(error: &clap::Error) -> Option<String> {
    let (Some(ContextValue::String(arg)), Some(ContextValue::String(value))) = (
        error.get(ContextKind::InvalidArg),
        error.get(ContextKind::InvalidValue),
    ) else {
        return None;
    };
    let flag = arg.split_whitespace().next()?;
    let variable = variable_of(flag)?;
    let typed = std::env::args()
        .any(|argument| argument == flag || argument.starts_with(&format!("{flag}=")));
    let set = std::env::var(&variable).is_ok_and(|set| set == *value);
    (set && !typed).then_some(variable)
}

/// Returns the variable of a flag: `NANOFAAS_X_Y` for `--x-y`.
pub(super) fn variable_of(flag: &str) -> Option<String> {
    let name = flag.strip_prefix("--")?;
    Some(format!(
        "NANOFAAS_{}",
        name.replace('-', "_").to_uppercase()
    ))
}
