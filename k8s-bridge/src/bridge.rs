//! This backend runs functions in a cluster. It takes the Lease, lists the objects and adopts pods; after
//! that it executes the commands of the work queue on the bridge's thread. Each pod and each Job has a task,
//! so no command waits for a pod or a Job.

mod begin;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job as JobObject;
use nanofaas_core::function::Function;
use nanofaas_core::message::{BridgeError, Reply};
use nanofaas_core::spec::ExecutionMode;
use nanofaas_core::ticket::PodId;
use nanofaas_core::time::Uptime;
use nanofaas_core::work_queue::{BridgeCommand, WorkQueue};
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::api::cluster::Cluster;
use crate::api::{client, lease};
use crate::context::ClusterContext;
use crate::context::config::{KubernetesConfig, KubernetesOpenError};
use crate::job::ClusterJob;
use crate::pod::{ClusterPod, ClusterPods, Origin};
use crate::reconcile::{BridgeStage, Memory, Reconciler, adoption};
use crate::registry::functions;

/// How long deleting the Jobs may take when the control plane stops.
const STOP: Duration = Duration::from_secs(2);

/// The backend of a cluster, as the bridge's thread uses it.
pub struct KubernetesBridge(Rc<ClusterDispatcher>);

struct ClusterDispatcher {
    context: Rc<ClusterContext>,
    reconciler: Rc<Reconciler>,
    is_ready: Cell<bool>,
    deposed: Notify,
}

impl KubernetesBridge {
    /// Finds the API server and starts the task that begins the bridge. Call `open` and `take` within a
    /// `LocalSet`, because both start tasks. No task of the bridge borrows the work queue across an await, so
    /// other code of the thread may use it, too.
    pub async fn open(
        config: KubernetesConfig,
        memory: Rc<Memory>,
        work_queue: Rc<RefCell<WorkQueue>>,
    ) -> Result<Self, KubernetesOpenError> {
        let found = client::config(config.kubeconfig.as_deref()).await?;
        let namespace = config.namespace.clone();
        let namespace = namespace.unwrap_or_else(|| found.default_namespace.clone());
        let server = found.cluster_url.to_string();
        let client = client::client(found)?;
        tracing::info!(server, namespace, "the control plane asks for its Lease");
        // The channel needs no bound, because its receiver is a task of the same thread and takes all reports
        // each time that the task runs.
        #[expect(
            clippy::disallowed_methods,
            reason = "holds what tasks report in one turn"
        )]
        let (reports, to_apply) = mpsc::unbounded_channel();
        let cluster = Cluster::new(client, server, namespace);
        let context =
            ClusterContext::new(config, cluster, memory.process.clone(), work_queue, reports);
        context.read_first_template()?;
        let context = Rc::new(context);
        let reconciler = Rc::new(Reconciler::new(context.clone(), memory));
        let to_report = reconciler.clone();
        spawn_local(async move { to_report.apply_reports(to_apply).await });
        let plane = Rc::new(ClusterDispatcher {
            context,
            reconciler,
            is_ready: Cell::new(false),
            deposed: Notify::new(),
        });
        spawn_local(plane.clone().begin());
        Ok(Self(plane))
    }

    pub fn take(&self, command: BridgeCommand) {
        self.0.take(command);
    }

    /// Returns whether the functions and pods of the cluster are known, and each adopted pod with an address
    /// was probed.
    pub fn is_ready(&self) -> bool {
        self.0.is_ready.get()
    }

    /// Waits until this control plane reads that another control plane holds the Lease.
    pub async fn deposed(&self) {
        self.0.deposed.notified().await;
    }

    /// Deletes the Jobs, because their tokens are valid only in this process, and releases the Lease. Warm
    /// pods stay; the next control plane adopts them.
    pub async fn stop(&self) {
        self.0.stop().await;
    }
}

impl ClusterDispatcher {
    fn take(self: &Rc<Self>, command: BridgeCommand) {
        match command {
            // The work queue has already made these changes in the function table.
            BridgeCommand::Function(_) | BridgeCommand::Removed { .. } => {}
            BridgeCommand::Start { .. } if self.reconciler.stage.get() != BridgeStage::Acting => {
                self.reconciler.memory.held.borrow_mut().push(command);
            }
            BridgeCommand::Start {
                function,
                pod,
                wanted_at,
            } => self.start_pod(function, pod, wanted_at),
            BridgeCommand::Stop { pod } if self.reconciler.memory.drop_held(pod) => {
                self.context.announcer.unknown(pod);
            }
            BridgeCommand::Stop { pod } => match self.pod(pod) {
                Some(pod) => {
                    pod.stop();
                    self.reconciler
                        .registry
                        .functions
                        .mark_changed(pod.function.name());
                }
                None => self.context.announcer.unknown(pod),
            },
            BridgeCommand::Probe { pod } => match self.pod(pod) {
                Some(pod) => pod.probe(),
                None => self.context.announcer.unknown(pod),
            },
            BridgeCommand::Adopted { token, pod, .. } => {
                adoption::adopted(&self.reconciler, token, pod)
            }
            BridgeCommand::Job(start) => {
                let job = ClusterJob::new(start, self.context.announcer.now());
                self.reconciler.run_job(Rc::new(job));
            }
            BridgeCommand::JobStop {
                call,
                attempt,
                timestamps,
            } => self
                .reconciler
                .memory
                .jobs
                .borrow()
                .stop((call, attempt), timestamps),
            BridgeCommand::PodReady(ready) => {
                let pods = self.pods().borrow();
                pods.report_ready(&self.context.announcer, &ready);
            }
            BridgeCommand::Change { change, reply } if self.is_ready.get() => {
                functions::change(&self.reconciler.registry, change, reply);
            }
            BridgeCommand::Change { reply, .. } => {
                let why = "this control plane has not begun to act yet; try again";
                let refused = BridgeError::Unavailable(why.to_owned());
                self.context
                    .with_work_queue(|queue| queue.reply(reply, Reply::Refused(refused)));
            }
        }
    }

    fn pods(&self) -> &RefCell<ClusterPods> {
        &self.reconciler.memory.pods
    }

    fn pod(&self, id: PodId) -> Option<Rc<ClusterPod>> {
        self.pods().borrow().at(id)
    }

    fn start_pod(&self, function: Arc<Function>, id: PodId, wanted_at: Uptime) {
        if function.spec.execution_mode != ExecutionMode::Warm {
            let why = "the function has no pods any more";
            return self.context.announcer.cannot_start(id, why);
        }
        let name = self.pods().borrow().new_name(function.name());
        let pod = Rc::new(ClusterPod::new(Some(id), name, function, wanted_at));
        self.reconciler.run_pod(pod, Origin::New);
    }

    async fn stop(self: &Rc<Self>) {
        let Some(identity) = self.context.identity() else {
            return;
        };
        let jobs = self.reconciler.memory.jobs.borrow().all();
        let deletions: Vec<_> = jobs
            .into_iter()
            .map(|job| {
                let plane = self.clone();
                spawn_local(async move {
                    plane
                        .context
                        .cluster
                        .delete::<JobObject>(&job.name, None)
                        .await
                })
            })
            .collect();
        let all = async {
            for deletion in deletions {
                let _ = deletion.await;
            }
        };
        if timeout(STOP, all).await.is_err() {
            tracing::warn!("Jobs are left; the next control plane deletes them");
        }
        // Release the Lease even if Jobs are left, because the next control plane waits for it.
        lease::release(&self.context.cluster, &identity.holder).await;
    }
}
