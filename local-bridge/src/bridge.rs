//! The bridge of one machine: its loop takes work from the desk and gives each pod, Job and
//! endpoint to a task of its own. It never waits for any of them, and touches no call's bytes.
//! The process runs it on the bridge's thread, beside the management port.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::future::{Future, poll_fn};
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Wake};
use std::time::{Duration, Instant, SystemTime};

use nanofaas_core::desk::{Desk, Rest, Work};
use nanofaas_core::doorbell::Doorbell;
use nanofaas_core::event::{Event, StartFailure};
use nanofaas_core::function::Function;
use nanofaas_core::message::{JobStart, Message, PodEnd, ReadyStamps, Refused, Reply, ReplyTo};
use nanofaas_core::spec::ExecutionMode;
use nanofaas_core::ticket::PodRef;
use nix::sys::prctl;
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use crate::cold_start::{ColdStarts, WallClock};
use crate::endpoint::{self, Endpoints};
use crate::job::{Job, Jobs};
use crate::link::{Guard, Link, start_guard};
use crate::oom::OomWatch;
use crate::pod::{Pod, PodTable};
use crate::program::{is_same_token, random_name};
use crate::run_dir::{self, RunDir};

/// When a ring was full, it is tried again after this.
const RING_PAUSE: Duration = Duration::from_millis(1);
/// Kills by the kernel that are older are nobody's.
const OOM_LOOK: Duration = Duration::from_secs(2);

/// What the bridge is run with.
pub struct LocalConfig {
    /// `http://host:port` under which pods reach `/v1/internal`.
    pub callback_base: String,
    /// How long a pod may take to become ready.
    pub start_timeout: Duration,
    /// How long processes have to end by themselves when the plane stops.
    pub stop_grace: Duration,
    /// Program and arguments that run `guard_main`.
    pub guard: Vec<OsString>,
    /// Where the private directory is made; `$XDG_RUNTIME_DIR` or the temporary directory if none.
    pub run_base: Option<PathBuf>,
    /// The process's clock: nanoseconds since `origin`, which was `origin_wall`.
    pub origin: Instant,
    pub origin_wall: SystemTime,
}

/// Why the bridge could not be started; each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot make a private directory for sockets in {}: {why}", base.display())]
    RunDir { base: PathBuf, why: io::Error },
    #[error("cannot start the guard of function processes ({program}): {why}")]
    Guard { program: String, why: io::Error },
    #[error("cannot become the reaper of orphaned processes: {0}; Linux 3.4 is needed")]
    Reaper(io::Error),
}

/// A bridge that is about to run.
pub struct LocalBridge {
    config: LocalConfig,
    run_dir: RunDir,
    guard: Guard,
}

/// What the tasks of the bridge share.
pub(crate) struct Plane {
    pub(crate) config: LocalConfig,
    pub(crate) link: Rc<Link>,
    pub(crate) starts: RefCell<ColdStarts>,
    pub(crate) jobs: RefCell<Jobs>,
    pub(crate) endpoints: Endpoints,
    pub(crate) oom: OomWatch,
    pub(crate) run_dir: RunDir,
    desk: Rc<RefCell<Desk>>,
    wake: Arc<Notify>,
    pods: PodTable,
    is_stopping: Cell<bool>,
}

