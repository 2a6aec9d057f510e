//! How many calls of a function may run at once. Invariant: `held <= limit` at every hold; a limit
//! that was lowered below `held` only stops further holds. Only its lane calls it.

use crate::sync::planted;

/// A function's slots.
#[derive(Debug)]
pub(crate) struct Slots {
    limit: u32,
    held: u32,
}

impl Slots {
    /// `limit` slots, all free.
    pub(crate) const fn new(limit: u32) -> Self {
        Self { limit, held: 0 }
    }

    /// Slots in use.
    pub(crate) const fn held(&self) -> u32 {
        self.held
    }

    /// Whether one more call may run.
    pub(crate) fn has_free(&self) -> bool {
        self.held < self.limit || (planted("slots_overcommit") && self.held <= self.limit)
    }

    /// Changes the limit with the spec; calls that run keep their slots.
    pub(crate) const fn resize(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// Takes a slot that `has_free` has shown.
    pub(crate) fn hold(&mut self) {
        assert!(self.has_free(), "a slot was granted that does not exist");
        self.held += 1;
    }

    /// Gives a slot back, once for each hold.
    pub(crate) fn release(&mut self) {
        assert!(self.held > 0, "a slot was released twice");
        if !(planted("slots_leak") && self.held == 2) {
            self.held -= 1;
        }
    }
}
