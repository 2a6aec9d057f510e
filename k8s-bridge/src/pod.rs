//! The life of one warm pod: created, ready, in use, health check, drained, gone.
//! It never decides when: the scheduler's orders, the cluster and the pod itself do.

mod health;
pub(crate) mod seen;
mod start;
pub(crate) mod table;

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod as PodObject;
use nanofaas_core::cold_start::Phase;
use nanofaas_core::event::{Event, StartFailure};
use nanofaas_core::function::Function;
use nanofaas_core::id::pod_token;
use nanofaas_core::message::PodEnd;
use nanofaas_core::spec::Platform;
use nanofaas_core::ticket::PodRef;
use nanofaas_core::time::Uptime;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, timeout_at};

use crate::api::backoff::random;
use crate::context::ClusterContext;
use crate::context::report::Report;
use crate::context::start_fault::StartFault;
use crate::pod::health::Questions;
use crate::pod::seen::Seen;
use crate::podspec::PORT;
use crate::podspec::security;

/// How long a quarantined pod, or one of an earlier plane, has to answer.
const PROBE: Duration = Duration::from_secs(5);
/// The grace period of a pod in which no call has to end.
const NO_GRACE_S: u32 = 1;
/// How long after a pod's grace period the cluster may still show it.
const GONE_BEHIND: Duration = Duration::from_secs(30);

/// How a pod came to this bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It has to be created.
    New,
    /// An earlier plane created it.
    Adopted,
    /// This process created it, and the bridge was rebuilt since then.
    Resumed { is_up: bool },
}

/// A pod as seen by all tasks but its own.
pub(crate) struct Pod {
    /// None for a pod that lost its place and is only asked for its health.
    place: Option<PodRef>,
    pub(crate) name: String,
    /// A caller that knows this token may report the pod as ready.
    pub(crate) token: String,
    pub(crate) function: Arc<Function>,
    pub(crate) wanted_at: Uptime,
    /// The shape of the spec that the pod was made from.
    shape: u64,
    /// An earlier plane made it from another spec.
    pub(crate) is_stale: Cell<bool>,
    /// The number of the listing of pods during which it was created. It may be missing from that
    /// listing and from earlier ones.
    pub(crate) since_listing: Cell<u64>,
    pub(crate) is_up: Cell<bool>,
    /// Rings when a field below changes.
    bell: Notify,
    seen: RefCell<Seen>,
    is_gone: Cell<bool>,
    stop: Cell<bool>,
    probe: Cell<bool>,
    /// It said that it is ready, or answered a health check.
    ready: Cell<bool>,
    said_address: Cell<Option<IpAddr>>,
    was_asked: Cell<bool>,
    questions: Questions,
}

