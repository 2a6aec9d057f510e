//! A stand-in for the platform, which answers from a script and reports the requests that it got.

use std::cell::Cell;

use nanofaas_testkit::pod::{After, ReceivedCall, ScriptedPod};

/// A stand-in for the platform. It answers the one request of each connection with the next line of
/// the script; the last line is repeated. For an empty line it closes without an answer.
pub(crate) struct Peer {
    pub(crate) port: u16,
    server: Option<ScriptedPod>,
    /// Requests that the test has seen.
    taken: Cell<usize>,
}

impl Peer {
    pub(crate) fn start(script: &[&str]) -> Self {
        let script: Vec<String> = script.iter().map(|&answer| answer.to_owned()).collect();
        let server = ScriptedPod::tcp(move |got, conn| {
            let answer = script.get(got.number).or_else(|| script.last());
            // The program may have gone.
            conn.send(answer.map_or(b"", String::as_bytes));
            After::Close
        });
        Self {
            port: server.port().expect("it has a TCP port"),
            server: Some(server),
            taken: Cell::new(0),
        }
    }

    /// A stand-in that does not run: no process listens on its port.
    pub(crate) const fn nobody() -> Self {
        Self {
            port: 1,
            server: None,
            taken: Cell::new(0),
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    #[track_caller]
    pub(crate) fn next(&self) -> ReceivedCall {
        let number = self.taken.replace(self.taken.get() + 1);
        let server = self.server.as_ref().expect("it runs");
        server.wait_calls(number + 1).swap_remove(number)
    }

    /// All requests that it got and the test has not taken yet.
    pub(crate) fn rest(&self) -> Vec<ReceivedCall> {
        let mut calls = self.server.as_ref().map_or(Vec::new(), ScriptedPod::calls);
        calls.split_off(self.taken.replace(calls.len()))
    }
}

pub(crate) const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";
