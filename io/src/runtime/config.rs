//! What an operator may set, as far as io threads are concerned. It checks nothing; the process does.

use std::net::SocketAddr;

use nanofaas_core::time::Nanos;

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
    /// How long a thread spins before it parks, if it does.
    pub spin_for: Option<Nanos>,
    pub body_bytes_max: u64,
    pub response_bytes_max: u64,
    /// Over all io threads.
    pub inflight_bytes: u64,
    /// A connection to a pod is open within so long.
    pub connect_timeout_ms: u64,
    pub async_max_age_ms: u64,
    pub execution_ttl_ms: u64,
    /// Over all io threads.
    pub execution_store_bytes: u64,
    /// `http://host:port` under which pods reach `/v1/internal`.
    pub callback_base: String,
    /// False where functions are still to come when the threads start: `Message::Begun` ends that.
    pub begun: bool,
    /// The text of `GET /openapi.yaml`.
    pub openapi: &'static str,
    /// Gives back to the system what the calling thread has freed.
    pub collect_memory: fn(),
}
