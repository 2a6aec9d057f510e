//! The life of one call, from its admission to its end: it is queued, granted, tried, waits to hear how
//! a pod ended, backs off, is queued again, and is over once. One state machine for every mode. It has no
//! socket, task or clock: a driver does what `step` says, and tells what happened. `io` drives it with
//! real sockets, the simulation with virtual time.
//!
//! The driver calls `step` after everything that it tells, until the answer is `Step::Wait`.

mod attempt;
mod deadline;
mod end;
mod times;

use std::sync::Arc;

use crate::admission::{self, Refusal};
use crate::entries::Entries;
use crate::function::Function;
use crate::outcome::{Failure, Stage, StartTimeout, StartTrouble};
use crate::spec::ExecutionMode;
use crate::sync::planted;
use crate::ticket::{
    CallId, Class, Done, Grant, Held, LaneId, PodId, PodIndex, PodVerdict, Ticket,
};
use crate::time::Uptime;

pub use attempt::Report;
pub use deadline::Deadline;
pub use end::{End, goes_on_without_client};
pub use times::Times;

use attempt::Attempt;

/// What the machine asks of the thread that drives it.
pub trait Environment {
    /// A function as this thread knows it.
    type Entry: Clone;

    fn function(entry: &Self::Entry) -> &Function;

    /// The function as it is now, while that registration of it is there.
    fn current(&self, lane: LaneId) -> Option<Self::Entry>;

    fn entries(&self) -> &Entries;

    /// Uniform over all of `u64`.
    fn random(&self) -> u64;

    /// One call more (1) or less (-1) is between two attempts, in no queue; the ledger counts them.
    fn between_attempts(&self, change: i64);
}

/// What the driver has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before `until` or the next thing to tell.
    Wait,
    /// Run an attempt where the grant points, and tell how it ended.
    Run(Grant),
    /// Stop the attempt that runs, and tell `stopped`.
    Stop,
    /// An attempt ended: the scheduler has to hear that the slot is free.
    Release(Done),
    /// The call waits again: the scheduler has to hear of the ticket.
    Queue(Ticket),
    /// It is over; `outcome` says how.
    Over,
}

/// Why a call was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    Refused(Refusal),
    /// Its function was removed before the call was whole.
    FunctionRemoved,
}

enum State {
    Queued,
    Granted(Attempt),
    Running(Attempt),
    /// The attempt is to be stopped; the failure is what the call ends with if it is not tried again.
    Stopping(Attempt, Failure),
    /// The pod was lost: whether another attempt may follow depends on how the pod ended.
    AwaitingPodEnd {
        pod: PodId,
        until: Uptime,
        failure: Failure,
    },
    BackingOff {
        until: Uptime,
    },
    Over(Result<(), Failure>),
}

/// One call.
pub struct Call<E: Environment> {
    place: CallId,
    class: Class,
    /// The function as it was when the last attempt began, or when the call was queued last.
    entry: E::Entry,
    state: State,
    deadline: Deadline,
    /// Its client waits no longer, so the async deadlines hold; its class stays.
    is_detached: bool,
    /// Since when it waits: its admission, or the end of its last attempt.
    since: Uptime,
    /// The pod of the last attempt, which the next one avoids.
    avoid: Option<PodIndex>,
    attempts: u32,
    /// Attempts whose pod was lost.
    lost: u32,
    /// An attempt may have begun.
    has_run: bool,
    /// It ended while a grant was on its way.
    is_owed_a_grant: bool,
    release: Option<Done>,
    ticket: Option<Ticket>,
    /// What is in the way of the Job that the attempt waits for.
    job_held_up: Option<Arc<str>>,
    times: Times,
}

