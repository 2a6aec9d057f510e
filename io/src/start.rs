//! Starting the io threads: what they are given, and the set-up ladder of the I/O driver.
//! It never serves a call; the threads that it starts do. The process calls it once.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use nanofaas_core::doorbell::Doorbell;
use nanofaas_core::entries::Entries;
use nanofaas_core::metrics::ThreadLedger;
use nanofaas_core::post::{BridgePost, IoInbox, PinnedPost};
use nanofaas_core::rate::RateBucket;

/// Which system interface an io thread sits on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverChoice {
    Auto,
    Uring,
    Epoll,
}

/// What an operator may set, as far as io threads are concerned.
#[derive(Clone, Debug)]
pub struct IoConfig {
    pub listen: SocketAddr,
    /// `/v1/internal` gets a listener of its own; without it, it is served on `listen`.
    pub internal_listen: Option<SocketAddr>,
    pub driver: DriverChoice,
    /// CPUs to pin io threads to, one each; empty for no pinning.
    pub pin: Vec<usize>,
    pub spin_us: u32,
    pub body_bytes_max: u64,
    pub response_bytes_max: u64,
    /// Over all io threads.
    pub inflight_bytes: u64,
    pub async_max_age_ms: u64,
    pub execution_ttl_ms: u64,
    /// Over all io threads.
    pub execution_store_bytes: u64,
    /// `http://host:port` under which pods reach `/v1/internal`.
    pub callback_base: String,
    /// The text of `GET /openapi.yaml`.
    pub openapi: &'static str,
}

/// Where the scheduler lives.
pub enum SchedulerSeat {
    /// On the only io thread.
    Inline,
    Pinned(PinnedPost),
}

/// What connects the io threads with the rest of the process.
pub struct Plumbing {
    /// The process's clock: nanoseconds since `origin`, which was `origin_wall`.
    pub origin: Instant,
    pub origin_wall: SystemTime,
    pub entries: Arc<Entries>,
    pub scheduler: SchedulerSeat,
    /// One for each io thread, with the waking end of its bell.
    pub inboxes: Vec<(IoInbox, UnixStream)>,
    pub bridge: BridgePost,
    pub ledgers: Arc<[ThreadLedger]>,
    pub rate: Arc<RateBucket>,
}

/// The io threads that run.
pub struct IoThreads {
    pub threads: Vec<std::thread::JoinHandle<()>>,
    /// The driver that all of them took, for the log and the metric: `uring` or `epoll`.
    pub driver: &'static str,
    pub listen: SocketAddr,
    pub internal_listen: Option<SocketAddr>,
}

/// An io thread's bell: ringing it writes one byte, which the thread reads like any other socket.
pub fn bell() -> std::io::Result<(Arc<Doorbell>, UnixStream)> {
    struct Ringer(UnixStream);
    impl std::task::Wake for Ringer {
        fn wake(self: Arc<Self>) {
            use std::io::Write;
            // A full buffer means that the thread has a byte to read already.
            let _ = (&self.0).write(&[1]);
        }
    }
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok((Arc::new(Doorbell::new(Arc::new(Ringer(ours)).into())), theirs))
}

/// Why the io threads could not be started; each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {why}")]
    Listen { address: SocketAddr, why: String },
    #[error("io_uring is not to be had here ({0}); use --io-driver auto or epoll")]
    NoUring(std::io::Error),
    #[error("cannot start an io thread: {0}")]
    Thread(#[from] std::io::Error),
}
