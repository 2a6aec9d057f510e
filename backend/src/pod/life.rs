//! The life of a warm pod, once for every backend: created, asked until it is ready, announced, in use,
//! asked again while it is quarantined, stopped or ended. It never decides when: the scheduler's
//! orders and the pod itself do. What runs the pod is a `PodRunner`.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use nanofaas_core::event::Event;
use nanofaas_core::message::{PodAddress, PodEnd};
use tokio::time::Instant;

use super::{PodFate, PodStartError, WarmPod};
use crate::announcer::{Announcer, ended};
use crate::task::AbortOnDrop;

/// How long a quarantined pod has to answer.
pub const PROBE: Duration = Duration::from_secs(5);

/// What runs one pod: a Pod object of a cluster, or a process.
pub trait PodRunner {
    /// The kind of a start's fault.
    type Fault;

    fn pod(&self) -> &WarmPod;
    fn announcer(&self) -> &Announcer;
    /// Has the pod made.
    fn create(
        &mut self,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), PodStartError<Self::Fault>>>;
    /// Called while it starts, each time that something may have changed.
    fn observe_start(&mut self);
    /// Why it cannot become ready any more, if it cannot.
    fn start_fault(&mut self) -> impl Future<Output = Option<PodStartError<Self::Fault>>>;
    /// Where to ask for its health; empty while that is not known.
    fn places(&self) -> Vec<PodAddress>;
    /// Says whether the server at an address is the pod's own.
    fn owner(&self) -> impl Fn(SocketAddr) -> bool + 'static;
    /// Where it takes calls, once it is ready.
    fn ready_at(&self) -> Option<PodAddress>;
    /// It was not ready at the deadline.
    fn not_ready(&mut self) -> impl Future<Output = PodStartError<Self::Fault>>;
    /// Ends a pod that is not to start any more; no call runs in it.
    fn abandon(&mut self) -> impl Future<Output = ()>;
    /// It is announced, with this address.
    fn on_up(&mut self, address: &PodAddress);
    /// How it ended by itself, if it did.
    fn end(&mut self) -> Option<PodEnd>;
    /// Whether others have asked it to end: it takes no further call, and those in it may finish.
    fn is_leaving(&self) -> bool;
    /// Ends it with its grace period, and waits until it is gone.
    fn stop(&mut self) -> impl Future<Output = PodEnd>;
    /// Ends it at once, because it does not answer.
    fn end_unwell(&mut self, why: String) -> impl Future<Output = PodEnd>;
}

/// Where a life begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// It has to be created.
    Create,
    /// It exists, and is not announced.
    Start,
    /// It exists and was up when this backend knew it last: an `Unanswered` one may be busy.
    Adopt,
    /// It is announced.
    Serve,
}

/// Runs a pod from its creation to its end and announces each step but the last one, which is
/// `WarmPod::announce_end`. `limit` is how long it may take to become ready.
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
                announcer.up(pod.place(), &pod.function, &pod.name, &address);
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

/// How a start came out.
enum StartResult<F> {
    Ready(PodAddress),
    Late,
    Failed(PodStartError<F>),
    Stopped,
}

async fn start<R: PodRunner>(runner: &mut R, deadline: Instant) -> StartResult<R::Fault> {
    let mut asking: Option<AbortOnDrop<()>> = None;
    loop {
        // First, because what keeps a pod from starting is no failure of one that nothing wants.
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

/// Serves until the pod is gone.
async fn serve<R: PodRunner>(runner: &mut R) -> PodEnd {
    let mut asking: Option<(AbortOnDrop<()>, Instant)> = None;
    let mut was_leaving = false;
    loop {
        // Before the stop, so that how a pod ended is not lost by asking it to end.
        if let Some(end) = runner.end() {
            return end;
        }
        if runner.pod().is_stopped() {
            drop(asking);
            return runner.stop().await;
        }
        let place = runner.pod().place();
        if runner.is_leaving() && !std::mem::replace(&mut was_leaving, true) {
            let leaving = Event::PodLeaving(place);
            runner.announcer().with_desk(|desk| desk.event(leaving));
        }
        if asking.is_none() && runner.pod().probe.get() {
            // What the pod reported when it started is no answer to this probe.
            runner.pod().reported_ready.set(false);
            asking = ask(runner).map(|asking| (asking, Instant::now() + PROBE));
        }
        if asking.is_some() && runner.pod().is_ready() {
            asking = None;
            runner.pod().probe.set(false);
            runner
                .announcer()
                .with_desk(|desk| desk.event(Event::PodUp(place)));
        }
        let Some((_, deadline)) = &asking else {
            runner.pod().bell.notified().await;
            continue;
        };
        if runner.pod().rung_before(*deadline).await {
            continue;
        }
        let pod = runner.pod();
        if pod.health.take_not_asked() {
            // The want of descriptors is this process's: it says nothing of the pod.
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

/// Asks for its health, where it is known where to ask.
fn ask<R: PodRunner>(runner: &R) -> Option<AbortOnDrop<()>> {
    let places = runner.places();
    let is_known = !places.is_empty();
    is_known.then(|| runner.pod().health.begin(places, runner.owner()))
}
