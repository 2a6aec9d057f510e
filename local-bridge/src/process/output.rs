//! Passes a function's output to the log, each line with the function's name. A line of one of our runtimes
//! keeps its level and its fields. The last lines of stderr are kept for the message about a failed start or
//! a failed Job. A line that is too long is cut, and lines beyond the rate limit are left out, so that the
//! function seldom waits for the log. The log shows where a line was cut or left out.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::unix::pipe::Receiver;
use tokio::time::sleep;
use tracing::Level;

use crate::process::line::RuntimeLine;

/// A longer line is cut to this length, in bytes.
const LINE_LEN_MAX: usize = 8 * 1024;
/// The rate limit of one stream: this number of lines at once, and `LINES_PER_SECOND` more each second.
const LINES_AT_ONCE: u32 = 1000;
const LINES_PER_SECOND: u32 = 200;
/// The limits of an `OutputTail`: the number of lines, the length of each line, and the length of the text.
const LINES_KEPT: usize = 20;
const KEPT_LINE_LEN_MAX: usize = 1000;
const KEPT_LEN_MAX: usize = 4000;
/// After this number of bytes beyond the rate limit, reading pauses for `FLOOD_PAUSE`. The pipe fills in the
/// pause, which slows the function.
const FLOOD_BYTES: usize = 64 * 1024;
const FLOOD_PAUSE: Duration = Duration::from_millis(10);
/// The size of the read buffer, in bytes. It is on the stack during a read, so an idle pod needs none.
const READ_LEN: usize = 8 * 1024;

pub(crate) struct StreamSource {
    pub(crate) function: Arc<str>,
    pub(crate) pod: String,
    pub(crate) stream: &'static str,
}

#[derive(Default)]
pub(crate) struct OutputTail(VecDeque<String>);

impl OutputTail {
    fn push(&mut self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        if self.0.len() == LINES_KEPT {
            self.0.pop_front();
        }
        let most = line.len().min(KEPT_LINE_LEN_MAX);
        let end = (0..=most).rev().find(|at| line.is_char_boundary(*at));
        self.0.push_back(line[..end.unwrap_or(0)].to_owned());
    }

    /// Returns the last lines that fit into `KEPT_LEN_MAX`.
    pub(crate) fn text(&self) -> String {
        let mut left = KEPT_LEN_MAX;
        let fits = |line: &&String| {
            let fits = line.len() < left;
            left = left.saturating_sub(line.len() + 1);
            fits
        };
        let mut lines: Vec<&str> = self.0.iter().rev().take_while(fits).map(|l| &**l).collect();
        lines.reverse();
        lines.join("\n")
    }
}

pub(crate) async fn follow(
    pipe: Receiver,
    source: StreamSource,
    tail: Option<Rc<RefCell<OutputTail>>>,
) {
    let mut log = StreamLog::new(source, tail);
    let mut flood = 0;
    while pipe.readable().await.is_ok() {
        let left_out = log.left_out;
        match log.read(&pipe) {
            Ok(0) => break,
            Ok(count) if log.left_out > left_out => flood += count,
            Ok(_) => flood = 0,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        if flood >= FLOOD_BYTES {
            flood = 0;
            sleep(FLOOD_PAUSE).await;
        }
    }
    log.end();
}

struct StreamLog {
    source: StreamSource,
    tail: Option<Rc<RefCell<OutputTail>>>,
    /// The beginning of a line whose end was not read yet.
    begun: Vec<u8>,
    /// Whether `begun` was cut because the line is too long. The rest of that line is skipped.
    is_cut: bool,
    allowed: Allowance,
    left_out: u64,
}

impl StreamLog {
    fn new(source: StreamSource, tail: Option<Rc<RefCell<OutputTail>>>) -> Self {
        Self {
            source,
            tail,
            begun: Vec::new(),
            is_cut: false,
            allowed: Allowance::new(Instant::now()),
            left_out: 0,
        }
    }

    fn read(&mut self, pipe: &Receiver) -> io::Result<usize> {
        let mut bytes = [0; READ_LEN];
        let count = pipe.try_read(&mut bytes)?;
        self.take(&bytes[..count]);
        Ok(count)
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            self.add(&bytes[..at]);
            self.line();
            bytes = &bytes[at + 1..];
        }
        self.add(bytes);
    }

    fn add(&mut self, bytes: &[u8]) {
        let room = LINE_LEN_MAX - self.begun.len();
        self.begun
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.is_cut |= bytes.len() > room;
    }

    fn line(&mut self) {
        let bytes = std::mem::take(&mut self.begun);
        let is_cut = std::mem::take(&mut self.is_cut);
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end_matches('\r');
        if let Some(tail) = &self.tail {
            tail.borrow_mut().push(text);
        }
        if text.is_empty() {
            return;
        }
        if !self.allowed.take(Instant::now()) {
            self.left_out += 1;
            return;
        }
        self.report_left_out();
        let StreamSource {
            function,
            pod,
            stream,
        } = &self.source;
        let more = if is_cut {
            " [cut here: the line is longer]"
        } else {
            ""
        };
        let RuntimeLine {
            level,
            message,
            members,
        } = RuntimeLine::read(text);
        // `tracing` fixes the level of an event at its call site, so each level has a call site.
        macro_rules! event {
            ($level:ident) => {
                tracing::$level!(
                    target: "function", %function, %pod, stream, members, "{message}{more}"
                )
            };
        }
        match level {
            Level::ERROR => event!(error),
            Level::WARN => event!(warn),
            Level::INFO => event!(info),
            _ => event!(debug),
        }
    }

    fn report_left_out(&mut self) {
        let lines = std::mem::take(&mut self.left_out);
        if lines > 0 {
            let StreamSource {
                function,
                pod,
                stream,
            } = &self.source;
            tracing::warn!(
                target: "function", %function, %pod, stream,
                "{lines} lines were left out: more than {LINES_PER_SECOND} a second"
            );
        }
    }

    fn end(&mut self) {
        if !self.begun.is_empty() {
            self.line();
        }
        self.report_left_out();
    }
}

