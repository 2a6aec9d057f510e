//! A server that plays the platform. It answers from a script and records the requests.

use std::cell::Cell;

use nanofaas_testkit::pod::{After, ReceivedCall, ScriptedPod};

/// Each connection carries one request, which gets the next text of the script. The last text is repeated. If
/// the text is empty, the connection closes without an answer.
pub(crate) struct Peer {
    pub(crate) port: u16,
    server: Option<ScriptedPod>,
    /// The number of requests that the test has taken.
    taken: Cell<usize>,
}

impl Peer {
    pub(crate) fn start(script: &[&str]) -> Self {
        let script: Vec<String> = script.iter().map(|&answer| answer.to_owned()).collect();
        let server = ScriptedPod::tcp(move |got, conn| {
            let answer = script.get(got.number).or_else(|| script.last());
            // The result is ignored. A program that has ended gets no answer, which the test notices.
            conn.send(answer.map_or(b"", String::as_bytes));
            After::Close
        });
        Self {
            port: server.port().expect("it has a TCP port"),
            server: Some(server),
            taken: Cell::new(0),
        }
    }

    /// No process listens on the port of this peer.
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

    /// Returns all received requests that the test has not taken yet.
    pub(crate) fn rest(&self) -> Vec<ReceivedCall> {
        let mut calls = self.server.as_ref().map_or(Vec::new(), ScriptedPod::calls);
        calls.split_off(self.taken.replace(calls.len()))
    }
}

pub(crate) const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";
