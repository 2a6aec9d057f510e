//! A client that interprets only as much of HTTP as it needs to find complete messages. `WireClient::new`
//! makes its buffers; after that it does not allocate. The pods find requests with `Messages`, too.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The size of a buffer, in bytes. No message of the test is larger.
pub(crate) const ROOM: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Messages<S> {
    pub(crate) stream: S,
    bytes: Box<[u8; ROOM]>,
}

impl<S: Read> Messages<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            bytes: Box::new([0; ROOM]),
        }
    }

    /// Returns `None` if the connection has ended.
    pub(crate) fn next(&mut self) -> Option<&[u8]> {
        let mut filled = 0;
        while !is_whole(&self.bytes[..filled]) {
            match self.stream.read(&mut self.bytes[filled..]) {
                Ok(count) if count > 0 => filled += count,
                _ => return None,
            }
        }
        Some(&self.bytes[..filled])
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    let mut windows = bytes.windows(what.len());
    windows.position(|window| window.eq_ignore_ascii_case(what))
}

/// Returns whether `bytes` are exactly one message: a head, and a body of the length that the head declares.
fn is_whole(bytes: &[u8]) -> bool {
    const LENGTH: &[u8] = b"\r\nContent-Length: ";
    let Some(head) = find(bytes, b"\r\n\r\n") else {
        return false;
    };
    let digits = find(&bytes[..head], LENGTH).expect("every message has a length") + LENGTH.len();
    let digits = bytes[digits..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    let body = digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
    assert!(bytes.len() <= head + 4 + body, "nothing was pipelined");
    bytes.len() == head + 4 + body
}

pub(crate) struct WireClient {
    connections: Vec<Messages<TcpStream>>,
    request: Vec<u8>,
}

impl WireClient {
    /// Makes a client that calls the function by `:invoke`.
    pub(crate) fn new(plane: SocketAddr, function: &str, connections: usize) -> Self {
        let target = format!("/v1/functions/{function}:invoke");
        Self::to(plane, &target, connections)
    }

    pub(crate) fn to(plane: SocketAddr, target: &str, connections: usize) -> Self {
        let body = format!(r#"{{"input":"{}"}}"#, "x".repeat(256));
        let connect = |_| {
            let stream = TcpStream::connect(plane).expect("a connection");
            stream.set_nodelay(true).expect("a socket");
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
            Messages::new(stream)
        };
        Self {
            connections: (0..connections).map(connect).collect(),
            request: format!(
                "POST {target} HTTP/1.1\r\nHost: {plane}\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes(),
        }
    }

    /// Makes at least `calls` calls. Each connection has one call at a time.
    pub(crate) fn call(&mut self, calls: usize) {
        for _ in 0..calls.div_ceil(self.connections.len()) {
            for connection in &mut self.connections {
                let sent = connection.stream.write_all(&self.request);
                sent.expect("the plane reads");
            }
            for connection in &mut self.connections {
                let answer = connection.next().expect("the plane answers");
                let fine = answer.starts_with(b"HTTP/1.1 200 ");
                assert!(fine, "{}", String::from_utf8_lossy(answer));
            }
        }
    }
}
