//! One call, from its ticket to its outcome: wait for a slot, run it in a pod, perhaps again.
//! `serve` is the one function for every mode; modes differ in where a grant points. It never
//! touches a client's socket. `invoke` calls it, in the client's task or in one of its own.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll};

use nanofaas_core::event::Event;
use nanofaas_core::function::Function;
use nanofaas_core::id::ExecutionId;
use nanofaas_core::message::Phases;
use nanofaas_core::outcome::{Failure, Stage};
use nanofaas_core::retry::{self, AttemptFailure, Next, RetryRule, Tried};
use nanofaas_core::spec::{ExecutionMode, RetryOn};
use nanofaas_core::ticket::{CallRef, Class, Grant, PodRef, PodVerdict, Ticket};

use crate::alarm::Alarm;
use crate::calls::End;
use crate::executions::{Kept, Record, Status};
use crate::incoming::Incoming;
use crate::output::Output;
use crate::thread::{Known, Thread};

/// How long a retry waits for the bridge to say how a pod ended.
const POD_END_NS_MAX: u64 = 2_000_000_000;

/// The times of a call, in nanoseconds; attempts add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) arrived_ns: u64,
    pub(crate) queue_ns: u64,
    pub(crate) start_ns: u64,
    pub(crate) dispatch_ns: u64,
    pub(crate) function_ns: u64,
}

/// How a call ended.
pub(crate) struct Finished {
    pub(crate) result: Result<Output, Failure>,
    pub(crate) times: Times,
    /// No attempt can have begun.
    pub(crate) never_ran: bool,
}

/// A call that was admitted and waits or runs.
pub(crate) struct Call<'a> {
    pub(crate) thread: &'a Rc<Thread>,
    /// The function as it was when the last attempt began, or the call came.
    pub(crate) known: RefCell<Rc<Known>>,
    pub(crate) place: CallRef,
    pub(crate) id: ExecutionId,
    pub(crate) class: Class,
    pub(crate) arrived_ns: u64,
    pub(crate) queued_ns: u64,
    /// By when it has to end; a kept one may be given longer.
    pub(crate) deadline_ns: u64,
    pub(crate) kept: Option<Rc<Kept>>,
    pub(crate) request: &'a Incoming,
    pub(crate) alarm: &'a Alarm,
    pub(crate) attempt: Cell<u32>,
}

/// What an attempt came to.
pub(crate) struct Attempt {
    pub(crate) result: Result<Output, Failure>,
    pub(crate) failure: AttemptFailure,
    pub(crate) verdict: PodVerdict,
    pub(crate) sent_ns: Option<u64>,
    pub(crate) answered_ns: Option<u64>,
    pub(crate) cold_start: bool,
    pub(crate) init_ms: Option<u32>,
    /// How long the attempt waited for a pod of its own.
    pub(crate) start_ns: u64,
    /// How a pod of its own came up.
    pub(crate) start: Option<Phases>,
}

impl Attempt {
    /// An attempt that failed before anything was sent.
    pub(crate) const fn not_begun(failure: Failure, verdict: PodVerdict) -> Self {
        Self {
            result: Err(failure),
            failure: AttemptFailure::NotBegun,
            verdict,
            sent_ns: None,
            answered_ns: None,
            cold_start: false,
            init_ms: None,
            start_ns: 0,
            start: None,
        }
    }
}

/// What ended a wait.
pub(crate) enum Cut {
    End(End),
    Deadline,
}

impl Cut {
    fn failure(self, stage: Stage) -> Failure {
        match self {
            Self::Deadline => Failure::Timeout(stage),
            Self::End(End::Cancelled | End::Left) => Failure::Cancelled,
            Self::End(End::Removed) => Failure::FunctionRemoved,
            Self::End(End::StartsFail(why)) => Failure::ColdStart(why),
            Self::End(End::Shutdown) => Failure::Shutdown,
        }
    }
}

