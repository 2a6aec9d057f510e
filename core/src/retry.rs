//! Decides whether another attempt follows a failed attempt, and after how long. The caller waits, and passes
//! the random number as an argument.

use crate::spec::RetryOn;
use crate::ticket::Class;
use crate::time::Nanos;

/// The kinds of failed attempts that the decision distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptFailure {
    /// The function cannot have begun: the connection was refused, nothing was sent, or the pod reported that
    /// it did not begin the call.
    NotBegun,
    /// The pod, or the worker in it, was lost during the attempt. `oom` is whether the pod ran out of memory;
    /// none while that is not known.
    Lost { oom: Option<bool> },
    /// The attempt's own time limit passed.
    TimedOut,
    /// The function returned an error.
    Handler,
    /// A retry would fail again or would be useless, for instance after an invalid output or a cancellation.
    Final,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Give,
    /// Another attempt follows after this time; zero means at once.
    Retry(Nanos),
}

/// What the call has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The number of attempts so far, including the attempt that has just failed.
    pub attempts: u32,
    /// The number of earlier attempts that lost their pod or its worker. The attempt that has just failed is
    /// not counted.
    pub lost: u32,
    /// Whether the function has a usable pod that may be able to take the call at once.
    pub other_pod: bool,
}

/// What the function's spec allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryRule {
    pub max_retries: u32,
    pub retry_on: RetryOn,
    pub class: Class,
}

/// The back-off of a call that cannot have begun. The first wait is `NOT_BEGUN_FIRST`; each further wait is
/// twice as long, up to `NOT_BEGUN_MAX`.
const NOT_BEGUN_FIRST: Nanos = Nanos::from_ms(10);
const NOT_BEGUN_MAX: Nanos = Nanos::from_ms(1000);
/// The back-off of an async call that may have run. Its waits are longer, because the function itself may be
/// in trouble.
const ASYNC_FIRST: Nanos = Nanos::from_ms(100);
const ASYNC_MAX: Nanos = Nanos::from_s(10);

fn doubling(first: Nanos, most: Nanos, times: u32) -> Nanos {
    first.saturating_mul(1 << times.min(20)).min(most)
}

/// Decides what follows a failed attempt. `random` is uniform over all of `u64`.
pub fn decide(failure: AttemptFailure, rule: RetryRule, tried: Tried, random: u64) -> Next {
    let retries = tried.attempts.saturating_sub(1);
    if retries >= rule.max_retries {
        return Next::Give;
    }
    let allowed = match failure {
        // A retry is allowed whatever `retryOn` is, because the function has not begun. If a pod is usable,
        // the call may begin at once; otherwise an immediate retry would most likely fail, too.
        AttemptFailure::NotBegun => {
            let backoff = doubling(NOT_BEGUN_FIRST, NOT_BEGUN_MAX, retries);
            return Next::Retry(if tried.other_pod {
                Nanos::ZERO
            } else {
                backoff
            });
        }
        AttemptFailure::Lost { oom } => {
            // At most one lost attempt of a call is retried. A call that makes its pod end would otherwise
            // end one pod after the other.
            oom != Some(true) && tried.lost == 0 && rule.retry_on.contains(RetryOn::POD)
        }
        AttemptFailure::TimedOut => rule.retry_on.contains(RetryOn::TIMEOUT),
        AttemptFailure::Handler => rule.retry_on.contains(RetryOn::ERROR),
        AttemptFailure::Final => false,
    };
    match (allowed, rule.class) {
        (false, _) => Next::Give,
        (true, Class::Sync) => Next::Retry(Nanos::ZERO),
        (true, Class::Async) => {
            // The wait is random between zero and `most` (full jitter), so that calls that failed together
            // are not all retried together.
            let most = doubling(ASYNC_FIRST, ASYNC_MAX, retries);
            Next::Retry(Nanos::from_ns(random % (most.as_ns() + 1)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = Nanos::from_ms(1);

    fn rule(retry_on: RetryOn, class: Class) -> RetryRule {
        RetryRule {
            max_retries: 3,
            retry_on,
            class,
        }
    }

    fn tried(attempts: u32) -> Tried {
        Tried {
            attempts,
            lost: 0,
            other_pod: false,
        }
    }

    #[test]
    fn what_cannot_have_begun_is_always_retried() {
        let rule = rule(RetryOn::NONE, Class::Sync);
        let next = |attempts| decide(AttemptFailure::NotBegun, rule, tried(attempts), 0);
        assert_eq!(next(1), Next::Retry(10 * MS));
        assert_eq!(next(2), Next::Retry(20 * MS));
        assert_eq!(next(3), Next::Retry(40 * MS));
        assert_eq!(next(4), Next::Give);
        let other = Tried {
            other_pod: true,
            ..tried(1)
        };
        assert_eq!(
            decide(AttemptFailure::NotBegun, rule, other, 0),
            Next::Retry(Nanos::ZERO)
        );
        let patient = RetryRule {
            max_retries: 10,
            ..rule
        };
        let late = decide(AttemptFailure::NotBegun, patient, tried(10), 0);
        assert_eq!(late, Next::Retry(NOT_BEGUN_MAX));
    }

    #[test]
    fn a_lost_pod_is_retried_once_unless_oom() {
        let pod = rule(RetryOn::POD, Class::Sync);
        let lost = AttemptFailure::Lost { oom: Some(false) };
        assert_eq!(decide(lost, pod, tried(1), 0), Next::Retry(Nanos::ZERO));
        assert_eq!(
            decide(
                lost,
                pod,
                Tried {
                    lost: 1,
                    ..tried(2)
                },
                0
            ),
            Next::Give
        );
        assert_eq!(
            decide(AttemptFailure::Lost { oom: Some(true) }, pod, tried(1), 0),
            Next::Give
        );
        assert_eq!(
            decide(lost, rule(RetryOn::NONE, Class::Sync), tried(1), 0),
            Next::Give
        );
    }

    #[test]
    fn errors_and_timeouts_only_as_retry_on_allows() {
        let both = RetryOn::TIMEOUT.with(RetryOn::ERROR);
        for failure in [AttemptFailure::TimedOut, AttemptFailure::Handler] {
            assert_eq!(
                decide(failure, rule(both, Class::Sync), tried(1), 0),
                Next::Retry(Nanos::ZERO)
            );
            assert_eq!(
                decide(failure, rule(RetryOn::POD, Class::Sync), tried(1), 0),
                Next::Give
            );
        }
        assert_eq!(
            decide(AttemptFailure::Final, rule(both, Class::Sync), tried(1), 0),
            Next::Give
        );
    }

    #[test]
    fn async_backs_off_with_full_jitter() {
        let rule = RetryRule {
            max_retries: 10,
            ..rule(RetryOn::ERROR, Class::Async)
        };
        let next =
            |attempts, random| match decide(AttemptFailure::Handler, rule, tried(attempts), random)
            {
                Next::Retry(after) => after,
                Next::Give => panic!("a retry was due"),
            };
        assert_eq!(next(1, 100_000_000), 100 * MS);
        assert!(next(1, u64::MAX) <= 100 * MS);
        assert_eq!(next(2, 0), Nanos::ZERO);
        assert!((0..1000).all(|n| next(10, n << 50 | n) <= ASYNC_MAX));
    }
}
