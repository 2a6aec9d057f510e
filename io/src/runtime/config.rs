//! The settings of io threads. It checks nothing; the process does.

use std::net::SocketAddr;

use nanofaas_core::time::Nanos;

/// The system interface of an io thread's event loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverChoice {
    Auto,
    Uring,
    Epoll,
}

/// The settings of io threads.
#[derive(Clone, Debug)]
pub struct IoConfig {
    pub listen: SocketAddr,
    /// The address of a listener for `/v1/internal` alone; without it, `listen` serves `/v1/internal`, too.
    pub internal_listen: Option<SocketAddr>,
    pub driver: DriverChoice,
    /// CPUs to pin io threads to, one each; empty for no pinning.
    pub pin: Vec<usize>,
    /// How long a thread spins before it parks; none for no spinning.
    pub spin_for: Option<Nanos>,
    pub body_bytes_max: u64,
    pub response_bytes_max: u64,
    /// The sum over all io threads.
    pub inflight_bytes: u64,
    /// The most time to open a connection to a pod.
    pub connect_timeout_ms: u64,
    pub async_max_age_ms: u64,
    pub execution_ttl_ms: u64,
    /// The sum over all io threads.
    pub execution_store_bytes: u64,
    /// The base `http://host:port` of the URL under which pods reach `/v1/internal`.
    pub callback_base: String,
    /// False if functions are still to come when the threads start; `Message::Begun` then follows the last one.
    pub begun: bool,
    /// The text of `GET /openapi.yaml`.
    pub openapi: &'static str,
    /// Gives memory that the calling thread has freed back to the system.
    pub collect_memory: fn(),
}
