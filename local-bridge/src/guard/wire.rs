//! Defines the messages between the control plane and its guard. Each message is a JSON object on a line of
//! its own, and all go over one socket. `link` and `guard` do the I/O.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The limit of one line, in bytes. A function's environment comes in a body of at most 1 MiB, and JSON may
/// need six bytes for each of its bytes.
pub(crate) const LINE_MAX: usize = 8 * 1024 * 1024;

/// Messages from the control plane to the guard.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToGuard {
    /// The guard answers with `Started` and later `Ended`, or with `NotStarted`.
    Start(Box<Start>),
    /// Sends a signal to a process, or to its whole group. The guard ignores the message if the process has
    /// ended.
    Signal { id: u64, signal: i32, group: bool },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The link gives each number to one process.
    pub(crate) id: u64,
    pub(crate) argv: Vec<String>,
    /// Variables that override those of the guard's environment.
    pub(crate) env: Vec<(String, String)>,
    pub(crate) directory: Option<String>,
    /// The path of a named pipe that the control plane reads.
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Messages from the guard to the control plane.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromGuard {
    Started {
        id: u64,
        pid: i32,
    },
    NotStarted {
        id: u64,
        message: String,
        permanent: bool,
    },
    Ended {
        id: u64,
        ending: ProcessEnding,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ProcessEnding {
    Status(i32),
    Signal(i32),
}

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

#[derive(Default)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
    /// The number of bytes that were already searched for the end of a line.
    seen: usize,
}

impl Lines {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the next complete message. After an error no later message can be read.
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
