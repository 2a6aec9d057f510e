//! A `Fifo` is the queue of the tickets of one class of a lane, in the order of arrival. Only the lane uses
//! this queue.
//!
//! A ticket whose call no longer waits stays in the queue until the ticket is popped or a clean-up removes
//! it. A clean-up removes all tickets whose calls no longer wait. A push does a clean-up first if the queue
//! has at least `usual_len` tickets, and at least twice as many as after the last clean-up. The queue keeps
//! the memory of its greatest length until `clear` frees it.

use std::collections::VecDeque;

use crate::entries::Entries;
use crate::sync::planted;
use crate::ticket::Ticket;

/// A first-in, first-out queue of tickets.
#[derive(Debug, Default)]
pub(crate) struct Fifo {
    tickets: VecDeque<Ticket>,
    /// The shortest length at which the next clean-up runs: twice the length after the last clean-up. A
    /// clean-up therefore checks at most twice as many tickets as were pushed after the last one.
    sweep_at: usize,
}

impl Fifo {
    pub(crate) fn len(&self) -> usize {
        self.tickets.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// Appends a ticket. Before that, cleans up a queue that has at least `usual_len` and `sweep_at` tickets.
    pub(crate) fn push(&mut self, ticket: Ticket, usual_len: usize, entries: &Entries) {
        if self.tickets.len() >= usual_len.max(self.sweep_at) {
            self.tickets
                .retain(|ticket| entries.is_queued(ticket.call()));
            // If `sweep_at` did not grow, each push into a queue that is full of live calls would check all
            // of its tickets.
            self.sweep_at = 2 * self.tickets.len();
        }
        if planted("fifo_lifo") {
            self.tickets.push_front(ticket);
            return;
        }
        self.tickets.push_back(ticket);
    }

    /// Takes out the ticket that has waited longest. The ticket's call may no longer wait.
    pub(crate) fn pop(&mut self) -> Option<Ticket> {
        if planted("fifo_drop") && self.tickets.len() == 3 {
            self.tickets.pop_front();
        }
        self.tickets.pop_front()
    }

    /// Drops the tickets of calls that no longer wait, and frees memory. This is called after the function
    /// was removed. A ticket whose call still waits stays; the call's owner is about to end the call.
    pub(crate) fn clear(&mut self, entries: &Entries) {
        self.tickets
            .retain(|ticket| entries.is_queued(ticket.call()));
        self.tickets.shrink_to_fit();
    }
}
