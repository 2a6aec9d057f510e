//! Probes a pod over HTTP at its addresses in turn, until the pod answers well. A starting pod is probed as
//! soon as its address is known; a quarantined pod is probed when the scheduler orders it. `pod::life` sets
//! the deadline and decides what the result means.

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
const ANSWER: Duration = Duration::from_secs(1);
/// The largest number of bytes of an answer that are read after its status.
const REST_MAX: u64 = 64 * 1024;

/// The probes of one pod and their results. The probing task notifies `bell` after the first probe, and when
/// the pod has answered well.
pub struct HealthCheck {
    request: Vec<u8>,
    health: Health,
    bell: Rc<Notify>,
    /// The address at which the pod answered well.
    answered: RefCell<Option<PodAddress>>,
    was_probed: Cell<bool>,
    last: RefCell<Option<Unwell>>,
    /// Whether a probe failed because this process had no free file descriptor. Such a failure shows nothing
    /// about the pod.
    descriptor_shortage: Cell<bool>,
}

enum Unwell {
    Status(u16),
    /// The first bytes are not the answer of an HTTP server.
    NoHttp,
    /// The process that listens here is not known to be the pod's.
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
            was_probed: Cell::new(false),
            last: RefCell::default(),
            descriptor_shortage: Cell::new(false),
        }
    }

    /// Starts a task that probes until the pod answers well at one of these addresses. Dropping the returned
    /// value stops the probes. `is_own` returns whether the server at an address is the pod's own.
    pub fn begin(
        self: &Rc<Self>,
        addresses: Vec<PodAddress>,
        is_own: impl Fn(SocketAddr) -> bool + 'static,
    ) -> AbortOnDrop<()> {
        let check = self.clone();
        self.answered.replace(None);
        AbortOnDrop(spawn_local(async move {
            let address = check.until_well(&addresses, is_own).await;
            check.answered.replace(Some(address));
            check.bell.notify_one();
        }))
    }

    /// Returns the address at which the pod has answered well since the last `begin`.
    pub fn answered(&self) -> Option<PodAddress> {
        self.answered.borrow().clone()
    }

    /// Returns whether at least one probe has ended, with any result.
    pub fn was_probed(&self) -> bool {
        self.was_probed.get()
    }

    /// Returns the pod's last bad answer as the end of a message.
    pub fn last_answer(&self) -> String {
        let last = self.last.borrow();
        last.as_ref()
            .map_or_else(String::new, |unwell| format!("; {unwell}"))
    }

    /// Returns whether a probe lacked a descriptor since the last call of this function.
    pub fn take_descriptor_shortage(&self) -> bool {
        self.descriptor_shortage.take()
    }

    async fn until_well(
        &self,
        addresses: &[PodAddress],
        is_own: impl Fn(SocketAddr) -> bool,
    ) -> PodAddress {
        let mut pause = FIRST_PAUSE;
        loop {
            for address in addresses {
                let answer = timeout(ANSWER, self.ask(address, &is_own)).await;
                if !self.was_probed.replace(true) {
                    self.bell.notify_one();
                }
                match answer {
                    Ok(Ok(true)) => return address.clone(),
                    Ok(Err(error)) if descriptors::are_missing(&error) => {
                        self.descriptor_shortage.set(true);
                    }
                    _ => {}
                }
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        }
    }

    async fn ask(
        &self,
        address: &PodAddress,
        is_own: impl Fn(SocketAddr) -> bool,
    ) -> io::Result<bool> {
        let answer = match address {
            PodAddress::Unix(path) => self.exchange(UnixStream::connect(path).await?).await?,
            PodAddress::Tcp(address) => self.exchange(TcpStream::connect(address).await?).await?,
        };
        let unwell = match status(&answer) {
            None => Unwell::NoHttp,
            Some(status) if !self.health.is_well(status) => Unwell::Status(status),
            Some(status) => match address {
                // The check of the owner costs more than the request, so only a good answer gets it.
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

/// Reads the rest of an answer, because the server would get a reset if this end closed the connection while
/// the server writes.
async fn read_to_end(stream: impl AsyncRead + Unpin) {
    let mut rest = stream.take(REST_MAX);
    // Ignore errors, because the probe already has its answer.
    let _ = timeout(ANSWER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
}