/// The number of lines that may be logged now, which grows with time.
struct Allowance {
    lines: u32,
    since: Instant,
}

impl Allowance {
    const fn new(now: Instant) -> Self {
        Self {
            lines: LINES_AT_ONCE,
            since: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since);
        let more = passed.as_millis() * u128::from(LINES_PER_SECOND) / 1000;
        let more = u32::try_from(more).unwrap_or(LINES_AT_ONCE);
        if more > 0 {
            self.lines = self.lines.saturating_add(more).min(LINES_AT_ONCE);
            self.since = now;
        }
        let taken = self.lines > 0;
        self.lines = self.lines.saturating_sub(1);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (StreamLog, Rc<RefCell<OutputTail>>) {
        let tail = Rc::new(RefCell::new(OutputTail::default()));
        let source = StreamSource {
            function: "f".into(),
            pod: "fn-f-00000".into(),
            stream: "stderr",
        };
        (StreamLog::new(source, Some(tail.clone())), tail)
    }

    #[test]
    fn lines_are_the_same_however_they_come() {
        for step in 1..12 {
            let (mut log, tail) = log();
            for piece in "one\r\n\ntwo\nthree".as_bytes().chunks(step) {
                log.take(piece);
            }
            log.end();
            assert_eq!(tail.borrow().text(), "one\ntwo\nthree");
        }
    }

    #[test]
    fn an_endless_line_is_cut_the_next_whole() {
        let (mut log, tail) = log();
        for _ in 0..20 {
            log.take(&[b'x'; 1000]);
            assert!(log.begun.len() <= LINE_LEN_MAX);
        }
        assert!(log.is_cut);
        log.take(b"\nnext\n");
        let text = tail.borrow().text();
        assert_eq!(text, "x".repeat(KEPT_LINE_LEN_MAX) + "\nnext");
    }

    #[test]
    fn the_last_lines_are_kept() {
        let mut tail = OutputTail::default();
        for number in 0..100 {
            tail.push(&format!("line {number}"));
        }
        let text = tail.text();
        assert!(
            text.starts_with("line 80\n") && text.ends_with("line 99"),
            "{text}"
        );
        for _ in 0..10 {
            tail.push(&("x".to_owned() + &"é".repeat(KEPT_LEN_MAX)));
        }
        assert!((KEPT_LEN_MAX / 2..=KEPT_LEN_MAX).contains(&tail.text().len()));
    }

    #[test]
    fn a_flood_is_limited_and_comes_back() {
        let start = Instant::now();
        let mut allowed = Allowance::new(start);
        let taken = (0..5000).filter(|_| allowed.take(start)).count();
        assert_eq!(taken, LINES_AT_ONCE as usize);
        let later = start + Duration::from_millis(500);
        let taken = (0..5000).filter(|_| allowed.take(later)).count();
        assert_eq!(taken, LINES_PER_SECOND as usize / 2);
        let much_later = later + Duration::from_secs(3600);
        let taken = (0..5000).filter(|_| allowed.take(much_later)).count();
        assert_eq!(taken, LINES_AT_ONCE as usize);
    }
}
