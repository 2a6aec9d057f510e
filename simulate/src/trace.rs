//! Reads a trace from CSV with a header line. A trace says when each call arrives, how long it runs, its
//! timeout and its class. Invalid input is refused; no value is guessed. The size of a trace and of its error
//! messages is bounded.

use std::fmt;
use std::io::{self, Read};

use jiff::Timestamp;
use nanofaas_core::spec::bound::TIMEOUT_MS;
use nanofaas_core::ticket::Class;
use nanofaas_core::time::Nanos;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use crate::VaryingTime;

/// The largest number of calls in a trace; each takes less than 100 bytes of memory.
pub const CALLS_MAX: usize = 1_000_000;
/// The longest trace, in bytes: enough for `CALLS_MAX` lines of any reasonable length.
const BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The longest line, in bytes. It is bounded, because the reader holds a line in memory, and the input may
/// have no line ends.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// The largest number of characters of invalid text in an error message.
const QUOTED_MAX: usize = 80;
/// The longest trace, in milliseconds: 31 days. The time is bounded, because the simulation also takes steps
/// for the periodic checks of pods while no call arrives.
const AT_MS_MAX: f64 = 31.0 * 86_400_000.0;
/// The longest call, in milliseconds: a day, which is longer than any deadline.
const SERVICE_MS_MAX: f64 = 86_400_000.0;
const COLUMNS: [&str; 4] = ["at_ms", "service_ms", "timeout_ms", "class"];
const SEED: u64 = 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceCall {
    /// The time since the beginning of the trace.
    pub at: Nanos,
    /// How long the call runs in its pod.
    pub service: Nanos,
    /// The timeout of a sync call; `None` means the function's `timeoutMs`.
    pub timeout_ms: Option<u32>,
    pub class: Class,
}

/// Why a trace cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct TraceError {
    /// The line, counted from 1. `None` if the error is not about one line.
    pub line: Option<u64>,
    /// The fault, and the expected form.
    pub message: String,
}

impl TraceError {
    const fn at(line: u64, message: String) -> Self {
        let line = Some(line);
        Self { line, message }
    }

    const fn of_all(message: String) -> Self {
        let line = None;
        Self { line, message }
    }
}

impl fmt::Display for TraceError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(out, "line {line}: {}", self.message),
            None => out.write_str(&self.message),
        }
    }
}

/// Passes input on, and fails when the trace or a line is too long.
struct Bounded<R> {
    input: R,
    bytes: u64,
    bytes_max: u64,
    /// The number of the current line, from 1.
    line: u64,
    /// The length of the current line so far.
    line_bytes: usize,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.input.read(into)?;
        self.bytes += len as u64;
        if self.bytes > self.bytes_max {
            let most = self.bytes_max;
            let message = format!("a trace has at most {most} bytes: split it");
            return Err(TraceError::of_all(message).into());
        }
        for byte in &into[..len] {
            if *byte == b'\n' {
                self.line += 1;
                self.line_bytes = 0;
            } else {
                self.line_bytes += 1;
            }
            if self.line_bytes > LINE_BYTES_MAX {
                let message = format!("a line has at most {LINE_BYTES_MAX} bytes");
                return Err(TraceError::at(self.line, message).into());
            }
        }
        Ok(len)
    }
}

impl From<TraceError> for io::Error {
    fn from(error: TraceError) -> Self {
        Self::other(error)
    }
}

/// Reads a trace and sorts it by time; calls of the same time keep the order of their lines.
/// `service` is used for lines without a service time.
pub fn read(input: impl Read, service: Option<VaryingTime>) -> Result<Vec<TraceCall>, TraceError> {
    read_within(BYTES_MAX, input, service)
}

fn read_within(
    bytes_max: u64,
    input: impl Read,
    service: Option<VaryingTime>,
) -> Result<Vec<TraceCall>, TraceError> {
    let input = Bounded {
        input,
        bytes: 0,
        bytes_max,
        line: 1,
        line_bytes: 0,
    };
    // The position of a record includes the blank lines before it, so errors name the line before the
    // reader's position. The final line feed makes this right for the last line, too.
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .terminator(csv::Terminator::Any(b'\n'))
        .flexible(true)
        .from_reader(input.chain(&b"\n"[..]));
    let header = reader.headers().map_err(|error| unreadable(error, 1))?;
    let columns = Columns::find(header).map_err(|message| TraceError::at(1, message))?;
    let mut rows = Rows {
        columns,
        service,
        dice: SmallRng::seed_from_u64(SEED),
        clock: None,
        calls: Vec::new(),
    };
    let mut record = csv::StringRecord::new();
    loop {
        let has_more = reader.read_record(&mut record);
        let line = reader.position().line() - 1;
        if !has_more.map_err(|error| unreadable(error, line))? {
            break;
        }
        let at = |message| TraceError::at(line, message);
        if rows.calls.len() == CALLS_MAX {
            let message = format!("a trace has at most {CALLS_MAX} calls: split it");
            return Err(at(message));
        }
        rows.take(&record).map_err(at)?;
    }
    let line = reader.position().line() - 1;
    if rows.calls.is_empty() {
        let message = "there is no call below the header".to_owned();
        return Err(TraceError::at(line, message));
    }
    rows.finish()
}

fn unreadable(error: csv::Error, line: u64) -> TraceError {
    match error.into_kind() {
        csv::ErrorKind::Utf8 { .. } => TraceError::at(line, "is not UTF-8".to_owned()),
        // The error comes from `Bounded`, or from the input itself.
        csv::ErrorKind::Io(error) => error
            .downcast::<TraceError>()
            .unwrap_or_else(|error| TraceError::of_all(error.to_string())),
        other => TraceError::at(line, format!("{other:?}")),
    }
}

