//! Several io threads that share the one thread of a test. The test decides when an io thread takes its
//! messages, so that a message is late, or finds a full inbox, where the test needs that. There is no pod.

use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Instant, SystemTime};

use nanofaas_core::doorbell::Doorbell;
use nanofaas_core::entries::Entries;
use nanofaas_core::function::Function;
use nanofaas_core::memory::Account;
use nanofaas_core::message::Message;
use nanofaas_core::metrics::ThreadLedger;
use nanofaas_core::post::{BridgeInbox, BridgePost, IoPost, PinnedInbox, PinnedPost};
use nanofaas_core::queue_stats::QueueStats;
use nanofaas_core::rate::{RateBucket, RateLimit};
use nanofaas_core::shard::ShardId;
use nanofaas_core::spec::{Defaults, FunctionDraft, FunctionSpec, Platform};
use nanofaas_core::ticket::{CallId, Class, LaneId};
use nanofaas_http1::head::HeadScan;
use nanofaas_http1::request::parse_request;

use crate::http::response::Wire;
use crate::invoke::admit;
use crate::invoke::incoming::Incoming;
use crate::invoke::outgoing::Outgoing;
use crate::invoke::request::{Answering, Client, InvocationMode};
use crate::invoke::stored;
use crate::links::scheduler::SchedulerSetup;
use crate::links::shards::{self, ShardPost};
use crate::links::{Inbox, Links, Posts};
use crate::runtime::Common;
use crate::runtime::buffers::Buffers;
use crate::runtime::net::{EventLoop, Socket};
use crate::shard::inbox;
use crate::shard::start::{DriverChoice, IoConfig, ShardParts, bell};
use crate::state::SharedTables;
use crate::state::executions::IdempotencyKey;
use crate::state::store::Store;
use crate::state::token::Tokens;

/// The io threads of a test, and the other ends of their links.
pub(crate) struct Fleet {
    pub(crate) event_loop: Rc<EventLoop>,
    pub(crate) threads: Vec<Rc<Links>>,
    pub(crate) inboxes: Vec<Rc<RefCell<Inbox>>>,
    posts: Vec<IoPost>,
    /// The sockets of the bells that no io thread reads yet.
    bells: RefCell<Vec<UnixStream>>,
    stats: Arc<QueueStats>,
    pub(crate) scheduler: RefCell<PinnedInbox>,
    pub(crate) bridge: RefCell<BridgeInbox>,
}

const QUEUE_SIZE: u32 = 4;
pub(crate) const STORE_BYTES: u64 = 1 << 20;

fn config() -> IoConfig {
    IoConfig {
        listen: "127.0.0.1:0".parse().expect("an address"),
        internal_listen: None,
        driver: DriverChoice::Epoll,
        pin: Vec::new(),
        spin_for: None,
        body_bytes_max: 1 << 20,
        response_bytes_max: 1 << 20,
        inflight_bytes: 1 << 26,
        connect_timeout_ms: 1000,
        async_max_age_ms: 3_600_000,
        execution_ttl_ms: 900_000,
        execution_store_bytes: STORE_BYTES,
        callback_base: String::new(),
        begun: true,
        collect_memory: || {},
        openapi: "",
    }
}

/// Returns the bell of a thread that does not exist.
fn silent_bell() -> Arc<Doorbell> {
    Arc::new(Doorbell::new(std::task::Waker::noop().clone()))
}

/// The lane of the only function.
pub(crate) const LANE: LaneId = LaneId { index: 0, epoch: 1 };

fn function(stats: Arc<QueueStats>, threads: usize, version: u64) -> Arc<Function> {
    let spec = format!(
        r#"{{"name":"f","executionMode":"LOCAL","queueSize":{QUEUE_SIZE},"concurrency":{threads}}}"#
    );
    let draft: FunctionDraft = serde_json::from_str(&spec).expect("a draft");
    let spec = FunctionSpec::resolve(&draft, &Defaults::DEFAULT, Platform::Local);
    Arc::new(Function {
        spec: spec.expect("a spec"),
        lane: LANE,
        stats,
        version,
    })
}

