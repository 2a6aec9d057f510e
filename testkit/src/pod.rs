//! Scripted pods: endpoints of POOL functions that answer, wait, send wrong answers or die on purpose, and
//! record their calls. A connection passes its calls to the script one at a time. Scripted pods share no code
//! with the platform's own HTTP.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::socket::EitherSocket;
use crate::wait::{Gate, PATIENCE, lock};

/// A call as the pod received it. Header names are lower case.
#[derive(Clone, Debug)]
pub struct ReceivedCall {
    pub first_line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The number of the call's connection, counted from 0.
    pub connection: usize,
    /// The number of the call over all connections of the pod, counted from 0. It is always 0 if the pod
    /// records no calls.
    pub number: usize,
}

impl ReceivedCall {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} is there twice: {self:?}");
        value
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// Returns the `input` field of the call's envelope.
    pub fn input(&self) -> Value {
        self.json()["input"].clone()
    }
}

/// The pod's end of a connection.
pub struct ScriptedConn {
    stream: EitherSocket,
    unread: Vec<u8>,
    cuts: Arc<AtomicUsize>,
}

impl ScriptedConn {
    /// Sends bytes. Returns whether the connection was still open.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub fn answer(&mut self, status: u16, headers: &str, body: &[u8]) -> After {
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
        let mut bytes = format!("{head}{headers}\r\n").into_bytes();
        bytes.extend_from_slice(body);
        if self.send(&bytes) {
            After::Keep
        } else {
            After::Close
        }
    }

    pub fn json(&mut self, body: &str) -> After {
        self.answer(200, "Content-Type: application/json\r\n", body.as_bytes())
    }

    /// Waits until the gate opens. If the platform closes the connection earlier, adds one to `cuts` and
    /// returns false.
    pub fn wait(&mut self, gate: &Gate) -> bool {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if gate.is_open_within(Duration::from_millis(5)) {
                return true;
            }
            if self.reads_end() {
                self.cuts.fetch_add(1, Ordering::SeqCst);
                return false;
            }
        }
        panic!("the gate never opened and the platform never closed");
    }

    /// Returns whether the platform closes the connection within `time`.
    pub fn closes_within(&mut self, time: Duration) -> bool {
        let end = Instant::now() + time;
        loop {
            if self.reads_end() {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            std::thread::sleep(left.min(Duration::from_millis(5)));
        }
    }

    fn reads_end(&mut self) -> bool {
        let mut bytes = [0; 4096];
        self.stream.set_patience(Duration::from_millis(1));
        let read = self.stream.read(&mut bytes);
        self.stream.set_patience(PATIENCE);
        match read {
            Ok(0) => true,
            Ok(count) => {
                self.unread.extend_from_slice(&bytes[..count]);
                false
            }
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    fn fill(&mut self) -> Option<()> {
        let mut bytes = [0; 16 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) | Err(_) => None,
            Ok(count) => {
                self.unread.extend_from_slice(&bytes[..count]);
                Some(())
            }
        }
    }

    fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.unread.len() < count {
            self.fill()?;
        }
        let rest = self.unread.split_off(count);
        Some(std::mem::replace(&mut self.unread, rest))
    }

    fn next(&mut self) -> Option<ReceivedCall> {
        let end = loop {
            match self
                .unread
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                Some(at) => break at + 4,
                None => self.fill()?,
            }
        };
        let head = String::from_utf8(self.take(end)?).expect("a head in ASCII");
        let mut lines = head.trim_end().split("\r\n");
        let first_line = lines.next().expect("a line").to_owned();
        let headers: Vec<(String, String)> = lines
            .map(|line| {
                let (name, value) = line.split_once(':').expect("a header");
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length = length.map_or(0, |(_, value)| value.parse().expect("a length"));
        let body = self.take(length)?;
        Some(ReceivedCall {
            first_line,
            headers,
            body,
            connection: 0,
            number: 0,
        })
    }
}

/// What the pod does with the connection after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Keep,
    Close,
    /// Closes the connection, by a reset if it is a TCP connection.
    Reset,
}

type Script = Arc<dyn Fn(&ReceivedCall, &mut ScriptedConn) -> After + Send + Sync>;

#[derive(Default)]
struct SeenCalls {
    calls: Mutex<Vec<ReceivedCall>>,
    more: Condvar,
    connections: AtomicUsize,
    forgets: AtomicBool,
    /// The open connections, by number.
    open: Mutex<HashMap<usize, EitherSocket>>,
}

/// A test pod, whose script (a closure) decides its answers.
pub struct ScriptedPod {
    /// The `endpointUrl` of a function that uses this pod.
    pub url: String,
    seen: Arc<SeenCalls>,
    cuts: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
    address: ListenAddress,
}

enum ListenAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl ScriptedPod {
    pub fn tcp(
        script: impl Fn(&ReceivedCall, &mut ScriptedConn) -> After + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        Self::tcp_on(listener, script)
    }

    pub fn tcp_on(
        listener: TcpListener,
        script: impl Fn(&ReceivedCall, &mut ScriptedConn) -> After + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("an address");
        let accept = move || EitherSocket::from(listener.accept().expect("a connection").0);
        Self::serve(
            format!("http://{address}/invoke"),
            ListenAddress::Tcp(address),
            accept,
            script,
        )
    }

