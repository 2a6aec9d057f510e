//! The result of one attempt of a call: the function's output, or an error with the kind that the rule for
//! retries needs. This module runs nothing and decides no retry. `to_pod`, `to_job` and `to_local` make
//! attempts; `drive` reports them to the call's state machine.

use nanofaas_core::call::Report;
use nanofaas_core::memory::Charge;
use nanofaas_core::outcome::ExecutionError;
use nanofaas_core::retry::AttemptFailure;
use nanofaas_core::ticket::PodVerdict;
use nanofaas_core::time::{Nanos, Uptime};

use crate::http::output::Output;

/// An output, with the charge for the memory that it holds.
pub(crate) struct ChargedOutput {
    pub(crate) output: Output,
    pub(crate) charge: Charge,
}

/// Why an attempt has no output. Only the functions here combine a failure with its kind, so that the kind
/// always fits the failure.
#[derive(Debug)]
pub(crate) struct AttemptError {
    failure: ExecutionError,
    kind: AttemptFailure,
}

impl AttemptError {
    /// Makes the error of an attempt that cannot have begun.
    pub(crate) const fn not_begun(failure: ExecutionError) -> Self {
        Self {
            failure,
            kind: AttemptFailure::NotBegun,
        }
    }

    /// Makes the error of an attempt whose pod is gone, if it is not known yet how the pod ended.
    pub(crate) const fn pod_lost(failure: ExecutionError) -> Self {
        Self {
            failure,
            kind: AttemptFailure::Lost { oom: None },
        }
    }

    /// Makes an error that another attempt would repeat.
    pub(crate) const fn last(failure: ExecutionError) -> Self {
        Self {
            failure,
            kind: AttemptFailure::Final,
        }
    }

    /// Makes the error of a failure that was reported: by the function, by its runtime, or by the bridge,
    /// which saw the attempt's end.
    pub(crate) fn reported(failure: ExecutionError) -> Self {
        let kind = match &failure {
            ExecutionError::Handler(reported) if &*reported.code == "OOM" => {
                AttemptFailure::Lost { oom: Some(true) }
            }
            ExecutionError::Handler(_) => AttemptFailure::Handler,
            ExecutionError::Timeout { .. } => AttemptFailure::TimedOut,
            // The runtime reports a lost pod after its worker has ended, and the bridge after the attempt has
            // ended. In both cases the end is known already, so the call need not wait for a report of the
            // end.
            ExecutionError::PodLost(_) => AttemptFailure::Lost { oom: Some(false) },
            ExecutionError::PodUnreachable(_) => AttemptFailure::NotBegun,
            ExecutionError::BadOutput(_)
            | ExecutionError::OutputTooLarge(_)
            | ExecutionError::ColdStart(_)
            | ExecutionError::StartTimeout(_)
            | ExecutionError::Cancelled
            | ExecutionError::FunctionRemoved
            | ExecutionError::Shutdown => AttemptFailure::Final,
        };
        Self { failure, kind }
    }

    /// Makes the error of an attempt whose end the bridge reports. If the pod was lost, the bridge knows
    /// whether the pod ran out of memory.
    pub(crate) fn ended(failure: ExecutionError, oom: bool) -> Self {
        let mut error = Self::reported(failure);
        if let AttemptFailure::Lost { oom: known } = &mut error.kind {
            *known = Some(oom);
        }
        error
    }

    pub(crate) const fn kind(&self) -> AttemptFailure {
        self.kind
    }
}

/// The result of an attempt, and its times. `T` is what a successful attempt returns.
pub(crate) struct FinishedAttempt<T = ChargedOutput> {
    pub(crate) result: Result<T, AttemptError>,
    pub(crate) verdict: PodVerdict,
    pub(crate) sent_at: Option<Uptime>,
    pub(crate) answered_at: Option<Uptime>,
    pub(crate) cold_start: bool,
    pub(crate) init_ms: Option<u32>,
    /// How long a JOB attempt waited for its pod to start; zero for other attempts.
    pub(crate) start: Nanos,
}

impl<T> FinishedAttempt<T> {
    /// Makes the result of an attempt that failed before anything was sent.
    pub(crate) const fn not_begun(failure: ExecutionError, verdict: PodVerdict) -> Self {
        Self::unanswered(AttemptError::not_begun(failure), verdict, None)
    }

    /// Makes the result of an attempt that got no answer, or an unreadable one. `sent_at` is set if the pod
    /// may have the request.
    pub(crate) const fn unanswered(
        error: AttemptError,
        verdict: PodVerdict,
        sent_at: Option<Uptime>,
    ) -> Self {
        Self {
            result: Err(error),
            verdict,
            sent_at,
            answered_at: None,
            cold_start: false,
            init_ms: None,
            start: Nanos::ZERO,
        }
    }

    /// Makes the report for the call's state machine, which needs no output.
    pub(crate) fn report(&self) -> Report {
        let error = self.result.as_ref().err();
        Report {
            failure: error.map(|error| (error.failure.clone(), error.kind())),
            verdict: self.verdict,
            sent_at: self.sent_at,
            answered_at: self.answered_at,
            start: self.start,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lost_attempt_can_be_oom() {
        let kind = |failure, oom| AttemptError::ended(failure, oom).kind();
        let lost = || ExecutionError::PodLost("gone".into());
        for oom in [false, true] {
            let expected = AttemptFailure::Lost { oom: Some(oom) };
            assert_eq!(kind(lost(), oom), expected);
            assert_eq!(kind(ExecutionError::Shutdown, oom), AttemptFailure::Final);
        }
        let unknown = AttemptError::pod_lost(lost()).kind();
        assert_eq!(unknown, AttemptFailure::Lost { oom: None });
    }
}
