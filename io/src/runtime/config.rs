//! The settings of io threads. The process checks them before it passes them on.

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
    /// The address of a separate listener for `/v1/internal`. If there is none, `listen` serves
    /// `/v1/internal`, too.
    pub internal_listen: Option<SocketAddr>,
    pub driver: DriverChoice,
    /// The CPUs on which the io threads run, one for each thread; empty if each thread may run on any CPU.
    pub pin: Vec<usize>,
    /// How long a thread spins after activity before it sleeps; none if it does not spin.
    pub spin_for: Option<Nanos>,
    pub body_bytes_max: u64,
    pub response_bytes_max: u64,
    /// The largest number of bytes that the calls in flight of all io threads together may hold.
    pub inflight_bytes: u64,
    /// The time limit for opening a connection to a pod.
    pub connect_timeout_ms: u64,
    pub async_max_age_ms: u64,
    pub execution_ttl_ms: u64,
    /// The largest number of bytes that the stored executions of all io threads together may hold.
    pub execution_store_bytes: u64,
    /// The base `http://host:port` of the URL under which pods reach `/v1/internal`.
    pub callback_base: String,
    /// False if functions are still being read when the threads start. In that case `Message::Begun` follows
    /// the last function.
    pub begun: bool,
    /// The text of `GET /openapi.yaml`.
    pub openapi: &'static str,
    /// Returns to the system the memory that the calling thread has freed.
    pub collect_memory: fn(),
}
