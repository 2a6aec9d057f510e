//! Compares the cluster with the state of this process. It adopts pods of earlier control planes, passes
//! updates of known pods to their tasks, and deletes objects that belong to no function. It also starts the
//! tasks of pods and Jobs, keeps their tables, and applies their reports.

pub(crate) mod adoption;
pub(crate) mod pods;
pub(crate) mod template;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use nanofaas_backend::pod::PodFate;
use nanofaas_core::ticket::PodId;
use nanofaas_core::work_queue::BridgeCommand;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::spawn_local;

use crate::context::report::TaskReport;
use crate::context::{ClusterContext, ProcessState};
use crate::job::{ClusterJob, ClusterJobs};
use crate::pod::{ClusterPod, ClusterPods, Origin};
use crate::reconcile::adoption::Adoption;
use crate::registry::ClusterRegistry;

/// The state that is kept when the bridge is rebuilt after a failure. It contains the pods, because the
/// scheduler knows them by their ids, and the Jobs, because calls wait for them.
#[derive(Default)]
pub struct Memory {
    pub(crate) process: Rc<ProcessState>,
    pub(crate) pods: Rc<RefCell<ClusterPods>>,
    pub(crate) jobs: RefCell<ClusterJobs>,
    /// The orders to start a pod that the bridge received before `BridgeStage::Acting`. They are executed
    /// when this stage begins.
    pub(crate) held: RefCell<Vec<BridgeCommand>>,
}

impl Memory {
    /// Removes the held order to start this pod. Returns false if no such order was held.
    pub(crate) fn drop_held(&self, id: PodId) -> bool {
        let mut held = self.held.borrow_mut();
        let before = held.len();
        held.retain(|command| !matches!(command, BridgeCommand::Start { pod, .. } if *pod == id));
        held.len() < before
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BridgeStage {
    /// The bridge waits for the Lease and for the list of pods.
    Beginning,
    /// The bridge waits for the list of functions, and then the scheduler gives ids to pods of earlier
    /// control planes.
    Adopting,
    Acting,
}

pub(crate) struct Reconciler {
    pub(crate) context: Rc<ClusterContext>,
    pub(crate) registry: Rc<ClusterRegistry>,
    pub(crate) memory: Rc<Memory>,
    pub(crate) adoption: RefCell<Adoption>,
    pub(crate) stage: Cell<BridgeStage>,
    pub(crate) pods_listed: Cell<bool>,
    /// Notified when a condition of `begin` may have changed.
    pub(crate) progress: Notify,
}

impl Reconciler {
    pub(crate) fn new(context: Rc<ClusterContext>, memory: Rc<Memory>) -> Self {
        Self {
            registry: Rc::new(ClusterRegistry::new(context.clone(), memory.pods.clone())),
            context,
            memory,
            adoption: RefCell::default(),
            stage: Cell::new(BridgeStage::Beginning),
            pods_listed: Cell::new(false),
            progress: Notify::new(),
        }
    }

    pub(crate) async fn apply_reports(&self, mut reports: UnboundedReceiver<TaskReport>) {
        while let Some(report) = reports.recv().await {
            if let TaskReport::Probed(pod) = &report {
                self.adoption.borrow_mut().mark_probed(pod);
                self.progress.notify_one();
            }
            self.registry.apply(report);
        }
    }

    pub(crate) fn run_pod(self: &Rc<Self>, pod: Rc<ClusterPod>, origin: Origin) {
        self.memory.pods.borrow_mut().add(&pod);
        self.registry.functions.mark_changed(pod.function.name());
        self.spawn_pod(pod, origin);
    }

    /// Starts the task of a pod that the table has.
    pub(crate) fn spawn_pod(self: &Rc<Self>, pod: Rc<ClusterPod>, origin: Origin) {
        let reconciler = self.clone();
        spawn_local(async move {
            let fate = pod.live(&reconciler.context, origin).await;
            // Call `ask_on` before the pod leaves its table, because `pods::there` deletes a pod that is
            // neither in the table nor busy, and `ask_on` makes the pod busy.
            if let PodFate::Unanswered(_) = fate {
                adoption::ask_on(&reconciler, &pod);
            }
            reconciler.memory.pods.borrow_mut().remove(&pod);
            pod.report_end(&reconciler.context, fate);
        });
    }

    pub(crate) fn run_job(self: &Rc<Self>, job: Rc<ClusterJob>) {
        self.memory.jobs.borrow_mut().add(&job);
        self.spawn_job(job);
    }

    /// Starts the task of a Job that the table has.
    pub(crate) fn spawn_job(self: &Rc<Self>, job: Rc<ClusterJob>) {
        let reconciler = self.clone();
        spawn_local(async move {
            job.live(&reconciler.context).await;
            reconciler.memory.jobs.borrow_mut().remove(&job);
        });
    }
}
