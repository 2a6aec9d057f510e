//! The time of a call that passes bytes through (`/fn/`). Its deadline holds from the head of the request to
//! the head of the answer, and does not count the time for which a granted call waits for its client's body.
//! From the head of the answer on, only `streamMaxMs` limits the attempt. How long a stream may stand still is
//! measured by the driver, which sees the bytes.

use super::attempt::Attempt;
use super::{Call, Deadline, Environment, State};
use crate::outcome::TimeLimit;
use crate::time::Uptime;

/// What limits the time of a running attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptClock {
    /// The call's deadline.
    Runs,
    /// `streamMaxMs` alone, because the client's body has been awaited since this time. When the wait ends, the
    /// call's deadline moves by its length.
    Stands(Uptime),
    /// `streamMaxMs` alone, because the head of the answer has come.
    Streams,
}

impl<E: Environment> Call<E> {
    /// The running attempt waits for its client's body.
    pub fn body_awaited(&mut self, now: Uptime) {
        if let State::Running(attempt) = &mut self.state
            && attempt.clock == AttemptClock::Runs
        {
            attempt.clock = AttemptClock::Stands(now);
        }
    }

    /// Bytes of the client's body came, or the attempt waits for something else.
    pub fn body_came(&mut self, now: Uptime) {
        if let State::Running(attempt) = &mut self.state
            && let AttemptClock::Stands(since) = attempt.clock
        {
            attempt.clock = AttemptClock::Runs;
            self.deadline.at = self.deadline.at.saturating_add(now.since(since));
        }
    }

    /// The head of the answer came.
    pub fn head_came(&mut self, now: Uptime) {
        self.body_came(now);
        if let State::Running(attempt) = &mut self.state {
            attempt.clock = AttemptClock::Streams;
        }
    }

    /// The deadline of an attempt whose call's own deadline does not count now.
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
