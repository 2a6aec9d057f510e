//! Computes the time limits of a call at `/fn/`, where the control plane passes bytes through. The call's
//! deadline holds from the head of the request to the head of the answer, but the time in which an attempt
//! waits for the client's body does not count. From the head of the answer on, only `streamMaxMs` limits the
//! attempt. The driver measures how long a stream stands still, because only the driver sees the bytes.

use super::attempt::Attempt;
use super::{Call, Deadline, Environment, State};
use crate::outcome::TimeLimit;
use crate::time::{Nanos, Uptime};

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
    /// Notes that the call passes bytes through, so `streamMaxMs` limits its attempts.
    pub const fn begin_stream(&mut self) {
        self.is_stream = true;
    }

    /// Whether the running attempt streamed for longer than a call may take to its head. Such a time says
    /// nothing about the calls that wait.
    pub(super) fn is_long_stream(&self, attempt: &Attempt, now: Uptime) -> bool {
        let limit = Nanos::from_ms(u64::from(self.function().spec.timeout_ms));
        self.is_stream && now.since(attempt.grant.granted_at) > limit
    }

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

    /// Returns the deadline that `streamMaxMs` sets; none for a call that
    /// passes no bytes through.
    pub(super) fn stream_deadline(&self, attempt: &Attempt) -> Option<Deadline> {
        if !self.is_stream {
            return None;
        }
        let ms = match self.function().spec.stream_max_ms {
            0 => u32::MAX,
            ms => ms,
        };
        let longest = Deadline::after(attempt.grant.granted_at, TimeLimit::StreamMax(ms));
        Some(match attempt.clock {
            AttemptClock::Runs => self.deadline.or_sooner(longest),
            AttemptClock::Stands(_) | AttemptClock::Streams => longest,
        })
    }
}
