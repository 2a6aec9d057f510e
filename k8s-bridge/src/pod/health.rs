//! Asks a pod at its address whether it is well. What an answer means is `nanofaas_core::health`'s.
//! A starting pod is asked from the moment it has an address, a quarantined one when the scheduler
//! says so.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nanofaas_core::descriptors;
use nanofaas_core::health::{Health, STATUS_LEN, request, status};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(1);
/// Of an answer's body that is read so that its server meets no reset.
const REST_MAX: u64 = 64 * 1024;

/// What one pod is asked, and what it said.
pub(crate) struct Questions {
    request: Vec<u8>,
    health: Health,
    /// The status of the last answer that was not well.
    last: Cell<Option<u16>>,
    /// It could not be asked: this process had no descriptor, which says nothing of the pod.
    not_asked: Cell<bool>,
}

impl Questions {
    pub(crate) fn new(path: &str, function: &str) -> Self {
        Self {
            request: request(path, function),
            health: Health::default(),
            last: Cell::new(None),
            not_asked: Cell::new(false),
        }
    }

    /// What a pod said that is not well, in words that go on a message.
    pub(crate) fn last_word(&self) -> String {
        let last = self.last.get();
        last.map_or_else(String::new, |status| {
            format!("; its last answer was {status}")
        })
    }

    /// Whether it could not be asked since the last look.
    pub(crate) fn was_not_asked(&self) -> bool {
        self.not_asked.take()
    }

    /// Asks until the pod is well; the caller sets the limit. `asked` is told of every answer, also of
    /// none.
    pub(crate) async fn until_well(&self, address: SocketAddr, mut asked: impl FnMut()) {
        let mut pause = FIRST_PAUSE;
        loop {
            let answer = timeout(ANSWER, self.ask(address)).await;
            asked();
            match answer {
                Ok(Ok(Some(status))) if self.health.is_well(status) => {
                    return self.health.note(status);
                }
                Ok(Ok(Some(status))) => self.last.set(Some(status)),
                Ok(Err(error)) if descriptors::are_missing(&error) => self.not_asked.set(true),
                _ => {}
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        }
    }

    async fn ask(&self, address: SocketAddr) -> io::Result<Option<u16>> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&self.request).await?;
        let mut said = [0; STATUS_LEN];
        stream.read_exact(&mut said).await?;
        tokio::spawn(read_to_end(stream));
        Ok(status(&said))
    }
}

/// Reads the rest of an answer, so that a server that still writes it meets no reset.
async fn read_to_end(stream: impl AsyncRead + Unpin) {
    let mut rest = stream.take(REST_MAX);
    // What the pod does now concerns no one.
    let _ = timeout(ANSWER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
}
