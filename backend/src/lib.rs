//! What every backend that runs pods shares: the life of a warm pod, what is the same of every Job,
//! the tables of both, health checks, backoff, and what the scheduler and the io threads are told.
//! It knows neither Kubernetes nor processes: what differs stands behind `pod::life::PodRunner`.
//! `k8s-bridge` and `local-bridge` use it, on the bridge's thread.

pub mod announcer;
pub mod backoff;
pub mod health;
pub mod job;
pub mod pod;
pub mod random;
pub mod task;
