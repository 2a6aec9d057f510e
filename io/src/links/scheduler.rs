//! How an io thread reaches the scheduler: by a function call (inline), or through rings (pinned). This
//! module delivers the grants, orders and notices of an inline turn, and decides nothing.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::VecDeque;

use nanofaas_core::call::End;
use nanofaas_core::entries::Entries;
use nanofaas_core::event::{Event, Notice, Order, Outbox};
use nanofaas_core::message::BridgeMessage;
use nanofaas_core::post::PinnedPost;
use nanofaas_core::queue_stats::QueueStats;
use nanofaas_core::scheduler::{Scheduler, Turn};
use nanofaas_core::ticket::{Grant, Ticket};
use nanofaas_core::time::{Nanos, Uptime};

use crate::links::{Links, OWED};
use crate::runtime::due::Due;
use crate::state::call_machine::CallMachine;
use crate::state::call_table::Delivered;

/// The inline scheduler, which runs on this thread.
pub(crate) struct InlineScheduler {
    scheduler: Scheduler,
    out: Outbox,
    /// The orders for which the bridge's ring had no room. They are sent before newer orders.
    held_back: Vec<Order>,
}

/// The scheduler, as this thread reaches it.
pub(crate) enum SchedulerHandle {
    Inline(Box<RefCell<InlineScheduler>>),
    Pinned(PinnedLink),
}

/// The link to a pinned scheduler.
pub(crate) struct PinnedLink {
    post: PinnedPost,
    /// The events for which the scheduler's ring had no room, the oldest first. Each granted slot leads to at
    /// most two such events: the end of an attempt, and the ticket of the next attempt.
    owed: RefCell<VecDeque<Event>>,
}

impl PinnedLink {
    /// Sends an event; returns false if the event is kept in `owed` to be sent later. While earlier events
    /// are owed, this event is kept, too, so that the scheduler gets the events in order.
    fn send(&self, event: Event) -> bool {
        let mut owed = self.owed.borrow_mut();
        let unsent = if owed.is_empty() {
            self.post.event(event).err()
        } else {
            Some(event)
        };
        owed.extend(unsent);
        owed.is_empty()
    }

    /// Sends owed events while there is room; returns false if some are still owed.
    fn pay(&self) -> bool {
        let mut owed = self.owed.borrow_mut();
        while let Some(event) = owed.pop_front() {
            if let Err(back) = self.post.event(event) {
                owed.push_front(back);
                break;
            }
        }
        owed.is_empty()
    }
}

/// Where the scheduler runs. An inline scheduler is created on the io thread itself.
#[derive(Clone)]
pub enum SchedulerSetup {
    /// On the only io thread.
    Inline,
    Pinned(PinnedPost),
}

impl SchedulerSetup {
    pub(crate) fn take(self, entries: &std::sync::Arc<Entries>) -> SchedulerHandle {
        match self {
            Self::Inline => SchedulerHandle::inline(entries.clone()),
            Self::Pinned(post) => SchedulerHandle::Pinned(PinnedLink {
                post,
                owed: RefCell::default(),
            }),
        }
    }
}

impl SchedulerHandle {
    fn inline(entries: std::sync::Arc<Entries>) -> Self {
        let scheduler = Scheduler::new(entries);
        let out = Outbox::with_room();
        Self::Inline(Box::new(RefCell::new(InlineScheduler {
            scheduler,
            out,
            held_back: Vec::new(),
        })))
    }
}

impl Links {
    /// Passes a call's ticket to the scheduler; returns false if the scheduler is pinned and the lane's ring
    /// is full.
    pub(crate) fn submit(&self, ticket: Ticket, stats: &QueueStats) -> bool {
        match &self.scheduler {
            SchedulerHandle::Inline(inline) => {
                let inline = &mut *inline.borrow_mut();
                let now = ticket.queued_at;
                inline.scheduler.ticket(ticket, now, &mut inline.out);
                self.turn(inline, now);
                true
            }
            SchedulerHandle::Pinned(link) => {
                if stats.post(ticket).is_err() {
                    return false;
                }
                link.post.posted(&ticket);
                true
            }
        }
    }

    /// Passes an event to the scheduler: the end of an attempt, a retry, or an event from the bridge.
    pub(crate) fn schedule(&self, event: Event, now: Uptime) {
        match &self.scheduler {
            SchedulerHandle::Inline(inline) => {
                let inline = &mut *inline.borrow_mut();
                inline.scheduler.event(event, now, &mut inline.out);
                self.turn(inline, now);
            }
            SchedulerHandle::Pinned(link) => {
                if !link.send(event) {
                    self.owed_alarm.set(now + OWED);
                }
            }
        }
    }

