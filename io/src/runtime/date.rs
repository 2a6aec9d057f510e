//! The `Date` line of answers (RFC 9110 §5.6.7). The first answer after the end of a second of the wall clock
//! rewrites the line from that clock, so a change of the wall clock shows within a second. All other answers
//! reuse the line, so they neither format a time nor read the wall clock.

use std::cell::Cell;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use nanofaas_core::time::{Nanos, Uptime};

const EXAMPLE: &[u8] = b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";

/// A complete header line. Its length is constant, because every date has the same length.
pub(crate) type DateLine = [u8; EXAMPLE.len()];

pub(crate) struct Dates {
    line: Cell<DateLine>,
    /// Until when the line is valid, by the process's clock, which is never set back.
    until: Cell<Uptime>,
}

impl Default for Dates {
    fn default() -> Self {
        Self {
            line: Cell::new([0; EXAMPLE.len()]),
            until: Cell::new(Uptime::ZERO),
        }
    }
}

impl Dates {
    /// Returns the line for an answer that is written at `now`.
    #[inline]
    #[expect(
        clippy::disallowed_methods,
        reason = "a date is of the wall clock, read once a second"
    )]
    pub(crate) fn line(&self, now: Uptime) -> DateLine {
        if now >= self.until.get() {
            self.renew(now, SystemTime::now());
        }
        self.line.get()
    }

    #[cold]
    fn renew(&self, now: Uptime, wall: SystemTime) {
        let wall = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.line.set(line_of(wall.as_secs()));
        let left = Nanos::SECOND - Nanos::from_ns(wall.subsec_nanos().into());
        self.until.set(now + left);
    }
}

fn line_of(epoch_s: u64) -> DateLine {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let wall_ns = i128::from(epoch_s) * 1_000_000_000;
    let wall = jiff::Timestamp::from_nanosecond(wall_ns).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let time = jiff::tz::Offset::UTC.to_datetime(wall);
    let day = DAYS[time.weekday().to_monday_zero_offset() as usize];
    let month = MONTHS[time.month() as usize - 1];
    let (date, year) = (time.day(), time.year());
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    let mut line = [0; EXAMPLE.len()];
    write!(
        &mut line[..],
        "Date: {day}, {date:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT\r\n"
    )
    .expect("every date is as long as the example");
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_date_is_written_as_http_wants_it() {
        for (epoch_s, line) in [
            (784_111_777, EXAMPLE),
            (0, b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"),
            (951_782_400, b"Date: Tue, 29 Feb 2000 00:00:00 GMT\r\n"),
            (4_133_980_799, b"Date: Fri, 31 Dec 2100 23:59:59 GMT\r\n"),
            // This time is after 9999, the last year with four digits, so the line shows the beginning of
            // 1970.
            (u64::MAX, b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"),
        ] {
            let written = line_of(epoch_s);
            assert_eq!(written, line, "{:?}", str::from_utf8(&written));
        }
    }

    #[test]
    fn a_line_holds_until_its_second_ends() {
        let dates = Dates::default();
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        let at_ms = |ms| Uptime::ZERO + Nanos::from_ms(ms);
        dates.renew(at_ms(5_000), at(9_250));
        assert_eq!(dates.line.get(), line_of(9));
        assert_eq!(dates.until.get(), at_ms(5_750));
        assert_eq!(dates.line(at_ms(5_750) - Nanos::from_ns(1)), line_of(9));
        // The wall clock was set back after the last renewal. The next renewal takes the earlier time.
        dates.renew(at_ms(6_000), at(3_000));
        assert_eq!(dates.line.get(), line_of(3));
        assert_eq!(dates.until.get(), at_ms(7_000));
        // A wall clock before 1970 shows the beginning of 1970.
        dates.renew(at_ms(7_000), UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(dates.line.get(), line_of(0));
    }
}
