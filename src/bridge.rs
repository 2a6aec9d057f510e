//! The bridge thread has a tokio runtime, which runs the management port and the backend, the part that
//! manages pods. The bridge thread never touches a call. Its panics may come from a dependency, so a panic
//! does not end the process. Instead the bridge is rebuilt, with back-off, and keeps its work queue. `serve`
//! starts the thread.

mod endpoint;
mod podless;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::task::{Poll, Wake};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use nanofaas_core::cold_start::{ColdStarts, WallClock};
use nanofaas_core::doorbell::Doorbell;
use nanofaas_core::message::BridgeError;
use nanofaas_core::on_end::OnEnd;
use nanofaas_core::post::{BridgeInbox, IoPost, SchedulerPost};
use nanofaas_core::registry::Registry;
use nanofaas_core::spec::FunctionDraft;
use nanofaas_core::work_queue::{BridgeCommand, Home, Rest, WorkQueue, controller_loop};
use nanofaas_k8s_bridge::{KubernetesBridge, KubernetesConfig, Memory};
use nanofaas_local_bridge::{LocalBridge, LocalConfig};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio::time::timeout;

use crate::management::{self, Ask, Management};
use crate::metrics::ScrapedFunctions;
use crate::panics;
use endpoint::Endpoints;

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// If a bridge ran for longer than this, the back-off begins again.
const SOUND: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(1);
/// The pause before a full ring is tried again.
const RING_PAUSE: Duration = Duration::from_millis(1);

/// The system that runs pods. The closures make the bridge's settings each time that the bridge is built.
pub(crate) enum Backend {
    Local(Box<dyn Fn() -> LocalConfig + Send>),
    Kubernetes(Box<dyn Fn() -> KubernetesConfig + Send>),
    None,
}

/// Carries the result of the start, one time.
pub(crate) type Settled = SyncSender<Result<(), StartError>>;

pub(crate) struct BridgeThreadConfig {
    pub(crate) backend: Backend,
    pub(crate) inbox: BridgeInbox,
    /// The `Notify` that the inbox's bell notifies.
    pub(crate) wake: Arc<Notify>,
    pub(crate) io: Vec<IoPost>,
    pub(crate) scheduler: SchedulerPost,
    pub(crate) registry: Registry,
    pub(crate) clock: WallClock,
    pub(crate) functions: Vec<FunctionDraft>,
    /// Receives the result one time: when all io threads have applied `functions` and the backend is ready,
    /// or when the start fails.
    pub(crate) settled: Settled,
    pub(crate) listener: TcpListener,
    pub(crate) management: Arc<Management>,
    pub(crate) asked: mpsc::Receiver<Ask>,
}

