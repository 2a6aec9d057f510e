//! What one io thread knows: its functions, calls, pods, executions, buffers and deadlines, and how
//! it reaches the others. Everything here belongs to this thread alone; nothing is locked.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use foldhash::HashMap;
use nanofaas_core::entries::Entries;
use nanofaas_core::id::ExecutionId;
use nanofaas_core::memory::{Account, ThreadAccount};
use nanofaas_core::message::{BridgeMessage, PodAddress, ReplyTo, Request};
use nanofaas_core::metrics::{FunctionMetrics, ThreadLedger};
use nanofaas_core::post::BridgePost;
use nanofaas_core::rate::RateBucket;
use nanofaas_core::ticket::LaneId;
use nanofaas_core::time::{Nanos, Uptime};

use crate::http::problem::Problem;
use crate::links::pending::Replies;
use crate::links::scheduler::{Seat, SeatPlan};
use crate::links::shards::{Peer, PeerPost};
use crate::runtime::buffers::Buffers;
use crate::runtime::clock::Clock;
use crate::runtime::date::{DateLine, Dates};
use crate::runtime::due::Due;
use crate::runtime::net::EventLoop;
use crate::runtime::shard::ShardId;
use crate::runtime::timers::Alarms;
use crate::shard::start::IoConfig;
use crate::shard::upkeep::Upkeep;
use crate::state::call_table::Calls;
use crate::state::descriptors::{Descriptors, Scarcity};
use crate::state::executions::Executions;
use crate::state::idempotency::Keys;
use crate::state::pod_pool::Pods;
use crate::state::readers::Readers;
use crate::state::store::{Budget, Store};
use crate::state::token::Tokens;

/// How long a request to the bridge may wait for its answer.
const ANSWER_WAIT_MAX: Nanos = Nanos::from_s(30);

/// A registered function, as this thread knows it.
pub(crate) struct Known {
    pub(crate) function: Arc<nanofaas_core::function::Function>,
    /// The `Host` of requests to its pods.
    pub(crate) host: Box<[u8]>,
    /// The address of a POOL function's endpoint, once the bridge has resolved it.
    pub(crate) endpoint: RefCell<Result<Rc<PodAddress>, Arc<str>>>,
}

impl Known {
    pub(crate) fn metrics(&self, thread: &Thread) -> &FunctionMetrics {
        self.function.view.metrics(thread.id.index())
    }
}

/// The table of functions of this thread.
#[derive(Default)]
pub(crate) struct Functions {
    by_name: HashMap<Arc<str>, Rc<Known>>,
    by_lane: Vec<Option<Rc<Known>>>,
}

impl Functions {
    pub(crate) fn get(&self, name: &str) -> Option<&Rc<Known>> {
        self.by_name.get(name)
    }

    /// The function that has the lane, if the lane was not given to another function since.
    pub(crate) fn at(&self, lane: LaneId) -> Option<&Rc<Known>> {
        let known = self.by_lane.get(lane.index as usize)?.as_ref();
        known.filter(|known| known.function.lane == lane)
    }

    pub(crate) fn put(&mut self, known: Rc<Known>) {
        let lane = known.function.lane.index as usize;
        if self.by_lane.len() <= lane {
            self.by_lane.resize(lane + 1, None);
        }
        self.by_lane[lane] = Some(known.clone());
        self.by_name.insert(known.function.name().clone(), known);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        if let Some(known) = self.by_name.remove(name) {
            self.by_lane[known.function.lane.index as usize] = None;
        }
    }

    /// All functions, by name.
    pub(crate) fn sorted(&self) -> Vec<Rc<Known>> {
        let mut all: Vec<_> = self.by_name.values().cloned().collect();
        all.sort_by(|a, b| a.function.name().cmp(b.function.name()));
        all
    }
}

/// Unpredictable random bits from the kernel, fetched a page at a time.
struct Random {
    bytes: Box<[u8; 4096]>,
    used: usize,
}

impl Random {
    fn next(&mut self) -> u128 {
        if self.used + 16 > self.bytes.len() {
            getrandom::fill(&mut *self.bytes).expect("the kernel gives random bytes");
            self.used = 0;
        }
        let bytes = self.bytes[self.used..self.used + 16]
            .try_into()
            .expect("16 bytes");
        self.bytes[self.used..self.used + 16].fill(0);
        self.used += 16;
        u128::from_ne_bytes(bytes)
    }
}

/// How far the shutdown of the process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// No new calls.
    Draining,
    /// The calls that are left end as `SHUTDOWN`.
    Stopping,
}

