//! How threads reach each other: for each thread its rings and the bell that wakes it. It never
//! waits for room; who finds a ring full gets the message back.

use std::sync::Arc;

use crate::bitmap::Bitmap;
use crate::doorbell::Doorbell;
use crate::event::Event;
use crate::limits::{EVENTS_FROM_BRIDGE, EVENTS_PER_IO_THREAD, FUNCTIONS_MAX};
use crate::limits::{GRANTS_DEPTH, MESSAGES_DEPTH, ORDERS_DEPTH};
use crate::message::{BridgeMessage, Message};
use crate::ring::{Consumer, Producer, channel};
use crate::ticket::{Grant, Ticket};

/// To an io thread.
#[derive(Clone)]
pub struct IoPost {
    grants: Producer<Grant>,
    messages: Producer<Message>,
    bell: Arc<Doorbell>,
}

/// An io thread's end.
pub struct IoInbox {
    pub grants: Consumer<Grant>,
    pub messages: Consumer<Message>,
    pub bell: Arc<Doorbell>,
}

impl IoPost {
    /// A post and its inbox; `granted` where grants come from another thread.
    pub fn pair(bell: Arc<Doorbell>, granted: bool) -> (Self, IoInbox) {
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

    /// A grant has a reserved place: a full ring is a broken invariant.
    pub fn grant(&self, grant: Grant) {
        assert!(self.grants.push(grant).is_ok(), "more grants than calls");
        self.bell.ring();
    }

    /// Says something; a full ring gives it back.
    pub fn send(&self, message: Message) -> Result<(), Message> {
        self.messages.push(message)?;
        self.bell.ring();
        Ok(())
    }

    /// For a ring of the caller's own that the same thread empties.
    pub const fn bell(&self) -> &Arc<Doorbell> {
        &self.bell
    }
}

/// To the scheduler on a thread of its own.
#[derive(Clone)]
pub struct PinnedPost {
    events: Producer<Event>,
    lanes: Arc<Bitmap>,
    bell: Arc<Doorbell>,
}

/// The pinned scheduler's end.
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

    /// Dones have reserved places, and the bridge's events too: a full ring is a broken invariant.
    pub fn event(&self, event: Event) {
        assert!(
            self.events.push(event).is_ok(),
            "more events than calls and pods"
        );
        self.bell.ring();
    }

    /// For who wants to know whether the scheduler lives: it beats when it is rung for.
    pub const fn bell(&self) -> &Arc<Doorbell> {
        &self.bell
    }

    /// Says that a lane's mailbox has a ticket.
    pub fn posted(&self, ticket: &Ticket) {
        self.lanes.set(ticket.lane.index as usize);
        self.bell.ring();
    }
}

/// To the scheduler, wherever it lives.
#[derive(Clone)]
pub enum SchedulerPost {
    /// On the only io thread, through its messages.
    Inline(IoPost),
    Pinned(PinnedPost),
}

impl SchedulerPost {
    /// Says something from the bridge; inline, a full inbox gives it back.
    pub fn send(&self, event: Event) -> Result<(), Event> {
        match self {
            Self::Pinned(post) => {
                post.event(event);
                Ok(())
            }
            Self::Inline(post) => post.send(Message::Event(event)).map_err(|back| match back {
                Message::Event(event) => event,
                _ => unreachable!("it was an event"),
            }),
        }
    }
}

/// To the bridge.
#[derive(Clone)]
pub struct BridgePost {
    messages: Producer<BridgeMessage>,
    bell: Arc<Doorbell>,
}

/// The bridge's end.
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

    /// Says something; a full ring gives it back.
    pub fn send(&self, message: BridgeMessage) -> Result<(), BridgeMessage> {
        self.messages.push(message)?;
        self.bell.ring();
        Ok(())
    }
}
