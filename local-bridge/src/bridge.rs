//! This backend runs functions on one machine. It executes the commands of the work queue on the bridge's
//! thread. Each pod and each Job has a task, so no command waits for a pod or a Job.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nanofaas_backend::job::JobAttempt;
use nanofaas_backend::pod::WarmPod;
use nanofaas_core::function::Function;
use nanofaas_core::message::JobStart;
use nanofaas_core::spec::ExecutionMode;
use nanofaas_core::ticket::PodId;
use nanofaas_core::time::Uptime;
use nanofaas_core::work_queue::{BridgeCommand, WorkQueue};
use nix::sys::prctl;
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::context::LocalContext;
use crate::context::config::{LocalConfig, LocalOpenError};
use crate::guard::link::{GuardProcess, start_guard};
use crate::job::{self, LocalJobs};
use crate::pod::{self, LocalPods};
use crate::process::run_dir::{self, RunDir};

/// The pause between two refreshes of the OOM watch. A refresh discards each kill that came before the last
/// refresh and is attributed to no process. A much shorter pause would discard a kill before the end of the
/// killed process is reported.
const OOM_POLL: Duration = Duration::from_secs(2);

/// The backend of one machine, as the bridge's thread uses it.
pub struct LocalBridge(Rc<LocalDispatcher>);

struct LocalDispatcher {
    context: Rc<LocalContext>,
    pods: RefCell<LocalPods>,
    jobs: RefCell<LocalJobs>,
}

impl LocalBridge {
    /// Makes the private directory and starts the guard. Call `open` and `take` within a `LocalSet`, because
    /// both start tasks. No task of the bridge borrows the work queue across an await, so other code of the
    /// thread may use it, too.
    pub fn open(
        config: LocalConfig,
        work_queue: Rc<RefCell<WorkQueue>>,
    ) -> Result<Self, LocalOpenError> {
        let base = config.run_base.clone().unwrap_or_else(run_dir::base);
        let run_dir = RunDir::create(&base).map_err(|why| LocalOpenError::RunDir { base, why })?;
        // If the guard is killed, a subreaper inherits the guard's children, and this process must end them.
        prctl::set_child_subreaper(true).map_err(|errno| LocalOpenError::Reaper(errno.into()))?;
        let guard: GuardProcess = start_guard(&config.guard).map_err(|why| {
            let program = config.guard.first().cloned().unwrap_or_default();
            let program = program.to_string_lossy().into_owned();
            LocalOpenError::Guard { program, why }
        })?;
        let context = Rc::new(LocalContext::new(config, run_dir, work_queue));
        spawn_local(context.link.clone().keep(guard));
        spawn_local(watch_memory(context.clone()));
        Ok(Self(Rc::new(LocalDispatcher {
            context,
            pods: RefCell::default(),
            jobs: RefCell::default(),
        })))
    }

    pub fn take(&self, command: BridgeCommand) {
        self.0.take(command);
    }

    /// Ends every process, also the guard.
    pub async fn stop(&self) {
        self.0.stop().await;
    }
}

impl LocalDispatcher {
    fn take(self: &Rc<Self>, command: BridgeCommand) {
        match command {
            // The work queue has already changed the function table, and a function without pods needs no
            // process.
            BridgeCommand::Function(_)
            | BridgeCommand::Removed { .. }
            | BridgeCommand::Change { .. } => {}
            BridgeCommand::Start {
                function,
                pod,
                wanted_at,
            } => self.start_pod(function, pod, wanted_at),
            BridgeCommand::Stop { pod } => match self.pod(pod) {
                Some(pod) => pod.stop(),
                None => self.context.announcer.unknown(pod),
            },
            BridgeCommand::Probe { pod } => match self.pod(pod) {
                Some(pod) => pod.probe(),
                None => self.context.announcer.unknown(pod),
            },
            // Processes do not outlive their control plane, so no pod can be adopted.
            BridgeCommand::Adopted { pod, .. } => pod
                .into_iter()
                .for_each(|pod| self.context.announcer.unknown(pod)),
            BridgeCommand::Job(start) => self.start_job(start),
            BridgeCommand::JobStop {
                call,
                attempt,
                timestamps,
            } => self.jobs.borrow().stop((call, attempt), timestamps),
            BridgeCommand::PodReady(ready) => {
                let pods = self.pods.borrow();
                pods.report_ready(&self.context.announcer, &ready);
            }
        }
    }

    fn pod(&self, id: PodId) -> Option<Rc<WarmPod>> {
        self.pods.borrow().at(id)
    }

    fn start_pod(self: &Rc<Self>, function: Arc<Function>, id: PodId, wanted_at: Uptime) {
        let cannot = if self.context.is_stopping.get() {
            Some("the control plane is stopping")
        } else if function.spec.execution_mode != ExecutionMode::Warm {
            Some("the function has no pods any more")
        } else {
            None
        };
        if let Some(why) = cannot {
            return self.context.announcer.cannot_start(id, why);
        }
        let name = self.pods.borrow().new_name(function.name());
        let pod = Rc::new(WarmPod::new(Some(id), name, function, wanted_at));
        self.pods.borrow_mut().add(&pod);
        let plane = self.clone();
        spawn_local(async move {
            let context = &plane.context;
            let fate = pod::live(&pod, context).await;
            plane.pods.borrow_mut().remove(&pod);
            let is_expected = pod.is_stopped() || context.is_stopping.get();
            pod.announce_end(&context.announcer, fate, is_expected);
        });
    }

    fn start_job(self: &Rc<Self>, start: Box<JobStart>) {
        let name = self.pods.borrow().new_name(start.function.name());
        let job = Rc::new(JobAttempt::new(name, start));
        self.jobs.borrow_mut().add(&job);
        let plane = self.clone();
        spawn_local(async move {
            let ended = job::live(&job, &plane.context).await;
            plane.jobs.borrow_mut().remove(&job);
            job::announce_end(&job, &plane.context, ended);
        });
    }

    async fn stop(&self) {
        self.context.is_stopping.set(true);
        self.context.link.terminate_all();
        let deadline = Instant::now() + self.context.config.stop_grace;
        // Nothing notifies this task when the last process has ended.
        while !self.context.link.is_empty() && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
        self.context.link.close().await;
    }
}

/// Regularly discards the OOM kills that hit no process of a pod or a Job. Returns only if there is no
/// counter.
async fn watch_memory(context: Rc<LocalContext>) {
    while context.oom.has_counter() {
        if context.link.is_empty() {
            // No kill can hit a function process while none runs.
            context.link.started.notified().await;
        } else {
            sleep(OOM_POLL).await;
        }
        context.oom.refresh();
    }
}
