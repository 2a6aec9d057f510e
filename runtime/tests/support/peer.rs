//! A stand-in for the platform, which answers from a script and reports the requests that it got.

#![allow(
    clippy::disallowed_methods,
    reason = "tests act in place of clients, pods and clocks"
)]

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use serde_json::Value;

use super::{PATIENCE, read_head};

/// What a scripted peer got.
#[derive(Debug)]
pub(crate) struct Got {
    /// Method and target.
    pub(crate) line: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Got {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

/// A stand-in for the platform. It answers the one request of each connection with the next line of
/// the script; the last line is repeated. For an empty line it closes without an answer.
pub(crate) struct Peer {
    pub(crate) port: u16,
    got: Receiver<Got>,
}

impl Peer {
    pub(crate) fn start(script: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let script: Vec<String> = script.iter().map(|&answer| answer.to_owned()).collect();
        let (sender, got) = mpsc::channel();
        thread::spawn(move || {
            let last = script.last().cloned();
            let mut answers = script.into_iter();
            for stream in listener.incoming().map_while(Result::ok) {
                let mut stream = BufReader::new(stream);
                let Some((line, headers)) = read_head(&mut stream) else {
                    continue;
                };
                let length = headers.get("content-length").map_or("0", String::as_str);
                let mut body = vec![0; length.parse().expect("a length")];
                stream.read_exact(&mut body).expect("a whole body");
                let answer = answers.next().or_else(|| last.clone()).unwrap_or_default();
                // The program may have gone.
                let _ = stream.get_mut().write_all(answer.as_bytes());
                if sender
                    .send(Got {
                        line,
                        headers,
                        body,
                    })
                    .is_err()
                {
                    return;
                }
            }
        });
        Self { port, got }
    }

    /// A stand-in that does not run: no process listens on its port.
    pub(crate) fn nobody() -> Self {
        let (_, got) = mpsc::channel();
        Self { port: 1, got }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(crate) fn next(&self) -> Got {
        self.got
            .recv_timeout(PATIENCE)
            .expect("a request for the peer")
    }

    /// All requests that it got and the test has not taken yet.
    pub(crate) fn rest(&self) -> Vec<Got> {
        self.got.try_iter().collect()
    }
}

pub(crate) const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";
