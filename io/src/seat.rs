//! How this thread reaches the scheduler: by calling it (inline), or through rings (pinned).
//! It decides nothing; grants, orders and notices of a turn are delivered here.

use std::cell::RefCell;

use nanofaas_core::entries::Entries;
use nanofaas_core::event::{Event, Notice, Order, Outbox};
use nanofaas_core::message::BridgeMessage;
use nanofaas_core::post::PinnedPost;
use nanofaas_core::scheduler::{Scheduler, Turn};
use nanofaas_core::ticket::{Done, Grant, PodVerdict, Ticket};
use nanofaas_core::view::LaneView;

use crate::calls::{Delivered, End};
use crate::thread::Thread;

/// The scheduler on this very thread.
pub(crate) struct Inline {
    scheduler: Scheduler,
    out: Outbox,
    /// Orders that found the bridge's ring full; they go first, in order.
    held_back: Vec<Order>,
}

/// Where the scheduler is.
pub(crate) enum Seat {
    Inline(Box<RefCell<Inline>>),
    Pinned(PinnedPost),
}

/// Where it will be: a scheduler is made on the thread that it lives on.
pub(crate) enum SeatPlan {
    Inline,
    Pinned(PinnedPost),
}

impl SeatPlan {
    pub(crate) fn take(self, entries: &std::sync::Arc<Entries>) -> Seat {
        match self {
            Self::Inline => Seat::inline(entries.clone()),
            Self::Pinned(post) => Seat::Pinned(post),
        }
    }
}

impl Seat {
    fn inline(entries: std::sync::Arc<Entries>) -> Self {
        let scheduler = Scheduler::new(entries);
        let out = Outbox::with_room();
        Self::Inline(Box::new(RefCell::new(Inline {
            scheduler,
            out,
            held_back: Vec::new(),
        })))
    }
}

impl Thread {
    /// Hands a call's ticket over; false where the lane's mailbox is full.
    pub(crate) fn submit(&self, ticket: Ticket, view: &LaneView) -> bool {
        match &self.seat {
            Seat::Inline(inline) => {
                let now_ns = ticket.queued_ns;
                let Inline { scheduler, out, .. } = &mut *inline.borrow_mut();
                scheduler.ticket(ticket, now_ns, out);
            }
            Seat::Pinned(post) => {
                if view.post(ticket).is_err() {
                    return false;
                }
                post.posted(&ticket);
                return true;
            }
        }
        self.turn(ticket.queued_ns);
        true
    }

    /// Tells the scheduler something: the end of an attempt, a retry, or what the bridge said.
    pub(crate) fn schedule(&self, event: Event, now_ns: u64) {
        match &self.seat {
            Seat::Inline(inline) => {
                let Inline { scheduler, out, .. } = &mut *inline.borrow_mut();
                scheduler.event(event, now_ns, out);
            }
            Seat::Pinned(post) => return post.event(event),
        }
        self.turn(now_ns);
    }

    /// A slot is free again.
    pub(crate) fn done(&self, grant: &Grant, verdict: PodVerdict, function_ns: Option<u64>) {
        let done = Done {
            lane: grant.lane,
            pod: grant.pod,
            verdict,
            function_ns,
        };
        self.schedule(Event::Done(done), self.now_ns());
    }

    /// What is due by the clock, and work that an earlier turn left. Inline only.
    pub(crate) fn tick(&self, now_ns: u64) {
        let Seat::Inline(inline) = &self.seat else {
            return;
        };
        {
            let Inline { scheduler, out, .. } = &mut *inline.borrow_mut();
            scheduler.tick(now_ns, out);
        }
        self.turn(now_ns);
    }

    /// When `tick` has something to do.
    fn next_tick_ns(&self) -> Option<u64> {
        match &self.seat {
            Seat::Inline(inline) => {
                let inline = inline.borrow();
                let soon = (!inline.held_back.is_empty()).then(|| self.now_ns() + 1_000_000);
                inline.scheduler.next_due_ns().into_iter().chain(soon).min()
            }
            Seat::Pinned(_) => None,
        }
    }

    /// One turn, and its outcome delivered. What it leaves comes back through the bell, so that
    /// the loop looks at I/O in between.
    fn turn(&self, now_ns: u64) {
        let Seat::Inline(inline) = &self.seat else {
            return;
        };
        // Giving back the slots of calls that are gone may make more grants: a bounded number of
        // times, since each has lost its call.
        loop {
            let (turn, mut out) = {
                let mut inline = inline.borrow_mut();
                let Inline { scheduler, out, .. } = &mut *inline;
                let turn = scheduler.turn(now_ns, out);
                (turn, std::mem::take(out))
            };
            let unwanted = self.deliver(inline, &mut out);
            {
                let mut inline = inline.borrow_mut();
                // Deliveries may have put something into the empty box meanwhile.
                out.grants.append(&mut inline.out.grants);
                out.orders.append(&mut inline.out.orders);
                out.notices.append(&mut inline.out.notices);
                inline.out = out;
            }
            if !unwanted {
                self.turn_left.set(turn == Turn::Busy);
                self.plan_tick();
                if turn == Turn::Busy {
                    self.peers[usize::from(self.index)].ring();
                }
                return;
            }
        }
    }

    /// The ticker wakes for what the scheduler has to do by the clock.
    fn plan_tick(&self) {
        let next_ns = self.next_tick_ns().unwrap_or(u64::MAX);
        if self.tick_planned_ns.replace(next_ns) != next_ns && next_ns != u64::MAX {
            self.tick_alarm.set(next_ns);
        }
    }

    fn deliver(&self, inline: &RefCell<Inline>, out: &mut Outbox) -> bool {
        let mut unwanted = false;
        for grant in out.grants.drain(..) {
            if self.calls.grant(grant, &self.entries) == Delivered::Unwanted {
                unwanted = true;
                let done = Done {
                    lane: grant.lane,
                    pod: grant.pod,
                    verdict: PodVerdict::Healthy,
                    function_ns: None,
                };
                let Inline { scheduler, out, .. } = &mut *inline.borrow_mut();
                scheduler.event(Event::Done(done), grant.granted_ns, out);
            }
        }
        let held_back = std::mem::take(&mut inline.borrow_mut().held_back);
        let mut full = Vec::new();
        for order in held_back.into_iter().chain(out.orders.drain(..)) {
            if !full.is_empty() || self.bridge.send(BridgeMessage::Order(order)).is_err() {
                full.push(order);
            }
        }
        if !full.is_empty() {
            inline.borrow_mut().held_back = full;
        }
        for notice in out.notices.drain(..) {
            self.heed(&notice);
        }
        unwanted
    }

    /// What the scheduler tells every io thread.
    pub(crate) fn heed(&self, notice: &Notice) {
        match notice {
            Notice::StartsFail { lane, why } => {
                let end = End::StartsFail(why.clone());
                let waits = |call| self.entries.is_queued(call);
                self.calls.end_all(Some(*lane), &end, waits);
            }
        }
    }

    /// A grant from the pinned scheduler.
    pub(crate) fn take_grant(&self, grant: Grant) {
        if self.calls.grant(grant, &self.entries) == Delivered::Unwanted {
            self.done(&grant, PodVerdict::Healthy, None);
        }
    }
}
