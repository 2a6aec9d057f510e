//! A `Call` is the life of one call, from its admission to its end. The call is queued, granted a slot and
//! run. After a failed attempt the call may wait for the report of how its pod ended, back off, and be queued
//! again. A call ends exactly once.
//!
//! One state machine serves all execution modes. The state machine has no socket, task or clock. A driver
//! does what `step` returns, and reports what happened. After each report the driver calls `step` until
//! `step` returns `Step::Wait` or `Step::Over`. `io` drives the state machine with real sockets, and the
//! simulation drives it with virtual time.

mod attempt;
mod deadline;
mod end;
mod stream;
mod times;

use std::sync::Arc;

use crate::admission::{self, AdmissionError};
use crate::entries::Entries;
use crate::function::Function;
use crate::outcome::{ExecutionError, Stage, StartTimeout, StartTrouble};
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

/// What the state machine needs from the thread that drives it.
pub trait Environment {
    /// The type in which the driving thread keeps one version of a function.
    type Entry: Clone;

    fn function(entry: &Self::Entry) -> &Function;

    /// Returns the current version of the function of `lane`, or none if the registration that `lane` names
    /// was removed.
    fn current(&self, lane: LaneId) -> Option<Self::Entry>;

    fn entries(&self) -> &Entries;

    /// Returns a random number, uniform over all of `u64`.
    fn random(&self) -> u64;

    /// Adds `change`, which is 1 or -1, to the ledger's number of calls that are between two attempts and in
    /// no queue.
    fn between_attempts(&self, change: i64);
}

/// What the driver has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Do nothing until the time that `until` returns, or until the next report.
    Wait,
    /// Run an attempt with this grant, and report how it ended.
    Run(Grant),
    /// Stop the running attempt, then call `stopped`.
    Stop,
    /// Send this to the scheduler: an attempt ended, and its slot is free.
    Release(Done),
    /// Send this ticket to the scheduler: the call waits for another attempt.
    Queue(Ticket),
    /// The call is over; `outcome` returns the result.
    Over,
}

/// Why a call was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    Refused(AdmissionError),
    /// The function was removed before the request had been received completely.
    FunctionRemoved,
}

enum State {
    Queued,
    Granted(Attempt),
    Running(Attempt),
    /// The attempt has to be stopped. If no other attempt follows, the call ends with this failure.
    Stopping(Attempt, ExecutionError),
    /// The pod was lost. Whether another attempt may follow depends on how the pod ended.
    AwaitingPodEnd {
        pod: PodId,
        until: Uptime,
        failure: ExecutionError,
    },
    BackingOff {
        until: Uptime,
    },
    Over(Result<(), ExecutionError>),
}

/// The state machine of one call.
pub struct Call<E: Environment> {
    call_id: CallId,
    class: Class,
    /// The version that the function had when the call was last queued or granted.
    entry: E::Entry,
    state: State,
    deadline: Deadline,
    /// True if the client no longer waits. The async deadlines then apply, but the class stays the same.
    is_detached: bool,
    /// Whether the call is one of `/fn/`.
    is_stream: bool,
    /// When the current wait began: at the admission, or at the end of the last attempt.
    since: Uptime,
    /// The pod of the last attempt. The next attempt avoids this pod if another pod has room.
    avoid: Option<PodIndex>,
    attempts: u32,
    /// The number of attempts that lost their pod or its worker.
    lost: u32,
    /// Whether the function may have begun in an attempt.
    has_run: bool,
    /// Whether the call ended after the scheduler had granted it a slot and before the grant arrived.
    is_owed_a_grant: bool,
    release: Option<Done>,
    ticket: Option<Ticket>,
    /// What keeps the Job of the current attempt from starting, if that is known.
    job_held_up: Option<Arc<str>>,
    times: Times,
}

