//! Tests of the pinned driver on its real thread. The test plays the io threads and the bridge.

use std::task::Waker;

use nanofaas_core::event::{Event, LanePlan, PodPlan, StartFailure};
use nanofaas_core::limits::{MESSAGES_DEPTH, ORDERS_DEPTH};
use nanofaas_core::post::{BridgeInbox, IoInbox, PinnedPost};
use nanofaas_core::queue_stats::QueueStats;
use nanofaas_core::shard::ShardId;
use nanofaas_core::ticket::{Class, Done, Grant, Held, LaneId, PodVerdict, Ticket};
use nanofaas_core::time::{Nanos, Uptime};

use super::*;

const fn id(index: u32) -> LaneId {
    LaneId { index, epoch: 1 }
}

const LONGEST: Duration = Duration::from_secs(60);
const IO_THREADS: usize = 2;

struct SchedulerFixture {
    running: Option<SchedulerThread>,
    post: PinnedPost,
    io_posts: Vec<IoPost>,
    io: Vec<IoInbox>,
    bridge_post: BridgePost,
    bridge: BridgeInbox,
    entries: Arc<Entries>,
}

impl SchedulerFixture {
    fn new() -> Self {
        let silent = || Arc::new(Doorbell::new(Waker::noop().clone()));
        let (bell, alarm) = bell();
        let (post, inbox) = PinnedPost::pair(bell, IO_THREADS);
        let (io_posts, io): (Vec<_>, Vec<_>) = (0..IO_THREADS)
            .map(|_| IoPost::pair(silent(), true))
            .unzip();
        let (bridge_post, bridge) = BridgePost::pair(silent());
        let entries = Arc::new(Entries::new(IO_THREADS));
        let config = SchedulerThreadConfig {
            inbox,
            alarm,
            io: io_posts.clone(),
            bridge: bridge_post.clone(),
            entries: entries.clone(),
            origin: Instant::now(),
            cpu: None,
        };
        Self {
            running: Some(start(config, OnEnd(Waker::noop().clone())).expect("a thread")),
            post,
            io_posts,
            io,
            bridge_post,
            bridge,
            entries,
        }
    }

    fn event(&self, event: Event) {
        assert!(self.post.event(event).is_ok(), "the ring is full");
    }

    fn open(&self, lane: u32, plan: LanePlan) -> Arc<QueueStats> {
        let stats = Arc::new(QueueStats::new(IO_THREADS));
        let opened = stats.clone();
        self.event(Event::LaneOpened {
            lane: id(lane),
            stats: opened,
            plan,
        });
        stats
    }

    /// Queues a call as an io thread does.
    fn call(&self, lane: u32, stats: &QueueStats, index: u32) {
        let ticket = Ticket {
            queued_at: Uptime::ZERO,
            index,
            generation: 1,
            lane: id(lane),
            avoid: None,
            shard: ShardId::new(1),
            class: Class::Sync,
        };
        assert!(stats.enter(Class::Sync, u32::MAX));
        self.entries.queue(ticket.call());
        assert!(stats.post(ticket).is_ok(), "the mailbox is full");
        self.post.posted(&ticket);
    }

    fn granted(&mut self) -> Grant {
        until(|| self.io[1].grants.pop())
    }

    fn done(&self, grant: Grant) {
        self.entries.free(grant.call);
        self.event(Event::Done(Done {
            lane: grant.lane,
            pod: grant.pod,
            verdict: PodVerdict::Healthy,
            slot: grant.slot,
            held: Held::Nothing,
        }));
    }
}

impl Drop for SchedulerFixture {
    fn drop(&mut self) {
        if let Some(thread) = self.running.take() {
            thread.stop();
        }
    }
}

/// Polls until `poll` returns a value. Panics after a generous time limit.
fn until<T>(mut poll: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(begun.elapsed() < LONGEST, "nothing came");
        std::thread::sleep(Duration::from_micros(100));
    }
}

const fn plan(concurrency: u32) -> LanePlan {
    LanePlan {
        concurrency,
        queue_size: 10_000,
        pods: None,
    }
}

