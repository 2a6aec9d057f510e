//! Acts for Kubernetes: Jobs, warm Pods, and the function registry in the cluster.
//! It never decides how many pods there are (the scheduler does), never touches a call's bytes, and
//! is never on a warm call's path: with the API server gone, warm calls go on.
//! The process has a `KubernetesBridge` on the bridge's thread.

mod bridge;
mod identity;
mod lease;
mod adoption;

mod functions;
mod object;
mod starts;
mod ready;
mod status;
mod events;

mod pods;
mod warm;
mod job;
mod podspec;
mod security;
mod default_template;
mod seen;
mod fault;
mod health;

mod client;
mod cluster;
mod watch;
mod lenient;
mod backoff;

pub use bridge::{KubernetesBridge, KubernetesConfig, Memory, OpenError};
pub use identity::OwnPod;
