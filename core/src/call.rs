//! The life of one call, from its admission to its end: it is queued, granted and run. After a failed attempt
//! it may wait to learn how the pod ended, back off, and be queued again. It ends exactly once. One state
//! machine serves every mode. The state machine has no socket, task or clock: a driver does what `step`
//! returns and reports what happened. `io` drives it with real sockets, the simulation with virtual time.
//!
//! After each report the driver calls `step` until it returns `Step::Wait`.

mod attempt;
mod deadline;
mod end;
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
    /// A function as this thread knows it.
    type Entry: Clone;

    fn function(entry: &Self::Entry) -> &Function;

    /// The current version of the function, if this registration of it still exists.
    fn current(&self, lane: LaneId) -> Option<Self::Entry>;

    fn entries(&self) -> &Entries;

    /// Uniform over all of `u64`.
    fn random(&self) -> u64;

    /// Adds `change` (1 or -1) to the number of calls that are between two attempts and in no queue. The
    /// ledger counts these calls.
    fn between_attempts(&self, change: i64);
}

/// What the driver has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do before `until` or the next report.
    Wait,
    /// Run an attempt with this grant, and report how it ended.
    Run(Grant),
    /// Stop the running attempt, and report it with `stopped`.
    Stop,
    /// An attempt ended: send this to the scheduler, because the slot is free.
    Release(Done),
    /// The call waits again: send this ticket to the scheduler.
    Queue(Ticket),
    /// The call is over; `outcome` has the result.
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

/// One call.
pub struct Call<E: Environment> {
    call_id: CallId,
    class: Class,
    /// The version of the function at the start of the last attempt, or when the call was queued last.
    entry: E::Entry,
    state: State,
    deadline: Deadline,
    /// Whether the client has stopped waiting. The async deadlines then apply; the class stays the same.
    is_detached: bool,
    /// Since when the call waits: since its admission, or since the end of its last attempt.
    since: Uptime,
    /// The pod of the last attempt, which the next one avoids.
    avoid: Option<PodIndex>,
    attempts: u32,
    /// Attempts whose pod was lost.
    lost: u32,
    /// Whether the function may have begun in an attempt.
    has_run: bool,
    /// Whether the call ended while a grant was on its way.
    is_owed_a_grant: bool,
    release: Option<Done>,
    ticket: Option<Ticket>,
    /// What keeps the Job of the current attempt from starting.
    job_held_up: Option<Arc<str>>,
    times: Times,
}

impl<E: Environment> Call<E> {
    /// Takes a place in the function's queue, or returns why there is none. The driver sends the first
    /// ticket, which is returned with the call, to the scheduler. If the ticket cannot be sent, the driver
    /// calls `turned_away`.
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
        // The ticket is made last, because the scheduler may grant it at once. By then `admit` has counted
        // the call as waiting, and the call's entry says queued.
        let ticket = call.ticket(now);
        Ok((call, ticket))
    }

    /// The lane's mailbox had no room for the first ticket, so the call was never accepted.
    pub fn turned_away(self, env: &E) {
        // The ticket reached no other thread, so there can be no grant.
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
        // The slot is released first, because another call may be waiting for it, whatever this call does
        // next.
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

    /// When the driver has to call `time`. This point may change, so the driver calls `until` again when its
    /// timer fires.
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

    /// Does what is due at `now`: ends a wait or an attempt whose time is over.
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
            // The pod's end was not reported in time, so it is unknown whether the pod ran out of memory.
            State::AwaitingPodEnd { .. } if now < self.deadline.at => {
                self.pod_ended(None, now, env);
            }
            // No time is left for another attempt. The call ends with the failure of the last attempt.
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

    /// Ends the call on behalf of a client, the registry, the scheduler or a shutdown.
    pub fn end(&mut self, end: &End, now: Uptime, env: &E) {
        let removed = *end == End::Removed;
        match &self.state {
            State::Queued => {
                let has_left = self.leave_queue(env);
                // If a grant came first and `end` spares attempts, the call runs, as if the grant had already
                // arrived.
                if has_left || !end.spares_attempts() {
                    self.is_owed_a_grant = !has_left;
                    self.over(Err(end.failure()), now, env);
                }
            }
            State::Running(_) if end.spares_attempts() => {}
            State::Running(_) => self.stop(end.failure()),
            // The function was removed, so no attempt follows. The call ends with the failure of the last
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
            // The driver takes the next step at once after a grant or a stop, so no `end` comes in between.
            State::Granted(_) | State::Stopping(..) | State::Over(_) => {}
        }
    }

    /// The client no longer waits. The call goes on with the async deadlines.
    pub fn detach(&mut self, deadline: Deadline) {
        self.is_detached = true;
        self.deadline = deadline;
    }

    /// The call was granted a slot and may run.
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
        // The grant was made under a spec of another mode, in which a call runs in another place. So the
        // function has not begun.
        let why = "the function's mode changed when the call was about to run";
        let report = Report::not_begun(
            ExecutionError::PodUnreachable(why.into()),
            PodVerdict::Healthy,
        );
        self.state = State::Running(attempt);
        self.attempted(report, now, env);
    }

    /// Returns the slot of a grant whose call is already over.
    pub const fn give_back(grant: &Grant) -> Done {
        Done {
            lane: grant.lane,
            pod: grant.pod,
            verdict: PodVerdict::Healthy,
            slot: grant.slot,
            held: Held::Nothing,
        }
    }

    /// Takes the call out of the queue. False if a grant came first; the grant is then on its way.
    fn leave_queue(&self, env: &E) -> bool {
        let has_left = env.entries().leave(self.call_id);
        if has_left && !planted("call_stays_in_depth") {
            self.function().stats.leave(self.class);
        }
        has_left || planted("call_forgets_its_grant")
    }

    /// The failure of a call whose own deadline passed.
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

    /// What a waiting call waits for; shown in messages.
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
        // The ticket is made last, because the scheduler may grant it at once. By then the call is counted as
        // waiting, and its entry says queued.
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

    /// Changes the state, and updates the number of calls that are in no queue and hold no slot.
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

    /// The number of the current attempt; 0 before the first.
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

    /// The pod whose end decides whether another attempt follows.
    pub const fn awaited_pod(&self) -> Option<PodId> {
        match self.state {
            State::AwaitingPodEnd { pod, .. } => Some(pod),
            _ => None,
        }
    }

    /// How the call ended; none before the call is over.
    pub const fn outcome(&self) -> Option<&Result<(), ExecutionError>> {
        match &self.state {
            State::Over(result) => Some(result),
            _ => None,
        }
    }

    /// Whether the call ended before any attempt can have begun. If so, the next call with the same key runs.
    pub const fn never_ran(&self) -> bool {
        !self.has_run
    }

    /// Whether a grant is still to come. The driver answers it with `give_back`.
    pub const fn is_owed_a_grant(&self) -> bool {
        self.is_owed_a_grant
    }
}