/// The bridge's bell, and what rings through it: for the desk's inbox and for `LocalBridge::run`.
pub fn bell() -> (Arc<Doorbell>, Arc<Notify>) {
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

impl LocalBridge {
    /// Makes the private directory and starts the guard.
    pub fn open(config: LocalConfig) -> Result<Self, OpenError> {
        let base = config.run_base.clone().unwrap_or_else(run_dir::base);
        let run_dir = RunDir::create(&base).map_err(|why| OpenError::RunDir { base, why })?;
        // Whatever a killed guard leaves behind comes to this process, which ends it.
        prctl::set_child_subreaper(true).map_err(|errno| OpenError::Reaper(errno.into()))?;
        let guard = start_guard(&config.guard).map_err(|why| {
            let program = config.guard.first().cloned().unwrap_or_default();
            let program = program.to_string_lossy().into_owned();
            OpenError::Guard { program, why }
        })?;
        Ok(Self {
            config,
            run_dir,
            guard,
        })
    }

    /// Runs until `shutdown`, then ends every process. `wake` is what the bell of the desk's inbox
    /// rings. The desk may be read between its turns by others on the same thread.
    pub async fn run(
        self,
        desk: Rc<RefCell<Desk>>,
        wake: Arc<Notify>,
        shutdown: impl Future<Output = ()>,
    ) {
        let Self {
            config,
            run_dir,
            guard,
        } = self;
        let plane = Rc::new(Plane {
            link: Rc::new(Link::new(config.guard.clone())),
            config,
            starts: RefCell::default(),
            jobs: RefCell::default(),
            endpoints: Endpoints::new(),
            oom: OomWatch::new(),
            run_dir,
            desk,
            wake,
            pods: RefCell::default(),
            is_stopping: Cell::new(false),
        });
        let tasks = LocalSet::new();
        tasks
            .run_until(async move {
                spawn_local(plane.link.clone().keep(guard));
                spawn_local(plane.clone().watch_memory());
                until(plane.clone().serve(), shutdown).await;
                plane.stop().await;
            })
            .await;
    }
}

/// Runs `work`, which has no end, until `end`.
async fn until(work: impl Future<Output = ()>, end: impl Future<Output = ()>) {
    let (mut work, mut end) = (pin!(work), pin!(end));
    poll_fn(|context| {
        if end.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        work.as_mut().poll(context)
    })
    .await;
}

impl Plane {
    /// Nanoseconds of the process's clock.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.config.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Says something through the desk.
    pub(crate) fn say(&self, something: impl FnOnce(&mut Desk)) {
        let mut desk = self.desk.borrow_mut();
        something(&mut desk);
        if desk.waiting() > 0 {
            // The loop may sleep; it has to try again.
            self.wake.notify_one();
        }
    }

    /// Says that a pod is no more: first to who may have calls in it.
    pub(crate) fn gone(&self, pod: PodRef, end: &PodEnd) {
        self.say(|desk| {
            desk.broadcast(|| Message::PodGone {
                pod,
                end: end.clone(),
            });
            desk.event(Event::PodDown(pod));
        });
    }

    /// A name that no other pod has.
    pub(crate) fn pod_name(&self, function: &str) -> String {
        loop {
            let name = format!("fn-{function}-{}", random_name());
            if self.pods.borrow().named(&name).is_none() {
                return name;
            }
        }
    }

    pub(crate) fn forget(&self, pod: &Pod) {
        self.pods.borrow_mut().remove(pod);
    }

    async fn serve(self: Rc<Self>) {
        loop {
            let work = self.desk.borrow_mut().pump();
            for work in work {
                self.take(work);
            }
            let rest = self.desk.borrow_mut().rest();
            match rest {
                Rest::No => tokio::task::yield_now().await,
                Rest::Shortly => {
                    let _ = timeout(RING_PAUSE, self.wake.notified()).await;
                }
                Rest::UntilBell => self.wake.notified().await,
            }
        }
    }

    fn take(self: &Rc<Self>, work: Work) {
        match work {
            Work::Function(function) => endpoint::follow(self, &function),
            Work::Removed { lane, name } => {
                self.endpoints.forget(lane);
                self.starts.borrow_mut().forget(&name);
            }
            Work::Start {
                function,
                pod,
                wanted_ns,
            } => self.start_pod(function, pod, wanted_ns),
            Work::Stop { pod } => match self.pod(pod) {
                Some(pod) => pod.stop(),
                None => self.is_unknown(pod),
            },
            Work::Probe { pod } => match self.pod(pod) {
                Some(pod) => pod.probe(),
                None => self.is_unknown(pod),
            },
            // Processes do not outlive their plane.
            Work::Adopted { pod, .. } => self.is_unknown(pod),
            Work::Job(start) => self.start_job(start),
            Work::JobStop { call, attempt } => {
                if let Some(job) = self.jobs.borrow().get(&(call, attempt)) {
                    job.stop();
                }
            }
            Work::ColdStarts { name, reply } => self.tell_cold_starts(&name, reply),
            Work::PodReady {
                token,
                pod,
                stamps,
                reply,
            } => self.pod_is_ready(&token, &pod, stamps, reply),
        }
    }

    fn pod(&self, place: PodRef) -> Option<Rc<Pod>> {
        self.pods.borrow().at(place)
    }

    /// Its end was said already, or it was another bridge's; once more does no harm.
    fn is_unknown(&self, pod: PodRef) {
        let message = "it was gone already".into();
        self.gone(
            pod,
            &PodEnd {
                oom: false,
                message,
            },
        );
    }

    fn start_pod(self: &Rc<Self>, function: Arc<Function>, place: PodRef, wanted_ns: u64) {
        let cannot = if self.is_stopping.get() {
            Some("the control plane is stopping")
        } else if function.spec.execution_mode != ExecutionMode::Warm {
            Some("the function has no pods any more")
        } else {
            None
        };
        if let Some(why) = cannot {
            let failure = StartFailure {
                permanent: false,
                message: why.into(),
            };
            return self.say(|desk| {
                desk.event(Event::StartFailed {
                    pod: place,
                    failure,
                });
            });
        }
        let name = self.pod_name(function.name());
        let pod = Rc::new(Pod::new(place, name, function, wanted_ns));
        self.pods.borrow_mut().add(&pod);
        spawn_local(pod.live(self.clone()));
    }

    fn start_job(self: &Rc<Self>, start: Box<JobStart>) {
        let key = (start.call, start.attempt);
        let job = Rc::new(Job::new());
        let before = self.jobs.borrow_mut().insert(key, job.clone());
        if let Some(before) = before {
            before.stop();
        }
        spawn_local(job.live(self.clone(), start));
    }

    fn tell_cold_starts(&self, name: &str, to: ReplyTo) {
        self.say(|desk| {
            let reply = if desk.functions().contains_key(name) {
                let clock = WallClock(self.config.origin_wall);
                Reply::ColdStarts(self.starts.borrow().of(name, clock))
            } else {
                Reply::Refused(Refused::NotFound)
            };
            desk.reply(to, reply);
        });
    }

    fn pod_is_ready(&self, token: &str, name: &str, stamps: ReadyStamps, to: ReplyTo) {
        let pod = self.pods.borrow().named(name);
        let reply = match pod {
            None => Reply::Refused(Refused::NotFound),
            Some(pod) if !is_same_token(&pod.token, token) => Reply::Refused(Refused::Forbidden),
            Some(pod) => {
                let function = pod.function.name();
                self.starts.borrow_mut().stamped(function, name, stamps);
                pod.is_ready();
                Reply::Ready
            }
        };
        self.say(|desk| desk.reply(to, reply));
    }

    async fn watch_memory(self: Rc<Self>) {
        while self.oom.has_counter() {
            sleep(OOM_LOOK).await;
            self.oom.refresh();
        }
    }

    /// Ends every process, the guard too.
    async fn stop(&self) {
        self.is_stopping.set(true);
        self.link.terminate_all();
        let deadline = Instant::now() + self.config.stop_grace;
        while !self.link.is_empty() && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
        self.link.close().await;
    }
}