impl Call<'_> {
    /// By when the call has to end, as things are now.
    pub(crate) fn deadline_ns(&self) -> u64 {
        self.kept
            .as_ref()
            .map_or(self.deadline_ns, |kept| kept.deadline_ns.get())
    }

    /// Whether the async deadlines hold: each attempt has a time of its own.
    pub(crate) fn is_async(&self) -> bool {
        self.class == Class::Async || self.kept.as_ref().is_some_and(|kept| kept.detached.get())
    }

    /// By when an attempt that began at `from_ns` has to end.
    pub(crate) fn attempt_deadline_ns(&self, from_ns: u64) -> u64 {
        if !self.is_async() {
            return self.deadline_ns();
        }
        let timeout_ns = u64::from(self.known().function.spec.timeout_ms) * 1_000_000;
        self.deadline_ns().min(from_ns.saturating_add(timeout_ns))
    }

    /// Ready when the call has to stop: somebody ended it, or `deadline` has passed. The deadline
    /// is asked anew each time the alarm fires, since it may have moved.
    pub(crate) fn poll_cut(&self, cx: &Context<'_>, deadline: impl Fn() -> u64) -> Poll<Cut> {
        if let Poll::Ready(end) = self.thread.calls.poll_end(self.place, cx) {
            return Poll::Ready(Cut::End(end));
        }
        loop {
            let at_ns = deadline();
            self.alarm.set(at_ns);
            if self.alarm.poll(cx).is_pending() {
                return Poll::Pending;
            }
            if deadline() <= at_ns {
                return Poll::Ready(Cut::Deadline);
            }
        }
    }

    fn note(&self, change: impl FnOnce(&mut Record)) {
        match &self.kept {
            Some(kept) => change(&mut kept.record.borrow_mut()),
            None => self.thread.executions.with_plain(self.id, change),
        }
    }

    /// The function, by the spec that the attempt began under.
    pub(crate) fn known(&self) -> Rc<Known> {
        self.known.borrow().clone()
    }

    /// A call that begins to run takes the spec that holds now, not the one that it came under.
    fn take_spec(&self) {
        let lane = self.known.borrow().function.lane;
        if let Some(now) = self.thread.functions.borrow().at(lane) {
            self.known.replace(now.clone());
        }
    }
}

/// Serves an admitted call to its end. Its place in the lane's depth was taken by admission.
pub(crate) async fn serve(call: &Call<'_>) -> Finished {
    let thread = call.thread;
    let mut times = Times {
        arrived_ns: call.arrived_ns,
        ..Times::default()
    };
    let mut tried = Tried {
        attempts: 0,
        lost: 0,
        other_pod: false,
    };
    let mut queued_ns = call.queued_ns;
    let mut never_ran = true;
    let result = loop {
        let grant = match wait_for_grant(call).await {
            Ok(grant) => grant,
            Err(failure) => break Err(failure),
        };
        times.start_ns += grant.start_ns;
        times.queue_ns += grant.granted_ns.saturating_sub(queued_ns + grant.start_ns);
        call.take_spec();
        tried.attempts += 1;
        call.attempt.set(tried.attempts);
        let attempt = run(call, &grant, &mut times).await;
        never_ran &= attempt.failure == AttemptFailure::NotBegun && attempt.result.is_err();
        let function_ns = attempt
            .answered_ns
            .zip(attempt.sent_ns)
            .map(|(end, start)| end - start);
        thread.done(&grant, attempt.verdict, function_ns);
        let failure = match attempt.result {
            Ok(output) => break Ok(output),
            Err(failure) => failure,
        };
        let decided = next(call, &grant, attempt.failure, &failure, &mut tried);
        match Box::pin(decided).await {
            Next::Give => break Err(failure),
            Next::Retry(after_ns) => {
                call.known().metrics(thread).retry.add();
                if let Err(failure) = Box::pin(back_off(call, after_ns)).await {
                    break Err(failure);
                }
                queued_ns = thread.now_ns();
                queue_again(call, queued_ns, grant.pod.index);
            }
        }
    };
    Finished {
        result,
        times,
        never_ran,
    }
}

