//! Follows the file of the default podTemplate: pods are replaced when another template holds.

use std::time::Duration;

use nanofaas_core::desk::Desk;
use tokio::time::sleep;

use crate::reconcile::Reconciler;

/// Between two readings. A kubelet takes up to a minute to bring a changed ConfigMap.
const PAUSE: Duration = Duration::from_secs(5);

/// Reads the file again; pods are replaced when another template holds.
pub(crate) fn look(reconciler: &Reconciler) {
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
            context.with_desk(Desk::reshape_pods);
        }
        Err(why) => {
            tracing::error!(%file, "the default podTemplate stays as it was; the file {why}");
        }
    }
}

/// The same again and again, for ever.
pub(crate) async fn follow(reconciler: &Reconciler) {
    loop {
        look(reconciler);
        sleep(PAUSE).await;
    }
}