impl<E: Environment> Call<E> {
    /// Takes a place in the function's queue, or says why there is none. The first ticket comes with it:
    /// the driver hands it over, or tells `turned_away`.
    pub fn admit(
        env: &E,
        entry: E::Entry,
        place: CallId,
        class: Class,
        now: Uptime,
        deadline: Deadline,
    ) -> Result<(Self, Ticket), NotAdmitted> {
        let function = E::function(&entry);
        // Its body may have taken longer to come than its function lived.
        if env.current(function.lane).is_none() {
            return Err(NotAdmitted::FunctionRemoved);
        }
        let queue_size = function.spec.queue_size;
        admission::admit(&function.stats, queue_size, class, now, deadline.at)
            .map_err(NotAdmitted::Refused)?;
        let call = Self {
            place,
            class,
            entry,
            state: State::Queued,
            deadline,
            is_detached: false,
            since: now,
            avoid: None,
            attempts: 0,
            lost: 0,
            has_run: false,
            is_owed_a_grant: false,
            release: None,
            ticket: None,
            job_held_up: None,
            times: Times::default(),
        };
        env.entries().queue(place);
        let ticket = call.ticket(now);
        Ok((call, ticket))
    }

    /// The lane's mailbox had no room for the first ticket: the call was never accepted.
    pub fn turned_away(self, env: &E) {
        // Only the owner has heard of the ticket, so no grant can have come first.
        assert!(env.entries().leave(self.place), "a call left a queue twice");
        self.function().stats.leave(self.class);
    }

    fn ticket(&self, queued_at: Uptime) -> Ticket {
        Ticket {
            queued_at,
            index: self.place.index,
            generation: self.place.generation,
            lane: self.function().lane,
            avoid: self.avoid,
            shard: self.place.shard,
            class: self.class,
        }
    }

    /// What to do now. What it gives is not given again.
    pub fn step(&mut self) -> Step {
        if let Some(done) = self.release.take() {
            return Step::Release(done);
        }
        if let Some(ticket) = self.ticket.take() {
            return Step::Queue(ticket);
        }
        match self.state {
            State::Granted(attempt) => {
                self.state = State::Running(attempt);
                Step::Run(attempt.grant)
            }
            State::Stopping(..) => Step::Stop,
            State::Over(_) => Step::Over,
            State::Queued
            | State::Running(_)
            | State::AwaitingPodEnd { .. }
            | State::BackingOff { .. } => Step::Wait,
        }
    }

    /// When `time` has something to do. It may move; the driver asks anew when its timer fires.
    pub fn until(&self) -> Uptime {
        match &self.state {
            State::Running(attempt) => self.attempt_deadline(attempt).at,
            State::BackingOff { until } if planted("call_backs_off_past_its_deadline") => *until,
            State::AwaitingPodEnd { until, .. } | State::BackingOff { until } => {
                (*until).min(self.deadline.at)
            }
            State::Queued | State::Granted(_) | State::Stopping(..) | State::Over(_) => {
                self.deadline.at
            }
        }
    }

    /// The clock shows `now`.
    pub fn time(&mut self, now: Uptime, env: &E) {
        if now < self.until() {
            return;
        }
        match &self.state {
            State::Queued => {
                self.is_owed_a_grant = !self.leave_queue(env);
                self.over(Err(self.too_late(self.waiting_stage())), now, env);
            }
            State::Running(attempt) => {
                let limit = self.attempt_deadline(attempt).limit;
                let stage = attempt.stage();
                let held_up = self.job_held_up.take();
                let failure = match held_up.filter(|_| stage == Stage::Starting) {
                    Some(why) => StartTimeout::failure(limit, StartTrouble::HeldUp(why)),
                    None => Failure::Timeout {
                        stage,
                        limit: Some(limit),
                    },
                };
                self.stop(failure);
            }
            // The pod's end was not heard of in time; that it ran out of memory is not known.
            State::AwaitingPodEnd { .. } if now < self.deadline.at => {
                self.pod_ended(None, now, env);
            }
            // No time is left for another attempt: the last one says why.
            State::AwaitingPodEnd { failure, .. } => {
                let failure = failure.clone();
                self.over(Err(failure), now, env);
            }
            State::BackingOff { .. } if now < self.deadline.at => {
                self.queue_again(now, env);
            }
            State::BackingOff { .. } => self.over(Err(self.too_late(Stage::Queued)), now, env),
            State::Granted(_) | State::Stopping(..) | State::Over(_) => {}
        }
    }

