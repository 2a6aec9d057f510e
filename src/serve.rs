//! Runs `nanofaas serve`: the ordered start, the wait for a signal, and the drain. `Serving::start` gives the
//! reasons for the order. This module never touches a call. `main` runs it on the main thread.

mod ending;
mod functions;
mod own_pod;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use clap::CommandFactory;
use nanofaas_core::cold_start::WallClock;
use nanofaas_core::doorbell::Doorbell;
use nanofaas_core::entries::Entries;
use nanofaas_core::message::Message;
use nanofaas_core::metrics::ThreadLedger;
use nanofaas_core::on_end::OnEnd;
use nanofaas_core::post::{BridgeInbox, BridgePost, IoInbox, IoPost, PinnedPost, SchedulerPost};
use nanofaas_core::rate::RateBucket;
use nanofaas_core::registry::Registry;
use nanofaas_core::spec::{FunctionDraft, Platform};
use nanofaas_core::time::Nanos;
use nanofaas_io::start::{self as io_start, IoConfig, IoThreads, Plumbing, SchedulerSetup};
use nanofaas_k8s_bridge::KubernetesConfig;
use nanofaas_local_bridge::LocalConfig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{Notify, mpsc};

use crate::bridge::{self, BridgeThread};
use crate::config::{
    BackendKind, Config, MachineFacts, SchedulerDriver, ServeArgs, unknown_variables,
};
use crate::cores::{Cores, Pinning};
use crate::log::LogHandle;
use crate::management::{HealthState, Management};
use crate::metrics::{ProcessInfo, ProcessMetrics};
use crate::ports::{self, AddressClaim};
use crate::scheduler_thread::{self, SchedulerThread};
use crate::{files, log, panics, signals};

use functions::Loaded;

/// The time limit for the io threads to apply the functions of the start.
const SETTLE_MAX: Duration = Duration::from_secs(60);
const SETTLE_POLL: Duration = Duration::from_millis(50);
/// How long function processes may take to end after SIGTERM. A runtime waits 2 s for calls that may still
/// arrive.
const STOP_GRACE: Duration = Duration::from_secs(3);
const ASKS_MAX: usize = 16;