/// How a pod's life went.
pub(crate) enum Fate {
    StartFailed(StartFault, StartFailure),
    /// It did not become ready before the deadline. Where a life ends so, an earlier plane created
    /// the pod, which may be busy.
    NotReady(StartFault, StartFailure),
    Ended(PodEnd),
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Pod {
    pub(crate) fn new(
        place: Option<PodRef>,
        name: String,
        function: Arc<Function>,
        wanted_at: Uptime,
    ) -> Self {
        Self {
            place,
            name,
            token: pod_token(u128::from_ne_bytes(random())),
            questions: Questions::new(&function.spec.health_path, function.name()),
            shape: function.spec.shape_hash(Platform::Kubernetes),
            function,
            wanted_at,
            is_stale: Cell::new(false),
            since_listing: Cell::new(u64::MAX),
            is_up: Cell::new(false),
            bell: Notify::new(),
            seen: RefCell::default(),
            is_gone: Cell::new(false),
            stop: Cell::new(false),
            probe: Cell::new(false),
            ready: Cell::new(false),
            said_address: Cell::new(None),
            was_asked: Cell::new(false),
        }
    }

    /// Ends it; nothing runs in it any more.
    pub(crate) fn stop(&self) {
        self.stop.set(true);
        self.bell.notify_one();
    }

    /// Starts a health check.
    pub(crate) fn probe(&self) {
        self.probe.set(true);
        self.bell.notify_one();
    }

    /// The pod reported that it is ready, optionally with its IP.
    pub(crate) fn says_ready(&self, address: Option<IpAddr>) {
        self.said_address.set(address);
        self.answered();
    }

    fn answered(&self) {
        self.ready.set(true);
        self.bell.notify_one();
    }

    /// The cluster showed it.
    pub(crate) fn see(&self, context: &ClusterContext, seen: Seen) {
        for (phase, is_reached) in [
            (Phase::Scheduled, seen.scheduled),
            (Phase::Address, seen.address.is_some()),
            (Phase::Running, seen.running_since_ms.is_some()),
        ] {
            if is_reached {
                context.reached(&self.function, &self.name, phase);
            }
        }
        let seen = self.seen.borrow().then(seen);
        let (fault, leaving) = (seen.fault, seen.leaving);
        let before = self.seen.replace(seen);
        if (before.fault, before.leaving) != (fault, leaving) {
            context.report(Report::Changed(self.function.name().clone()));
        }
        self.bell.notify_one();
    }

    /// Whether it gets no new call, because the scheduler stopped it, it is being deleted, or it is
    /// gone.
    pub(crate) fn is_going(&self) -> bool {
        self.stop.get() || self.is_gone.get() || self.seen.borrow().leaving
    }

    /// Whether it was made from a spec with this shape.
    pub(crate) fn has_shape(&self, shape: u64) -> bool {
        !self.is_stale.get() && self.shape == shape
    }

    /// What delays its start; none during the usual steps.
    pub(crate) fn held_up(&self) -> Option<(StartFault, String)> {
        let seen = self.seen.borrow();
        let why = seen.held_up.clone().or_else(|| seen.waiting.clone());
        seen.fault.zip(why)
    }

    /// The cluster no longer has it.
    pub(crate) fn is_no_more(&self) {
        self.is_gone.set(true);
        self.bell.notify_one();
    }

    /// Runs the pod from its creation to its end and reports each step but the last one, which the
    /// caller passes to `tell_end`.
    pub(crate) async fn live(
        self: &Rc<Self>,
        context: &Rc<ClusterContext>,
        origin: Origin,
    ) -> Fate {
        let function = self.function.name();
        if origin == Origin::New {
            context.say(|desk| desk.starts.begin(function, &self.name, self.wanted_at));
        }
        let fate = self.run(context, origin).await;
        self.is_up.set(false);
        self.is_asked(context);
        context.report(Report::Changed(function.clone()));
        fate
    }

    /// Reports how it ended, once it is in no table any more.
    pub(crate) fn tell_end(&self, context: &ClusterContext, fate: Fate) {
        let function = self.function.name();
        match fate {
            Fate::StartFailed(fault, mut failure) | Fate::NotReady(fault, mut failure) => {
                failure.message = security::advised(&self.function.spec, &failure.message).into();
                let why = failure.message.clone();
                tracing::warn!(%function, pod = self.name, "the pod did not start: {why}");
                context.report(Report::StartFailed {
                    function: self.function.clone(),
                    pod: self.name.clone(),
                    fault,
                    why: why.clone(),
                });
                let pod = self.place();
                context.say(|desk| {
                    desk.starts.failed(function, &self.name, why);
                    desk.event(Event::StartFailed { pod, failure });
                });
            }
            Fate::Ended(end) => {
                if !self.stop.get() {
                    let why = &end.message;
                    tracing::warn!(%function, pod = self.name, "the pod is gone: {why}");
                    context.report(Report::PodLost {
                        function: self.function.clone(),
                        pod: self.name.clone(),
                        end: end.clone(),
                    });
                }
                context.gone(self.place(), &end);
            }
        }
    }

    async fn run(self: &Rc<Self>, context: &Rc<ClusterContext>, origin: Origin) -> Fate {
        let limit = match origin {
            Origin::Adopted if self.seen.borrow().running_since_ms.is_some() => PROBE,
            _ => context.config.start_timeout,
        };
        let deadline = Instant::now() + limit;
        if origin == Origin::New
            && let Some(fate) = self.create(context, deadline).await
        {
            return fate;
        }
        if origin != (Origin::Resumed { is_up: true }) {
            match self.starting(context, deadline, limit).await {
                Ok(address) => self.up(context, address),
                // It may be busy with a call of the earlier plane, so it is not deleted.
                Err(fate @ Fate::NotReady(..)) if limit == PROBE => return fate,
                Err(Fate::NotReady(fault, failure)) => {
                    self.delete(context, Some(NO_GRACE_S));
                    return Fate::StartFailed(fault, failure);
                }
                Err(fate) => {
                    self.delete(context, Some(NO_GRACE_S));
                    return fate;
                }
            }
        }
        Fate::Ended(self.serving(context).await)
    }

    /// Starts a task that deletes it and tries for as long as it takes.
    fn delete(&self, context: &Rc<ClusterContext>, grace_s: Option<u32>) {
        let (context, name) = (context.clone(), self.name.clone());
        spawn_local(async move { context.cluster.delete::<PodObject>(&name, grace_s).await });
    }

    /// Asks until the pod is well. Dropping the result ends it.
    fn ask(self: &Rc<Self>, context: &Rc<ClusterContext>, address: IpAddr) -> AbortOnDrop {
        let (pod, context) = (self.clone(), context.clone());
        AbortOnDrop(spawn_local(async move {
            let asked = || pod.is_asked(&context);
            let address = SocketAddr::new(address, PORT);
            pod.questions.until_well(address, asked).await;
            pod.answered();
        }))
    }

    fn is_asked(&self, context: &ClusterContext) {
        if !self.was_asked.replace(true) {
            context.report(Report::Asked(self.name.clone()));
        }
    }

    fn address(&self) -> Option<IpAddr> {
        self.said_address.get().or(self.seen.borrow().address)
    }

    /// Its place in the scheduler.
    pub(crate) fn place(&self) -> PodRef {
        self.place.expect("a pod that runs has a place")
    }

    /// A copy of the pod without a place; it keeps what the cluster showed.
    pub(crate) fn without_place(&self) -> Self {
        let (name, function) = (self.name.clone(), self.function.clone());
        let pod = Self::new(None, name, function, self.wanted_at);
        pod.seen.replace(self.seen.borrow().clone());
        pod.is_gone.set(self.is_gone.get());
        pod.since_listing.set(self.since_listing.get());
        pod
    }

    /// Waits for a health answer for as long as a call may run in the pod; false if none comes.
    pub(crate) async fn answers_within_a_call(
        self: &Rc<Self>,
        context: &Rc<ClusterContext>,
    ) -> bool {
        let Some(address) = self.address() else {
            return false;
        };
        let (pod, patience) = (&self.name, u64::from(self.function.spec.grace_s()));
        tracing::info!(
            pod,
            "a pod of an earlier control plane does not answer; it may be busy, and is asked for \
             {patience} s more"
        );
        let until = Instant::now() + Duration::from_secs(patience);
        let _asking = self.ask(context, address);
        while !self.ready.get() && !self.has_gone() {
            if timeout_at(until, self.bell.notified()).await.is_err() {
                break;
            }
        }
        self.ready.get() && !self.has_gone()
    }

    /// Whether it has ended or is being deleted.
    pub(crate) fn has_gone(&self) -> bool {
        self.is_over() || self.seen.borrow().leaving
    }

    /// Serves until the pod is gone.
    async fn serving(self: &Rc<Self>, context: &Rc<ClusterContext>) -> PodEnd {
        let mut asking: Option<(AbortOnDrop, Instant)> = None;
        let mut was_said = false;
        loop {
            let seen = self.seen.borrow().clone();
            if let Some(ended) = seen.ended {
                self.delete(context, Some(NO_GRACE_S));
                let (oom, message) = (ended.oom, ended.message.into());
                return PodEnd { oom, message };
            }
            if self.is_gone.get() {
                return end("the pod was deleted");
            }
            if self.stop.get() {
                drop(asking);
                return self.stopping(context).await;
            }
            if seen.leaving && !std::mem::replace(&mut was_said, true) {
                let pod = self.place();
                context.say(|desk| desk.event(Event::PodLeaving(pod)));
            }
            if self.probe.get()
                && asking.is_none()
                && let Some(address) = self.address()
            {
                self.ready.set(false);
                asking = Some((self.ask(context, address), Instant::now() + PROBE));
            }
            if asking.is_some() && self.ready.get() {
                asking = None;
                self.probe.set(false);
                let pod = self.place();
                context.say(|desk| desk.event(Event::PodUp(pod)));
            }
            let Some((_, deadline)) = &asking else {
                self.bell.notified().await;
                continue;
            };
            if timeout_at(*deadline, self.bell.notified()).await.is_err() {
                if self.questions.was_not_asked()
                    && let Some(address) = self.address()
                {
                    let pod = &self.name;
                    tracing::warn!(pod, "the pod cannot be asked: no descriptors left");
                    asking = Some((self.ask(context, address), Instant::now() + PROBE));
                    continue;
                }
                self.delete(context, Some(NO_GRACE_S));
                let (path, word) = (&self.function.spec.health_path, self.questions.last_word());
                return end(&format!("it was not well: GET {path} for 5 s{word}"));
            }
        }
    }

    /// Deletes it, and waits until it is gone.
    async fn stopping(&self, context: &Rc<ClusterContext>) -> PodEnd {
        let grace = Duration::from_secs(u64::from(self.function.spec.grace_s()));
        self.delete(context, None);
        let until = Instant::now() + grace + GONE_BEHIND;
        while !self.is_over() {
            if timeout_at(until, self.bell.notified()).await.is_err() {
                break;
            }
        }
        end("it was not needed any more")
    }

    fn is_over(&self) -> bool {
        self.is_gone.get() || self.seen.borrow().ended.is_some()
    }
}

fn ended(message: &str) -> Fate {
    Fate::Ended(end(message))
}

fn end(message: &str) -> PodEnd {
    PodEnd {
        oom: false,
        message: message.into(),
    }
}
