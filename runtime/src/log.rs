//! Writes JSON lines to stderr, each in one write, with the ids of the line's call. A write error
//! is ignored, because a closed stderr must not stop a call.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use nanofaas_http1::header_value::trace_of;

use crate::call::Context;

const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Writes one line. `level` is `debug`, `info`, `warn` or `error`; `more` holds further fields.
pub fn line(level: &str, message: &str, context: Option<&Context>, more: &[(&str, &str)]) {
    let mut cut = message.len().min(MESSAGE_BYTES_MAX);
    while !message.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut line = format!(r#"{{"time":"{}""#, rfc3339(SystemTime::now()));
    put(&mut line, "level", level);
    put(&mut line, "message", &message[..cut]);
    if let Some(context) = context {
        if let Some(id) = context.execution_id() {
            put(&mut line, "executionId", id);
        }
        let of_parent =
            || str::from_utf8(trace_of(context.header("traceparent")?.as_bytes())?).ok();
        if let Some(id) = context.trace_id().or_else(of_parent) {
            put(&mut line, "traceId", id);
        }
        line.push_str(&format!(r#","attempt":{}"#, context.attempt()));
    }
    if let Ok(function) = std::env::var("FUNCTION_NAME") {
        put(&mut line, "function", &function);
    }
    for (name, value) in more {
        put(&mut line, name, value);
    }
    line.push_str("}\n");
    // There is no other place to report an error.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

fn put(line: &mut String, name: &str, value: &str) {
    let value = serde_json::Value::from(value);
    line.push_str(&format!(r#","{name}":{value}"#));
}

/// Returns the time in the form of RFC 3339, in UTC and with milliseconds.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let millis = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Returns year, month and day of the date `days` days after 1970-01-01. Its years begin in March,
/// so that a leap day is the last day of its year. 719,468 is the number of days from 0000-03-01 to
/// 1970-01-01, and 400 years have 146,097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (
        day - (153 * month + 2) / 5 + 1,
        if month < 10 { month + 3 } else { month - 9 },
    );
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_civil() {
        let at = |second, milli| {
            let since = Duration::from_secs(second) + Duration::from_millis(milli);
            rfc3339(UNIX_EPOCH + since)
        };
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_399, 7), "2000-02-28T23:59:59.007Z");
        assert_eq!(at(951_782_400, 0), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_795_491_906, 999), "2026-11-24T03:45:06.999Z");
    }
}