/// Why the process did not start; the message is for the operator.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("{0}")]
    Files(#[from] files::FilesError),
    #[error("{0}")]
    Function(#[from] functions::LoadError),
    #[error("{0}")]
    Taken(#[from] ports::ClaimError),
    #[error("{0}")]
    IoThreads(#[from] io_start::IoStartError),
    #[error("{0}")]
    Bridge(#[from] bridge::StartError),
    #[error("the io threads did not take the functions over; look at the lines before")]
    NotSettled,
    #[error(
        "function pods cannot reach {0}: set --callback-url to where they reach this process, for \
         instance http://10.0.0.7:8082; in a pod set the variable POD_IP to its address, as the manifests do"
    )]
    Unreachable(String),
    #[error("cannot start: {0}")]
    Io(#[from] std::io::Error),
}

pub(crate) const fn platform(config: &Config) -> Platform {
    match config.backend {
        BackendKind::Local => Platform::Local,
        BackendKind::Kubernetes => Platform::Kubernetes,
        BackendKind::None => Platform::None,
    }
}

pub(crate) fn run(args: ServeArgs) -> ExitCode {
    let cores = Cores::detect();
    let machine = MachineFacts {
        cores: cores.count,
        in_cluster: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
        pod_ip: std::env::var("POD_IP").ok().and_then(|ip| ip.parse().ok()),
    };
    let config = match args.resolve(machine) {
        Ok(config) => config,
        Err(contradiction) => {
            eprintln!("error: {contradiction}");
            return ExitCode::from(2);
        }
    };
    // The log is dropped last, because the drop writes the waiting lines.
    let log = log::start(config.log, config.log_level);
    panics::install(config.log);
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    for line in unknown_variables(&crate::ProgramArgs::command(), names, machine.in_cluster) {
        tracing::warn!("{line}");
    }
    match Serving::start(config, &cores, &log) {
        Ok(serving) => serving.until_stopped(),
        Err(error) => {
            for line in error.to_string().lines() {
                tracing::error!("{line}");
            }
            ExitCode::from(1)
        }
    }
}

struct Serving {
    config: Config,
    signals: signals::Signals,
    io_posts: Vec<IoPost>,
    io: IoThreads,
    scheduler: Option<SchedulerThread>,
    bridge: BridgeThread,
    health: Arc<HealthState>,
    /// Held so that no other control plane can listen on our addresses.
    _claims: Vec<AddressClaim>,
}

/// The parts that connect the threads, made before any thread starts.
struct Wiring {
    origin: Instant,
    origin_wall: SystemTime,
    entries: Arc<Entries>,
    ledgers: Arc<[ThreadLedger]>,
    io_posts: Vec<IoPost>,
    inboxes: Vec<(IoInbox, UnixStream)>,
    bridge_post: BridgePost,
    bridge_inbox: BridgeInbox,
    bridge_wake: Arc<Notify>,
}

impl Wiring {
    fn new(config: &Config) -> std::io::Result<Self> {
        let threads = config.io_threads;
        let granted = config.scheduler == SchedulerDriver::Pinned;
        let mut io_posts = Vec::with_capacity(threads);
        let mut inboxes = Vec::with_capacity(threads);
        for _ in 0..threads {
            let (bell, waking) = io_start::bell()?;
            let (post, inbox) = IoPost::pair(bell, granted);
            io_posts.push(post);
            inboxes.push((inbox, waking));
        }
        let (bell, bridge_wake) = bridge::bell();
        let (bridge_post, bridge_inbox) = BridgePost::pair(bell);
        Ok(Self {
            origin: Instant::now(),
            origin_wall: SystemTime::now(),
            entries: Arc::new(Entries::new(threads)),
            ledgers: (0..threads).map(|_| ThreadLedger::default()).collect(),
            io_posts,
            inboxes,
            bridge_post,
            bridge_inbox,
            bridge_wake,
        })
    }
}

impl Serving {
    fn start(config: Config, cores: &Cores, log: &LogHandle) -> Result<Self, ServeError> {
        crate::allocator::refuse_huge_pages();
        // Builds may take long, and Ctrl-C has to end them.
        let signals = signals::listen(config.log)?;
        raise_file_limit();
        // A fault in a file is the most frequent reason for a failed start, so read the files before the
        // ports are claimed.
        let loaded = functions::read(&config)?;
        // Claim the ports before the builds, because the builds would be wasted if another process has a
        // port.
        let (claims, listener) = claim(&config)?;
        functions::build(&loaded, &config)?;

        let addresses = Addresses::of(&config, &claims);
        let pinning = cores.plan(config.io_threads, config.scheduler);
        let wiring = Wiring::new(&config)?;
        let io_posts = wiring.io_posts.clone();
        let (scheduler, handle, post) =
            start_scheduler(&config, &pinning, &wiring, OnEnd(signals.on_end.clone()))?;
        let health = Arc::new(HealthState {
            origin: wiring.origin,
            ledgers: wiring.ledgers.clone(),
            scheduler_beat: scheduler.as_ref().map(|thread| thread.beat.clone()),
            bells: bells(&io_posts, &post),
            started: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        });
        let backend = backend(&config, &addresses, &wiring, &loaded)?;
        // The bridge sends the functions to the io threads, and waits until each of them has applied them.
        let plumbing = Plumbing {
            origin: wiring.origin,
            origin_wall: wiring.origin_wall,
            entries: wiring.entries,
            scheduler: handle,
            inboxes: wiring.inboxes,
            bridge: wiring.bridge_post,
            ledgers: wiring.ledgers,
            rate: Arc::new(RateBucket::new(config.rate)),
            on_end: signals.on_end.clone(),
        };
        let io = io_start::start(&io_config(&config, &addresses, &pinning), plumbing)?;
        let (ask, asked) = mpsc::channel(ASKS_MAX);
        let process = process_info(&config, &io, &health, wiring.origin_wall, log);
        let management =
            Management::new(health.clone(), ask, process, config.metrics_functions_max);
        let (settled, started) = sync_channel(1);
        let bridge_config = bridge::BridgeThreadConfig {
            backend,
            inbox: wiring.bridge_inbox,
            wake: wiring.bridge_wake,
            io: io_posts.clone(),
            scheduler: post,
            registry: Registry::new(config.io_threads, config.defaults, platform(&config))
                .guarding(own_pod::account(&config)),
            clock: WallClock(wiring.origin_wall),
            functions: match config.backend {
                // The functions are written into the cluster, and the bridge reads them from there.
                BackendKind::Kubernetes => Vec::new(),
                BackendKind::Local | BackendKind::None => drafts(&loaded),
            },
            settled,
            listener,
            management: Arc::new(management),
            asked,
        };
        let bridge = bridge::start(bridge_config, OnEnd(signals.on_end.clone()))?;
        let serving = Self {
            config,
            signals,
            io_posts,
            io,
            scheduler,
            bridge,
            health,
            _claims: claims,
        };
        if serving.settle(&started)? {
            serving.announce(&addresses, &pinning, &loaded);
        }
        Ok(serving)
    }

    /// Waits until the io threads know the functions of the start. Returns false if a signal ended the wait.
    /// On Kubernetes the wait has no limit, because another control plane may hold the Lease.
    fn settle(
        &self,
        started: &Receiver<Result<(), bridge::StartError>>,
    ) -> Result<bool, ServeError> {
        let is_patient = self.config.backend == BackendKind::Kubernetes;
        if is_patient {
            self.signals.serving();
        }
        let until = Instant::now() + SETTLE_MAX;
        loop {
            match started.recv_timeout(SETTLE_POLL) {
                Ok(settled) => {
                    settled?;
                    self.send_to_all(|| Message::Begun);
                    if !is_patient {
                        self.signals.serving();
                    }
                    return Ok(true);
                }
                Err(RecvTimeoutError::Disconnected) => return Err(ServeError::NotSettled),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if is_patient && self.signals.is_asked() {
                return Ok(false);
            }
            if !is_patient && Instant::now() > until {
                return Err(ServeError::NotSettled);
            }
        }
    }
}

/// The listen addresses of the process, with their actual ports.
struct Addresses {
    listen: SocketAddr,
    management: SocketAddr,
    internal: Option<SocketAddr>,
}

impl Addresses {
    fn of(config: &Config, claims: &[AddressClaim]) -> Self {
        Self {
            management: claims[0].address,
            listen: claims[1].address,
            internal: config
                .internal_listen
                .and_then(|_| Some(claims.get(2)?.address)),
        }
    }

    /// Returns whether only processes on this machine and outside of pods can reach the callback address.
    fn is_callback_local(&self, has_pod_ip: bool) -> bool {
        let ip = self.internal.unwrap_or(self.listen).ip();
        ip.is_loopback() || ip.is_unspecified() && !has_pod_ip
    }
}

/// Claims the management address, then the API's address, then the internal address if there is one. Listens
/// on the management address.
fn claim(config: &Config) -> Result<(Vec<AddressClaim>, TcpListener), ServeError> {
    let (management, listener) = ports::listen("--management", config.management)?;
    let mut claims = vec![management, ports::claim("--listen", config.listen)?];
    if let Some(internal) = config.internal_listen {
        claims.push(ports::claim("--internal-listen", internal)?);
    }
    Ok((claims, listener))
}

/// Raises the limit of descriptors to the kernel's maximum, because each connection takes a descriptor.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the file-descriptor limit could not be raised");
    }
}

type StartedScheduler = (Option<SchedulerThread>, SchedulerSetup, SchedulerPost);

fn start_scheduler(
    config: &Config,
    pinning: &Pinning,
    wiring: &Wiring,
    on_end: OnEnd,
) -> std::io::Result<StartedScheduler> {
    if config.scheduler == SchedulerDriver::Inline {
        let post = SchedulerPost::Inline(wiring.io_posts[0].clone());
        return Ok((None, SchedulerSetup::Inline, post));
    }
    let (bell, alarm) = scheduler_thread::bell();
    let (post, inbox) = PinnedPost::pair(bell, config.io_threads);
    let thread_config = scheduler_thread::SchedulerThreadConfig {
        inbox,
        alarm,
        io: wiring.io_posts.clone(),
        bridge: wiring.bridge_post.clone(),
        entries: wiring.entries.clone(),
        origin: wiring.origin,
        cpu: pinning.scheduler,
    };
    let thread = scheduler_thread::start(thread_config, on_end)?;
    let handle = SchedulerSetup::Pinned(post.clone());
    Ok((Some(thread), handle, SchedulerPost::Pinned(post)))
}

fn bells(io: &[IoPost], scheduler: &SchedulerPost) -> Vec<Arc<Doorbell>> {
    let mut bells: Vec<_> = io.iter().map(|post| post.bell().clone()).collect();
    if let SchedulerPost::Pinned(post) = scheduler {
        bells.push(post.bell().clone());
    }
    bells
}

fn io_config(config: &Config, addresses: &Addresses, pinning: &Pinning) -> IoConfig {
    IoConfig {
        listen: addresses.listen,
        internal_listen: addresses.internal,
        driver: config.io_driver,
        pin: pinning.io.clone(),
        spin_for: (config.io_spin_us > 0).then(|| Nanos::from_us(config.io_spin_us.into())),
        body_bytes_max: config.body_bytes_max,
        response_bytes_max: config.response_bytes_max,
        inflight_bytes: config.inflight_bytes,
        connect_timeout_ms: config.connect_timeout_ms,
        async_max_age_ms: config.async_max_age_ms,
        execution_ttl_ms: config.execution_ttl_ms,
        execution_store_bytes: config.execution_store_bytes,
        callback_base: config.callback_base(addresses.listen, addresses.internal),
        begun: false,
        collect_memory: crate::allocator::collect,
        openapi: include_str!("../openapi.yaml"),
    }
}

fn drafts(loaded: &[Loaded]) -> Vec<FunctionDraft> {
    loaded.iter().map(|one| one.file.draft.clone()).collect()
}

fn backend(
    config: &Config,
    addresses: &Addresses,
    wiring: &Wiring,
    loaded: &[Loaded],
) -> Result<bridge::Backend, ServeError> {
    let callback_base = config.callback_base(addresses.listen, addresses.internal);
    let start_timeout = Duration::from_millis(config.start_timeout_ms);
    let origin = wiring.origin;
    let clock = WallClock(wiring.origin_wall);
    Ok(match config.backend {
        BackendKind::None => bridge::Backend::None,
        BackendKind::Local => bridge::Backend::Local(Box::new(move || LocalConfig {
            callback_base: callback_base.clone(),
            start_timeout,
            stop_grace: STOP_GRACE,
            // The file at the program's path may be replaced while this process runs.
            guard: vec!["/proc/self/exe".into(), "guard".into()],
            run_base: None,
            origin,
        })),
        BackendKind::Kubernetes => {
            if config.callback_url.is_none() && addresses.is_callback_local(config.pod_ip.is_some())
            {
                return Err(ServeError::Unreachable(callback_base));
            }
            let namespace = config.namespace.clone();
            let pod_template = config.pod_template.clone();
            let own_pod = own_pod::find();
            let functions = drafts(loaded);
            bridge::Backend::Kubernetes(Box::new(move || KubernetesConfig {
                kubeconfig: None,
                namespace: namespace.clone(),
                own_pod: own_pod.clone(),
                pod_template: pod_template.clone(),
                callback_base: callback_base.clone(),
                start_timeout,
                functions: functions.clone(),
                origin,
                clock,
            }))
        }
    })
}

fn process_info(
    config: &Config,
    io: &IoThreads,
    health: &HealthState,
    started: SystemTime,
    log: &LogHandle,
) -> Box<dyn Fn() -> ProcessInfo + Send + Sync> {
    let (io_driver, dropped) = (io.driver, log.dropped.clone());
    let ledgers = health.ledgers.clone();
    let (scheduler, backend) = (config.scheduler.as_str(), config.backend.as_str());
    Box::new(move || ProcessInfo {
        ledgers: ledgers.clone(),
        io_driver,
        scheduler,
        backend,
        process: ProcessMetrics { started },
        log_lines_dropped: dropped.dropped_lines() as u64,
    })
}

impl Serving {
    /// Logs the addresses and settings, and prints how to call the loaded functions.
    fn announce(&self, addresses: &Addresses, pinning: &Pinning, loaded: &[Loaded]) {
        self.health.started.store(true, Relaxed);
        let pinned = if pinning.io.is_empty() { "no" } else { "yes" };
        tracing::info!(
            listen = %addresses.listen,
            management = %addresses.management,
            internalListen = addresses.internal.map(|address| address.to_string()),
            ioDriver = self.io.driver,
            ioThreads = self.config.io_threads,
            scheduler = self.config.scheduler.as_str(),
            backend = self.config.backend.as_str(),
            pinned,
            functions = loaded.len(),
            version = env!("CARGO_PKG_VERSION"),
            "nanofaas is ready"
        );
        functions::show(addresses.listen, loaded);
    }
}
