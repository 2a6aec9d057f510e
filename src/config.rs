//! Defines the settings of `nanofaas serve`: its flags and their environment variables. `resolve` adds the
//! defaults that depend on this machine, and refuses flags that contradict each other. `ServeArgs` are the
//! arguments; `Config` is the result of `resolve`. This module opens, reads and starts nothing. `main` parses
//! `ServeArgs`, and `serve` resolves them.

mod unknown;
mod value;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nanofaas_core::rate::RateLimit;
use nanofaas_core::spec::Defaults;
use nanofaas_io::start::DriverChoice;

pub(crate) use unknown::unknown_variables;
pub(crate) use value::name_the_variable;

/// The system that runs the functions' pods
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendArg {
    /// kubernetes inside a cluster, else local
    Auto,
    /// Processes on this machine
    Local,
    /// Pods and Jobs of a cluster
    Kubernetes,
    /// Nothing: only LOCAL and POOL functions can be called
    None,
}

/// The backend after `auto` is resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackendKind {
    Local,
    Kubernetes,
    None,
}

impl BackendKind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Kubernetes => "kubernetes",
            Self::None => "none",
        }
    }
}

/// The system interface that the io threads use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IoDriverArg {
    /// io_uring if all io threads can use it, else epoll
    Auto,
    Uring,
    Epoll,
}

impl From<IoDriverArg> for DriverChoice {
    fn from(typed: IoDriverArg) -> Self {
        match typed {
            IoDriverArg::Auto => Self::Auto,
            IoDriverArg::Uring => Self::Uring,
            IoDriverArg::Epoll => Self::Epoll,
        }
    }
}

/// The thread on which the scheduler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchedulerArg {
    /// inline with one io thread, pinned with more
    Auto,
    /// On the only io thread
    Inline,
    /// On a thread of its own, for two io threads or more
    Pinned,
}

/// The scheduler's thread after `auto` is resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SchedulerDriver {
    Inline,
    Pinned,
}

impl SchedulerDriver {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Pinned => "pinned",
        }
    }
}

/// The form of log lines
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogForm {
    /// One JSON object a line
    Json,
    /// Readable text
    Text,
}

/// The lowest level that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

