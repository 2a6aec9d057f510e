//! Turns the end of an attempt of a call of `/fn/` into the result that the call's state machine needs. This
//! module moves no byte; `exchange` does.

use std::sync::Arc;

use nanofaas_core::outcome::{ExecutionError, HandlerError, Stage, TimeLimit};
use nanofaas_core::ticket::PodVerdict;
use nanofaas_core::time::{Nanos, Uptime};
use nanofaas_http1::request::Method;
use nanofaas_http1::response_head::ResponseHead;

use crate::forward::exchange::{BrokenOff, Exchange};
use crate::invoke::attempt::{AttemptError, FinishedAttempt};
use crate::invoke::to_pod::named;
use crate::state::pod_pool::Owner;

impl Exchange<'_, '_> {
    /// Returns the attempt's result. Keeps the connection to the pod if it can carry another call.
    pub(super) fn finished(
        self,
        owner: &Owner,
        result: Result<ResponseHead, BrokenOff>,
        answered_at: Option<Uptime>,
    ) -> FinishedAttempt<()> {
        let sent_at = self.call.timestamps.sent_at.get();
        let (result, verdict, head) = match result {
            Ok(head) => (outcome(&head), PodVerdict::Healthy, Some(head)),
            Err(broken) => {
                let (error, verdict) = self.failure(owner, broken);
                (Err(error), verdict, None)
            }
        };
        let (cold_start, init_ms) = head.map_or((false, None), |head| {
            (head.cold_start, head.init_duration_ms)
        });
        if let Some(head) = head {
            let is_exact = self.pod.received.is_empty() && head.keep_alive && self.pod.is_sound();
            if is_exact {
                let now = self.thread.now();
                self.thread
                    .pods
                    .give(owner, self.pod, head.keep_alive_s, now);
            }
        }
        FinishedAttempt {
            result,
            verdict,
            sent_at,
            answered_at,
            cold_start,
            init_ms,
            start: Nanos::ZERO,
        }
    }

    fn failure(&self, owner: &Owner, broken: BrokenOff) -> (AttemptError, PodVerdict) {
        let forwarding = self.forwarding;
        let lost = |why: Arc<str>| {
            let failure = ExecutionError::PodLost(why);
            let error = if self.may_run_again() {
                AttemptError::pod_lost(failure)
            } else {
                AttemptError::last(failure)
            };
            (error, PodVerdict::Lost)
        };
        match broken {
            BrokenOff::NotStarted => {
                let pod = named(self.call, owner);
                let why = format!("{pod} says that it cannot take the call now");
                let failure = ExecutionError::PodUnreachable(why.into());
                let can_repeat = forwarding.upload.borrow().can_repeat();
                let error = if can_repeat {
                    AttemptError::not_begun(failure)
                } else {
                    AttemptError::last(failure)
                };
                (error, PodVerdict::Lost)
            }
            BrokenOff::Closed
                if self.parts == 1 && self.pod.unsent().is_some_and(|unsent| unsent.nothing) =>
            {
                let pod = named(self.call, owner);
                let why = format!("the request could not be sent to {pod}");
                let failure = ExecutionError::PodUnreachable(why.into());
                (AttemptError::not_begun(failure), PodVerdict::Lost)
            }
            BrokenOff::Closed => lost(match self.pod.unsent() {
                Some(unsent) => {
                    let pod = named(self.call, owner);
                    format!("the request could not be sent to {pod}: {}", unsent.why).into()
                }
                None => "the pod closed the connection before its answer was complete".into(),
            }),
            BrokenOff::Foreign => lost("the pod answered another call".into()),
            BrokenOff::Nonsense(why) => {
                let why = format!("the pod's answer is not sound HTTP: {why}");
                let failure = ExecutionError::BadOutput(why.into());
                (AttemptError::last(failure), PodVerdict::Healthy)
            }
            // A fault of the client says nothing about the pod.
            BrokenOff::Client(fault) => {
                forwarding.fault.set(Some(fault));
                (
                    AttemptError::last(ExecutionError::Cancelled),
                    PodVerdict::Healthy,
                )
            }
            BrokenOff::ClientGone => (
                AttemptError::last(ExecutionError::Cancelled),
                PodVerdict::Healthy,
            ),
            BrokenOff::Idle => {
                let ms = self.call.entry().function.spec.stream_idle_ms;
                let failure = ExecutionError::Timeout {
                    stage: Stage::Running,
                    limit: Some(TimeLimit::StreamIdle(ms)),
                };
                // If the client's body stopped, or the client takes nothing, the pod is not to blame.
                let waits_for_client = !forwarding.upload.borrow().is_complete()
                    || forwarding.client.socket().is_behind();
                let verdict = if waits_for_client && !self.pod.is_behind() {
                    PodVerdict::Healthy
                } else {
                    PodVerdict::CutOff
                };
                (AttemptError::last(failure), verdict)
            }
        }
    }

    /// Returns whether a call that may have run can run again. Its method or its key has to allow that, a
    /// copy of the sent part of its body has to exist, and the client must not have a byte of an answer.
    fn may_run_again(&self) -> bool {
        let head = &self.call.request.head;
        let repeats = matches!(
            head.method,
            Method::Get | Method::Head | Method::Options | Method::Put | Method::Delete
        );
        (repeats || head.idempotency_key.is_some())
            && self.forwarding.upload.borrow().can_repeat()
            && !self.forwarding.has_answered.get()
    }
}

/// Returns the outcome of a call whose whole answer was passed on: a status of 500 or more is a failure.
fn outcome(head: &ResponseHead) -> Result<(), AttemptError> {
    if head.status < 500 {
        return Ok(());
    }
    let message = format!("the function answered with status {}", head.status);
    let failure = HandlerError {
        code: "HANDLER_ERROR".into(),
        message: message.into(),
        retry_after: None,
    };
    Err(AttemptError::last(ExecutionError::Handler(Arc::new(
        failure,
    ))))
}