const WARM: LanePlan = LanePlan {
    concurrency: 1,
    queue_size: 100,
    pods: Some(PodPlan {
        min: 1,
        max: 1,
        cap: 1,
        idle_timeout: Nanos::SECOND,
    }),
};

#[test]
fn calls_get_free_slots_in_order() {
    let mut bench = SchedulerFixture::new();
    let stats = bench.open(0, plan(2));
    for index in 0..100 {
        bench.call(0, &stats, index);
    }
    let mut held = VecDeque::new();
    for index in 0..100 {
        let grant = bench.granted();
        assert_eq!(grant.call.index, index);
        held.push_back(grant);
        assert!(stats.running.load(Relaxed) <= 2);
        if held.len() == 2 {
            assert!(bench.io[1].grants.pop().is_none(), "a third slot");
            bench.done(held.pop_front().expect("two are held"));
        }
    }
    assert_eq!(stats.depth(), 0);
    assert!(bench.io[0].grants.pop().is_none(), "another thread's grant");
}

#[test]
fn a_ticket_before_its_lane_is_not_lost() {
    let mut bench = SchedulerFixture::new();
    for lane in 0..2_000 {
        let stats = bench.open(lane, plan(1));
        bench.call(lane, &stats, lane);
        assert_eq!(bench.granted().lane, id(lane));
    }
}

#[test]
fn it_sleeps_and_is_woken_and_beats() {
    let mut bench = SchedulerFixture::new();
    let stats = bench.open(0, plan(1));
    let beat = bench.running.as_ref().expect("it runs").beat.clone();
    for index in 0..20 {
        // The thread goes to sleep during this pause.
        std::thread::sleep(Duration::from_millis(5));
        bench.call(0, &stats, index);
        let grant = bench.granted();
        bench.done(grant);
    }
    // A bell that is rung while the thread goes to sleep must also wake it.
    for _ in 0..2_000 {
        beat.ask(beat.last() + Nanos::from_ns(1));
        bench.post.bell().ring();
        until(|| (!beat.is_owed()).then_some(()));
    }
}

#[test]
fn orders_wait_for_a_full_ring_in_order() {
    let mut bench = SchedulerFixture::new();
    let shard = ShardId::new(0);
    for version in 0..ORDERS_DEPTH as u64 {
        let full = bench
            .bridge_post
            .send(BridgeMessage::Ack { shard, version });
        assert!(full.is_ok());
    }
    for lane in 0..3 {
        bench.open(lane, WARM);
    }
    let mut orders = Vec::new();
    while orders.len() < 3 {
        let message = until(|| bench.bridge.messages.pop());
        if let BridgeMessage::Order(Order::Start { lane, .. }) = message {
            orders.push(lane);
        }
    }
    assert_eq!(orders, [0, 1, 2].map(id));
}

#[test]
fn a_notice_reaches_all_threads_despite_one_full() {
    let mut bench = SchedulerFixture::new();
    for _ in 0..MESSAGES_DEPTH {
        assert!(bench.io_posts[0].send(Message::Drain).is_ok());
    }
    let stats = bench.open(7, WARM);
    bench.call(7, &stats, 0);
    let pod = until(|| match bench.bridge.messages.pop() {
        Some(BridgeMessage::Order(Order::Start { pod, .. })) => Some(pod),
        _ => None,
    });
    let failure = StartFailure {
        permanent: true,
        message: "no such program".into(),
    };
    bench.event(Event::StartFailed { pod, failure });
    for thread in [1, 0] {
        let received = until(|| match bench.io[thread].messages.pop() {
            Some(Message::Notice(Notice::StartsFail { lane, .. })) => Some(lane),
            _ => None,
        });
        assert_eq!(received, id(7));
    }
}

#[test]
fn it_ends_when_asked_even_asleep() {
    let mut bench = SchedulerFixture::new();
    std::thread::sleep(Duration::from_millis(20));
    let thread = bench.running.take().expect("it runs");
    assert!(!thread.is_finished());
    thread.stop();
}