fn ticket(function: &Function, place: CallRef, class: Class, queued_ns: u64, avoid: u32) -> Ticket {
    let CallRef {
        index,
        generation,
        thread,
    } = place;
    Ticket {
        queued_ns,
        index,
        generation,
        lane: function.lane,
        avoid,
        thread,
        class,
    }
}

/// Queues a call that admission has let in; false where the lane's mailbox is full, and then the
/// call has left the queue again.
pub(crate) fn enter(
    thread: &Thread,
    function: &Function,
    place: CallRef,
    class: Class,
    queued_ns: u64,
) -> bool {
    thread.entries.queue(place);
    let ticket = ticket(function, place, class, queued_ns, PodRef::NONE.index);
    let entered = thread.submit(ticket, &function.view);
    if !entered && thread.entries.leave(place) {
        function.view.leave();
    }
    entered
}

/// Queues a call for another attempt, at its class's tail.
fn queue_again(call: &Call<'_>, queued_ns: u64, avoid: u32) {
    let known = call.known();
    let function = &known.function;
    function.view.reenter();
    call.thread.entries.queue(call.place);
    call.note(|record| record.status = Status::Queued);
    let ticket = ticket(function, call.place, call.class, queued_ns, avoid);
    call.thread.schedule(Event::Ticket(ticket), queued_ns);
}

/// Waits until the call is granted, or has to end.
async fn wait_for_grant(call: &Call<'_>) -> Result<Grant, Failure> {
    let thread = call.thread;
    let known = call.known();
    let function = &known.function;
    let waited = std::future::poll_fn(|cx| {
        if let Some(grant) = thread.calls.take_grant(call.place) {
            return Poll::Ready(Ok(grant));
        }
        call.poll_cut(cx, || call.deadline_ns()).map(Err)
    })
    .await;
    let cut = match waited {
        Ok(grant) => return Ok(grant),
        Err(cut) => cut,
    };
    let slots = function
        .view
        .slots_now
        .load(std::sync::atomic::Ordering::Relaxed);
    let starting = function.spec.execution_mode == ExecutionMode::Warm && slots == 0;
    leave(call);
    Err(cut.failure(if starting {
        Stage::Starting
    } else {
        Stage::Queued
    }))
}

/// Takes the call out of the queue. A grant that came first is given back when it arrives.
fn leave(call: &Call<'_>) {
    let thread = call.thread;
    if thread.entries.leave(call.place) {
        call.known().function.view.leave();
    } else if let Some(grant) = thread.calls.take_grant(call.place) {
        thread.done(&grant, PodVerdict::Healthy, None);
    } else {
        thread.calls.orphan(call.place);
    }
}

/// Runs one attempt where the grant points.
async fn run(call: &Call<'_>, grant: &Grant, times: &mut Times) -> Attempt {
    let thread = call.thread;
    let attempt = call.attempt.get();
    let known = call.known();
    let metrics = known.metrics(thread);
    metrics.dispatch.add();
    if grant.start_ns > 0 {
        metrics.cold_start.add()
    } else {
        metrics.warm_start.add()
    }
    call.note(|record| {
        record.status = Status::Running;
        record.attempt = attempt;
        record.started_ns.get_or_insert(grant.granted_ns);
        record.cold_start |= grant.start_ns > 0;
    });
    let done = match known.function.spec.execution_mode {
        ExecutionMode::Local => crate::local::echo(call),
        ExecutionMode::Job => Box::pin(crate::job::run(call, grant)).await,
        ExecutionMode::Warm | ExecutionMode::Pool => crate::pod::run(call, grant).await,
    };
    let now_ns = if done.answered_ns.is_some() {
        thread.last_ns()
    } else {
        thread.now_ns()
    };
    let sent_ns = done.sent_ns.unwrap_or(now_ns);
    times.start_ns += done.start_ns;
    times.dispatch_ns += sent_ns.saturating_sub(grant.granted_ns + done.start_ns);
    times.function_ns += done.answered_ns.unwrap_or(now_ns).saturating_sub(sent_ns);
    if done.cold_start || grant.start_ns > 0 {
        let start = done.start.clone();
        let start = start.or_else(|| thread.pods.take_start(grant.pod));
        call.note(|record| record.start = start.or_else(|| record.start.take()));
    }
    call.note(|record| {
        record.cold_start |= done.cold_start;
        record.init_ms = record.init_ms.or(done.init_ms);
    });
    done
}

