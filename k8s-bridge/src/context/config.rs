//! Defines the settings of the bridge, and the reasons why the bridge cannot be opened.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nanofaas_core::cold_start::WallClock;
use nanofaas_core::spec::FunctionDraft;

use crate::api::client::ConnectError;
use crate::context::identity::OwnPod;

/// The settings of the bridge.
pub struct KubernetesConfig {
    /// The kubeconfig file. If it is none, the API server is found as `kubectl` or a pod finds it.
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of functions, pods and Jobs. If it is none, the connection's default namespace is used.
    pub namespace: Option<String>,
    /// The control plane's own Pod, if it runs in one.
    pub own_pod: Option<OwnPod>,
    /// The file of the default podTemplate; the file may be missing. A function's own podTemplate overrides
    /// its fields.
    pub pod_template: Option<PathBuf>,
    /// `http://host:port` under which pods reach `/v1/internal`.
    pub callback_base: String,
    /// The longest time from a pod's start to its readiness.
    pub start_timeout: Duration,
    /// Functions that are written into the cluster at the start. A function is left out if the cluster has
    /// one of this name.
    pub functions: Vec<FunctionDraft>,
    /// The zero point of the control plane's clock.
    pub origin: Instant,
    /// Converts between the control plane's clock and wall time.
    pub clock: WallClock,
}

/// Why the bridge could not be opened; the message is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesOpenError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the default podTemplate {} {why}", file.display())]
    PodTemplate { file: PathBuf, why: String },
}
