//! Acts for Kubernetes: Jobs, warm Pods, and the function registry in the cluster.
//! It never decides how many pods there are (the scheduler does), never touches a call's bytes, and
//! is never on a warm call's path: with the API server gone, warm calls go on.
//! The process has a `KubernetesBridge` on the bridge's thread.

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
