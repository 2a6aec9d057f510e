//! The judge checks what a call must do and must not do, by rules of its own. It sees what happens to a call
//! and which steps the call's state machine takes. It uses none of the state machine's decisions.

use nanofaas_core::call::{Call, End, Environment, Report};
use nanofaas_core::function::Function;
use nanofaas_core::outcome::ExecutionError;
use nanofaas_core::retry::AttemptFailure;
use nanofaas_core::spec::{ExecutionMode, RetryOn};
use nanofaas_core::ticket::{Done, Grant, Held};
use nanofaas_core::time::{Nanos, Uptime};

use crate::scenario::{MS, SECOND};

/// How late a timer may fire. This includes backward steps of the clock, of up to 5 ms.
const SLACK: Nanos = Nanos::from_ms(8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CallPhase {
    Queued,
    Running,
    AwaitingPodEnd,
    BackingOff,
}

pub(crate) fn phase<E: Environment>(life: &Call<E>) -> CallPhase {
    if life.is_queued() {
        CallPhase::Queued
    } else if life.is_running() {
        CallPhase::Running
    } else if life.awaited_pod().is_some() {
        CallPhase::AwaitingPodEnd
    } else {
        CallPhase::BackingOff
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Happening {
    Granted,
    Attempted,
    PodEnded { oom: bool },
    Time,
    Cancelled,
    ClientLeft,
    Removed,
    StartsFail,
    Shutdown,
    Detached,
    Replaced,
    RegisteredAnew,
}

impl Happening {
    pub(crate) const fn of(end: &End) -> Self {
        match end {
            End::Cancelled => Self::Cancelled,
            End::ClientLeft => Self::ClientLeft,
            End::Removed => Self::Removed,
            End::StartsFail(_) => Self::StartsFail,
            End::Shutdown => Self::Shutdown,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    None,
    Answered,
    Stopped,
    Failed(AttemptFailure),
}

/// The fields of a spec that the rules for an attempt need.
#[derive(Clone, Copy)]
struct Rules {
    version: u64,
    max_retries: u32,
    retry_on: RetryOn,
    mode: ExecutionMode,
    timeout: Nanos,
}

impl Rules {
    fn of(function: &Function) -> Self {
        let spec = &function.spec;
        Self {
            version: function.version,
            max_retries: spec.max_retries,
            retry_on: spec.retry_on,
            mode: spec.execution_mode,
            timeout: Nanos::from_ms(spec.timeout_ms.into()),
        }
    }
}

pub(crate) struct Judge {
    admitted_at: Uptime,
    rules: Rules,
    deadline: Uptime,
    is_async: bool,
    /// The event after which the call must be over immediately.
    is_ended: Option<Happening>,
    starts_failed: bool,
    attempts: u32,
    released: u32,
    last: Last,
    last_end: Uptime,
    /// The latest time at which the back-off after the last attempt can have begun. It is the attempt's end,
    /// or the last event while the call waited for the report of its pod's end.
    waits_from: Uptime,
    /// The time at which the attempt's own time limit began.
    attempt_from: Option<Uptime>,
    lost_retries: u32,
    has_run: bool,
    detached_at: Uptime,
}

impl Judge {
    pub(crate) fn new<E: Environment>(life: &Call<E>, now: Uptime) -> Self {
        Self {
            admitted_at: now,
            rules: Rules::of(life.function()),
            deadline: life.deadline(),
            is_async: life.is_async(),
            is_ended: None,
            starts_failed: false,
            attempts: 0,
            released: 0,
            last: Last::None,
            last_end: now,
            waits_from: now,
            attempt_from: None,
            lost_retries: 0,
            has_run: false,
            detached_at: Uptime::ZERO,
        }
    }

    pub(crate) fn on_event<E: Environment>(
        &mut self,
        happening: Happening,
        life: &Call<E>,
        now: Uptime,
    ) {
        assert!(
            self.is_ended.is_none(),
            "a call outlives {:?} and gets {happening:?}",
            self.is_ended
        );
        let phase = phase(life);
        if phase == CallPhase::AwaitingPodEnd {
            self.waits_from = now;
        }
        match happening {
            Happening::Cancelled | Happening::ClientLeft | Happening::Shutdown => {
                self.is_ended = Some(happening);
            }
            Happening::Removed if phase != CallPhase::Running && phase != CallPhase::Queued => {
                self.is_ended = Some(happening);
            }
            Happening::StartsFail => self.starts_failed = true,
            Happening::PodEnded { oom: true } => {
                self.last = Last::Failed(AttemptFailure::Lost { oom: Some(true) });
            }
            Happening::Attempted
            | Happening::Granted
            | Happening::PodEnded { .. }
            | Happening::Time
            | Happening::Removed
            | Happening::Detached
            | Happening::Replaced
            | Happening::RegisteredAnew => {}
        }
    }

    pub(crate) const fn detached(&mut self, deadline: Uptime, now: Uptime) {
        self.is_async = true;
        self.deadline = deadline;
        self.detached_at = now;
    }

    /// `newest` is the function as its io thread knows it. It is `None` if the call's registration was
    /// removed.
    pub(crate) fn granted(&mut self, newest: Option<&Function>, now: Uptime) {
        if let Some(newest) = newest {
            self.rules = Rules::of(newest);
        }
        self.attempts += 1;
        // The attempt counts as not begun until `runs` sets `last` again. `runs` is not called if the grant
        // was made for another mode than the function has now; the attempt then ends at once.
        self.last = Last::Failed(AttemptFailure::NotBegun);
        self.ends_at(now);
    }

    pub(crate) fn runs<E: Environment>(&mut self, life: &Call<E>, grant: &Grant, now: Uptime) {
        assert!(self.is_ended.is_none(), "an attempt of a call that ended");
        assert_eq!(
            life.function().version,
            self.rules.version,
            "an attempt under another spec than the one that holds"
        );
        assert_eq!(life.attempt(), self.attempts, "attempts are miscounted");
        let is_warm = self.rules.mode == ExecutionMode::Warm;
        assert_eq!(grant.pod.is_some(), is_warm, "it runs where it must not");
        self.last = Last::None;
        let is_job = self.rules.mode == ExecutionMode::Job;
        self.attempt_from = (!is_job).then_some(now);
    }

    pub(crate) const fn job_runs(&mut self, now: Uptime) {
        self.attempt_from = Some(now);
    }

    pub(crate) fn attempted(&mut self, report: &Report, now: Uptime) {
        self.last = match &report.failure {
            None => Last::Answered,
            Some((_, kind)) => Last::Failed(*kind),
        };
        self.has_run |= self.last != Last::Failed(AttemptFailure::NotBegun);
        self.ends_at(now);
    }

    pub(crate) fn stopped(&mut self, was_sent: bool, now: Uptime) {
        let is_due = self.latest(CallPhase::Running) <= now + SLACK;
        assert!(
            self.is_ended.is_some() || is_due,
            "an attempt was stopped for nothing"
        );
        self.last = Last::Stopped;
        self.has_run |= was_sent || self.rules.mode == ExecutionMode::Job;
        self.ends_at(now);
    }

    const fn ends_at(&mut self, now: Uptime) {
        self.last_end = now;
        self.waits_from = now;
    }

    pub(crate) fn released(&mut self, done: &Done) {
        self.released += 1;
        assert_eq!(self.released, self.attempts, "a slot is released twice");
        let is_lost = matches!(self.last, Last::Failed(AttemptFailure::Lost { .. }));
        assert!(
            !is_lost || done.held == Held::Nothing,
            "a lost attempt counts as service time"
        );
    }

    fn allows_retry(&self) -> bool {
        let retry_on = self.rules.retry_on;
        let allowed = match self.last {
            Last::Failed(AttemptFailure::NotBegun) => true,
            Last::Failed(AttemptFailure::Lost { oom }) => {
                oom != Some(true) && self.lost_retries == 0 && retry_on.contains(RetryOn::POD)
            }
            Last::Failed(AttemptFailure::Handler) => retry_on.contains(RetryOn::ERROR),
            Last::Failed(AttemptFailure::TimedOut) | Last::Stopped => {
                self.is_async && retry_on.contains(RetryOn::TIMEOUT)
            }
            Last::Failed(AttemptFailure::Final) | Last::None | Last::Answered => false,
        };
        allowed && self.attempts <= self.rules.max_retries
    }

    /// `newest` is the same argument as in `granted`.
    pub(crate) fn queued_again(&mut self, newest: Option<&Function>, now: Uptime) {
        let newest = newest.expect("it waits for a function that is gone");
        assert!(self.is_ended.is_none(), "a call that ended is tried again");
        assert!(self.allows_retry(), "{:?} must not be retried", self.last);
        let is_lost = matches!(self.last, Last::Failed(AttemptFailure::Lost { .. }));
        self.lost_retries += u32::from(is_lost);
        let is_refused = self.last == Last::Failed(AttemptFailure::NotBegun);
        let waited = now.since(self.last_end) + SLACK;
        // Only a WARM function may have another pod that takes the call at once. A call of any other mode has
        // to back off.
        let least = if is_refused && self.rules.mode != ExecutionMode::Warm {
            back_off(10 * MS, SECOND, self.attempts)
        } else {
            Nanos::ZERO
        };
        assert!(waited >= least, "it did not back off");
        // If the function is removed between the call's grant and its attempt, the call runs under the spec
        // of `newest`.
        self.rules = Rules::of(newest);
    }

    /// Returns the time by which the call has to leave the phase.
    fn latest(&self, phase: CallPhase) -> Uptime {
        let own = match phase {
            CallPhase::Queued => self.deadline,
            CallPhase::Running if !self.is_async => self.deadline,
            CallPhase::Running => self
                .attempt_from
                .map_or(self.deadline, |from| from + self.rules.timeout),
            CallPhase::AwaitingPodEnd => {
                // If the report of the pod's end has come, the call has nothing to wait for.
                let is_unknown = self.last == Last::Failed(AttemptFailure::Lost { oom: None });
                self.last_end + u64::from(is_unknown) * 2 * SECOND
            }
            CallPhase::BackingOff => {
                let (first, most) = if self.last == Last::Failed(AttemptFailure::NotBegun) {
                    (10 * MS, SECOND)
                } else {
                    (100 * MS, 10 * SECOND)
                };
                self.waits_from + back_off(first, most, self.attempts)
            }
        };
        // At `detached_at`, the attempt's own time limit begins to apply. If it has passed already, the
        // attempt has to end at that time.
        own.min(self.deadline).max(self.detached_at)
    }

    pub(crate) fn check_in_time<E: Environment>(&self, life: &Call<E>, now: Uptime) {
        let phase = phase(life);
        let latest = self.latest(phase);
        assert!(
            latest + SLACK >= now,
            "{:?} stays {phase:?} for too long",
            life.call_id()
        );
    }

    /// `is_current` is true if the call's registration still exists.
    pub(crate) fn over<E: Environment>(&self, life: &Call<E>, is_current: bool, now: Uptime) {
        assert_eq!(self.released, self.attempts, "a slot was not released");
        assert_eq!(life.never_ran(), !self.has_run, "whether it ran is wrong");
        let is_late = self.deadline <= now + SLACK;
        match life.outcome().expect("it is over") {
            Ok(()) => assert_eq!(self.last, Last::Answered, "a success of nothing"),
            Err(ExecutionError::Timeout { limit, .. }) => {
                assert!(limit.is_some(), "whose time was over is not said");
                let own = self.last == Last::Stopped && self.is_async;
                assert!(is_late || own, "a time-out before its time");
            }
            Err(ExecutionError::StartTimeout(_)) => assert!(is_late, "a time-out before its time"),
            Err(ExecutionError::Cancelled) => {
                let left = [Happening::Cancelled, Happening::ClientLeft];
                assert!(self.is_ended.is_some_and(|end| left.contains(&end)));
            }
            Err(ExecutionError::Shutdown) => assert_eq!(self.is_ended, Some(Happening::Shutdown)),
            Err(ExecutionError::ColdStart(_)) => assert!(self.starts_failed, "starts do not fail"),
            Err(ExecutionError::FunctionRemoved) => assert!(!is_current, "its function is there"),
            Err(_) => {
                let is_failure = matches!(self.last, Last::Failed(_) | Last::Stopped);
                assert!(is_failure, "the failure of no attempt");
                let gave_up = self.allows_retry() && is_current && !is_late;
                assert!(!gave_up, "{:?} was not retried", self.last);
            }
        }
        let times = life.times();
        let sum = times.queue + times.start + times.dispatch + times.function;
        let total = now.since(self.admitted_at);
        assert!(
            sum.abs_diff(total) <= SECOND / 5,
            "its parts are not the whole: ={times:?} of {total:?}"
        );
    }
}

/// Returns the longest back-off after this number of attempts.
fn back_off(first: Nanos, most: Nanos, attempt: u32) -> Nanos {
    first
        .saturating_mul(1 << attempt.saturating_sub(1).min(20))
        .min(most)
}