/// One io thread.
pub(crate) struct Thread {
    pub(crate) id: ShardId,
    pub(crate) threads: u16,
    pub(crate) config: IoConfig,
    clock: Clock,
    dates: Dates,
    origin_wall: Nanos,
    pub(crate) entries: Arc<Entries>,
    pub(crate) rate: Arc<RateBucket>,
    ledgers: Arc<[ThreadLedger]>,
    /// The bytes of the process's budget that this thread holds for calls.
    pub(crate) account: Rc<ThreadAccount>,
    /// Clients that have an answer to take.
    pub(crate) readers: Readers,
    /// Clients that may make room for others.
    pub(crate) descriptors: Descriptors,
    pub(crate) seat: Seat,
    /// Wakes the ticker for the inline scheduler's own deadlines.
    pub(crate) tick_alarm: crate::runtime::timers::Alarm,
    pub(crate) tick_planned: Cell<Due>,
    pub(crate) bridge: BridgePost,
    pub(crate) peers: Box<[Peer]>,
    /// Wakes the ticker for what is owed to peers.
    pub(crate) owed_alarm: crate::runtime::timers::Alarm,
    pub(crate) upkeep: Upkeep,
    pub(crate) functions: RefCell<Functions>,
    pub(crate) calls: Calls,
    pub(crate) alarms: Rc<Alarms>,
    pub(crate) pods: Pods,
    pub(crate) executions: Executions,
    pub(crate) keys: Keys,
    pub(crate) replies: Replies<nanofaas_core::message::Reply>,
    pub(crate) answers: Replies<crate::links::shards::Answer>,
    pub(crate) event_loop: Rc<EventLoop>,
    pub(crate) buffers: Rc<Buffers>,
    /// A buffer for bodies whose length is known only after they are written.
    pub(crate) scratch: RefCell<Vec<u8>>,
    pub(crate) tokens: Tokens,
    pub(crate) phase: Cell<Phase>,
    /// The waker of the task that waits for the order to stop.
    pub(crate) until_stopping: RefCell<Option<Waker>>,
    /// Whether the functions of the start are all known.
    begun: Cell<bool>,
    pub(crate) spin: crate::shard::spin::Spin,
    /// A turn left work; the inbox comes back to it.
    pub(crate) turn_left: Cell<bool>,
    /// Bodies that Jobs fetch, by execution.
    pub(crate) inputs: RefCell<HashMap<u128, Rc<crate::invoke::to_job::Input>>>,
    pub(crate) inbox: std::cell::OnceCell<Rc<RefCell<crate::shard::inbox::Inbox>>>,
    /// Requests that are being answered; the thread ends when there are none.
    pub(crate) answering: Cell<u32>,
    pub(crate) connections: Cell<u32>,
    random: RefCell<Random>,
}

/// What a thread gets from its starter.
pub(crate) struct Parts {
    pub(crate) id: ShardId,
    pub(crate) threads: u16,
    pub(crate) config: IoConfig,
    pub(crate) origin: Instant,
    pub(crate) origin_wall: SystemTime,
    pub(crate) entries: Arc<Entries>,
    pub(crate) rate: Arc<RateBucket>,
    pub(crate) ledgers: Arc<[ThreadLedger]>,
    pub(crate) account: Arc<Account>,
    pub(crate) scarcity: Arc<Scarcity>,
    pub(crate) store: Arc<Store>,
    pub(crate) seat: SeatPlan,
    pub(crate) bridge: BridgePost,
    pub(crate) peers: Box<[PeerPost]>,
    pub(crate) tokens: Tokens,
}

impl Thread {
    pub(crate) fn new(parts: Parts, event_loop: Rc<EventLoop>, buffers: Rc<Buffers>) -> Rc<Self> {
        let clock = Clock::since(parts.origin);
        let wall = parts
            .origin_wall
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let alarms = Alarms::new(clock.recent());
        let budget = Budget::new(parts.store, parts.id);
        Rc::new(Self {
            id: parts.id,
            threads: parts.threads,
            clock,
            dates: Dates::default(),
            origin_wall: Nanos::from(wall),
            rate: parts.rate,
            account: ThreadAccount::new(parts.account, parts.id.number(), parts.ledgers.clone()),
            ledgers: parts.ledgers,
            readers: Readers::new(&alarms),
            descriptors: Descriptors::new(parts.scarcity),
            seat: parts.seat.take(&parts.entries),
            tick_alarm: alarms.alarm(),
            tick_planned: Cell::new(Due::NEVER),
            entries: parts.entries,
            bridge: parts.bridge,
            peers: parts.peers.into_iter().map(Peer::new).collect(),
            owed_alarm: alarms.alarm(),
            upkeep: Upkeep::new(&alarms),
            functions: RefCell::default(),
            calls: Calls::new(parts.id),
            alarms,
            pods: Pods::default(),
            executions: Executions::new(budget, parts.config.execution_ttl_ms),
            keys: Keys::default(),
            replies: Replies::uncertain(),
            answers: Replies::certain(),
            event_loop,
            buffers,
            scratch: RefCell::default(),
            tokens: parts.tokens,
            phase: Cell::new(Phase::Serving),
            until_stopping: RefCell::default(),
            begun: Cell::new(parts.config.begun),
            spin: crate::shard::spin::Spin::default(),
            turn_left: Cell::new(false),
            inputs: RefCell::default(),
            inbox: std::cell::OnceCell::new(),
            answering: Cell::new(0),
            connections: Cell::new(0),
            random: RefCell::new(Random {
                bytes: Box::new([0; 4096]),
                used: 4096,
            }),
            config: parts.config,
        })
    }