impl Fleet {
    fn new(count: usize) -> Self {
        let buffers = Rc::new(Buffers::default());
        let event_loop = EventLoop::epoll(buffers.clone()).expect("epoll");
        let (scheduler, scheduler_inbox) = PinnedPost::pair(silent_bell(), count);
        let (bridge, bridge_inbox) = BridgePost::pair(silent_bell());
        let (bells, ends): (Vec<_>, Vec<_>) = (0..count).map(|_| bell().expect("sockets")).unzip();
        let (posts, rings): (Vec<_>, Vec<_>) = bells
            .into_iter()
            .map(|bell| IoPost::pair(bell, true))
            .unzip();
        let (shards, shard_inboxes): (Vec<_>, Vec<_>) = rings
            .iter()
            .map(|inbox| ShardPost::pair(inbox.bell.clone()))
            .unzip();
        let ledgers: Arc<[ThreadLedger]> = (0..count).map(|_| ThreadLedger::default()).collect();
        let own_bells = rings.iter().map(|inbox| inbox.bell.clone());
        let account = Account::new(config().inflight_bytes, own_bells);
        let store = Arc::new(Store::new(STORE_BYTES, ledgers.clone()));
        let common = Common {
            config: config(),
            threads: count as u16,
            origin: Instant::now(),
            origin_wall: SystemTime::now(),
            ledgers,
        };
        let shared = SharedTables {
            entries: Arc::new(Entries::new(count)),
            rate: Arc::new(RateBucket::new(RateLimit::Off)),
            account,
            scarcity: Arc::default(),
            store,
            tokens: Tokens::new(),
        };
        let ways = Posts {
            scheduler: SchedulerSetup::Pinned(scheduler),
            bridge,
            shards: shards.into(),
        };
        let make = |index| {
            let parts = ShardParts {
                id: ShardId::new(index as u16),
                common: common.clone(),
                shared: shared.clone(),
                posts: ways.clone(),
            };
            parts.put_together(event_loop.clone(), buffers.clone())
        };
        let stats = Arc::new(QueueStats::new(count));
        let fleet = Self {
            threads: (0..count).map(make).collect(),
            inboxes: rings
                .into_iter()
                .zip(shard_inboxes)
                .map(|(rings, shards)| Rc::new(RefCell::new(Inbox { rings, shards })))
                .collect(),
            event_loop,
            posts,
            bells: RefCell::new(ends),
            stats,
            scheduler: RefCell::new(scheduler_inbox),
            bridge: RefCell::new(bridge_inbox),
        };
        for (thread, inbox) in fleet.threads.iter().zip(&fleet.inboxes) {
            let is_first = thread.inbox.set(inbox.clone()).is_ok();
            assert!(is_first, "it has no inbox yet");
        }
        fleet.register(1);
        for index in 0..count {
            fleet.take(index);
        }
        fleet
    }

    /// Sends a version of the only function to every io thread.
    pub(crate) fn register(&self, version: u64) {
        let function = function(self.stats.clone(), self.threads.len(), version);
        for post in &self.posts {
            let sent = post.send(Message::Function(function.clone()));
            assert!(sent.is_ok(), "room for a message");
        }
    }

    /// Makes the only io thread take its messages whenever they come.
    pub(crate) fn attend(&self) {
        assert_eq!(self.threads.len(), 1);
        let bell = self.bells.borrow_mut().pop().expect("it is not attended");
        let bell = Socket::new(&self.event_loop, bell).expect("a socket");
        let (thread, inbox) = (self.threads[0].clone(), self.inboxes[0].clone());
        self.event_loop.spawn(inbox::run(thread, inbox, bell));
    }

    /// Makes an io thread take the messages that have come.
    pub(crate) fn take(&self, index: usize) {
        inbox::pump(&self.threads[index], &self.inboxes[index]);
    }