impl<E: Environment> Call<E> {
    /// Queues a new call, or returns why the call is not admitted. The driver sends the returned ticket to
    /// the scheduler. If the ticket cannot be sent, the driver calls `turned_away`.
    pub fn admit(
        env: &E,
        entry: E::Entry,
        call_id: CallId,
        class: Class,
        now: Uptime,
        deadline: Deadline,
    ) -> Result<(Self, Ticket), NotAdmitted> {
        let function = E::function(&entry);
        // The function may have been removed while the body of the request was still arriving.
        if env.current(function.lane).is_none() {
            return Err(NotAdmitted::FunctionRemoved);
        }
        let queue_size = function.spec.queue_size;
        admission::admit(&function.stats, queue_size, class, now, deadline.at)
            .map_err(NotAdmitted::Refused)?;
        let call = Self {
            call_id,
            class,
            entry,
            state: State::Queued,
            deadline,
            is_detached: false,
            is_stream: false,
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
        env.entries().queue(call_id);
        // The ticket is made last, because the scheduler may grant the call as soon as it has the ticket.
        // Before the grant, the call must be counted as waiting, and the call's entry must say queued.
        let ticket = call.ticket(now);
        Ok((call, ticket))
    }

    /// Takes the call out of the queue, because the lane's ring had no room for the call's first ticket. The
    /// call was never accepted.
    pub fn turned_away(self, env: &E) {
        // The ticket reached no other thread, so no thread can have granted the call.
        assert!(
            env.entries().leave(self.call_id),
            "a call left a queue twice"
        );
        self.function().stats.leave(self.class);
    }

    fn ticket(&self, queued_at: Uptime) -> Ticket {
        Ticket {
            queued_at,
            index: self.call_id.index,
            generation: self.call_id.generation,
            lane: self.function().lane,
            avoid: self.avoid,
            shard: self.call_id.shard,
            class: self.class,
        }
    }

    /// Returns what the driver has to do now. Each release, ticket and grant is returned once.
    pub fn step(&mut self) -> Step {
        // The slot is released before any other step, because another call may be waiting for it.
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

    /// Returns when the driver has to call `time`. A report may change this time, so the driver calls `until`
    /// after each report and when its timer fires.
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

    /// Ends a wait or an attempt whose time is over at `now`. Does nothing if the driver called too early.
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
                    None => ExecutionError::Timeout {
                        stage,
                        limit: Some(limit),
                    },
                };
                self.stop(failure);
            }
            // No report of the pod's end came in time, so it is unknown whether the pod ran out of memory.
            State::AwaitingPodEnd { .. } if now < self.deadline.at => {
                self.pod_ended(None, now, env);
            }
            // No time is left for another attempt, so the call ends with the failure of the last attempt.
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

    /// Applies a reason from outside to end the call: from a client, the registry, the scheduler or a
    /// shutdown. `End::spares_attempts` says which reasons let a running attempt continue.
    pub fn end(&mut self, end: &End, now: Uptime, env: &E) {
        let removed = *end == End::Removed;
        match &self.state {
            State::Queued => {
                let has_left = self.leave_queue(env);
                // If the scheduler granted the call first and `end` spares attempts, the call runs, as if the
                // grant had already arrived.
                if has_left || !end.spares_attempts() {
                    self.is_owed_a_grant = !has_left;
                    self.over(Err(end.failure()), now, env);
                }
            }
            State::Running(_) if end.spares_attempts() => {}
            State::Running(_) => self.stop(end.failure()),
            // No attempt follows in a removed function, so the call ends with the failure of the last
            // attempt.
            State::AwaitingPodEnd { failure, .. } if removed => {
                let failure = failure.clone();
                self.over(Err(failure), now, env);
            }
            State::BackingOff { .. } if removed => {
                if !planted("call_backs_off_past_its_function") {
                    self.over(Err(ExecutionError::FunctionRemoved), now, env);
                }
            }
            State::AwaitingPodEnd { .. } | State::BackingOff { .. } if end.spares_attempts() => {}
            State::AwaitingPodEnd { .. } | State::BackingOff { .. } => {
                if !planted("call_cancel_is_lost_between_attempts") {
                    self.over(Err(end.failure()), now, env);
                }
            }
            // In these states the driver calls `step` next, and not `end`.
            State::Granted(_) | State::Stopping(..) | State::Over(_) => {}
        }
    }

    /// Notes that the client no longer waits. The call goes on with this new deadline, and each of its
    /// attempts has a time limit of its own.
    pub fn detach(&mut self, deadline: Deadline) {
        self.is_detached = true;
        self.deadline = deadline;
    }