    /// Reads the process's clock; it never runs backwards.
    #[inline]
    pub(crate) fn now(&self) -> Uptime {
        self.clock.now()
    }

    /// The clock's last reading, for deadlines of seconds. The thread reads the clock at each
    /// event: bytes from a client, an answer of a pod, its bell and its ticker.
    pub(crate) const fn recent(&self) -> Uptime {
        self.clock.recent()
    }

    /// The `Date` of an answer that is written now.
    #[inline]
    pub(crate) fn date_line(&self) -> DateLine {
        self.dates.line(self.recent())
    }

    /// A time of the process's clock as the time since the epoch. The offset is that of the wall
    /// clock at the start, so that an execution never ends before it began when the wall clock
    /// jumps.
    pub(crate) fn since_epoch(&self, at: Uptime) -> Nanos {
        self.origin_wall + at.since(Uptime::ZERO)
    }

    /// A wall-clock time as one of the process's clock; zero for a time before its origin.
    pub(crate) fn uptime_at(&self, epoch_ms: u64) -> Uptime {
        Uptime::ZERO + Nanos::from_ms(epoch_ms).saturating_sub(self.origin_wall)
    }

    /// From now on the table of functions is complete: a function that is not in it does not exist.
    pub(crate) fn begin(&self) {
        self.begun.set(true);
    }

    /// The problem to answer while the table of functions is not complete. A client would give up
    /// if the answer were that the function does not exist.
    pub(crate) fn not_begun(&self) -> Option<Problem> {
        let why = "this control plane has not read the functions yet; try again in a second";
        (!self.begun.get()).then(|| Problem::RegistryUnavailable(why.to_owned()))
    }

    /// The answer for a function that is not in the table.
    pub(crate) fn no_such(&self, name: &str) -> Problem {
        self.not_begun()
            .unwrap_or_else(|| Problem::NoSuchFunction(name.to_owned()))
    }

    pub(crate) fn ledger(&self) -> &ThreadLedger {
        &self.ledgers[self.id.index()]
    }

    pub(crate) fn random(&self) -> u128 {
        self.random.borrow_mut().next()
    }

    /// The id of a new execution of this thread that is kept.
    pub(crate) fn new_id(&self) -> ExecutionId {
        ExecutionId::new(self.random(), self.id.number(), 0)
    }

    /// The id of a new execution of this thread that leaves only a small record.
    pub(crate) fn new_plain_id(&self) -> ExecutionId {
        ExecutionId::new(
            self.random(),
            self.id.number(),
            self.executions.next_place(),
        )
    }

    /// An io thread, as this one reaches it.
    pub(crate) fn peer(&self, other: ShardId) -> &Peer {
        &self.peers[other.index()]
    }

    /// The function of this name.
    pub(crate) fn function(&self, name: &str) -> Option<Rc<Known>> {
        self.functions.borrow().get(name).cloned()
    }

    /// Asks the bridge and waits for its answer.
    pub(crate) async fn ask(
        &self,
        request: Request,
    ) -> Result<nanofaas_core::message::Reply, crate::links::pending::NoAnswer> {
        let token = self
            .replies
            .expect()
            .ok_or(crate::links::pending::NoAnswer::Full)?;
        let reply = ReplyTo {
            thread: self.id.number(),
            token,
        };
        if self
            .bridge
            .send(BridgeMessage::Request { request, reply })
            .is_err()
        {
            self.replies.forget(token);
            return Err(crate::links::pending::NoAnswer::Full);
        }
        self.replies
            .wait(token, &self.alarms, self.now() + ANSWER_WAIT_MAX)
            .await
    }
}
