//! Begins the bridge in fixed steps: it finds the identity, takes the Lease, lists the pods and the
//! functions, and adopts pods. After these steps the control plane acts.

use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job as JobObject;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use super::ClusterDispatcher;
use crate::api::{lease, watch};
use crate::context::identity::PlaneIdentity;
use crate::job;
use crate::podspec::SELECTOR;
use crate::reconcile::{BridgeStage, adoption, pods, template};
use crate::registry::{events, functions, status};

impl ClusterDispatcher {
    /// Waits until `is_so` holds. Each task of this thread that changes the condition notifies `progress`.
    async fn until(&self, is_so: impl Fn() -> bool) {
        while !is_so() {
            // Wait at most 10 ms, because io threads that change the condition do not notify `progress`.
            let progress = self.reconciler.progress.notified();
            let _ = timeout(Duration::from_millis(10), progress).await;
        }
    }

    /// Runs the steps of the start in their order, because each step needs the results of earlier steps.
    pub(super) async fn begin(self: Rc<Self>) {
        let (context, reconciler) = (&self.context, &self.reconciler);
        let registry = &reconciler.registry;
        let own_pod = context.config.own_pod.clone();
        let instance = &context.process.instance;
        let identity = Rc::new(PlaneIdentity::find(&context.cluster, instance, own_pod).await);
        context.set_identity(identity.clone());
        lease::acquire(&context.cluster, &identity.holder).await;
        // The template may have changed during the wait for the Lease, and adoption compares pods with it.
        template::poll(reconciler);
        let plane = self.clone();
        spawn_local(async move { plane.keep_lease().await });
        let plane = self.clone();
        spawn_local(async move { plane.end_jobs_of_others().await });
        // List pods before functions, so that a function's pods are known when the function is applied.
        self.watch_pods();
        self.until(|| reconciler.pods_listed.get()).await;
        reconciler.stage.set(BridgeStage::Adopting);
        self.watch_functions();
        self.until(|| registry.functions.is_listed.get()).await;
        functions::seed(registry).await;
        // The next messages offer pods to the scheduler. The scheduler must already know the functions of
        // these pods.
        self.until(|| context.with_work_queue(|queue| queue.is_settled()))
            .await;
        adoption::begin(reconciler);
        self.until(|| reconciler.adoption.borrow().is_over()).await;
        reconciler.stage.set(BridgeStage::Acting);
        adoption::end(reconciler);
        let held = reconciler.memory.held.take();
        held.into_iter().for_each(|command| self.take(command));
        let to_write = registry.clone();
        spawn_local(async move { status::keep(&to_write).await });
        let to_follow = reconciler.clone();
        spawn_local(async move { template::follow(&to_follow).await });
        let to_write = registry.clone();
        spawn_local(async move { events::keep(&to_write).await });
        self.is_ready.set(true);
    }

    fn watch_pods(&self) {
        let reconciler = self.reconciler.clone();
        spawn_local(async move {
            let cluster = &reconciler.context.cluster;
            watch::follow(cluster, SELECTOR, |update| {
                pods::apply_update(&reconciler, update)
            })
            .await;
        });
    }

    fn watch_functions(&self) {
        let reconciler = self.reconciler.clone();
        spawn_local(async move {
            let cluster = &reconciler.context.cluster;
            let apply = |update| {
                functions::apply_update(&reconciler.registry, update);
                reconciler.progress.notify_one();
            };
            watch::follow(cluster, "", apply).await;
        });
    }

    async fn keep_lease(&self) {
        let Some(identity) = self.context.identity() else {
            return;
        };
        let other = lease::keep(&self.context.cluster, &identity.holder).await;
        tracing::error!(holder = other, "another control plane took the Lease");
        self.deposed.notify_one();
    }

    async fn end_jobs_of_others(&self) {
        let cluster = &self.context.cluster;
        let until = Instant::now() + self.context.config.start_timeout;
        match job::jobs_of_others(cluster, &self.context.process.instance, until).await {
            Ok(names) => {
                for name in names {
                    cluster.delete::<JobObject>(&name, None).await;
                }
            }
            Err(denied) => {
                let why = denied.message();
                tracing::warn!("Jobs of earlier planes may be left: {why}");
            }
        }
    }
}
