//! A `Deadline` is the time by which a call or an attempt has to end, with the limit that sets this time.

use crate::outcome::TimeLimit;
use crate::time::{Nanos, Uptime};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    pub at: Uptime,
    pub limit: TimeLimit,
}

impl Deadline {
    /// Makes the deadline that `limit` sets if its time runs from `from`.
    pub const fn after(from: Uptime, limit: TimeLimit) -> Self {
        Self {
            at: from.saturating_add(Nanos::from_ms(limit.ms())),
            limit,
        }
    }

    pub(super) fn or_sooner(self, other: Self) -> Self {
        if other.at < self.at { other } else { self }
    }
}