    pub fn unix(
        script: impl Fn(&ReceivedCall, &mut ScriptedConn) -> After + Send + Sync + 'static,
    ) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nanofaas-test-{}-{number}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("a socket");
        let url = format!("http+unix://{}:/invoke", path.display());
        let accept = move || EitherSocket::from(listener.accept().expect("a connection").0);
        Self::serve(url, ListenAddress::Unix(path), accept, script)
    }

    fn serve(
        url: String,
        address: ListenAddress,
        accept: impl Fn() -> EitherSocket + Send + 'static,
        script: impl Fn(&ReceivedCall, &mut ScriptedConn) -> After + Send + Sync + 'static,
    ) -> Self {
        let script: Script = Arc::new(script);
        let (seen, cuts) = (
            Arc::new(SeenCalls::default()),
            Arc::new(AtomicUsize::new(0)),
        );
        let stopped = Arc::new(AtomicBool::new(false));
        let pod = Self {
            url,
            seen,
            cuts,
            stopped,
            address,
        };
        let (seen, cuts, stopped) = (pod.seen.clone(), pod.cuts.clone(), pod.stopped.clone());
        std::thread::spawn(move || {
            loop {
                let stream = accept();
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (seen, script, cuts) = (seen.clone(), script.clone(), cuts.clone());
                std::thread::spawn(move || talk(stream, &seen, &script, cuts));
            }
        });
        pod
    }

    /// Starts a pod that answers every call with the text that `output` returns for the call.
    pub fn answering(output: impl Fn(&ReceivedCall) -> String + Send + Sync + 'static) -> Self {
        Self::tcp(move |got, line| line.json(&output(got)))
    }

    /// Starts a pod that answers every call with the call's input.
    pub fn echo() -> Self {
        Self::answering(|got| got.input().to_string())
    }

    /// Starts a pod that waits for the gate and then answers every call with the call's input.
    pub fn held(gate: &Gate) -> Self {
        let gate = gate.clone();
        Self::tcp(move |got, line| {
            if line.wait(&gate) {
                line.json(&got.input().to_string())
            } else {
                After::Close
            }
        })
    }

    /// Starts a pod that answers every call with these bytes and closes the connection.
    pub fn saying(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::tcp(move |_, line| {
            line.send(&bytes);
            After::Close
        })
    }

    /// Returns the pod's port, if the pod listens on TCP.
    pub fn port(&self) -> Option<u16> {
        match &self.address {
            ListenAddress::Tcp(address) => Some(address.port()),
            ListenAddress::Unix(_) => None,
        }
    }

    /// Makes the pod record no calls, for tests with too many calls to keep.
    #[must_use]
    pub fn forgetful(self) -> Self {
        self.seen.forgets.store(true, Ordering::SeqCst);
        self
    }

    /// Closes every connection that is open now.
    pub fn hang_up(&self) {
        for socket in lock(&self.seen.open).values() {
            socket.shutdown(Shutdown::Both);
        }
    }

    /// Returns the calls that the pod has received.
    pub fn calls(&self) -> Vec<ReceivedCall> {
        lock(&self.seen.calls).clone()
    }

    /// Returns the number of connections that the pod has accepted.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Returns the number of calls whose connection the platform closed while the script waited at a gate.
    pub fn cuts(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }

    /// Waits until the pod has received `count` calls.
    #[track_caller]
    pub fn wait_calls(&self, count: usize) -> Vec<ReceivedCall> {
        let few = |calls: &mut Vec<ReceivedCall>| calls.len() < count;
        let waited = self
            .seen
            .more
            .wait_timeout_while(lock(&self.seen.calls), PATIENCE, few);
        let calls = waited.unwrap_or_else(PoisonError::into_inner).0;
        assert!(
            calls.len() >= count,
            "the pod got {} calls, not {count}",
            calls.len()
        );
        calls.clone()
    }
}

fn talk(stream: EitherSocket, seen: &SeenCalls, script: &Script, cuts: Arc<AtomicUsize>) {
    let connection = seen.connections.fetch_add(1, Ordering::SeqCst);
    lock(&seen.open).insert(connection, stream.handle());
    let mut line = ScriptedConn {
        stream,
        unread: Vec::new(),
        cuts,
    };
    let mut after = After::Keep;
    while after == After::Keep {
        let Some(mut got) = line.next() else { break };
        got.connection = connection;
        if !seen.forgets.load(Ordering::SeqCst) {
            let mut calls = lock(&seen.calls);
            got.number = calls.len();
            calls.push(got.clone());
        }
        seen.more.notify_all();
        after = script(&got, &mut line);
    }
    // Drop the other descriptor of the connection, because a socket is closed or reset only when its last
    // descriptor is dropped.
    lock(&seen.open).remove(&connection);
    if after == After::Reset {
        line.stream.reset_on_close();
    } else {
        line.stream.shutdown(Shutdown::Both);
    }
}

impl Drop for ScriptedPod {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // The accepting thread reads `stopped` only after `accept` returns. This connection makes `accept`
        // return.
        match &self.address {
            ListenAddress::Tcp(address) => drop(TcpStream::connect(address)),
            ListenAddress::Unix(path) => {
                drop(UnixStream::connect(path));
                let _ = std::fs::remove_file(path);
            }
        }
    }
}