/// Run the server
///
/// Sizes take plain bytes, or KiB, MiB, GiB. Each flag can also be set by its environment variable.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServeArgs {
    /// Address of the HTTP API
    #[arg(long, env = "NANOFAAS_LISTEN", default_value = "127.0.0.1:8080",
        value_name = "IP:PORT", value_parser = value::address)]
    listen: SocketAddr,

    /// Address of health checks and metrics
    #[arg(long, env = "NANOFAAS_MANAGEMENT", default_value = "127.0.0.1:8081",
        value_name = "IP:PORT", value_parser = value::address)]
    management: SocketAddr,

    /// Address of /v1/internal, where function pods call back [default: a part of --listen]
    #[arg(long, env = "NANOFAAS_INTERNAL_LISTEN", value_name = "IP:PORT",
        value_parser = value::address)]
    internal_listen: Option<SocketAddr>,

    /// Address under which function pods reach /v1/internal [default: its listen address]
    #[arg(long, env = "NANOFAAS_CALLBACK_URL", value_name = "URL",
        value_parser = value::base_url)]
    callback_url: Option<String>,

    /// The system that runs the functions' pods
    #[arg(long, env = "NANOFAAS_BACKEND", value_enum, default_value_t = BackendArg::Auto)]
    backend: BackendArg,

    /// File or folder with functions to register at the start; may be repeated (`:` between paths)
    #[arg(
        long,
        env = "NANOFAAS_FUNCTIONS",
        value_name = "PATH",
        value_delimiter = ':'
    )]
    functions: Vec<PathBuf>,

    /// Namespace of the functions' pods, for the kubernetes backend [default: the control plane's
    /// own]
    #[arg(long, env = "NANOFAAS_NAMESPACE", value_name = "NAME",
        value_parser = value::dns_label)]
    namespace: Option<String>,

    /// File with a default podTemplate, over which each function's own is merged, for the
    /// kubernetes backend; changes of the file are applied, and without the file there is no
    /// default
    #[arg(long, env = "NANOFAAS_POD_TEMPLATE", value_name = "FILE")]
    pod_template: Option<PathBuf>,

    /// Threads that talk to clients and pods [default: 1 below four cores, else cores - 2]
    #[arg(long, env = "NANOFAAS_IO_THREADS", value_name = "N",
        value_parser = value::io_threads)]
    io_threads: Option<u32>,

    /// System interface of the io threads
    #[arg(long, env = "NANOFAAS_IO_DRIVER", value_enum, default_value_t = IoDriverArg::Auto)]
    io_driver: IoDriverArg,

    /// How long an io thread spins after recent activity before it sleeps, in microseconds
    #[arg(long, env = "NANOFAAS_IO_SPIN_US", default_value = "0", value_name = "US",
        value_parser = value::spin_us)]
    io_spin_us: u32,

    /// The thread on which the scheduler runs
    #[arg(long, env = "NANOFAAS_SCHEDULER", value_enum, default_value_t = SchedulerArg::Auto)]
    scheduler: SchedulerArg,

    /// Calls that may begin a second, over all functions; off removes the limit, 0 refuses all
    #[arg(long, env = "NANOFAAS_RATE_MAX_PER_SECOND", default_value = "1000",
        value_name = "N|off", value_parser = value::rate)]
    rate_max_per_second: RateLimit,

    /// Largest body of a request
    #[arg(long, env = "NANOFAAS_MAX_BODY", default_value = "1MiB", value_name = "SIZE",
        value_parser = value::message_size)]
    max_body: u64,

    /// Largest answer of a pod
    #[arg(long, env = "NANOFAAS_MAX_RESPONSE", default_value = "6MiB", value_name = "SIZE",
        value_parser = value::message_size)]
    max_response: u64,

    /// Memory that calls may hold at once; each is charged 1 KiB, its body and its answer
    #[arg(long, env = "NANOFAAS_INFLIGHT_BYTES", default_value = "64MiB", value_name = "SIZE",
        value_parser = value::size)]
    inflight_bytes: u64,

    /// How long async, keyed and Prefer calls keep their output after their end, in milliseconds
    #[arg(long, env = "NANOFAAS_EXECUTION_TTL_MS", default_value = "900000", value_name = "MS",
        value_parser = value::long_ms)]
    execution_ttl_ms: u64,

    /// Memory for these outputs; above it the oldest are removed first
    #[arg(long, env = "NANOFAAS_EXECUTION_STORE_BYTES", default_value = "64MiB",
        value_name = "SIZE", value_parser = value::size)]
    execution_store_bytes: u64,

    /// Deadline of an async call, including queue, starts, backoff and runs, in milliseconds
    #[arg(long, env = "NANOFAAS_ASYNC_MAX_AGE_MS", default_value = "3600000", value_name = "MS",
        value_parser = value::long_ms)]
    async_max_age_ms: u64,

    /// How long the start of a pod may take, in milliseconds
    #[arg(long, env = "NANOFAAS_START_TIMEOUT_MS", default_value = "120000", value_name = "MS",
        value_parser = value::short_ms)]
    start_timeout_ms: u64,

    /// How long a connection to a pod may take to open, in milliseconds
    #[arg(long, env = "NANOFAAS_CONNECT_TIMEOUT_MS", default_value = "1000", value_name = "MS",
        value_parser = value::short_ms)]
    connect_timeout_ms: u64,

    /// How long calls may go on after SIGTERM, in milliseconds
    #[arg(long, env = "NANOFAAS_DRAIN_MS", default_value = "25000", value_name = "MS",
        value_parser = value::drain_ms)]
    drain_ms: u64,

    /// timeoutMs of functions that do not set it
    #[arg(long, env = "NANOFAAS_DEFAULT_TIMEOUT_MS", default_value = "30000", value_name = "MS",
        value_parser = value::timeout_ms)]
    default_timeout_ms: u32,

    /// concurrency of functions that do not set it
    #[arg(long, env = "NANOFAAS_DEFAULT_CONCURRENCY", default_value = "4", value_name = "N",
        value_parser = value::concurrency)]
    default_concurrency: u32,

    /// queueSize of functions that do not set it
    #[arg(long, env = "NANOFAAS_DEFAULT_QUEUE_SIZE", default_value = "100", value_name = "N",
        value_parser = value::queue_size)]
    default_queue_size: u32,

    /// maxRetries of functions that do not set it
    #[arg(long, env = "NANOFAAS_DEFAULT_MAX_RETRIES", default_value = "3", value_name = "N",
        value_parser = value::max_retries)]
    default_max_retries: u32,

    /// Functions that have their own metrics; the others are summed under _other
    #[arg(long, env = "NANOFAAS_METRICS_FUNCTIONS_MAX", default_value = "1000", value_name = "N",
        value_parser = value::functions)]
    metrics_functions_max: u32,

    /// The form of log lines
    #[arg(long, env = "NANOFAAS_LOG", value_enum, default_value_t = LogForm::Json)]
    log: LogForm,

    /// The lowest level that is logged
    #[arg(long, env = "NANOFAAS_LOG_LEVEL", value_enum, default_value_t = LogLevel::Info)]
    log_level: LogLevel,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct MachineFacts {
    /// The number of cores that affinity and quota allow the process.
    pub(crate) cores: usize,
    /// Whether this process runs in a pod of a cluster.
    pub(crate) in_cluster: bool,
    /// `None` outside a pod.
    pub(crate) pod_ip: Option<IpAddr>,
}