    pub(crate) fn fill_queue(&self) {
        for _ in 0..QUEUE_SIZE {
            assert!(self.stats.enter(Class::Sync, QUEUE_SIZE));
            assert!(self.stats.enter(Class::Async, QUEUE_SIZE));
        }
    }

    /// Returns a key that belongs to the io thread `index`.
    pub(crate) fn key_of(&self, index: usize) -> String {
        let count = self.threads.len() as u16;
        let belongs = |key: &String| {
            let key: IdempotencyKey = (LANE, key.as_bytes().into());
            crate::state::idempotency::owner(&key, count).index() == index
        };
        let mut keys = (0..).map(|number| format!("key-{number}"));
        keys.find(belongs).expect("one in a few keys belongs to it")
    }

    /// Sends a keyed `:invoke` to the io thread `index`. The answer is written into the returned text when it
    /// comes.
    pub(crate) fn invoke(&self, index: usize, key: &str) -> Rc<RefCell<String>> {
        let head = format!(
            "POST /v1/functions/f:invoke HTTP/1.1\r\nHost: a\r\nIdempotency-Key: {key}\r\n\
             Content-Type: application/json\r\nContent-Length: 11\r\n\r\n"
        );
        let bytes = [head.as_bytes(), br#"{"input":1}"#].concat();
        let head = parse_request(&bytes, &mut HeadScan::default());
        let head = head.expect("a head").expect("the whole of it");
        let answer = Rc::new(RefCell::new(String::new()));
        let (thread, written) = (self.threads[index].clone(), answer.clone());
        self.event_loop.spawn(async move {
            let now = thread.now();
            let admitted = admit::admit_head(&thread, "f", false, &head, &bytes, now);
            let admitted = admitted.expect("it is let in at the head");
            let mut incoming = Incoming::new(bytes, head, 11);
            let mode = admit::begin(&admitted, &mut incoming).expect("a right body");
            let InvocationMode::Stored { detached } = mode else {
                panic!("a keyed call is kept");
            };
            let wire = Wire {
                keep_alive: true,
                old: false,
                head_only: false,
            };
            let answering = Answering {
                client: &StayingClient,
                alarm: &thread.alarms.alarm(),
                wire,
                outgoing: &mut Outgoing::default(),
            };
            let stored = stored::serve(&thread, admitted, incoming, detached, &answering);
            let mut outgoing = Outgoing::default();
            outgoing.put(&thread, stored.await, wire);
            *written.borrow_mut() = String::from_utf8(outgoing.out).expect("text");
        });
        answer
    }
}

/// A client that never leaves.
struct StayingClient;

impl Client for StayingClient {
    fn serving(&self, _place: Option<CallId>) {}

    fn is_gone(&self) -> bool {
        false
    }
}

/// Yields several times, so that all ready tasks run, and then the tasks that they have woken.
pub(crate) async fn settle() {
    for _ in 0..16 {
        let mut waited = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

/// Runs a test's steps in the event loop of its io threads.
pub(crate) fn with_fleet<F: Future<Output = ()> + 'static>(
    count: usize,
    steps: impl FnOnce(Rc<Fleet>) -> F,
) {
    let fleet = Rc::new(Fleet::new(count));
    fleet.event_loop.run(steps(fleet.clone()));
}

pub(crate) fn status(answer: &RefCell<String>) -> String {
    let answer = answer.borrow();
    let status = answer.split(' ').nth(1).unwrap_or("none yet").to_owned();
    assert!(status != "none yet" || answer.is_empty(), "{answer}");
    status
}

/// Makes every io thread take its messages and lets all tasks run, in so many rounds that nothing is left to
/// do.
pub(crate) async fn exchange(fleet: &Fleet) {
    for _ in 0..8 {
        settle().await;
        for index in 0..fleet.threads.len() {
            shards::pay(&fleet.threads[index]);
            fleet.take(index);
        }
    }
    settle().await;
}
