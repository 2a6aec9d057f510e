//! Runs the life of a warm pod, which is the same in every backend: the pod is created, probed until it is
//! ready, and announced, and serves calls until it ends or is stopped. A quarantined pod is probed again. The
//! scheduler's orders and the pod itself decide when a step begins. A `PodRunner` runs the pod.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use nanofaas_core::event::Event;
use nanofaas_core::message::{PodAddress, PodEnd};
use tokio::time::Instant;

use super::{PodFate, PodStartError, WarmPod};
use crate::announcer::{Announcer, ended};
use crate::task::AbortOnDrop;

/// The time in which a quarantined pod has to answer well.
pub const PROBE: Duration = Duration::from_secs(5);

/// The part of a pod's life that differs between backends: a Pod object of a cluster, or a process.
pub trait PodRunner {
    type Fault;

    fn pod(&self) -> &WarmPod;
    fn announcer(&self) -> &Announcer;
    fn create(
        &mut self,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), PodStartError<Self::Fault>>>;
    /// Notes the progress of the start. This is called whenever something may have changed.
    fn observe_start(&mut self);
    /// Returns why the pod can no longer become ready.
    fn start_fault(&mut self) -> impl Future<Output = Option<PodStartError<Self::Fault>>>;
    /// Returns the addresses to probe; empty while none is known.
    fn addresses(&self) -> Vec<PodAddress>;
    /// Returns a function that checks whether the server at an address is the pod's own.
    fn owner(&self) -> impl Fn(SocketAddr) -> bool + 'static;
    /// Returns the address at which the pod takes calls, if the pod is ready.
    fn ready_at(&self) -> Option<PodAddress>;
    /// Returns why the pod is not ready. This is called at the start's deadline.
    fn not_ready(&mut self) -> impl Future<Output = PodStartError<Self::Fault>>;
    /// Ends a pod whose start failed, was late or was stopped. No call runs in the pod.
    fn abandon(&mut self) -> impl Future<Output = ()>;
    fn on_up(&mut self, address: &PodAddress);
    /// Returns how the pod ended, if it ended without an order of the scheduler.
    fn end(&mut self) -> Option<PodEnd>;
    /// Returns whether another client of the cluster asked the pod to end. Such a pod gets no new call, but
    /// its running calls may finish.
    fn is_leaving(&self) -> bool;
    /// Ends the pod with its grace period, and waits for its end.
    fn stop(&mut self) -> impl Future<Output = PodEnd>;
    /// Ends the pod at once, because it does not answer.
    fn end_unwell(&mut self, why: String) -> impl Future<Output = PodEnd>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    Create,
    /// The pod exists, but is not announced.
    Start,
    /// The pod ran under an earlier control plane. It may be busy with a call, so it is not ended if it does
    /// not answer in time (`PodFate::Unanswered`).
    Adopt,
    Serve,
}

/// Runs a pod from the step `begin` to its end. It announces each step except the end; for that, the caller
/// passes the result to `WarmPod::announce_end`. `limit` is the time that the pod has to become ready.
pub async fn live<R: PodRunner>(
    runner: &mut R,
    begin: Begin,
    limit: Duration,
) -> PodFate<R::Fault> {
    let deadline = Instant::now() + limit;
    if begin == Begin::Create {
        let pod = runner.pod();
        let (function, name, wanted_at) = (pod.function.name(), &pod.name, pod.wanted_at);
        runner.announcer().begin(function, name, wanted_at);
        if let Err(failed) = runner.create(deadline).await {
            return PodFate::StartFailed(failed);
        }
    }
    if begin != Begin::Serve {
        match start(runner, deadline).await {
            StartResult::Ready(address) => {
                let pod = runner.pod();
                let announcer = runner.announcer();
                announcer.up(pod.id(), &pod.function, &pod.name, &address);
                runner.on_up(&address);
            }
            StartResult::Late if begin == Begin::Adopt => {
                return PodFate::Unanswered(runner.not_ready().await);
            }
            StartResult::Late => {
                let failed = runner.not_ready().await;
                runner.abandon().await;
                return PodFate::StartFailed(failed);
            }
            StartResult::Failed(failed) => {
                runner.abandon().await;
                return PodFate::StartFailed(failed);
            }
            StartResult::Stopped => {
                runner.abandon().await;
                return PodFate::Ended(ended("it was stopped before it was ready"));
            }
        }
    }
    PodFate::Ended(serve(runner).await)
}

enum StartResult<F> {
    Ready(PodAddress),
    Late,
    Failed(PodStartError<F>),
    Stopped,
}

async fn start<R: PodRunner>(runner: &mut R, deadline: Instant) -> StartResult<R::Fault> {
    let mut asking: Option<AbortOnDrop<()>> = None;
    loop {
        // Check this before the faults: a pod that the scheduler has stopped must not count as a failed
        // start.
        if runner.pod().is_stopped() {
            return StartResult::Stopped;
        }
        runner.observe_start();
        if let Some(failed) = runner.start_fault().await {
            return StartResult::Failed(failed);
        }
        if let Some(address) = runner.ready_at() {
            return StartResult::Ready(address);
        }
        if asking.is_none() {
            asking = ask(runner);
        }
        if !runner.pod().rung_before(deadline).await {
            return StartResult::Late;
        }
    }
}

async fn serve<R: PodRunner>(runner: &mut R) -> PodEnd {
    let mut asking: Option<(AbortOnDrop<()>, Instant)> = None;
    let mut was_leaving = false;
    loop {
        // Check this before `is_stopped`, because `stop` would hide how the pod ended.
        if let Some(end) = runner.end() {
            return end;
        }
        if runner.pod().is_stopped() {
            drop(asking);
            return runner.stop().await;
        }
        let id = runner.pod().id();
        if runner.is_leaving() && !std::mem::replace(&mut was_leaving, true) {
            let leaving = Event::PodLeaving(id);
            runner
                .announcer()
                .with_work_queue(|queue| queue.event(leaving));
        }
        if asking.is_none() && runner.pod().probe.get() {
            // The ready report of the pod's start does not answer this probe, so clear it.
            runner.pod().reported_ready.set(false);
            asking = ask(runner).map(|asking| (asking, Instant::now() + PROBE));
        }
        if asking.is_some() && runner.pod().is_ready() {
            asking = None;
            runner.pod().probe.set(false);
            runner
                .announcer()
                .with_work_queue(|queue| queue.event(Event::PodUp(id)));
        }
        let Some((_, deadline)) = &asking else {
            runner.pod().bell.notified().await;
            continue;
        };
        if runner.pod().rung_before(*deadline).await {
            continue;
        }
        let pod = runner.pod();
        if pod.health.take_descriptor_shortage() {
            // The failed probe shows only that this process lacks descriptors, so probe again.
            let (function, pod) = (pod.function.name(), &pod.name);
            tracing::warn!(%function, pod, "the pod cannot be asked: no descriptors left");
            asking = ask(runner).map(|asking| (asking, Instant::now() + PROBE));
            continue;
        }
        let path = &pod.function.spec.health_path;
        let (seconds, last) = (PROBE.as_secs(), pod.health.last_answer());
        let why = format!("it was not well: GET {path} for {seconds} s{last}");
        return runner.end_unwell(why).await;
    }
}

/// Begins to probe the pod, if its address is known.
fn ask<R: PodRunner>(runner: &R) -> Option<AbortOnDrop<()>> {
    let addresses = runner.addresses();
    let is_known = !addresses.is_empty();
    is_known.then(|| runner.pod().health.begin(addresses, runner.owner()))
}
