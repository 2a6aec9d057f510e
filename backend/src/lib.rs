//! What every backend that runs pods shares: the life of a warm pod, the common part of a Job, the tables of
//! both, health checks, back-off, and the messages to the scheduler and the io threads. It knows neither
//! Kubernetes nor processes: `pod::life::PodRunner` stands for the part that differs. `k8s-bridge` and
//! `local-bridge` use it, on the bridge's thread.

pub mod announcer;
pub mod backoff;
pub mod health;
pub mod job;
pub mod pod;
pub mod random;
pub mod task;