/// The settings, which do not change during the life of the process.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) management: SocketAddr,
    pub(crate) internal_listen: Option<SocketAddr>,
    pub(crate) callback_url: Option<String>,
    /// `None` outside a pod.
    pub(crate) pod_ip: Option<IpAddr>,
    pub(crate) backend: BackendKind,
    pub(crate) functions: Vec<PathBuf>,
    /// Only the kubernetes backend reads this name.
    pub(crate) namespace: Option<String>,
    /// Only the kubernetes backend reads this path.
    pub(crate) pod_template: Option<PathBuf>,
    pub(crate) io_threads: usize,
    pub(crate) io_driver: DriverChoice,
    pub(crate) io_spin_us: u32,
    pub(crate) scheduler: SchedulerDriver,
    pub(crate) rate: RateLimit,
    pub(crate) body_bytes_max: u64,
    pub(crate) response_bytes_max: u64,
    pub(crate) inflight_bytes: u64,
    pub(crate) execution_ttl_ms: u64,
    pub(crate) execution_store_bytes: u64,
    pub(crate) async_max_age_ms: u64,
    pub(crate) start_timeout_ms: u64,
    pub(crate) connect_timeout_ms: u64,
    pub(crate) drain_ms: u64,
    pub(crate) defaults: Defaults,
    pub(crate) metrics_functions_max: usize,
    pub(crate) log: LogForm,
    pub(crate) log_level: LogLevel,
}

/// Flags contradict each other. The message names them and says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConfigError(String);

impl ServeArgs {
    /// Adds the defaults that depend on the machine, and refuses flags that contradict each other.
    pub(crate) fn resolve(self, machine: MachineFacts) -> Result<Config, ConfigError> {
        let (io_threads, scheduler) = self.threads(machine.cores)?;
        self.check_addresses()?;
        self.check_sizes()?;
        Ok(Config {
            listen: self.listen,
            management: self.management,
            internal_listen: self.internal_listen,
            callback_url: self.callback_url,
            pod_ip: machine.pod_ip,
            backend: match self.backend {
                BackendArg::Auto if machine.in_cluster => BackendKind::Kubernetes,
                BackendArg::Auto | BackendArg::Local => BackendKind::Local,
                BackendArg::Kubernetes => BackendKind::Kubernetes,
                BackendArg::None => BackendKind::None,
            },
            functions: self.functions,
            namespace: self.namespace,
            pod_template: self.pod_template,
            io_threads,
            io_driver: self.io_driver.into(),
            io_spin_us: self.io_spin_us,
            scheduler,
            rate: self.rate_max_per_second,
            body_bytes_max: self.max_body,
            response_bytes_max: self.max_response,
            inflight_bytes: self.inflight_bytes,
            execution_ttl_ms: self.execution_ttl_ms,
            execution_store_bytes: self.execution_store_bytes,
            async_max_age_ms: self.async_max_age_ms,
            start_timeout_ms: self.start_timeout_ms,
            connect_timeout_ms: self.connect_timeout_ms,
            drain_ms: self.drain_ms,
            defaults: Defaults {
                timeout_ms: self.default_timeout_ms,
                concurrency: self.default_concurrency,
                queue_size: self.default_queue_size,
                max_retries: self.default_max_retries,
            },
            metrics_functions_max: self.metrics_functions_max as usize,
            log: self.log,
            log_level: self.log_level,
        })
    }