    /// Sends the events that are owed to a pinned scheduler; returns false if some are still owed. The ticker
    /// calls this function, and `owed_alarm` wakes the ticker.
    pub(crate) fn pay_events(&self) -> bool {
        let SchedulerHandle::Pinned(link) = &self.scheduler else {
            return true;
        };
        let paid = link.pay();
        if !paid {
            self.owed_alarm.set(self.recent() + OWED);
        }
        paid
    }

    /// Runs a turn for events that are due by the clock, and for work that an earlier turn left. Does nothing
    /// if the scheduler is pinned.
    pub(crate) fn tick(&self, now: Uptime) {
        if let SchedulerHandle::Inline(inline) = &self.scheduler {
            let inline = &mut *inline.borrow_mut();
            inline.scheduler.tick(now, &mut inline.out);
            self.turn(inline, now);
        }
    }

    /// Runs one turn and delivers its outcome. A delivery wakes tasks and fills rings but runs no task, so
    /// the scheduler can stay borrowed. If work is left after the turn, the thread rings its own bell, so
    /// that the loop polls its I/O before the next turn.
    fn turn(&self, inline: &mut InlineScheduler, now: Uptime) {
        // If the call of a grant is gone, the slot is given back, and another turn may grant the slot again.
        // The number of turns is bounded, because each further turn uses up at least one call that is gone.
        let mut turn = inline.scheduler.turn(now, &mut inline.out);
        while self.deliver_grants(inline) {
            turn = inline.scheduler.turn(now, &mut inline.out);
        }
        self.deliver_orders(inline);
        for notice in inline.out.notices.drain(..) {
            self.apply_notice(&notice);
        }
        self.turn_left.set(turn == Turn::Busy);
        self.plan_tick(inline, now);
        if turn == Turn::Busy {
            self.shard(self.id).ring();
        }
    }

    /// Sets the ticker's alarm to the scheduler's next deadline, but to at most 1 ms from now if orders are
    /// held back.
    fn plan_tick(&self, inline: &InlineScheduler, now: Uptime) {
        let soon = (!inline.held_back.is_empty()).then_some(now + Nanos::from_ms(1));
        let next_at = inline.scheduler.next_due().into_iter().chain(soon).min();
        let next = Due::from(next_at);
        if self.tick_planned.replace(next) != next
            && let Some(next_at) = next.time()
        {
            self.tick_alarm.set(next_at);
        }
    }

    /// Delivers the grants; returns whether the call of one of them was gone.
    fn deliver_grants(&self, inline: &mut InlineScheduler) -> bool {
        let mut unwanted = false;
        let mut grants = std::mem::take(&mut inline.out.grants);
        for grant in grants.drain(..) {
            if self.calls.grant(grant, &self.entries) == Delivered::Unwanted {
                unwanted = true;
                let event = Event::Done(CallMachine::give_back(&grant));
                inline
                    .scheduler
                    .event(event, grant.granted_at, &mut inline.out);
            }
        }
        assert!(inline.out.grants.is_empty(), "only a turn makes grants");
        // The empty vector is put back, so that its capacity is used again.
        inline.out.grants = grants;
        unwanted
    }

    fn deliver_orders(&self, inline: &mut InlineScheduler) {
        if inline.out.orders.is_empty() && inline.held_back.is_empty() {
            return;
        }
        let held_back = std::mem::take(&mut inline.held_back);
        for order in held_back.into_iter().chain(inline.out.orders.drain(..)) {
            // If one order is held back, all later orders are held back, too, so that the bridge gets the
            // orders in the order in which they were made.
            let behind = !inline.held_back.is_empty();
            if behind || self.bridge.send(BridgeMessage::Order(order)).is_err() {
                inline.held_back.push(order);
            }
        }
    }

    /// Applies a notice, which the scheduler sends to every io thread.
    pub(crate) fn apply_notice(&self, notice: &Notice) {
        match notice {
            Notice::StartsFail { lane, why } => {
                let end = End::StartsFail(why.clone());
                self.calls.end_all(Some(*lane), &end);
            }
        }
    }

    /// Delivers a grant of the pinned scheduler.
    pub(crate) fn take_grant(&self, grant: Grant) {
        if self.calls.grant(grant, &self.entries) == Delivered::Unwanted {
            self.schedule(Event::Done(CallMachine::give_back(&grant)), self.recent());
        }
    }
}
