//! Sends blocking requests, one at a time, which check whether a server is ready, prepare a contender, or get
//! its first answer. A read waits at most 10 seconds. This module measures nothing and is not the load
//! client. `running`, `first` and `footprint` use it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::address::{ParsedUrl, ServerAddress};
use crate::load::{LoadSpec, RequestTarget};
use crate::plan::{PlannedRequest, RequestPlan};
use crate::wire::ResponseReader;

const PATIENCE: Duration = Duration::from_secs(10);

/// A connection for several requests, one after another.
pub(crate) struct BlockingConnection {
    stream: Box<dyn ReadWrite>,
}

trait ReadWrite: Read + Write {}

impl<S: Read + Write> ReadWrite for S {}

impl BlockingConnection {
    pub(crate) fn open(address: &ServerAddress) -> io::Result<Self> {
        let stream: Box<dyn ReadWrite> = match address {
            ServerAddress::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            ServerAddress::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Box::new(stream)
            }
        };
        Ok(Self { stream })
    }

    /// Sends a complete request. Returns the answer's status, and all bytes of the answer with its head.
    pub(crate) fn ask(&mut self, request: &[u8], bodiless: bool) -> io::Result<(u16, Vec<u8>)> {
        self.stream.write_all(request)?;
        let mut reader = ResponseReader::new();
        reader.begin(bodiless);
        let mut text = Vec::new();
        let mut piece = [0; 16 * 1024];
        loop {
            let length = self.stream.read(&mut piece)?;
            text.extend_from_slice(&piece[..length]);
            let answer = if length == 0 {
                reader.close().ok_or(ErrorKind::UnexpectedEof)?
            } else {
                match reader.feed(&piece[..length]) {
                    Ok(Some(answer)) => answer,
                    Ok(None) => continue,
                    Err(_) => return Err(ErrorKind::InvalidData.into()),
                }
            };
            return Ok((answer.status, text));
        }
    }
}

pub(crate) fn request(target: RequestTarget) -> Result<(ServerAddress, Vec<u8>), String> {
    let load = LoadSpec {
        targets: vec![target],
        ..LoadSpec::default()
    };
    let plan = RequestPlan::new(&load, Vec::new(), false)?;
    let mut bytes = Vec::new();
    plan.write(
        PlannedRequest {
            target: 0,
            function: 0,
            duration_ms: 0.0,
        },
        &mut bytes,
    );
    Ok((plan.urls[0].address.clone(), bytes))
}

/// Repeats a `GET`, with pauses of 1 ms, until the answer is 2xx. Returns false if `end` comes or `alive`
/// returns false before such an answer.
pub(crate) fn until_ready(
    url: &str,
    end: Instant,
    alive: impl Fn() -> bool,
) -> Result<bool, String> {
    let parsed = ParsedUrl::parse(url, false)?;
    let target = RequestTarget {
        url: url.to_owned(),
        method: "GET".to_owned(),
        ..RequestTarget::default()
    };
    let (_, request) = request(target)?;
    while Instant::now() < end && alive() {
        let answer = BlockingConnection::open(&parsed.address)
            .and_then(|mut line| line.ask(&request, false));
        if answer.is_ok_and(|(status, _)| (200..300).contains(&status)) {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(false)
}
