//! A small raw HTTP/1.1 client over a blocking socket. It sends any bytes, even invalid ones, and reads
//! answers strictly. Every read has a deadline. The client never repairs an answer, follows a redirect or
//! retries a request. The tests of the running program use it.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::socket::EitherSocket;
use crate::wait::PATIENCE;

/// One answer. Header names are lower case.
#[derive(Clone, Debug)]
pub struct Answer {
    pub version: String,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} is there twice: {self:?}");
        value
    }

    /// Returns the values of a header that may occur several times.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        let found = self.headers.iter().filter(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|fault| panic!("no JSON ({fault}) in {} {}", self.status, self.text()))
    }

    /// Fails the test if the answer has another status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {}", self.headers, self.text());
        self
    }

    /// Checks an answer that reports an error outside an execution: its status, its code, its message and its
    /// content type, JSON.
    #[track_caller]
    pub fn expect_error(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let body = answer.json();
        assert_eq!(body["error"], code, "{body}");
        let message = body["message"].as_str().expect("a message");
        assert!(!message.is_empty(), "{body}");
        answer
    }

    /// Checks the answer to a call that did not succeed: HTTP status, state and code.
    #[track_caller]
    pub fn expect_failure(self, status: u16, state: &str, code: &str) -> Self {
        let answer = self.expect(status);
        let body = answer.json();
        assert_eq!(body["status"], state, "{body}");
        assert_eq!(body["error"]["code"], code, "{body}");
        assert!(body["error"]["message"].is_string(), "{body}");
        assert_eq!(body["output"], Value::Null, "{body}");
        assert_eq!(
            body["executionId"].as_str(),
            answer.header("x-execution-id")
        );
        answer
    }

    /// Returns the id of the execution from the answer's headers.
    #[track_caller]
    pub fn id(&self) -> String {
        let id = self.header("x-execution-id");
        id.unwrap_or_else(|| panic!("no id in {self:?}")).to_owned()
    }
}

#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    path: String,
    host: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            host: "localhost".to_owned(),
            headers: Vec::new(),
            body: None,
        }
    }

    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    pub fn delete(path: &str) -> Self {
        Self::new("DELETE", path)
    }

    /// Returns the request of a sync call, with the body `{"input": …}`.
    pub fn invoke(function: &str, input: &Value) -> Self {
        let envelope = serde_json::json!({ "input": input });
        Self::new("POST", &format!("/v1/functions/{function}:invoke")).json(&envelope)
    }

    pub fn enqueue(function: &str, input: &Value) -> Self {
        let envelope = serde_json::json!({ "input": input });
        Self::new("POST", &format!("/v1/functions/{function}:enqueue")).json(&envelope)
    }

    pub fn json(self, value: &Value) -> Self {
        self.body("application/json", value.to_string())
    }

    pub fn body(mut self, content_type: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.body = Some(bytes.into());
        self.header("Content-Type", content_type)
    }

    /// Adds a body without a Content-Type.
    pub fn untyped_body(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.body = Some(bytes.into());
        self
    }

    pub fn headers(mut self, more: &[(&str, &str)]) -> Self {
        for (name, value) in more {
            self = self.header(name, value);
        }
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let Self {
            method, path, host, ..
        } = self;
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = &self.body {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        let mut bytes = (text + "\r\n").into_bytes();
        bytes.extend(self.body.iter().flatten());
        bytes
    }

    /// Sends the request over a new connection and waits for the answer.
    #[track_caller]
    pub fn send(&self, to: SocketAddr) -> Answer {
        let mut wire = self.begin(to);
        let answer = wire.read(self.method != "HEAD");
        answer.unwrap_or_else(|error| panic!("{} {}: {error}", self.method, self.path))
    }

    /// Sends the request over a new connection, and returns the connection without reading the answer.
    pub fn begin(&self, to: SocketAddr) -> RawClient {
        let mut wire = RawClient::connect(to);
        wire.send(&self.bytes());
        wire
    }
}

pub struct RawClient {
    socket: EitherSocket,
    unread: Vec<u8>,
}

