//! What the plane and its guard send to each other: one JSON object a line, over one socket.
//! It never reads or writes by itself; `link` and `guard` do.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest line, in bytes. A function's environment comes in a body of at most 1 MiB, and a byte
/// of it may become six.
pub(crate) const LINE_MAX: usize = 8 * 1024 * 1024;

/// The plane's words.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToGuard {
    /// Answered by `Started` and later `Ended`, or by `NotStarted`.
    Start(Box<Start>),
    /// To a process, or to its whole group; nothing happens where it has ended.
    Signal { id: u64, signal: i32, group: bool },
}

/// A process to start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The plane's number for it, never used twice.
    pub(crate) id: u64,
    pub(crate) argv: Vec<String>,
    /// Goes over the guard's own environment.
    pub(crate) env: Vec<(String, String)>,
    pub(crate) directory: Option<String>,
    /// Named pipes that the plane reads.
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The guard's words.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromGuard {
    Started {
        id: u64,
        pid: i32,
    },
    NotStarted {
        id: u64,
        message: String,
        /// It would fail again.
        permanent: bool,
    },
    Ended {
        id: u64,
        ending: ProcessEnding,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ProcessEnding {
    Status(i32),
    Signal(i32),
}

/// A message as a line.
pub(crate) fn line<T: Serialize>(message: &T) -> Result<Vec<u8>, String> {
    let mut line = serde_json::to_vec(message).map_err(|error| error.to_string())?;
    if line.len() >= LINE_MAX {
        return Err(format!(
            "its command and environment are {} bytes, the most is {LINE_MAX}",
            line.len()
        ));
    }
    line.push(b'\n');
    Ok(line)
}

/// Bytes that came in, taken apart into messages.
#[derive(Default)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
    /// What was looked through already.
    seen: usize,
}

impl Lines {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message; an error means that the other side cannot be understood any more.
    pub(crate) fn pop<T: DeserializeOwned>(&mut self) -> Option<Result<T, String>> {
        let Some(at) = self.bytes[self.seen..].iter().position(|b| *b == b'\n') else {
            self.seen = self.bytes.len();
            return (self.seen > LINE_MAX).then(|| Err("a line has no end".to_owned()));
        };
        let end = self.seen + at;
        let message = serde_json::from_slice(&self.bytes[..end]);
        self.bytes.drain(..=end);
        self.seen = 0;
        Some(message.map_err(|error| error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_whole_however_they_came_in() {
        let mut bytes = Vec::new();
        for id in 0..3 {
            let message = FromGuard::NotStarted {
                id,
                message: "two\nlines".into(),
                permanent: true,
            };
            bytes.extend(line(&message).expect("short"));
        }
        for step in [1, 7, bytes.len()] {
            let mut lines = Lines::default();
            let mut ids = Vec::new();
            for piece in bytes.chunks(step) {
                lines.push(piece);
                while let Some(message) = lines.pop::<FromGuard>() {
                    match message.expect("sound") {
                        FromGuard::NotStarted { id, message, .. } => {
                            assert_eq!(message, "two\nlines");
                            ids.push(id);
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
            assert_eq!(ids, [0, 1, 2]);
        }
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let mut lines = Lines::default();
        lines.push(b"{}\n");
        assert!(lines.pop::<FromGuard>().expect("a line").is_err());
        lines.push(&vec![b' '; LINE_MAX + 1]);
        assert!(lines.pop::<FromGuard>().expect("no end").is_err());
    }
}