    /// A client, the registry, the scheduler or a stop ends the call.
    pub fn end(&mut self, end: &End, now: Uptime, env: &E) {
        let removed = *end == End::Removed;
        match &self.state {
            State::Queued => {
                let has_left = self.leave_queue(env);
                // One that was granted before runs, as it would if the grant had been here sooner.
                if has_left || !end.spares_attempts() {
                    self.is_owed_a_grant = !has_left;
                    self.over(Err(end.failure()), now, env);
                }
            }
            State::Running(_) if end.spares_attempts() => {}
            State::Running(_) => self.stop(end.failure()),
            // A removed function's attempt has ended all the same, and none follows: it tells why.
            State::AwaitingPodEnd { failure, .. } if removed => {
                let failure = failure.clone();
                self.over(Err(failure), now, env);
            }
            State::BackingOff { .. } if removed => {
                if !planted("call_backs_off_past_its_function") {
                    self.over(Err(Failure::FunctionRemoved), now, env);
                }
            }
            State::AwaitingPodEnd { .. } | State::BackingOff { .. } if end.spares_attempts() => {}
            State::AwaitingPodEnd { .. } | State::BackingOff { .. } => {
                if !planted("call_cancel_is_lost_between_attempts") {
                    self.over(Err(end.failure()), now, env);
                }
            }
            // The driver lets nothing come between a grant or a stop and its step.
            State::Granted(_) | State::Stopping(..) | State::Over(_) => {}
        }
    }

    /// The client waits no longer, and the call goes on by the async deadlines.
    pub fn detach(&mut self, deadline: Deadline) {
        self.is_detached = true;
        self.deadline = deadline;
    }

    /// A slot: the call may run.
    pub fn granted(&mut self, grant: Grant, now: Uptime, env: &E) {
        assert!(
            matches!(self.state, State::Queued),
            "a call was granted that does not wait"
        );
        self.times.waited(self.since, &grant);
        // It runs under the spec that holds now. One whose function was removed after the grant keeps
        // its own: the lane may belong to a namesake.
        if !planted("call_keeps_its_first_spec")
            && let Some(now) = env.current(self.function().lane)
        {
            self.entry = now;
        }
        self.attempts += 1;
        self.job_held_up = None;
        let has_pods = self.function().spec.execution_mode == ExecutionMode::Warm;
        let attempt = self.attempt_of(grant, now);
        if grant.pod.is_some() == has_pods {
            self.state = State::Granted(attempt);
            return;
        }
        // Granted under a spec of another mode, whose calls run elsewhere: this one cannot have begun.
        let why = "the function's mode changed when the call was about to run";
        let report = Report::not_begun(Failure::PodUnreachable(why.into()), PodVerdict::Healthy);
        self.state = State::Running(attempt);
        self.attempted(report, now, env);
    }

    /// The end of a grant that is not used: its call is over.
    pub const fn give_back(grant: &Grant) -> Done {
        Done {
            lane: grant.lane,
            pod: grant.pod,
            verdict: PodVerdict::Healthy,
            slot: grant.slot,
            held: Held::Nothing,
        }
    }

    /// Takes the call out of the queue. False where a grant came first, and is on its way.
    fn leave_queue(&self, env: &E) -> bool {
        let has_left = env.entries().leave(self.place);
        if has_left && !planted("call_stays_in_depth") {
            self.function().stats.leave(self.class);
        }
        has_left || planted("call_forgets_its_grant")
    }