/// Why the bridge could not be started; the message is for the operator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("{0}")]
    Local(#[from] nanofaas_local_bridge::LocalOpenError),
    #[error("{0}")]
    Kubernetes(#[from] nanofaas_k8s_bridge::KubernetesOpenError),
    #[error("cannot start the bridge: {0}")]
    Io(#[from] io::Error),
    #[error("function {name} could not be registered: {why}")]
    Function { name: String, why: String },
}

pub(crate) struct BridgeThread {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl BridgeThread {
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

pub(crate) fn start(config: BridgeThreadConfig, on_end: OnEnd) -> io::Result<BridgeThread> {
    let (stop, stopped) = watch::channel(false);
    let thread = Builder::new()
        .name(panics::BRIDGE.to_owned())
        .spawn(move || {
            let _on_end = on_end;
            live(config, &stopped);
        })?;
    Ok(BridgeThread { stop, thread })
}

pub(crate) fn bell() -> (Arc<Doorbell>, Arc<Notify>) {
    struct Ringer(Arc<Notify>);
    impl Wake for Ringer {
        fn wake(self: Arc<Self>) {
            self.0.notify_one();
        }
    }
    let notify = Arc::new(Notify::new());
    let ringer = Arc::new(Ringer(notify.clone()));
    (Arc::new(Doorbell::new(ringer.into())), notify)
}

/// The state that outlives a rebuild of the bridge.
struct Bridge {
    backend: Backend,
    work_queue: Rc<RefCell<WorkQueue>>,
    wake: Arc<Notify>,
    listener: TcpListener,
    management: Arc<Management>,
    asked: Rc<RefCell<mpsc::Receiver<Ask>>>,
    /// The sender of the result takes the channel out, so that the result is sent one time.
    settled: Rc<RefCell<Option<Settled>>>,
    /// The data that a Kubernetes bridge passes on to the next one.
    memory: Rc<Memory>,
}

fn live(config: BridgeThreadConfig, stopped: &watch::Receiver<bool>) {
    let home = match config.backend {
        Backend::Kubernetes(_) => Home::Cluster,
        Backend::Local(_) | Backend::None => Home::Memory,
    };
    let registry = (config.registry, home);
    let starts = ColdStarts::new(config.clock);
    let mut work_queue =
        WorkQueue::new(config.inbox, config.io, config.scheduler, registry, starts);
    if let Err(error) = register(&mut work_queue, config.functions) {
        // The main thread may have stopped waiting.
        let _ = config.settled.send(Err(error));
        return;
    }
    let bridge = Bridge {
        backend: config.backend,
        work_queue: Rc::new(RefCell::new(work_queue)),
        wake: config.wake,
        listener: config.listener,
        management: config.management,
        asked: Rc::new(RefCell::new(config.asked)),
        settled: Rc::new(RefCell::new(Some(config.settled))),
        memory: Rc::default(),
    };
    let mut backoff = FIRST_BACKOFF;
    while !*stopped.borrow() {
        let began = Instant::now();
        let why = match catch_unwind(AssertUnwindSafe(|| bridge.run(stopped.clone()))) {
            Ok(Ok(Ended::Asked | Ended::Deposed)) => return,
            Ok(Ok(Ended::Panicked)) | Err(_) => "it panicked".to_owned(),
            Ok(Err(error)) => {
                // During the start, a failure ends the bridge thread. After the start, the bridge is rebuilt.
                let first = bridge.settled.borrow_mut().take();
                if let Some(first) = first {
                    let _ = first.send(Err(error));
                    return;
                }
                error.to_string()
            }
        };
        if began.elapsed() > SOUND {
            backoff = FIRST_BACKOFF;
        }
        tracing::error!(
            backoffMs = backoff.as_millis() as u64,
            "the bridge is built anew, calls go on: {why}"
        );
        let until = Instant::now() + backoff;
        // A stop must not wait for the whole back-off.
        while Instant::now() < until && !*stopped.borrow() {
            sleep(FIRST_BACKOFF.min(until.saturating_duration_since(Instant::now())));
        }
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
    }
}

fn register(work_queue: &mut WorkQueue, functions: Vec<FunctionDraft>) -> Result<(), StartError> {
    for draft in functions {
        let name = draft.name().unwrap_or_default().to_owned();
        if let Err(refused) = work_queue.register(Box::new(draft), false) {
            let why = match refused {
                BridgeError::Exists => "there is one of that name already".to_owned(),
                BridgeError::TooMany => "there are too many functions".to_owned(),
                BridgeError::Unavailable(why) => why,
                BridgeError::Invalid(faults) => faults
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("; "),
                BridgeError::NotFound | BridgeError::Forbidden | BridgeError::NotWarm(_) => {
                    "it was refused".to_owned()
                }
            };
            return Err(StartError::Function { name, why });
        }
    }
    Ok(())
}

impl Bridge {
    fn run(&self, stopped: watch::Receiver<bool>) -> Result<Ended, StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let tasks = LocalSet::new();
        runtime.block_on(tasks.run_until(self.serve(stopped)))
    }

    async fn serve(&self, stopped: watch::Receiver<bool>) -> Result<Ended, StartError> {
        let work_queue = self.work_queue.clone();
        let backend = Rc::new(match &self.backend {
            Backend::Local(config) => {
                RunningBackend::Local(LocalBridge::open(config(), work_queue)?)
            }
            Backend::Kubernetes(config) => {
                let memory = self.memory.clone();
                let bridge = KubernetesBridge::open(config(), memory, work_queue).await?;
                RunningBackend::Kubernetes(bridge)
            }
            Backend::None => RunningBackend::None,
        });
        self.spawn_around(backend.clone())?;
        let stop = async {
            wait_for(stopped).await;
            Ended::Asked
        };
        let panicked = async {
            panics::on_bridge().notified().await;
            Ended::Panicked
        };
        let deposed = async {
            backend.deposed().await;
            Ended::Deposed
        };
        let controller = async {
            self.run_controller_loop(&backend).await;
            Ended::Panicked
        };
        let ended = first_of(first_of(stop, panicked), first_of(deposed, controller)).await;
        if ended == Ended::Asked {
            backend.stop().await;
        }
        Ok(ended)
    }

    /// Passes the work queue's commands to `endpoints` and to the backend. Never returns.
    async fn run_controller_loop(&self, backend: &RunningBackend) {
        let endpoints = Endpoints::new(self.work_queue.clone());
        // The new `endpoints` must learn the functions that were registered before a rebuild.
        let functions: Vec<_> = self
            .work_queue
            .borrow()
            .functions()
            .values()
            .cloned()
            .collect();
        functions.iter().for_each(|one| endpoints.follow(one));
        let take = |command: BridgeCommand| {
            match &command {
                BridgeCommand::Function(function) => endpoints.follow(function),
                BridgeCommand::Removed { lane, .. } => endpoints.forget(*lane),
                _ => {}
            }
            match backend {
                RunningBackend::Local(bridge) => bridge.take(command),
                RunningBackend::Kubernetes(bridge) => bridge.take(command),
                RunningBackend::None => podless::take(&self.work_queue, command),
            }
        };
        let pause = async |rest| match rest {
            Rest::No => yield_now().await,
            Rest::Shortly => {
                let _ = timeout(RING_PAUSE, self.wake.notified()).await;
            }
            Rest::UntilBell => self.wake.notified().await,
        };
        controller_loop(&self.work_queue, take, pause).await;
    }

    /// Starts the tasks beside the backend: the management port, the answers to scrapes, and the report that
    /// the start has succeeded.
    fn spawn_around(&self, backend: Rc<RunningBackend>) -> io::Result<()> {
        let listener = self.listener.try_clone()?;
        let management = self.management.clone();
        spawn_local(async move {
            if let Err(error) = management::serve(listener, management).await {
                tracing::error!(%error, "the management port cannot be served");
            }
        });
        let (asked, work_queue) = (self.asked.clone(), self.work_queue.clone());
        spawn_local(async move {
            loop {
                let next = poll_fn(|context| asked.borrow_mut().poll_recv(context)).await;
                let Some(answer) = next else { return };
                // The scrape may have timed out.
                let _ = answer.send(functions(&work_queue.borrow()));
            }
        });
        let (settled, work_queue) = (self.settled.clone(), self.work_queue.clone());
        if settled.borrow().is_some() {
            spawn_local(async move {
                while !(backend.is_ready() && work_queue.borrow().is_settled()) {
                    tokio::time::sleep(POLL).await;
                }
                let first = settled.borrow_mut().take();
                if let Some(first) = first {
                    let _ = first.send(Ok(()));
                }
            });
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Asked,
    Panicked,
    /// Another control plane acts for the cluster now.
    Deposed,
}

enum RunningBackend {
    Local(LocalBridge),
    Kubernetes(KubernetesBridge),
    None,
}

impl RunningBackend {
    /// Returns whether a Kubernetes backend has adopted the cluster's pods. The other backends adopt no pods,
    /// so they are always ready.
    fn is_ready(&self) -> bool {
        match self {
            Self::Kubernetes(bridge) => bridge.is_ready(),
            Self::Local(_) | Self::None => true,
        }
    }

    /// Waits until another control plane has taken the Lease. The other backends have no Lease, so this
    /// function never returns for them.
    async fn deposed(&self) {
        match self {
            Self::Kubernetes(bridge) => bridge.deposed().await,
            Self::Local(_) | Self::None => std::future::pending().await,
        }
    }

    async fn stop(&self) {
        match self {
            Self::Local(bridge) => bridge.stop().await,
            Self::Kubernetes(bridge) => bridge.stop().await,
            Self::None => {}
        }
    }
}

fn functions(work_queue: &WorkQueue) -> ScrapedFunctions {
    let registered = work_queue.functions().iter();
    ScrapedFunctions {
        registered: registered
            .map(|(name, function)| (name.clone(), function.stats.clone()))
            .collect(),
        leaving: work_queue.leaving_stats().cloned().collect(),
        cold_starts: work_queue.starts.times(),
    }
}

async fn wait_for(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender was dropped, which is also a reason to stop.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Returns the output of the future that is ready first, and drops the other future.
async fn first_of<T>(one: impl Future<Output = T>, other: impl Future<Output = T>) -> T {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|context| match one.as_mut().poll(context) {
        Poll::Pending => other.as_mut().poll(context),
        ready => ready,
    })
    .await
}

#[cfg(test)]
mod tests;
