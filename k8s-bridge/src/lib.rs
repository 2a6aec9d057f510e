//! This crate acts for Kubernetes: it runs Jobs and warm Pods, and keeps the function registry in the
//! cluster. The scheduler decides how many pods there are. A warm call needs neither this crate nor the API
//! server. The control plane has a `KubernetesBridge` on the bridge's thread.

mod bridge;
mod reconcile;
mod registry;
mod job;
mod pod;
mod context;
mod podspec;
mod api;

pub use api::client::ConnectError;
pub use bridge::KubernetesBridge;
pub use context::config::{KubernetesConfig, KubernetesOpenError};
pub use context::identity::OwnPod;
pub use reconcile::Memory;
