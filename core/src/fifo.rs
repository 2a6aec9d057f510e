//! A lane's waiting tickets of one class, in order of arrival. It takes memory as its queue grows
//! to a length it never had, and tickets of calls that moved on are dropped before it would pass
//! what the spec allows or twice its live calls. Only its lane calls it.

use std::collections::VecDeque;

use crate::entries::Entries;
use crate::sync::planted;
use crate::ticket::Ticket;

/// First in, first out.
#[derive(Debug, Default)]
pub(crate) struct Fifo {
    tickets: VecDeque<Ticket>,
    /// Not before this length: each sweep drops at least half of what it looks at, or nearly.
    sweep_at: usize,
}

impl Fifo {
    pub(crate) fn len(&self) -> usize {
        self.tickets.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// Appends a ticket. At most `live_max` of its calls wait at once.
    pub(crate) fn push(&mut self, ticket: Ticket, live_max: usize, entries: &Entries) {
        if self.tickets.len() >= live_max.max(self.sweep_at) {
            self.tickets
                .retain(|ticket| entries.is_queued(ticket.call()));
            // Else each push into a queue full of live calls would look at all of them.
            self.sweep_at = 2 * self.tickets.len();
        }
        if planted("fifo_lifo") {
            self.tickets.push_front(ticket);
            return;
        }
        self.tickets.push_back(ticket);
    }

    /// The longest-waiting ticket; its call may have moved on.
    pub(crate) fn pop(&mut self) -> Option<Ticket> {
        if planted("fifo_drop") && self.tickets.len() == 3 {
            self.tickets.pop_front();
        }
        self.tickets.pop_front()
    }

    /// Gives its memory back: the function is gone and its calls were ended by their owners. What
    /// waits all the same is a call of its successor, whose ticket was faster than the removal.
    pub(crate) fn clear(&mut self, entries: &Entries) {
        self.tickets
            .retain(|ticket| entries.is_queued(ticket.call()));
        self.tickets.shrink_to_fit();
    }
}
