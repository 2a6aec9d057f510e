//! Holds the other ends of the bridge's rings, those of the io threads and of the scheduler. The io threads
//! acknowledge changes of functions at once and keep their other messages for the test. The scheduler is
//! either the test or a real one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use nanofaas_core::doorbell::Doorbell;
use nanofaas_core::entries::Entries;
use nanofaas_core::event::{Event, Order, Outbox};
use nanofaas_core::message::{BridgeMessage, Message};
use nanofaas_core::post::{BridgePost, IoInbox, IoPost, PinnedInbox, PinnedPost, SchedulerPost};
use nanofaas_core::registry::Registry;
use nanofaas_core::scheduler::Scheduler;
use nanofaas_core::shard::ShardId;
use nanofaas_core::spec::{Defaults, Platform};
use nanofaas_core::ticket::PodId;
use nanofaas_core::time::Uptime;
use nanofaas_core::work_queue::{Home, WorkQueue};
use nanofaas_core::{cold_start::ColdStarts, cold_start::WallClock};
use tokio::time::{Instant, sleep};

pub(crate) const IO_THREADS: usize = 2;
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// An offer of a pod to the scheduler, and the id that the scheduler gave to the pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adopted {
    pub(crate) stale: bool,
    pub(crate) pod: PodId,
}

pub(crate) struct Rings {
    post: BridgePost,
    io: RefCell<Vec<IoInbox>>,
    scheduler: RefCell<PinnedInbox>,
    real: RefCell<Option<Scheduler>>,
    began: Instant,
    /// The events about pods that the bridge sent to the scheduler. It stays empty if the scheduler is real.
    pub(crate) events: RefCell<VecDeque<Event>>,
    pub(crate) messages: RefCell<Vec<VecDeque<Message>>>,
    pub(crate) adopted: RefCell<Vec<Adopted>>,
    /// The orders of a real scheduler. The list stays empty if the test plays the scheduler.
    pub(crate) orders: RefCell<Vec<Order>>,
    pods: Cell<u32>,
}

fn silent_bell() -> Arc<Doorbell> {
    Arc::new(Doorbell::new(Waker::noop().clone()))
}

pub(crate) const OWN_ACCOUNT: &str = "plane-account";

pub(crate) fn work_queue_and_rings(is_real: bool) -> (WorkQueue, Rc<Rings>) {
    let (post, inbox) = BridgePost::pair(silent_bell());
    let pairs = (0..IO_THREADS).map(|_| IoPost::pair(silent_bell(), true));
    let (posts, io): (Vec<_>, Vec<_>) = pairs.unzip();
    let (pinned, scheduler) = PinnedPost::pair(silent_bell(), IO_THREADS);
    let registry = Registry::new(IO_THREADS, Defaults::DEFAULT, Platform::Kubernetes);
    let registry = registry.guarding(Some(OWN_ACCOUNT.to_owned()));
    let registry = (registry, Home::Cluster);
    let starts = ColdStarts::new(WallClock(std::time::SystemTime::now()));
    let pinned = SchedulerPost::Pinned(pinned);
    let work_queue = WorkQueue::new(inbox, posts, pinned, registry, starts);
    let real = is_real.then(|| Scheduler::new(Arc::new(Entries::new(IO_THREADS))));
    let rings = Rings {
        post,
        io: RefCell::new(io),
        scheduler: RefCell::new(scheduler),
        real: RefCell::new(real),
        began: Instant::now(),
        events: RefCell::default(),
        messages: RefCell::new((0..IO_THREADS).map(|_| VecDeque::new()).collect()),
        adopted: RefCell::default(),
        orders: RefCell::default(),
        pods: Cell::new(0),
    };
    (work_queue, Rc::new(rings))
}

impl Rings {
    pub(crate) async fn turn(self: Rc<Self>) {
        loop {
            self.take_messages();
            self.take_events();
            // A yield lets bytes that are still in the kernel arrive before the paused time advances.
            std::thread::yield_now();
            sleep(POLL).await;
        }
    }

    pub(crate) fn send(&self, message: BridgeMessage) {
        assert!(self.post.send(message).is_ok(), "the inbox is full");
    }

    pub(crate) fn order(&self, order: Order) {
        self.send(BridgeMessage::Order(order));
    }

    pub(crate) fn new_pod_id(&self) -> PodId {
        self.pods.set(self.pods.get() + 1);
        PodId::new(self.pods.get(), 7)
    }

    /// Moves the io threads' messages to `messages`. Changes of functions are acknowledged at once instead.
    fn take_messages(&self) {
        let mut kept = self.messages.borrow_mut();
        let mut io = self.io.borrow_mut();
        for (shard, (inbox, kept)) in (0..).map(ShardId::new).zip(io.iter_mut().zip(&mut *kept)) {
            while let Some(message) = inbox.messages.pop() {
                let version = match &message {
                    Message::Function(function) => function.version,
                    Message::FunctionRemoved { version, .. } => *version,
                    _ => {
                        kept.push_back(message);
                        continue;
                    }
                };
                self.send(BridgeMessage::Ack { shard, version });
            }
        }
    }

    fn take_events(&self) {
        let mut inbox = self.scheduler.borrow_mut();
        let mut real = self.real.borrow_mut();
        let Some(scheduler) = &mut *real else {
            while let Some(event) = inbox.events.pop() {
                self.on_event(event);
            }
            return;
        };
        let now = Uptime::ZERO + self.began.elapsed().into();
        let mut out = Outbox::default();
        while let Some(event) = inbox.events.pop() {
            scheduler.event(event, now, &mut out);
        }
        scheduler.tick(now, &mut out);
        for order in out.orders {
            self.orders.borrow_mut().push(order);
            self.order(order);
        }
    }

    /// Answers the events that a real scheduler answers at once, and keeps the events of pods for the test.
    fn on_event(&self, event: Event) {
        match event {
            Event::LaneOpened { .. } | Event::LaneChanged { .. } => {}
            Event::LaneRemoved { lane } => self.order(Order::LaneGone { lane }),
            Event::Adopt { lane, token, stale } => {
                let pod = self.new_pod_id();
                self.adopted.borrow_mut().push(Adopted { stale, pod });
                let pod = Some(pod);
                self.order(Order::Adopted { lane, token, pod });
            }
            event => self.events.borrow_mut().push_back(event),
        }
    }
}
