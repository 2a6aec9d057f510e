//! Polls the file of the default podTemplate, and replaces pods when the template has changed.

use std::time::Duration;

use nanofaas_core::work_queue::WorkQueue;
use tokio::time::sleep;

use crate::reconcile::Reconciler;

/// The time between two reads. A shorter time would help little, because a kubelet takes up to a minute to
/// update the file of a ConfigMap.
const PAUSE: Duration = Duration::from_secs(5);

pub(crate) fn poll(reconciler: &Reconciler) {
    let context = &reconciler.context;
    let Some(path) = &context.config.pod_template else {
        return;
    };
    let file = path.display();
    match context.read_template(path) {
        Ok(false) => {}
        Ok(true) => {
            tracing::info!(%file, "another default podTemplate holds: pods are replaced");
            reconciler.registry.functions.starts_may_work();
            context.with_work_queue(WorkQueue::reshape_pods);
        }
        Err(why) => {
            tracing::error!(%file, "the default podTemplate stays as it was; the file {why}");
        }
    }
}

pub(crate) async fn follow(reconciler: &Reconciler) {
    loop {
        poll(reconciler);
        sleep(PAUSE).await;
    }
}
