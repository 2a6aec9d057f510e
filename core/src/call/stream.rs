//! Computes the time limits of a call at `/fn/`, where the control plane passes bytes through. The call's
//! deadline holds from the head of the request to the head of the answer, but the time in which an attempt
//! waits for the client's body does not count. From the head of the answer on, only `streamMaxMs` limits the
//! attempt. The driver measures how long a stream stands still, because only the driver sees the bytes.

use super::attempt::Attempt;
use super::{Call, Deadline, Environment, State};
use crate::outcome::TimeLimit;
use crate::time::Uptime;

/// What limits the time of a running attempt now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptClock {
    /// The call's deadline.
    Runs,
    /// `streamMaxMs` alone, because the attempt has waited for the client's body since this time. When the
    /// wait ends, the call's deadline is postponed by the length of the wait.
    Stands(Uptime),
    /// `streamMaxMs` alone, because the head of the answer has come.
    Streams,
}

impl<E: Environment> Call<E> {
    /// Notes that the running attempt waits for its client's body.
    pub fn body_awaited(&mut self, now: Uptime) {
        if let State::Running(attempt) = &mut self.state
            && attempt.clock == AttemptClock::Runs
        {
            attempt.clock = AttemptClock::Stands(now);
        }
    }

    /// Notes that bytes of the client's body came, or that the attempt waits for something else.
    pub fn body_came(&mut self, now: Uptime) {
        if let State::Running(attempt) = &mut self.state
            && let AttemptClock::Stands(since) = attempt.clock
        {
            attempt.clock = AttemptClock::Runs;
            self.deadline.at = self.deadline.at.saturating_add(now.since(since));
        }
    }

    /// Notes that the head of the answer came.
    pub fn head_came(&mut self, now: Uptime) {
        self.body_came(now);
        if let State::Running(attempt) = &mut self.state {
            attempt.clock = AttemptClock::Streams;
        }
    }

    /// Returns the deadline that `streamMaxMs` sets; none if the call's own deadline holds now.
    pub(super) fn stream_deadline(&self, attempt: &Attempt) -> Option<Deadline> {
        if attempt.clock == AttemptClock::Runs {
            return None;
        }
        let ms = match self.function().spec.stream_max_ms {
            0 => u32::MAX,
            ms => ms,
        };
        let limit = TimeLimit::StreamMax(ms);
        Some(Deadline::after(attempt.grant.granted_at, limit))
    }
}