/// Quotes a piece of the input, and cuts it if it is long.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_MAX) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}", format!("{}…", &text[..end])),
    }
}

struct Columns {
    count: usize,
    at: usize,
    service: Option<usize>,
    timeout: Option<usize>,
    class: Option<usize>,
}

impl Columns {
    fn find(header: &csv::StringRecord) -> Result<Self, String> {
        let known = COLUMNS.join(", ");
        for (number, name) in header.iter().enumerate() {
            if !COLUMNS.contains(&name) {
                let name = quoted(name);
                return Err(format!("{name} is no column of a trace: there are {known}"));
            }
            if header.iter().take(number).any(|other| other == name) {
                return Err(format!("the column {name} is there twice"));
            }
        }
        let place = |name| header.iter().position(|found| found == name);
        let [at, service, timeout, class] = COLUMNS.map(place);
        let missing = || format!("the header has no column at_ms; there are {known}");
        Ok(Self {
            count: header.len(),
            at: at.ok_or_else(missing)?,
            service,
            timeout,
            class,
        })
    }
}

/// The form of the times in a trace.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TraceClock {
    Milliseconds,
    Timestamps,
}

struct Rows {
    columns: Columns,
    service: Option<VaryingTime>,
    dice: SmallRng,
    /// The kind of times in the first line; all other lines must have the same kind.
    clock: Option<TraceClock>,
    /// If the trace has timestamps, `at` counts from 1970 until all lines are read, and then from the first
    /// call.
    calls: Vec<TraceCall>,
}

impl Rows {
    fn take(&mut self, record: &csv::StringRecord) -> Result<(), String> {
        if record.iter().all(str::is_empty) {
            return Ok(());
        }
        if record.len() != self.columns.count {
            let (len, count) = (record.len(), self.columns.count);
            return Err(format!("has {len} fields, and the header has {count}"));
        }
        let field = |column: Option<usize>| {
            let text = column.and_then(|column| record.get(column));
            text.filter(|text| !text.is_empty())
        };
        let class = match field(self.columns.class) {
            None | Some("sync") => Class::Sync,
            Some("async") => Class::Async,
            Some(other) => {
                let other = quoted(other);
                return Err(format!("class must be sync or async, is {other}"));
            }
        };
        let timeout_ms = field(self.columns.timeout).map(timeout_ms).transpose()?;
        if timeout_ms.is_some() && class == Class::Async {
            let message = "timeout_ms is of sync calls: an attempt of an async one has the \
                           function's timeoutMs";
            return Err(message.to_owned());
        }
        let at = self.at(field(Some(self.columns.at)).unwrap_or_default())?;
        let service = match (field(self.columns.service), self.service) {
            (Some(text), _) => span(number("service_ms", text, SERVICE_MS_MAX)?),
            (None, Some(service)) => service.draw(&mut self.dice),
            (None, None) => return Err("says nothing of service_ms: give --service-ms".to_owned()),
        };
        self.calls.push(TraceCall {
            at,
            service,
            timeout_ms,
            class,
        });
        Ok(())
    }

    fn at(&mut self, text: &str) -> Result<Nanos, String> {
        let timestamp = text.parse::<Timestamp>().ok();
        let is_timestamp = timestamp.is_some();
        let clock = if is_timestamp {
            TraceClock::Timestamps
        } else {
            TraceClock::Milliseconds
        };
        if *self.clock.get_or_insert(clock) != clock
            && (is_timestamp || text.parse::<f64>().is_ok())
        {
            let text = quoted(text);
            let message = "at_ms is a number in one line and a time in another, here";
            return Err(format!("{message} {text}"));
        }
        match timestamp {
            Some(timestamp) => u64::try_from(timestamp.as_nanosecond())
                .map(Nanos::from_ns)
                .map_err(|_| format!("at_ms must be after 1970, is {}", quoted(text))),
            None => Ok(span(number("at_ms", text, AT_MS_MAX).map_err(|fault| {
                format!("{fault}, or a time like 2026-01-31T12:00:00.250Z")
            })?)),
        }
    }

    fn finish(mut self) -> Result<Vec<TraceCall>, TraceError> {
        self.calls.sort_by_key(|call| call.at);
        if self.clock == Some(TraceClock::Timestamps) {
            let first = self.calls.first().map_or(Nanos::ZERO, |call| call.at);
            self.calls.iter_mut().for_each(|call| call.at -= first);
            let last = self.calls.last().map_or(Nanos::ZERO, |call| call.at);
            if last > span(AT_MS_MAX) {
                let message = "a trace is at most 31 days long: split it".to_owned();
                return Err(TraceError::of_all(message));
            }
        }
        Ok(self.calls)
    }
}

/// Converts milliseconds, rounded to the nanosecond.
fn span(ms: f64) -> Nanos {
    Nanos::from_ns((ms * 1e6).round() as u64)
}

fn number(column: &str, text: &str, most: f64) -> Result<f64, String> {
    let number = text.parse().ok();
    number
        .filter(|number| (0.0..=most).contains(number))
        .ok_or_else(|| {
            let text = quoted(text);
            format!("{column} must be a number of milliseconds from 0 to {most}, is {text}")
        })
}

fn timeout_ms(text: &str) -> Result<u32, String> {
    let number = text.parse().ok();
    number
        .filter(|number| TIMEOUT_MS.contains(number))
        .ok_or_else(|| {
            let (least, most) = (TIMEOUT_MS.start(), TIMEOUT_MS.end());
            let text = quoted(text);
            format!("timeout_ms must be a whole number from {least} to {most}, is {text}")
        })
}

#[cfg(test)]
mod tests;
