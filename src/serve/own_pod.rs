//! Finds the Pod that this process runs in, by environment variables that the Pod's manifest sets. This
//! module sends no request to the cluster.

use nanofaas_k8s_bridge::OwnPod;

use crate::config::{BackendKind, Config};

/// Returns `None` if the process runs in no pod, or if its manifest does not set the variables.
pub(super) fn find() -> Option<OwnPod> {
    let value = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    Some(OwnPod {
        name: value("POD_NAME")?,
        uid: value("POD_UID")?,
        namespace: value("POD_NAMESPACE"),
        service_account: value("POD_SERVICE_ACCOUNT"),
    })
}

/// Returns the process's service account if a function's podTemplate could name it: on Kubernetes, if
/// functions run in the namespace of this process.
pub(super) fn account(config: &Config) -> Option<String> {
    let own_pod = find().filter(|_| config.backend == BackendKind::Kubernetes)?;
    if own_pod.service_account.is_none() {
        tracing::warn!(
            "POD_SERVICE_ACCOUNT is not set, so a podTemplate that takes this plane's service \
             account is not refused: set it as k8s/base/deployment.yaml does"
        );
    }
    let account = own_pod.account_in(config.namespace.as_deref());
    account.map(str::to_owned)
}