    /// Accepts a grant, so that the call may run.
    pub fn granted(&mut self, grant: Grant, now: Uptime, env: &E) {
        assert!(
            matches!(self.state, State::Queued),
            "a call was granted that does not wait"
        );
        self.times.waited(self.since, &grant);
        // The call runs under the current spec. If the function was removed after the grant, the call keeps
        // its old spec, because the lane may now belong to another function.
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
        // The scheduler made this grant before the function changed to or from WARM, so the grant does not
        // fit the new mode. The attempt ends here, and the function has not begun.
        let why = "the function's mode changed when the call was about to run";
        let report = Report::not_begun(
            ExecutionError::PodUnreachable(why.into()),
            PodVerdict::Healthy,
        );
        self.state = State::Running(attempt);
        self.attempted(report, now, env);
    }

    /// Makes the message that frees the slot of a grant whose call is already over.
    pub const fn give_back(grant: &Grant) -> Done {
        Done {
            lane: grant.lane,
            pod: grant.pod,
            verdict: PodVerdict::Healthy,
            slot: grant.slot,
            held: Held::Nothing,
        }
    }

    /// Takes the call out of the queue. Returns false if the scheduler granted the call first; the grant then
    /// still arrives.
    fn leave_queue(&self, env: &E) -> bool {
        let has_left = env.entries().leave(self.call_id);
        if has_left && !planted("call_stays_in_depth") {
            self.function().stats.leave(self.class);
        }
        has_left || planted("call_forgets_its_grant")
    }

    fn too_late(&self, stage: Stage) -> ExecutionError {
        let limit = self.deadline.limit;
        if stage == Stage::Starting
            && let Some(trouble) = self.function().stats.capacity.trouble()
        {
            return StartTimeout::failure(limit, trouble);
        }
        let limit = Some(limit);
        ExecutionError::Timeout { stage, limit }
    }

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

    /// Queues the call for another attempt, at the end of its class's queue.
    fn queue_again(&mut self, now: Uptime, env: &E) {
        let lane = self.function().lane;
        // While the call was in no queue, its function may have been removed and the lane given to another
        // function.
        match env.current(lane) {
            Some(entry) => self.entry = entry,
            None if planted("call_is_tried_in_a_removed_function") => {}
            None => return self.over(Err(ExecutionError::FunctionRemoved), now, env),
        }
        self.set(State::Queued, env);
        // The ticket is made last, because the scheduler may grant the call as soon as it has the ticket.
        // Before the grant, the call must be counted as waiting, and the call's entry must say queued.
        self.function().stats.reenter(self.class);
        env.entries().queue(self.call_id);
        self.ticket = Some(self.ticket(now));
    }

    #[inline]
    fn over(&mut self, result: Result<(), ExecutionError>, now: Uptime, env: &E) {
        assert!(!matches!(self.state, State::Over(_)), "a call ended twice");
        let for_a_start = match &result {
            Err(ExecutionError::ColdStart(_) | ExecutionError::StartTimeout(_)) => true,
            Err(ExecutionError::Timeout { stage, .. }) => *stage == Stage::Starting,
            _ => false,
        };
        self.times.gave_up(self.since, now, for_a_start);
        self.set(State::Over(result), env);
    }

    /// Changes the state, and updates the number of calls that are between two attempts.
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

    pub const fn call_id(&self) -> CallId {
        self.call_id
    }

    /// Returns the number of the last attempt, which may still run; 0 before the first attempt.
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

    /// Returns the pod of the last attempt if the call waits for the report of how this pod ended.
    pub const fn awaited_pod(&self) -> Option<PodId> {
        match self.state {
            State::AwaitingPodEnd { pod, .. } => Some(pod),
            _ => None,
        }
    }

    /// Returns how the call ended; none if the call is not over.
    pub const fn outcome(&self) -> Option<&Result<(), ExecutionError>> {
        match &self.state {
            State::Over(result) => Some(result),
            _ => None,
        }
    }

    /// Returns true if it is certain that the function did not begin in any attempt. A later call with the
    /// same key may then run.
    pub const fn never_ran(&self) -> bool {
        !self.has_run
    }

    /// Returns whether the call ended after the scheduler had granted it a slot and before the grant arrived.
    /// The driver answers this grant with `give_back`.
    pub const fn is_owed_a_grant(&self) -> bool {
        self.is_owed_a_grant
    }
}
