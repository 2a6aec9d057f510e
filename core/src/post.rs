//! Connects the threads that send to each other: each receiving thread has rings, and a bell that wakes it. A
//! sender never waits for room, because a full ring returns the message.

use std::sync::Arc;

use crate::bitmap::Bitmap;
use crate::doorbell::Doorbell;
use crate::event::Event;
use crate::limits::{EVENTS_FROM_BRIDGE, EVENTS_PER_IO_THREAD, FUNCTIONS_MAX};
use crate::limits::{GRANTS_DEPTH, MESSAGES_DEPTH, ORDERS_DEPTH};
use crate::message::{BridgeMessage, Message};
use crate::ring::{Consumer, Producer, channel};
use crate::ticket::{Grant, Ticket};

/// The sending end of an io thread's rings.
#[derive(Clone)]
pub struct IoPost {
    grants: Producer<Grant>,
    messages: Producer<Message>,
    bell: Arc<Doorbell>,
}

/// The receiving end of an io thread's rings.
pub struct IoInbox {
    pub grants: Consumer<Grant>,
    pub messages: Consumer<Message>,
    pub bell: Arc<Doorbell>,
}

impl IoPost {
    /// Makes the two ends of an io thread's rings. `granted` is whether another thread sends grants, which is
    /// so if the scheduler is pinned.
    pub fn pair(bell: Arc<Doorbell>, granted: bool) -> (Self, IoInbox) {
        // With an inline scheduler no grant passes through this ring, so it has the smallest capacity.
        let (grants, grants_in) = channel(if granted { GRANTS_DEPTH } else { 2 });
        let (messages, messages_in) = channel(MESSAGES_DEPTH);
        let inbox = IoInbox {
            grants: grants_in,
            messages: messages_in,
            bell: bell.clone(),
        };
        (
            Self {
                grants,
                messages,
                bell,
            },
            inbox,
        )
    }

    /// Sends a grant. The ring has room for a grant of each call of the io thread, so a full ring is a broken
    /// invariant.
    pub fn grant(&self, grant: Grant) {
        assert!(self.grants.push(grant).is_ok(), "more grants than calls");
        self.bell.ring();
    }

    /// Sends a message; returns it if the ring is full.
    pub fn send(&self, message: Message) -> Result<(), Message> {
        self.messages.push(message)?;
        self.bell.ring();
        Ok(())
    }

    pub const fn bell(&self) -> &Arc<Doorbell> {
        &self.bell
    }
}

/// The sending end of the pinned scheduler's event ring and bitmap.
#[derive(Clone)]
pub struct PinnedPost {
    events: Producer<Event>,
    lanes: Arc<Bitmap>,
    bell: Arc<Doorbell>,
}

/// The receiving end of the pinned scheduler's event ring and bitmap.
pub struct PinnedInbox {
    pub events: Consumer<Event>,
    pub lanes: Arc<Bitmap>,
    pub bell: Arc<Doorbell>,
}

impl PinnedPost {
    pub fn pair(bell: Arc<Doorbell>, io_threads: usize) -> (Self, PinnedInbox) {
        let room = io_threads * EVENTS_PER_IO_THREAD + EVENTS_FROM_BRIDGE;
        let (events, events_in) = channel(room.next_power_of_two());
        let lanes = Arc::new(Bitmap::with_capacity(FUNCTIONS_MAX));
        let inbox = PinnedInbox {
            events: events_in,
            lanes: lanes.clone(),
            bell: bell.clone(),
        };
        (
            Self {
                events,
                lanes,
                bell,
            },
            inbox,
        )
    }

    /// Sends an event; returns it if the ring is full.
    pub fn event(&self, event: Event) -> Result<(), Event> {
        self.events.push(event)?;
        self.bell.ring();
        Ok(())
    }

    /// Returns the scheduler's bell, which a health check rings so that the scheduler beats.
    pub const fn bell(&self) -> &Arc<Doorbell> {
        &self.bell
    }

    /// Marks the lane whose ring has the ticket, and wakes the scheduler.
    pub fn posted(&self, ticket: &Ticket) {
        self.lanes.set(ticket.lane.index as usize);
        self.bell.ring();
    }
}

/// The end by which the bridge sends to the scheduler, inline or pinned.
#[derive(Clone)]
pub enum SchedulerPost {
    /// The scheduler runs on the only io thread, which receives the events as messages.
    Inline(IoPost),
    Pinned(PinnedPost),
}

impl SchedulerPost {
    /// Sends an event of the bridge; returns it if the ring is full.
    pub fn send(&self, event: Event) -> Result<(), Event> {
        match self {
            Self::Pinned(post) => post.event(event),
            Self::Inline(post) => post.send(Message::Event(event)).map_err(|back| match back {
                Message::Event(event) => event,
                _ => unreachable!("it was an event"),
            }),
        }
    }
}

/// The sending end of the bridge's ring.
#[derive(Clone)]
pub struct BridgePost {
    messages: Producer<BridgeMessage>,
    bell: Arc<Doorbell>,
}

/// The receiving end of the bridge's ring.
pub struct BridgeInbox {
    pub messages: Consumer<BridgeMessage>,
    pub bell: Arc<Doorbell>,
}

impl BridgePost {
    pub fn pair(bell: Arc<Doorbell>) -> (Self, BridgeInbox) {
        let (messages, messages_in) = channel(ORDERS_DEPTH);
        (
            Self {
                messages,
                bell: bell.clone(),
            },
            BridgeInbox {
                messages: messages_in,
                bell,
            },
        )
    }

    /// Sends a message; returns it if the ring is full.
    pub fn send(&self, message: BridgeMessage) -> Result<(), BridgeMessage> {
        self.messages.push(message)?;
        self.bell.ring();
        Ok(())
    }
}
