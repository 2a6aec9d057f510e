//! Asks a pod over HTTP whether it is well: at its places in turn, until it is well at one. A starting
//! pod is asked from the moment it has a place, a quarantined one when the scheduler says so. It
//! decides nothing; `pod::life` sets the deadline.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use nanofaas_core::descriptors;
use nanofaas_core::health::{Health, STATUS_LEN, request, status};
use nanofaas_core::message::PodAddress;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use crate::task::AbortOnDrop;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(1);
/// Of an answer's body that is read so that its server meets no reset.
const REST_MAX: u64 = 64 * 1024;

/// What one pod is asked, and what it answered. Rings the pod's bell when that changes.
pub struct HealthCheck {
    request: Vec<u8>,
    health: Health,
    bell: Rc<Notify>,
    /// Where it was well.
    answered: RefCell<Option<PodAddress>>,
    was_asked: Cell<bool>,
    /// The last answer of a pod that is not well.
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

impl HealthCheck {
    pub fn new(path: &str, function: &str, bell: Rc<Notify>) -> Self {
        Self {
            request: request(path, function),
            health: Health::default(),
            bell,
            answered: RefCell::default(),
            was_asked: Cell::new(false),
            last: RefCell::default(),
            not_asked: Cell::new(false),
        }
    }

    /// Asks until the pod is well at one of these places. Dropping the result ends it. `is_own` says
    /// whether a server at an address is the pod's own.
    pub fn begin(
        self: &Rc<Self>,
        places: Vec<PodAddress>,
        is_own: impl Fn(SocketAddr) -> bool + 'static,
    ) -> AbortOnDrop<()> {
        let check = self.clone();
        self.answered.replace(None);
        AbortOnDrop(spawn_local(async move {
            let place = check.until_well(&places, is_own).await;
            check.answered.replace(Some(place));
            check.bell.notify_one();
        }))
    }

    /// Where the pod was well, since the last `begin`.
    pub fn answered(&self) -> Option<PodAddress> {
        self.answered.borrow().clone()
    }

    /// Whether the pod was asked at all, whatever it answered.
    pub fn was_asked(&self) -> bool {
        self.was_asked.get()
    }

    /// What a pod answered that is not well, in words that go on a message; empty if nothing.
    pub fn last_answer(&self) -> String {
        let last = self.last.borrow();
        last.as_ref()
            .map_or_else(String::new, |unwell| format!("; {unwell}"))
    }

    /// Whether it could not be asked since this was last read.
    pub fn take_not_asked(&self) -> bool {
        self.not_asked.take()
    }

    async fn until_well(
        &self,
        places: &[PodAddress],
        is_own: impl Fn(SocketAddr) -> bool,
    ) -> PodAddress {
        let mut pause = FIRST_PAUSE;
        loop {
            for place in places {
                let answer = timeout(ANSWER, self.ask(place, &is_own)).await;
                if !self.was_asked.replace(true) {
                    self.bell.notify_one();
                }
                match answer {
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

    /// Asks at one place whether the pod is well.
    async fn ask(
        &self,
        place: &PodAddress,
        is_own: impl Fn(SocketAddr) -> bool,
    ) -> io::Result<bool> {
        let answer = match place {
            PodAddress::Unix(path) => self.exchange(UnixStream::connect(path).await?).await?,
            PodAddress::Tcp(address) => self.exchange(TcpStream::connect(address).await?).await?,
        };
        let unwell = match status(&answer) {
            None => Unwell::NoHttp,
            Some(status) if !self.health.is_well(status) => Unwell::Status(status),
            Some(status) => match place {
                // Not before it answers that it is well: this check costs more than the request.
                PodAddress::Tcp(at) if !is_own(*at) => Unwell::Stranger(*at),
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
        let mut start = [0; STATUS_LEN];
        stream.read_exact(&mut start).await?;
        tokio::spawn(read_to_end(stream));
        Ok(start)
    }
}

/// Reads the rest of an answer, so that a server that still writes it meets no reset.
async fn read_to_end(stream: impl AsyncRead + Unpin) {
    let mut rest = stream.take(REST_MAX);
    // What the pod does now concerns no one.
    let _ = timeout(ANSWER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
}