    /// Returns the number of io threads and the scheduler's thread. If only one of the two flags is given,
    /// the other value follows from it.
    fn threads(&self, cores: usize) -> Result<(usize, SchedulerDriver), ConfigError> {
        let by_cores = if cores < 4 { 1 } else { cores - 2 };
        let by_cores = by_cores.min(nanofaas_core::limits::IO_THREADS_MAX);
        let given = self.io_threads.map(|n| n as usize);
        match (self.scheduler, given) {
            (SchedulerArg::Inline, Some(n)) if n > 1 => Err(ConfigError(format!(
                "--scheduler inline and --io-threads {n} contradict each other: an inline \
                 scheduler lives on the only io thread; leave one of them out"
            ))),
            (SchedulerArg::Pinned, Some(1)) => Err(ConfigError(
                "--scheduler pinned and --io-threads 1 contradict each other: a pinned scheduler \
                 serves two io threads or more; leave one of them out"
                    .to_owned(),
            )),
            (SchedulerArg::Inline, _) => Ok((1, SchedulerDriver::Inline)),
            (SchedulerArg::Pinned, n) => {
                let n = n.unwrap_or_else(|| by_cores.max(2));
                Ok((n, SchedulerDriver::Pinned))
            }
            (SchedulerArg::Auto, n) => match n.unwrap_or(by_cores) {
                1 => Ok((1, SchedulerDriver::Inline)),
                n => Ok((n, SchedulerDriver::Pinned)),
            },
        }
    }

    fn check_addresses(&self) -> Result<(), ConfigError> {
        let listeners = [
            ("--listen", Some(self.listen)),
            ("--management", Some(self.management)),
            ("--internal-listen", self.internal_listen),
        ];
        for (at, (first, one)) in listeners.iter().enumerate() {
            for (second, other) in &listeners[at + 1..] {
                let same = one.is_some() && one == other;
                // With port 0, the kernel gives each listener another port.
                if let Some(address) = one.filter(|address| same && address.port() != 0) {
                    return Err(ConfigError(format!(
                        "{first} and {second} are both {address}: give each a port of its own"
                    )));
                }
            }
        }
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), ConfigError> {
        let (body, answer, held) = (self.max_body, self.max_response, self.inflight_bytes);
        let needed = 2 * answer;
        if held < needed {
            return Err(ConfigError(format!(
                "--inflight-bytes {held} and --max-response {answer} contradict each other: two of \
                 the largest answers need {needed} bytes; raise the first or lower the second"
            )));
        }
        // The waiting calls of one function may hold only half of the budget, so the budget must be two times
        // this charge.
        let needed = 2 * nanofaas_io::start::charge_for(body);
        if held < needed {
            return Err(ConfigError(format!(
                "--inflight-bytes {held} and --max-body {body} contradict each other: a call with \
                 the largest body may hold half of it, and needs {needed} bytes of it; raise the \
                 first or lower the second"
            )));
        }
        Ok(())
    }
}

impl Config {
    /// Returns the base URL under which pods reach `/v1/internal`. Without `--callback-url`, the host is the
    /// listener's address. An unspecified address becomes the pod's address or, outside a pod, loopback.
    /// `listen` and `internal` are the listeners' actual addresses.
    pub(crate) fn callback_base(&self, listen: SocketAddr, internal: Option<SocketAddr>) -> String {
        if let Some(url) = &self.callback_url {
            return url.clone();
        }
        let address = internal.unwrap_or(listen);
        let own = self.pod_ip.filter(|_| address.ip().is_unspecified());
        let address = match own {
            Some(ip) => SocketAddr::new(ip, address.port()),
            None => reachable(address),
        };
        format!("http://{address}")
    }
}

/// Returns an address to connect to: an unspecified address (`0.0.0.0`, `[::]`) becomes loopback.
pub(crate) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests;
