//! The backend of one machine: each pod and each Job has a task of its own. It never waits for a
//! pod or a Job, and touches no call's bytes.
//! The process's bridge passes it the desk's work, on the bridge's thread.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nanofaas_core::desk::{Desk, PodReady, Work};
use nanofaas_core::event::{Event, StartFailure};
use nanofaas_core::function::Function;
use nanofaas_core::id::{is_same_token, pod_name};
use nanofaas_core::message::{JobStart, PodEnd, Refused, Reply};
use nanofaas_core::spec::ExecutionMode;
use nanofaas_core::ticket::PodRef;
use nix::sys::prctl;
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::guard::link::{Guard, Link, start_guard};
use crate::job::{Job, Jobs};
use crate::pod::{Pod, PodTable};
use crate::process::oom::OomWatch;
use crate::process::ports::Ports;
use crate::process::program::random;
use crate::process::run_dir::{self, RunDir};

/// How often unattributed OOM kills are discarded. The end of a killed process is reported sooner
/// than this, so an older kill belongs to no pod or Job.
const OOM_LOOK: Duration = Duration::from_secs(2);

/// The settings of the bridge.
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
    /// The process's clock: nanoseconds since then.
    pub origin: Instant,
}

/// Why the bridge could not be started; the message tells the operator what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot make a private directory for sockets in {}: {why}", base.display())]
    RunDir { base: PathBuf, why: io::Error },
    #[error("cannot start the guard of function processes ({program}): {why}")]
    Guard { program: String, why: io::Error },
    #[error("cannot become the reaper of orphaned processes: {0}; Linux 3.4 is needed")]
    Reaper(io::Error),
}

/// The backend.
pub struct LocalBridge(Rc<Plane>);

/// What the tasks of the bridge share.
pub(crate) struct Plane {
    pub(crate) config: LocalConfig,
    pub(crate) link: Rc<Link>,
    pub(crate) jobs: RefCell<Jobs>,
    pub(crate) oom: OomWatch,
    pub(crate) run_dir: RunDir,
    pub(crate) ports: Rc<Ports>,
    desk: Rc<RefCell<Desk>>,
    pods: PodTable,
    pub(crate) is_stopping: Cell<bool>,
}

impl LocalBridge {
    /// Makes the private directory and starts the guard. Call it, and `take`, within a `LocalSet`;
    /// between the calls other code on the same thread may use the desk.
    pub fn open(config: LocalConfig, desk: Rc<RefCell<Desk>>) -> Result<Self, OpenError> {
        let base = config.run_base.clone().unwrap_or_else(run_dir::base);
        let run_dir = RunDir::create(&base).map_err(|why| OpenError::RunDir { base, why })?;
        // If the guard is killed, its processes become children of this process, which ends them.
        prctl::set_child_subreaper(true).map_err(|errno| OpenError::Reaper(errno.into()))?;
        let guard: Guard = start_guard(&config.guard).map_err(|why| {
            let program = config.guard.first().cloned().unwrap_or_default();
            let program = program.to_string_lossy().into_owned();
            OpenError::Guard { program, why }
        })?;
        let plane = Rc::new(Plane {
            link: Rc::new(Link::new(config.guard.clone())),
            config,
            jobs: RefCell::default(),
            oom: OomWatch::new(),
            run_dir,
            ports: Ports::new(),
            desk,
            pods: RefCell::default(),
            is_stopping: Cell::new(false),
        });
        spawn_local(plane.link.clone().keep(guard));
        spawn_local(plane.clone().watch_memory());
        Ok(Self(plane))
    }

    /// Does, or begins, one piece of the desk's work.
    pub fn take(&self, work: Work) {
        self.0.take(work);
    }

    /// Ends every process, the guard too.
    pub async fn stop(&self) {
        self.0.stop().await;
    }
}

impl Plane {
    /// Nanoseconds of the process's clock.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.config.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Runs `something` with the desk borrowed.
    pub(crate) fn say<T>(&self, something: impl FnOnce(&mut Desk) -> T) -> T {
        something(&mut self.desk.borrow_mut())
    }

    /// Reports the end of a pod.
    pub(crate) fn gone(&self, pod: PodRef, end: &PodEnd) {
        self.say(|desk| desk.gone(pod, end));
    }

    /// A name that no other pod has.
    pub(crate) fn pod_name(&self, function: &str) -> String {
        loop {
            let name = pod_name::<5>(function, random());
            if self.pods.borrow().named(&name).is_none() {
                return name;
            }
        }
    }

    pub(crate) fn forget(&self, pod: &Pod) {
        self.pods.borrow_mut().remove(pod);
    }

    fn take(self: &Rc<Self>, work: Work) {
        match work {
            // A function needs no process before its first pod, and the table has its change
            // already.
            Work::Function(_) | Work::Removed { .. } | Work::Change { .. } => {}
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
            Work::Adopted { pod, .. } => pod.into_iter().for_each(|pod| self.is_unknown(pod)),
            Work::Job(start) => self.start_job(start),
            Work::JobStop {
                call,
                attempt,
                stamps,
            } => {
                if let Some(job) = self.jobs.borrow().get(&(call, attempt)) {
                    job.stop(stamps);
                }
            }
            Work::PodReady(ready) => self.pod_is_ready(&ready),
        }
    }

    fn pod(&self, place: PodRef) -> Option<Rc<Pod>> {
        self.pods.borrow().at(place)
    }

    /// Reports the end of a pod that has no task here. It may have been reported before, or belong
    /// to an earlier bridge; a second report does no harm.
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
        let job = Rc::new(Job::new(self.pod_name(start.function.name())));
        let before = self.jobs.borrow_mut().insert(key, job.clone());
        if let Some(before) = before {
            before.stop(None);
        }
        spawn_local(job.live(self.clone(), start));
    }

    fn pod_is_ready(&self, said: &PodReady) {
        let pod = self.pods.borrow().named(&said.pod);
        let reply = match pod {
            None => Reply::Refused(Refused::NotFound),
            Some(pod) if !is_same_token(&pod.token, &said.token) => {
                Reply::Refused(Refused::Forbidden)
            }
            Some(pod) => {
                let function = pod.function.name();
                self.say(|desk| desk.starts.stamped(function, &said.pod, said.stamps));
                pod.says_ready();
                Reply::Ready
            }
        };
        self.say(|desk| desk.reply(said.reply, reply));
    }

    async fn watch_memory(self: Rc<Self>) {
        while self.oom.has_counter() {
            if self.link.is_empty() {
                // No function's process runs, so kills until the next start belong to none.
                self.link.started.notified().await;
            } else {
                sleep(OOM_LOOK).await;
            }
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
