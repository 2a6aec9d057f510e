//! By when a call has to end, and why then.

use crate::outcome::TimeLimit;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// Nanoseconds of the process's clock.
    pub at_ns: u64,
    pub limit: TimeLimit,
}

impl Deadline {
    /// So long after `from_ns`.
    pub const fn after(from_ns: u64, limit: TimeLimit) -> Self {
        Self {
            at_ns: from_ns.saturating_add(limit.ms().saturating_mul(1_000_000)),
            limit,
        }
    }

    /// The earlier of two.
    pub(super) const fn or_sooner(self, other: Self) -> Self {
        if other.at_ns < self.at_ns {
            other
        } else {
            self
        }
    }
}
