//! Tests the bridge to Kubernetes with a fake API server. Each test is a scenario of a cluster's behaviour or
//! of its faults. The tests need no cluster. Time is paused, and advances when no task can run, so the tests
//! do not wait for real time.

#![allow(
    clippy::disallowed_methods,
    reason = "tests act in place of clients, pods and clocks"
)]

#[path = "scenarios/fixture.rs"]
mod fixture;
#[path = "scenarios/bridge_messages.rs"]
mod bridge_messages;
#[path = "scenarios/rings.rs"]
mod rings;

#[path = "scenarios/lease.rs"]
mod lease;
#[path = "scenarios/begin.rs"]
mod begin;
#[path = "scenarios/adoption.rs"]
mod adoption;
#[path = "scenarios/registry.rs"]
mod registry;
#[path = "scenarios/follow.rs"]
mod follow;
#[path = "scenarios/status.rs"]
mod status;
#[path = "scenarios/ready.rs"]
mod ready;
#[path = "scenarios/events.rs"]
mod events;
#[path = "scenarios/warm.rs"]
mod warm;
#[path = "scenarios/health.rs"]
mod health;
#[path = "scenarios/ends.rs"]
mod ends;
#[path = "scenarios/attempt.rs"]
mod attempt;
#[path = "scenarios/job.rs"]
mod job;
#[path = "scenarios/rolling.rs"]
mod rolling;
#[path = "scenarios/template.rs"]
mod template;
#[path = "scenarios/agreement.rs"]
mod agreement;
#[path = "scenarios/robust.rs"]
mod robust;
#[path = "scenarios/watches.rs"]
mod watches;
#[path = "scenarios/anew.rs"]
mod anew;
#[path = "scenarios/role.rs"]
mod role;