impl RawClient {
    #[track_caller]
    pub fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).unwrap_or_else(|error| panic!("{to}: {error}"));
        Self::over(stream)
    }

    pub fn over(stream: TcpStream) -> Self {
        Self::of(stream.into())
    }

    /// Connects to a Unix socket. Returns an error if no process accepts there.
    pub fn unix(path: &Path) -> io::Result<Self> {
        UnixStream::connect(path).map(|stream| Self::of(stream.into()))
    }

    const fn of(socket: EitherSocket) -> Self {
        let unread = Vec::new();
        Self { socket, unread }
    }

    /// Returns a second handle of the connection, with which another thread can send.
    pub fn sender(&self) -> Self {
        Self::of(self.socket.handle())
    }

    /// Reads raw bytes from the socket. A later `read` does not return these bytes.
    pub fn receive(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if !self.unread.is_empty() {
            let count = self.unread.len().min(bytes.len());
            bytes[..count].copy_from_slice(&self.unread[..count]);
            self.unread.drain(..count);
            return Ok(count);
        }
        self.socket.read(bytes)
    }

    /// Sends bytes. The peer may have closed the connection; the error is ignored here, because the read of
    /// the answer reports it.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes);
    }

    /// Sends bytes. Returns whether the connection was still open.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    /// Closes the connection by a reset.
    pub fn reset(self) {
        self.socket.reset_on_close();
    }

    /// Sends a FIN.
    pub fn finish(&mut self) {
        self.socket.shutdown(Shutdown::Write);
    }

    pub fn set_patience(&mut self, patience: Duration) {
        self.socket.set_patience(patience);
    }

    /// Reads the next answer. `with_body` must be false for the answer to a HEAD.
    pub fn read(&mut self, with_body: bool) -> io::Result<Answer> {
        let head = self.take_until(b"\r\n\r\n")?;
        let head = String::from_utf8(head).map_err(|_| bad("a head that is not UTF-8"))?;
        let mut lines = head.trim_end_matches("\r\n").split("\r\n");
        let first = lines.next().unwrap_or_default();
        let mut words = first.splitn(3, ' ');
        let version = words.next().unwrap_or_default().to_owned();
        let status = words.next().and_then(|word| word.parse().ok());
        let status = status.ok_or_else(|| bad(&format!("a status line {first:?}")))?;
        let mut headers = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(": ").ok_or_else(|| bad(line))?;
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let mut answer = Answer {
            version,
            status,
            headers,
            body: Vec::new(),
        };
        let bodiless = matches!(status, 100..=199 | 204 | 304);
        if with_body && !bodiless {
            answer.body = self.body(&answer)?;
        }
        Ok(answer)
    }

    /// Reads the next answer. Fails the test if no answer comes.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        self.read(true)
            .unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    fn body(&mut self, answer: &Answer) -> io::Result<Vec<u8>> {
        if let Some(coding) = answer.header("transfer-encoding") {
            assert_eq!(coding, "chunked");
            return self.chunks();
        }
        match answer.header("content-length") {
            Some(length) => self.take(length.parse().map_err(|_| bad(length))?),
            None => {
                let mut rest = std::mem::take(&mut self.unread);
                self.socket.read_to_end(&mut rest)?;
                Ok(rest)
            }
        }
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.take_until(b"\r\n")?;
            let size = String::from_utf8_lossy(&line[..line.len() - 2]).into_owned();
            let size = usize::from_str_radix(&size, 16).map_err(|_| bad(&size))?;
            let chunk = self.take(size + 2)?;
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < count {
            self.fill()?;
        }
        let rest = self.unread.split_off(count);
        Ok(std::mem::replace(&mut self.unread, rest))
    }

    fn take_until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            let at = self
                .unread
                .windows(end.len())
                .position(|window| window == end);
            if let Some(at) = at {
                return self.take(at + end.len());
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; 16 * 1024];
        match self.socket.read(&mut bytes)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            count => {
                self.unread.extend_from_slice(&bytes[..count]);
                Ok(())
            }
        }
    }

    /// Returns whether the peer closes the connection within `patience` and sends no more bytes.
    pub fn closes_within(&mut self, patience: Duration) -> bool {
        if !self.unread.is_empty() {
            return false;
        }
        self.set_patience(patience);
        matches!(self.fill(), Err(error) if !is_timeout(&error))
    }

    /// Returns whether the peer sends nothing and keeps the connection open for `time`.
    pub fn stays_quiet_for(&mut self, time: Duration) -> bool {
        self.set_patience(time);
        let quiet = matches!(self.fill(), Err(error) if is_timeout(&error));
        self.set_patience(PATIENCE);
        quiet
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("the answer has {what:?}"))
}
