//! Asks a pod whether it is well, over its Unix socket or at its port, whichever answers. What an answer means
//! is `nanofaas_core::health`'s; that a server at the port is the pod's own is found out here.
//! A starting pod is asked from its spawn on, a quarantined one when the scheduler says so.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nanofaas_core::descriptors;
use nanofaas_core::health::{Health, STATUS_LEN, request, status};
use nanofaas_core::message::PodAddress;
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};

use crate::process::listener;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(1);
/// Of an answer's body that is read so that its server meets no reset.
const REST_MAX: u64 = 64 * 1024;

/// What one pod is asked, where, and what it said.
pub(crate) struct Questions {
    request: Vec<u8>,
    health: Health,
    /// The last word of a pod that is not well.
    last: RefCell<Option<Unwell>>,
    /// It could not be asked: this process had no descriptor, which says nothing of the pod.
    not_asked: Cell<bool>,
}

/// Why an answer does not make a pod ready.
enum Unwell {
    Status(u16),
    /// The first bytes are no answer of an HTTP server.
    NoHttp,
    /// Another process listens at the pod's port.
    Stranger(SocketAddr),
}

impl fmt::Display for Unwell {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(out, "its last answer was {status}"),
            Self::NoHttp => write!(out, "what it answered was not HTTP"),
            Self::Stranger(address) => write!(
                out,
                "a process listens at {address} that is none of the pod's, or that cannot be looked at"
            ),
        }
    }
}

/// All places where a pod may listen.
pub(crate) fn places(socket: PodAddress, port: u16) -> [PodAddress; 3] {
    let at = |ip: IpAddr| PodAddress::Tcp(SocketAddr::new(ip, port));
    // A server that listens at `localhost` may have been given either.
    let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    [socket, at(v4), at(v6)]
}

impl Questions {
    pub(crate) fn new(path: &str, function: &str) -> Self {
        Self {
            request: request(path, function),
            health: Health::default(),
            last: RefCell::default(),
            not_asked: Cell::default(),
        }
    }

    /// What a pod said that is not well, in words.
    pub(crate) fn last_word(&self) -> Option<String> {
        self.last.borrow().as_ref().map(Unwell::to_string)
    }

    /// Whether it could not be asked since the last look.
    pub(crate) fn was_not_asked(&self) -> bool {
        self.not_asked.take()
    }

    /// Asks at each place in turn until it is well at one, which is returned; the caller sets the limit. `pid`
    /// is the pod's process, once it runs.
    pub(crate) async fn until_well(
        &self,
        places: &[PodAddress],
        pid: impl Fn() -> Option<Pid>,
    ) -> PodAddress {
        let mut pause = FIRST_PAUSE;
        loop {
            for place in places {
                match timeout(ANSWER, self.ask(place, pid())).await {
                    Ok(Ok(true)) => return place.clone(),
                    Ok(Err(error)) if descriptors::are_missing(&error) => {
                        self.not_asked.set(true);
                    }
                    _ => {}
                }
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        }
    }

    async fn ask(&self, place: &PodAddress, pid: Option<Pid>) -> io::Result<bool> {
        let said = match place {
            PodAddress::Unix(path) => self.exchange(UnixStream::connect(path).await?).await?,
            PodAddress::Tcp(address) => self.exchange(TcpStream::connect(address).await?).await?,
        };
        let unwell = match status(&said) {
            None => Unwell::NoHttp,
            Some(status) if !self.health.is_well(status) => Unwell::Status(status),
            Some(status) => match place {
                // Not before it says that it is well: the look costs more than the question.
                PodAddress::Tcp(at) if !pid.is_some_and(|pid| is_own(pid, *at)) => {
                    Unwell::Stranger(*at)
                }
                _ => {
                    self.health.note(status);
                    return Ok(true);
                }
            },
        };
        self.last.replace(Some(unwell));
        Ok(false)
    }

    async fn exchange(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> io::Result<[u8; STATUS_LEN]> {
        stream.write_all(&self.request).await?;
        let mut said = [0; STATUS_LEN];
        stream.read_exact(&mut said).await?;
        tokio::spawn(read_to_end(stream));
        Ok(said)
    }
}

/// Reads the rest of an answer, so that a server that still writes it meets no reset.
async fn read_to_end(stream: impl AsyncRead + Unpin) {
    let mut rest = stream.take(REST_MAX);
    // What the pod does now concerns no one.
    let _ = timeout(ANSWER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
}

fn is_own(pid: Pid, at: SocketAddr) -> bool {
    listener::is_of(pid, at.ip(), at.port())
}
