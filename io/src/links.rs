//! Connects an io thread with the scheduler, the bridge, and the other io threads. All these links are
//! messages, except that an inline scheduler is called directly.

pub(crate) mod scheduler;
pub(crate) mod bridge;
pub(crate) mod shards;
pub(crate) mod questions;
pub(crate) mod pending_requests;
pub(crate) mod descriptors;

use std::cell::{Cell, OnceCell, RefCell};
use std::ops::Deref;
use std::rc::Rc;

use nanofaas_core::message::Reply;
use nanofaas_core::post::{BridgePost, IoInbox};
use nanofaas_core::shard::ShardId;
use nanofaas_core::time::Nanos;

use self::pending_requests::PendingRequests;
use self::scheduler::{SchedulerHandle, SchedulerSetup};
use self::shards::{ShardAnswer, ShardInbox, ShardLink, ShardPost};
use crate::runtime::due::Due;
use crate::runtime::timers::Alarm;
use crate::state::Tables;

/// How long a thread waits before it tries again to send the messages that it owes.
const OWED: Nanos = Nanos::from_ms(1);

/// The receiving ends of an io thread's queues.
pub(crate) struct Inbox {
    pub(crate) rings: IoInbox,
    pub(crate) shards: ShardInbox,
}

impl Inbox {
    pub(crate) fn has_mail(&self) -> bool {
        let rings = &self.rings;
        rings.messages.is_published() || rings.grants.is_published() || self.shards.has_mail()
    }
}

/// The sending ends of the queues to other threads.
#[derive(Clone)]
pub(crate) struct Posts {
    pub(crate) scheduler: SchedulerSetup,
    pub(crate) bridge: BridgePost,
    /// The queues to the io threads, one for each, this thread included.
    pub(crate) shards: Box<[ShardPost]>,
}

/// One io thread, as the code that serves requests sees it: its tables, and its links to other threads.
pub(crate) struct Links {
    tables: Tables,
    pub(crate) scheduler: SchedulerHandle,
    /// The alarm that wakes the ticker for the inline scheduler's own deadlines.
    tick_alarm: Alarm,
    tick_planned: Cell<Due>,
    /// Whether a turn of the inline scheduler left work, which `shard::inbox` continues in the next turn.
    pub(crate) turn_left: Cell<bool>,
    pub(crate) bridge: BridgePost,
    /// Requests to the bridge that wait for their replies.
    asked_of_bridge: PendingRequests<Reply>,
    shards: Box<[ShardLink]>,
    /// Questions to other io threads that wait for their answers.
    pub(crate) asked_of_shards: PendingRequests<ShardAnswer>,
    /// The version of the last change that this thread has taken over and not acknowledged. The version is
    /// kept while the ring to the bridge is full, because the bridge completes a change only after every io
    /// thread has acknowledged it.
    owed_ack: Cell<Option<u64>>,
    /// The alarm that wakes the ticker for what is owed: notices to other io threads, events to a pinned
    /// scheduler, and `owed_ack`.
    owed_alarm: Alarm,
    pub(crate) inbox: OnceCell<Rc<RefCell<Inbox>>>,
}

impl Deref for Links {
    type Target = Tables;

    fn deref(&self) -> &Tables {
        &self.tables
    }
}

impl Links {
    pub(crate) fn new(tables: Tables, posts: Posts) -> Rc<Self> {
        let alarms = tables.alarms.clone();
        Rc::new(Self {
            scheduler: posts.scheduler.take(&tables.entries),
            tick_alarm: alarms.alarm(),
            tick_planned: Cell::new(Due::NEVER),
            turn_left: Cell::new(false),
            bridge: posts.bridge,
            asked_of_bridge: PendingRequests::uncertain(),
            shards: posts.shards.into_iter().map(ShardLink::new).collect(),
            asked_of_shards: PendingRequests::certain(),
            owed_ack: Cell::new(None),
            owed_alarm: alarms.alarm(),
            inbox: OnceCell::new(),
            tables,
        })
    }

    pub(crate) fn shard(&self, other: ShardId) -> &ShardLink {
        &self.shards[other.index()]
    }
}
