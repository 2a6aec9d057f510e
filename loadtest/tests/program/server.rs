//! Scripted servers answer, wait, stall, close or send invalid answers on purpose, and record the requests.
//! Each connection has a thread of its own, and a script may block all of these threads. The servers share no
//! code with the tool's own HTTP.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[derive(Clone, Debug)]
pub(crate) struct ReceivedRequest {
    pub(crate) first_line: String,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// The number of the request over all connections, from 0.
    pub(crate) number: usize,
}

pub(crate) struct ScriptedReply {
    pub(crate) bytes: Vec<u8>,
    pub(crate) then_close: bool,
}

pub(crate) fn ok() -> ScriptedReply {
    status(200)
}

pub(crate) fn status(status: u16) -> ScriptedReply {
    ScriptedReply {
        bytes: format!("HTTP/1.1 {status} Said\r\ncontent-length: 2\r\n\r\n{{}}").into_bytes(),
        then_close: false,
    }
}

pub(crate) fn raw(text: &str, then_close: bool) -> ScriptedReply {
    ScriptedReply {
        bytes: text.as_bytes().to_vec(),
        then_close,
    }
}

pub(crate) struct ScriptedServer {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<ReceivedRequest>>>,
}

impl ScriptedServer {
    pub(crate) fn seen(&self) -> Vec<ReceivedRequest> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn tcp(
        script: impl Fn(&ReceivedRequest) -> ScriptedReply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        Self::serve(format!("http://{address}"), script, move || {
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })
    }

    pub(crate) fn unix(
        path: &Path,
        script: impl Fn(&ReceivedRequest) -> ScriptedReply + Send + Sync + 'static,
    ) -> Self {
        let listener = UnixListener::bind(path).expect("a socket");
        let url = format!("http+unix://{}:", path.display());
        Self::serve(url, script, move || Ok(listener.accept()?.0))
    }

    fn serve<S: Read + Write + Send + 'static>(
        url: String,
        script: impl Fn(&ReceivedRequest) -> ScriptedReply + Send + Sync + 'static,
        accept: impl Fn() -> io::Result<S> + Send + 'static,
    ) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (script, numbers) = (Arc::new(script), Arc::new(AtomicUsize::new(0)));
        let kept = seen.clone();
        std::thread::spawn(move || {
            while let Ok(stream) = accept() {
                let (script, numbers, seen) = (script.clone(), numbers.clone(), kept.clone());
                std::thread::spawn(move || connection(stream, &*script, &numbers, &seen));
            }
        });
        Self { url, seen }
    }
}

fn connection(
    mut stream: impl Read + Write,
    script: &(impl Fn(&ReceivedRequest) -> ScriptedReply + ?Sized),
    numbers: &AtomicUsize,
    seen: &Mutex<Vec<ReceivedRequest>>,
) {
    let mut bytes = Vec::new();
    while let Some(got) = request(&mut stream, &mut bytes, numbers) {
        seen.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(got.clone());
        let reply = script(&got);
        if stream.write_all(&reply.bytes).is_err() || reply.then_close {
            return;
        }
    }
}

fn request(
    stream: &mut impl Read,
    bytes: &mut Vec<u8>,
    numbers: &AtomicUsize,
) -> Option<ReceivedRequest> {
    let mut more = |bytes: &mut Vec<u8>| {
        let mut piece = [0; 16 * 1024];
        let length = stream.read(&mut piece).ok().filter(|length| *length > 0)?;
        bytes.extend_from_slice(&piece[..length]);
        Some(())
    };
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        more(bytes)?;
    };
    let head = String::from_utf8(bytes[..end].to_vec()).expect("a head in UTF-8");
    let length = head
        .to_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ").map(str::to_owned))
        .map_or(0, |length| length.parse().expect("a length"));
    while bytes.len() < end + length {
        more(bytes)?;
    }
    let body = bytes[end..end + length].to_vec();
    bytes.drain(..end + length);
    Some(ReceivedRequest {
        first_line: head.lines().next().unwrap_or_default().to_owned(),
        head,
        body,
        number: numbers.fetch_add(1, Ordering::Relaxed),
    })
}

pub(crate) fn wait_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}
