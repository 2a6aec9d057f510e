//! All backends share the code of this crate: the life of a warm pod, the common part of a Job, the tables of
//! both, health checks, back-off, and the messages to the scheduler and the io threads. The crate knows
//! neither Kubernetes nor processes: each backend implements `pod::life::PodRunner`. `k8s-bridge` and
//! `local-bridge` use it on the bridge's thread.

pub mod announcer;
pub mod backoff;
pub mod health;
pub mod job;
pub mod pod;
pub mod random;
pub mod task;
