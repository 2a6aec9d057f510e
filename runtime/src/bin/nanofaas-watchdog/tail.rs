//! Reads a program's stderr: logs each line that is not empty, and keeps the last lines for the
//! error message. A failed read counts as the end of stderr.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

const LINES_MAX: usize = 20;
/// The limit of all kept lines together, in bytes.
const KEPT_BYTES_MAX: usize = 4096;
/// The number of bytes from which on a line is logged in pieces.
const LINE_BYTES_MAX: usize = 64 * 1024;

#[derive(Clone, Default)]
pub(crate) struct Tail {
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl Tail {
    fn push(&self, line: &str) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cut = line.len().min(KEPT_BYTES_MAX);
        while !line.is_char_boundary(cut) {
            cut -= 1;
        }
        lines.push_back(line[..cut].to_owned());
        while lines.len() > LINES_MAX
            || lines.iter().map(String::len).sum::<usize>() > KEPT_BYTES_MAX
        {
            lines.pop_front();
        }
    }

    /// Returns `: ` and the kept lines, or an empty text if there are none.
    pub(crate) fn suffix(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let text: Vec<&str> = lines.iter().map(String::as_str).collect();
        match text.is_empty() {
            true => String::new(),
            false => format!(": {}", text.join("\n")),
        }
    }

    /// Reads stderr to its end, and passes each line that is not empty to `log`.
    pub(crate) async fn follow(&self, pipe: impl Into<OwnedFd>, log: impl Fn(&str)) {
        let Ok(mut pipe) = Receiver::from_owned_fd(pipe.into()) else {
            return;
        };
        let mut bytes = Vec::with_capacity(4096);
        loop {
            let read = read_piece(&mut pipe, &mut bytes).await;
            let over = !matches!(read, Ok(1..));
            let whole = match bytes.iter().rposition(|byte| *byte == b'\n') {
                Some(end) => end + 1,
                // The last line may have no newline, and a very long line is passed on in pieces.
                None if over || bytes.len() >= LINE_BYTES_MAX => bytes.len(),
                None => 0,
            };
            let lines = bytes[..whole].split(|byte| *byte == b'\n');
            for line in lines.filter(|line| !line.trim_ascii().is_empty()) {
                let line = String::from_utf8_lossy(line);
                self.push(line.trim_end());
                log(line.trim_end());
            }
            bytes.drain(..whole);
            if over && bytes.is_empty() {
                return;
            }
        }
    }
}

async fn read_piece(pipe: &mut Receiver, bytes: &mut Vec<u8>) -> io::Result<usize> {
    bytes.reserve(4096);
    pipe.read_buf(bytes).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        let tail = Tail::default();
        assert_eq!(tail.suffix(), "");
        for number in 0..100 {
            tail.push(&format!("line {number}"));
        }
        let text = tail.suffix();
        assert!(
            text.starts_with(": line 80\n") && text.ends_with("line 99"),
            "{text}"
        );
        tail.push(&"ä".repeat(10_000));
        assert!(tail.suffix().len() <= KEPT_BYTES_MAX + 2);
    }
}
