//! The settings of the bridge, and why it could not be opened with them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nanofaas_core::cold_start::WallClock;
use nanofaas_core::spec::FunctionDraft;

use crate::api::client::ConnectError;
use crate::context::identity::OwnPod;

/// The settings of the bridge.
pub struct KubernetesConfig {
    /// How to reach the API server; if none, found as `kubectl` does, or as a pod does.
    pub kubeconfig: Option<PathBuf>,
    /// Where functions, pods and Jobs are; the plane's own namespace if none.
    pub namespace: Option<String>,
    /// Name and uid of the plane's own Pod, if it runs in one.
    pub own_pod: Option<OwnPod>,
    /// The file of the default podTemplate, whose fields each function's own can override. The file
    /// may be absent.
    pub pod_template: Option<PathBuf>,
    /// `http://host:port` under which pods reach `/v1/internal`.
    pub callback_base: String,
    /// How long a pod may take to become ready.
    pub start_timeout: Duration,
    /// Functions that are written into the cluster at the start if it has none of that name.
    pub functions: Vec<FunctionDraft>,
    /// The process's clock: nanoseconds since `origin`; `clock` converts it to and from wall time.
    pub origin: Instant,
    pub clock: WallClock,
}

/// Why the bridge could not be started; the message tells the operator what to do.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesOpenError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the default podTemplate {} {why}", file.display())]
    PodTemplate { file: PathBuf, why: String },
}
