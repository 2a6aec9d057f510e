//! A lane's waiting tickets of one class, in order of arrival. Its memory is that of the longest queue so
//! far. Tickets of calls that no longer wait stay in the queue until a sweep removes them. A sweep runs
//! before the queue is longer than both the most live calls and twice its length after the last sweep. Only
//! the lane uses it.

use std::collections::VecDeque;

use crate::entries::Entries;
use crate::sync::planted;
use crate::ticket::Ticket;

/// First in, first out.
#[derive(Debug, Default)]
pub(crate) struct Fifo {
    tickets: VecDeque<Ticket>,
    /// The shortest length at which the next sweep runs: twice the length after the last sweep. So a sweep
    /// checks at most twice as many tickets as were pushed since the last sweep.
    sweep_at: usize,
}

impl Fifo {
    pub(crate) fn len(&self) -> usize {
        self.tickets.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// Appends a ticket. At most `live_max` calls of this queue wait at once.
    pub(crate) fn push(&mut self, ticket: Ticket, live_max: usize, entries: &Entries) {
        if self.tickets.len() >= live_max.max(self.sweep_at) {
            self.tickets
                .retain(|ticket| entries.is_queued(ticket.call()));
            // Without this length, each push into a queue full of live calls would check all its tickets.
            self.sweep_at = 2 * self.tickets.len();
        }
        if planted("fifo_lifo") {
            self.tickets.push_front(ticket);
            return;
        }
        self.tickets.push_back(ticket);
    }

    /// Takes out the ticket that has waited longest. Its call may no longer wait.
    pub(crate) fn pop(&mut self) -> Option<Ticket> {
        if planted("fifo_drop") && self.tickets.len() == 3 {
            self.tickets.pop_front();
        }
        self.tickets.pop_front()
    }

    /// Frees memory after the function was removed and its calls were ended by their owners. A ticket whose
    /// call still waits is kept: it belongs to the next registration and arrived before the removal.
    pub(crate) fn clear(&mut self, entries: &Entries) {
        self.tickets
            .retain(|ticket| entries.is_queued(ticket.call()));
        self.tickets.shrink_to_fit();
    }
}