    /// The deadline of the whole call passed.
    fn too_late(&self, stage: Stage) -> Failure {
        let limit = self.deadline.limit;
        if stage == Stage::Starting
            && let Some(trouble) = self.function().stats.capacity.trouble()
        {
            return StartTimeout::failure(limit, trouble);
        }
        let limit = Some(limit);
        Failure::Timeout { stage, limit }
    }

    /// Where a call that waits is, for people.
    fn waiting_stage(&self) -> Stage {
        let function = self.function();
        let slots = function
            .stats
            .slots_now
            .load(std::sync::atomic::Ordering::Relaxed);
        let is_warm = function.spec.execution_mode == ExecutionMode::Warm;
        if is_warm && slots == 0 {
            Stage::Starting
        } else {
            Stage::Queued
        }
    }

    /// Queues the call for another attempt, at its class's tail.
    fn queue_again(&mut self, now: Uptime, env: &E) {
        let lane = self.function().lane;
        // While the call was in no queue its function may have been removed, and its lane given to
        // another one.
        match env.current(lane) {
            Some(entry) => self.entry = entry,
            None if planted("call_is_tried_in_a_removed_function") => {}
            None => return self.over(Err(Failure::FunctionRemoved), now, env),
        }
        self.set(State::Queued, env);
        self.function().stats.reenter(self.class);
        env.entries().queue(self.place);
        self.ticket = Some(self.ticket(now));
    }

    #[inline]
    fn over(&mut self, result: Result<(), Failure>, now: Uptime, env: &E) {
        assert!(!matches!(self.state, State::Over(_)), "a call ended twice");
        let for_a_start = match &result {
            Err(Failure::ColdStart(_) | Failure::StartTimeout(_)) => true,
            Err(Failure::Timeout { stage, .. }) => *stage == Stage::Starting,
            _ => false,
        };
        self.times.gave_up(self.since, now, for_a_start);
        self.set(State::Over(result), env);
    }

    /// Changes the state, and counts a call that is in no queue and holds no slot.
    fn set(&mut self, state: State, env: &E) {
        let was = self.is_between_attempts();
        self.state = state;
        let is = self.is_between_attempts();
        if was != is && !(planted("call_miscounts_back_off") && was) {
            env.between_attempts(if is { 1 } else { -1 });
        }
    }

    const fn is_between_attempts(&self) -> bool {
        matches!(
            self.state,
            State::AwaitingPodEnd { .. } | State::BackingOff { .. }
        )
    }

    pub fn function(&self) -> &Function {
        E::function(&self.entry)
    }

    pub const fn entry(&self) -> &E::Entry {
        &self.entry
    }

    pub const fn place(&self) -> CallId {
        self.place
    }

    /// Which attempt it is; 0 before the first.
    pub const fn attempt(&self) -> u32 {
        self.attempts
    }

    pub const fn times(&self) -> &Times {
        &self.times
    }

    pub const fn deadline(&self) -> Uptime {
        self.deadline.at
    }

    pub const fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_) | State::Stopping(..))
    }

    pub const fn is_queued(&self) -> bool {
        matches!(self.state, State::Queued)
    }

    /// Whose end decides whether another attempt follows.
    pub const fn awaited_pod(&self) -> Option<PodId> {
        match self.state {
            State::AwaitingPodEnd { pod, .. } => Some(pod),
            _ => None,
        }
    }

    /// How it ended, once it did.
    pub const fn outcome(&self) -> Option<&Result<(), Failure>> {
        match &self.state {
            State::Over(result) => Some(result),
            _ => None,
        }
    }

    /// Whether it ended before any attempt can have begun: a call with the same key runs anew.
    pub const fn never_ran(&self) -> bool {
        !self.has_run
    }

    /// Whether a grant is still to come, which `give_back` answers.
    pub const fn is_owed_a_grant(&self) -> bool {
        self.is_owed_a_grant
    }
}
