//! Decides how long an attempt of a call may take, what its end means, and whether another attempt follows.
//! The driver runs the attempt.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::stream::AttemptClock;
use super::{Call, Deadline, Environment, State};
use crate::message::PodEnd;
use crate::outcome::{ExecutionError, Stage, TimeLimit};
use crate::retry::{self, AttemptFailure, Next, RetryRule, Tried};
use crate::spec::ExecutionMode;
use crate::sync::planted;
use crate::ticket::{Class, Done, Grant, Held, PodId, PodVerdict};
use crate::time::{Nanos, Uptime};

/// The longest time for which a call waits for the report of how a pod ended. The wait is bounded, because a
/// pod that only lost its connection continues to run, so no report of its end comes.
const POD_END_WAIT_MAX: Nanos = Nanos::from_s(2);

/// An attempt that runs.
#[derive(Clone, Copy)]
pub(super) struct Attempt {
    pub(super) grant: Grant,
    /// When the attempt's own time limit began to run: at the dispatch, or when a Job's container started.
    /// None before the container's start.
    from: Option<Uptime>,
    is_job: bool,
    pub(super) clock: AttemptClock,
}

impl Attempt {
    pub(super) const fn stage(&self) -> Stage {
        if self.from.is_none() {
            Stage::Starting
        } else {
            Stage::Running
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// None if the attempt succeeded.
    pub failure: Option<(ExecutionError, AttemptFailure)>,
    pub verdict: PodVerdict,
    pub sent_at: Option<Uptime>,
    pub answered_at: Option<Uptime>,
    /// How long a Job's attempt waited for its container to start; zero in the other modes.
    pub start: Nanos,
}

impl Report {
    /// Makes the report of an attempt that failed before the request was sent.
    pub const fn not_begun(failure: ExecutionError, verdict: PodVerdict) -> Self {
        Self {
            failure: Some((failure, AttemptFailure::NotBegun)),
            verdict,
            sent_at: None,
            answered_at: None,
            start: Nanos::ZERO,
        }
    }
}

impl<E: Environment> Call<E> {
    pub(super) fn attempt_of(&self, grant: Grant, now: Uptime) -> Attempt {
        let is_job = self.function().spec.execution_mode == ExecutionMode::Job;
        Attempt {
            grant,
            from: (!is_job).then_some(now),
            is_job,
            clock: AttemptClock::Runs,
        }
    }

    /// Returns the attempt's deadline. The deadline of a Job may become earlier when the Job's container
    /// starts.
    pub(super) fn attempt_deadline(&self, attempt: &Attempt) -> Deadline {
        if let Some(deadline) = self.stream_deadline(attempt) {
            return deadline;
        }
        if !self.is_async() || planted("call_attempts_have_no_deadline") {
            return self.deadline;
        }
        // A Job's own time limit begins at the start of its container. Before that start only the call's
        // deadline applies here, because the bridge limits how long the start takes.
        let Some(from) = attempt.from else {
            return self.deadline;
        };
        let own = TimeLimit::Function(self.function().spec.timeout_ms);
        self.deadline.or_sooner(Deadline::after(from, own))
    }

    /// Returns the deadline of the running attempt, or the call's deadline if no attempt runs. The driver
    /// sends this time to the pod.
    pub fn running_until(&self) -> Uptime {
        match &self.state {
            State::Running(attempt) => self.attempt_deadline(attempt).at,
            _ => self.deadline.at,
        }
    }

    /// Returns whether the async deadlines apply. If so, each attempt has a time limit of its own.
    pub const fn is_async(&self) -> bool {
        matches!(self.class, Class::Async) || self.is_detached
    }

    /// Notes that the container of the attempt's Job has been running since `since`.
    pub fn job_runs(&mut self, since: Uptime) {
        if let State::Running(attempt) = &mut self.state {
            attempt.from = Some(since);
        }
    }

    /// Notes what keeps the attempt's Job from starting, or that nothing does. The Job may still start. If
    /// the attempt times out before the Job has started, the failure names this reason.
    pub fn job_is_held_up(&mut self, why: Option<Arc<str>>) {
        self.job_held_up = why;
    }

    pub(super) fn stop(&mut self, failure: ExecutionError) {
        let state = std::mem::replace(&mut self.state, State::Queued);
        let State::Running(attempt) = state else {
            unreachable!("the caller saw it run");
        };
        self.state = State::Stopping(attempt, failure);
    }

    /// Notes that the driver stopped the attempt after `Step::Stop`. `sent_at` is none if the request was not
    /// sent.
    pub fn stopped(&mut self, sent_at: Option<Uptime>, now: Uptime, env: &E) {
        let state = std::mem::replace(&mut self.state, State::Queued);
        let State::Stopping(attempt, failure) = state else {
            panic!("an attempt was stopped that was not to be");
        };
        let granted_at = attempt.grant.granted_at;
        // A Job's request counts as sent when the Job's container started, although the handler may not have
        // begun. The cluster's clock measured that start and may differ from this process's clock, so
        // `sent_at` is limited to the range from the grant to now.
        let sent_at = if attempt.is_job {
            attempt
                .from
                .map(|at| at.clamp(granted_at, now.max(granted_at)))
        } else {
            sent_at
        };
        let start = if attempt.is_job {
            sent_at.unwrap_or(now).since(granted_at)
        } else {
            Nanos::ZERO
        };
        let has_begun = attempt.is_job || sent_at.is_some();
        let kind = match failure {
            ExecutionError::Timeout { .. } | ExecutionError::StartTimeout(_) => {
                AttemptFailure::TimedOut
            }
            _ => AttemptFailure::Final,
        };
        // If the request was sent, the pod may still be working on the call, although its answer is no longer
        // read.
        let disturbed = sent_at.is_some() && !attempt.is_job;
        let report = Report {
            failure: Some((failure, kind)),
            verdict: if disturbed {
                PodVerdict::CutOff
            } else {
                PodVerdict::Healthy
            },
            sent_at,
            answered_at: None,
            start,
        };
        self.state = State::Running(attempt);
        self.ended(report, has_begun, now, env);
    }

    /// Applies the driver's report of how the attempt ended.
    pub fn attempted(&mut self, report: Report, now: Uptime, env: &E) {
        let failure = report.failure.as_ref();
        let has_begun = failure.is_none_or(|(_, kind)| *kind != AttemptFailure::NotBegun);
        self.ended(report, has_begun, now, env);
    }

    fn ended(&mut self, report: Report, has_begun: bool, now: Uptime, env: &E) {
        self.body_came(now);
        self.has_run |= has_begun;
        let State::Running(attempt) = self.state else {
            panic!("an attempt ended that does not run");
        };
        let grant = attempt.grant;
        self.times.attempted(&grant, &report, now);
        self.since = now;
        // If the worker died, alone or with its pod, the attempt's time does not show how long calls take, so
        // `held` is `Nothing`.
        let kind = report.failure.as_ref().map(|(_, kind)| *kind);
        let is_lost = matches!(kind, Some(AttemptFailure::Lost { .. }));
        let is_cut_off = matches!(kind, Some(AttemptFailure::TimedOut | AttemptFailure::Final));
        let is_long_stream = self.is_long_stream(&attempt, now);
        let held = match (report.sent_at, report.answered_at) {
            _ if is_long_stream => Held::Nothing,
            (Some(_), Some(_)) if !is_lost => Held::Whole,
            (Some(_), None) if is_cut_off => Held::CutOff,
            _ => Held::Nothing,
        };
        // The slot is released whatever the call does next, because another call may use the slot at once.
        self.release = Some(Done {
            lane: grant.lane,
            pod: grant.pod,
            verdict: report.verdict,
            slot: grant.slot,
            held,
        });
        self.avoid = grant.pod.map(|pod| pod.index);
        let Some((mut failure, kind)) = report.failure else {
            return self.over(Ok(()), now, env);
        };
        if let ExecutionError::Timeout { limit, .. } = &mut failure {
            limit.get_or_insert(self.attempt_deadline(&attempt).limit);
        }
        self.failed(failure, kind, grant.pod, now, env);
    }

    /// Decides whether another attempt follows, and what the call waits for before that attempt.
    fn failed(
        &mut self,
        failure: ExecutionError,
        kind: AttemptFailure,
        pod: Option<PodId>,
        now: Uptime,
        env: &E,
    ) {
        let is_ended = matches!(
            failure,
            ExecutionError::Cancelled | ExecutionError::Shutdown
        );
        let is_removed = env.current(self.function().lane).is_none()
            && !planted("call_is_tried_in_a_removed_function");
        // The deadline of a sync call covers all attempts, so no attempt follows a timeout. After the timeout
        // of one attempt, an async call may be tried again until its own deadline.
        let is_late =
            kind == AttemptFailure::TimedOut && (!self.is_async() || now >= self.deadline.at);
        if is_ended || is_removed || is_late {
            return self.over(Err(failure), now, env);
        }
        let next = self.decide(kind, env);
        // The call waits for the bridge's report only if the runtime has not reported how its worker ended.
        let is_end_unknown = kind == AttemptFailure::Lost { oom: None };
        if is_end_unknown
            && let Some(pod) = pod
            && next != Next::Give
        {
            let until = now + POD_END_WAIT_MAX;
            let waits = State::AwaitingPodEnd {
                pod,
                until,
                failure,
            };
            return self.set(waits, env);
        }
        self.follow(next, kind, failure, now, env);
    }

    /// Notes how the pod of the last attempt ended, and decides what follows. `end` is none if no report came
    /// in time.
    pub fn pod_ended(&mut self, end: Option<&PodEnd>, now: Uptime, env: &E) {
        let State::AwaitingPodEnd { failure, .. } = &self.state else {
            return;
        };
        let failure = match (failure, end) {
            (ExecutionError::PodLost(what), Some(end)) => {
                ExecutionError::PodLost(format!("{what}; the pod: {}", end.message).into())
            }
            (failure, _) => failure.clone(),
        };
        let oom = end.is_some_and(|end| end.oom) && !planted("call_retries_after_oom");
        let kind = AttemptFailure::Lost { oom: Some(oom) };
        let next = self.decide(kind, env);
        self.follow(next, kind, failure, now, env);
    }

    fn follow(
        &mut self,
        next: Next,
        kind: AttemptFailure,
        failure: ExecutionError,
        now: Uptime,
        env: &E,
    ) {
        self.lost += u32::from(matches!(kind, AttemptFailure::Lost { .. }));
        assert!(self.lost <= self.attempts, "one attempt was lost twice");
        match next {
            Next::Give => self.over(Err(failure), now, env),
            Next::Retry(Nanos::ZERO) => self.queue_again(now, env),
            Next::Retry(after) => {
                let until = now + after;
                self.set(State::BackingOff { until }, env);
            }
        }
    }

    fn decide(&self, kind: AttemptFailure, env: &E) -> Next {
        let function = self.function();
        let spec = &function.spec;
        let rule = RetryRule {
            max_retries: spec.max_retries,
            retry_on: spec.retry_on,
            class: if self.is_async() {
                Class::Async
            } else {
                Class::Sync
            },
        };
        let usable = function.stats.pods[0].load(Ordering::Relaxed);
        let tried = Tried {
            attempts: self.attempts,
            lost: if planted("call_retries_every_loss") {
                0
            } else {
                self.lost
            },
            other_pod: spec.execution_mode == ExecutionMode::Warm && usable > 0,
        };
        retry::decide(kind, rule, tried, env.random())
    }
}