/// Whether there is another attempt.
async fn next(
    call: &Call<'_>,
    grant: &Grant,
    kind: AttemptFailure,
    failure: &Failure,
    tried: &mut Tried,
) -> Next {
    let known = call.known();
    let spec = &known.function.spec;
    let ended = matches!(failure, Failure::Cancelled | Failure::Shutdown);
    if ended || known.removed.get() {
        return Next::Give;
    }
    let class = if call.is_async() {
        Class::Async
    } else {
        Class::Sync
    };
    // A sync call has one deadline over everything: when it is over, so is the call.
    if kind == AttemptFailure::TimedOut && !call.is_async() {
        return Next::Give;
    }
    let rule = RetryRule {
        max_retries: spec.max_retries,
        retry_on: spec.retry_on,
        class,
    };
    let usable = known.function.view.pods[0].load(std::sync::atomic::Ordering::Relaxed);
    tried.other_pod = spec.execution_mode == ExecutionMode::Warm && usable > 0;
    let mut kind = kind;
    if let AttemptFailure::Lost { oom: false } = kind
        && grant.pod.is_some()
        && spec.retry_on.contains(RetryOn::POD)
    {
        kind = AttemptFailure::Lost {
            oom: pod_ran_out_of_memory(call, grant.pod).await,
        };
    }
    let decided = retry::decide(kind, rule, *tried, call.thread.random() as u64);
    if matches!(kind, AttemptFailure::Lost { .. }) {
        tried.lost += 1;
    }
    decided
}

/// How the pod ended, as far as the bridge says within two seconds.
async fn pod_ran_out_of_memory(call: &Call<'_>, pod: PodRef) -> bool {
    let until_ns = call.thread.now_ns() + POD_END_NS_MAX;
    let mut ended = call.thread.pods.until_ended(pod);
    std::future::poll_fn(|cx| {
        if let Some(end) = ended.poll(cx) {
            return Poll::Ready(end.oom);
        }
        let deadline = || until_ns.min(call.deadline_ns());
        call.poll_cut(cx, deadline).map(|_| false)
    })
    .await
}

/// Waits between two attempts, in no queue.
async fn back_off(call: &Call<'_>, after_ns: u64) -> Result<(), Failure> {
    if after_ns == 0 {
        return Ok(());
    }
    let backing_off = &call.thread.ledger().backing_off;
    let count = |by: i64| {
        let was = backing_off.load(std::sync::atomic::Ordering::Relaxed);
        backing_off.store(
            was.wrapping_add_signed(by),
            std::sync::atomic::Ordering::Relaxed,
        );
    };
    count(1);
    call.note(|record| record.status = Status::Queued);
    let until_ns = call.thread.now_ns() + after_ns;
    let over =
        std::future::poll_fn(|cx| call.poll_cut(cx, || until_ns.min(call.deadline_ns()))).await;
    count(-1);
    match over {
        Cut::Deadline if call.deadline_ns() > until_ns => Ok(()),
        cut => Err(cut.failure(Stage::Queued)),
    }
}

/// The failure of an attempt that was cut off, and what it means for the pod.
pub(crate) fn cut_off(cut: Cut, sent: bool) -> (Failure, AttemptFailure, PodVerdict) {
    let kind = match cut {
        Cut::Deadline => AttemptFailure::TimedOut,
        Cut::End(_) => AttemptFailure::Final,
    };
    let verdict = if sent {
        PodVerdict::CutOff
    } else {
        PodVerdict::Healthy
    };
    (cut.failure(Stage::Running), kind, verdict)
}
