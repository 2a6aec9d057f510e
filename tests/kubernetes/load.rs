//! The clients of a load make one call after another, each over one keep-alive connection, and record their
//! answers and times. Every load ends after a time limit, even if its test does not end it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nanofaas_testkit::client::Request;
use serde_json::Value;

/// The time after which a load ends at the latest.
const LONGEST: Duration = Duration::from_secs(240);
/// The longest time that a call of a load may take.
const ANSWER: Duration = Duration::from_secs(40);
/// The pause of a client after a call that got no answer, or an answer other than 200. Without the pause, the
/// client would try again all the time while no plane accepts connections.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub(crate) struct LoadReport {
    pub(crate) good: u64,
    /// The unsuccessful answers by status and code, with the last message.
    pub(crate) bad: BTreeMap<String, (u64, String)>,
    /// The number of calls that no plane answered, because the connection was refused or broke.
    pub(crate) unanswered: u64,
    pub(crate) longest: Duration,
}

impl LoadReport {
    pub(crate) fn failures(&self) -> u64 {
        self.bad.values().map(|(count, _)| count).sum()
    }

    #[track_caller]
    pub(crate) fn expect_no_failure(&self) {
        assert!(self.failures() == 0 && self.unanswered == 0, "{self:#?}");
        assert!(self.good > 0, "no call was made");
    }

    fn add(&mut self, other: Self) {
        self.good += other.good;
        self.unanswered += other.unanswered;
        self.longest = self.longest.max(other.longest);
        for (what, (count, message)) in other.bad {
            let known = self.bad.entry(what).or_default();
            *known = (known.0 + count, message);
        }
    }
}

pub(crate) struct Load {
    is_over: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    clients: Vec<JoinHandle<LoadReport>>,
}

impl Load {
    pub(crate) fn start(to: SocketAddr, clients: usize, function: &str, input: &Value) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let good = Arc::new(AtomicU64::new(0));
        let request = Request::invoke(function, input).bytes();
        let client = |_| {
            let (is_over, good, request) = (is_over.clone(), good.clone(), request.clone());
            std::thread::spawn(move || call(to, &request, &is_over, &good))
        };
        let clients = (0..clients).map(client).collect();
        Self {
            is_over,
            good,
            clients,
        }
    }

    /// Returns the number of calls that have succeeded so far.
    pub(crate) fn good(&self) -> u64 {
        self.good.load(Ordering::Relaxed)
    }

    /// Waits until `more` further calls succeed.
    #[track_caller]
    pub(crate) fn go_on(&self, more: u64, patience: Duration) {
        let goal = self.good() + more;
        let what = format!("{more} more calls succeed under load");
        crate::cluster::until(&what, patience, || self.good() >= goal);
    }

    /// Ends the load after the running calls are answered, and returns its results.
    pub(crate) fn end(mut self) -> LoadReport {
        self.is_over.store(true, Ordering::Relaxed);
        let mut report = LoadReport::default();
        for client in self.clients.drain(..) {
            report.add(client.join().expect("a client"));
        }
        println!(
            "    load: {} good, {} bad, {} unanswered, longest {:.2} s",
            report.good,
            report.failures(),
            report.unanswered,
            report.longest.as_secs_f64()
        );
        report
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn call(to: SocketAddr, request: &[u8], is_over: &AtomicBool, good: &AtomicU64) -> LoadReport {
    let mut report = LoadReport::default();
    let mut connection = None;
    let until = Instant::now() + LONGEST;
    while !is_over.load(Ordering::Relaxed) && Instant::now() < until {
        let begun = Instant::now();
        let answer = match connection.take() {
            Some(open) => exchange(open, request),
            None => connect(to).and_then(|open| exchange(open, request)),
        };
        match answer {
            Ok((200, _, open)) => {
                report.good += 1;
                report.longest = report.longest.max(begun.elapsed());
                good.fetch_add(1, Ordering::Relaxed);
                connection = open;
            }
            Ok((status, body, open)) => {
                let (code, message) = reason(&body);
                let known = report.bad.entry(format!("{status} {code}")).or_default();
                *known = (known.0 + 1, message);
                connection = open;
                std::thread::sleep(PAUSE);
            }
            Err(_) => {
                report.unanswered += 1;
                std::thread::sleep(PAUSE);
            }
        }
    }
    report
}

/// Returns the code and message of a failed result, or of a refusal.
fn reason(body: &[u8]) -> (String, String) {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match &body["error"] {
        Value::String(code) => (code.clone(), text(&body["message"])),
        error => (text(&error["code"]), text(&error["message"])),
    }
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER))?;
    Ok(stream)
}

/// Returns the status, the body, and the connection if it stays open.
fn exchange(
    mut stream: TcpStream,
    request: &[u8],
) -> io::Result<(u16, Vec<u8>, Option<TcpStream>)> {
    stream.write_all(request)?;
    let mut bytes = Vec::new();
    let mut part = [0; 8192];
    loop {
        let head = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(head) = head {
            let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
            let length = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.and_then(|text| text.parse().ok()).unwrap_or(0);
            if bytes.len() >= head + 4 + length {
                let status = text.split(' ').nth(1).and_then(|word| word.parse().ok());
                let closes = text.contains("\r\nconnection: close");
                let body = bytes[head + 4..].to_vec();
                let status = status.ok_or(io::ErrorKind::InvalidData)?;
                return Ok((status, body, (!closes).then_some(stream)));
            }
        }
        match stream.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => bytes.extend_from_slice(&part[..count]),
        }
    }
}
