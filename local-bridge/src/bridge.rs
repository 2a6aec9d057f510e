//! The backend of one machine: each pod and each Job has a task of its own. It never waits for a
//! pod or a Job, and touches no call's bytes.
//! The process's bridge passes it the desk's work, on the bridge's thread.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nanofaas_core::desk::{Desk, PodReady, Work};
use nanofaas_core::event::{Event, StartFailure};
use nanofaas_core::function::Function;
use nanofaas_core::id::{is_same_token, pod_name};
use nanofaas_core::message::{JobStart, Refused, Reply};
use nanofaas_core::spec::ExecutionMode;
use nanofaas_core::ticket::PodRef;
use nanofaas_core::time::Uptime;
use nix::sys::prctl;
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::context::LocalContext;
use crate::context::config::{LocalConfig, OpenError};
use crate::guard::link::{Guard, start_guard};
use crate::job::{Job, Jobs};
use crate::pod::{Pod, Pods};
use crate::process::program::random;
use crate::process::run_dir::{self, RunDir};

/// How often unattributed OOM kills are discarded. The end of a killed process is reported sooner
/// than this, so an older kill belongs to no pod or Job.
const OOM_LOOK: Duration = Duration::from_secs(2);

/// The backend.
pub struct LocalBridge(Rc<Plane>);

/// What the bridge does with the scheduler's work.
struct Plane {
    context: Rc<LocalContext>,
    pods: RefCell<Pods>,
    jobs: RefCell<Jobs>,
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
        let context = Rc::new(LocalContext::new(config, run_dir, desk));
        spawn_local(context.link.clone().keep(guard));
        spawn_local(watch_memory(context.clone()));
        Ok(Self(Rc::new(Plane {
            context,
            pods: RefCell::default(),
            jobs: RefCell::default(),
        })))
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
    /// A name that no other pod has.
    fn pod_name(&self, function: &str) -> String {
        loop {
            let name = pod_name::<5>(function, random());
            if self.pods.borrow().named(&name).is_none() {
                return name;
            }
        }
    }

    fn take(self: &Rc<Self>, work: Work) {
        match work {
            // A function needs no process before its first pod, and the table has its change
            // already.
            Work::Function(_) | Work::Removed { .. } | Work::Change { .. } => {}
            Work::Start {
                function,
                pod,
                wanted_at,
            } => self.start_pod(function, pod, wanted_at),
            Work::Stop { pod } => match self.pod(pod) {
                Some(pod) => pod.stop(),
                None => self.context.is_unknown(pod),
            },
            Work::Probe { pod } => match self.pod(pod) {
                Some(pod) => pod.probe(),
                None => self.context.is_unknown(pod),
            },
            // Processes do not outlive their plane.
            Work::Adopted { pod, .. } => {
                pod.into_iter().for_each(|pod| self.context.is_unknown(pod))
            }
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

    fn start_pod(self: &Rc<Self>, function: Arc<Function>, place: PodRef, wanted_at: Uptime) {
        let cannot = if self.context.is_stopping.get() {
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
            return self.context.say(|desk| {
                desk.event(Event::StartFailed {
                    pod: place,
                    failure,
                });
            });
        }
        let name = self.pod_name(function.name());
        let pod = Rc::new(Pod::new(place, name, function, wanted_at));
        self.pods.borrow_mut().add(&pod);
        let plane = self.clone();
        spawn_local(async move {
            let fate = pod.live(&plane.context).await;
            plane.pods.borrow_mut().remove(&pod);
            pod.tell_end(&plane.context, fate);
        });
    }

    fn start_job(self: &Rc<Self>, start: Box<JobStart>) {
        let key = (start.call, start.attempt);
        let job = Rc::new(Job::new(self.pod_name(start.function.name())));
        let before = self.jobs.borrow_mut().insert(key, job.clone());
        if let Some(before) = before {
            before.stop(None);
        }
        let plane = self.clone();
        spawn_local(async move {
            let ended = job.live(&plane.context, &start).await;
            plane.jobs.borrow_mut().remove(&key);
            job.tell_end(&plane.context, &start, ended);
        });
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
                self.context
                    .say(|desk| desk.starts.stamped(function, &said.pod, said.stamps));
                pod.says_ready();
                Reply::Ready
            }
        };
        self.context.say(|desk| desk.reply(said.reply, reply));
    }

    /// Ends every process, the guard too.
    async fn stop(&self) {
        self.context.is_stopping.set(true);
        self.context.link.terminate_all();
        let deadline = Instant::now() + self.context.config.stop_grace;
        while !self.context.link.is_empty() && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
        self.context.link.close().await;
    }
}

/// Discards OOM kills that belong to no process of a function, for ever.
async fn watch_memory(context: Rc<LocalContext>) {
    while context.oom.has_counter() {
        if context.link.is_empty() {
            // No function's process runs, so kills until the next start belong to none.
            context.link.started.notified().await;
        } else {
            sleep(OOM_LOOK).await;
        }
        context.oom.refresh();
    }
}
