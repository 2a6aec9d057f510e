//! Tests of the work queue, in which the test acts in place of io threads, scheduler and backend.

use super::*;
use crate::cold_start::WallClock;
use crate::doorbell::Doorbell;
use crate::limits::MESSAGES_DEPTH;
use crate::post::{BridgePost, IoInbox, PinnedInbox, PinnedPost};
use crate::shard::ShardId;
use crate::spec::{Defaults, Platform};
use crate::time::Uptime;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Wake, Waker};
use std::time::SystemTime;

struct WorkQueueFixture {
    work_queue: WorkQueue,
    bridge: BridgePost,
    io: Vec<IoInbox>,
    scheduler: Option<PinnedInbox>,
}

fn bell() -> Arc<Doorbell> {
    Arc::new(Doorbell::new(Waker::noop().clone()))
}

fn fixture(io_threads: usize) -> WorkQueueFixture {
    let pairs = (0..io_threads).map(|_| IoPost::pair(bell(), io_threads > 1));
    let (posts, io): (Vec<_>, Vec<_>) = pairs.unzip();
    let (bridge, inbox) = BridgePost::pair(bell());
    let (post, scheduler) = if io_threads == 1 {
        (SchedulerPost::Inline(posts[0].clone()), None)
    } else {
        let (post, inbox) = PinnedPost::pair(bell(), io_threads);
        (SchedulerPost::Pinned(post), Some(inbox))
    };
    let registry = Registry::new(io_threads, Defaults::DEFAULT, Platform::Local);
    let starts = ColdStarts::new(WallClock(SystemTime::UNIX_EPOCH));
    WorkQueueFixture {
        work_queue: WorkQueue::new(inbox, posts, post, (registry, Home::Memory), starts),
        bridge,
        io,
        scheduler,
    }
}

fn draft(name: &str) -> Box<FunctionDraft> {
    let json = format!(r#"{{"name":"{name}","executionMode":"LOCAL"}}"#);
    Box::new(serde_json::from_str(&json).expect("a draft"))
}

fn to(number: u16, token: u64) -> ReplyTo {
    let shard = ShardId::new(number);
    ReplyTo { shard, token }
}

fn register(fixture: &WorkQueueFixture, name: &str, reply: ReplyTo) {
    let request = BridgeRequest::Register {
        draft: draft(name),
        replace: false,
    };
    let message = BridgeMessage::Request { request, reply };
    assert!(fixture.bridge.send(message).is_ok());
}

fn ack(fixture: &WorkQueueFixture, thread: u16, version: u64) {
    let shard = ShardId::new(thread);
    let ack = BridgeMessage::Ack { shard, version };
    assert!(fixture.bridge.send(ack).is_ok());
}

fn order(fixture: &WorkQueueFixture, order: Order) {
    assert!(fixture.bridge.send(BridgeMessage::Order(order)).is_ok());
}

const LANE: LaneId = LaneId { index: 0, epoch: 1 };

const POD: PodId = PodId::new(3, 1);

#[test]
fn a_registration_is_answered_after_all_threads() {
    let mut fixture = fixture(2);
    register(&fixture, "echo", to(1, 7));
    assert!(matches!(
        &fixture.work_queue.pump()[..],
        [BridgeCommand::Function(_)]
    ));
    let events = &mut fixture.scheduler.as_mut().expect("pinned").events;
    assert!(matches!(
        events.pop(),
        Some(Event::LaneOpened { lane: LANE, .. })
    ));
    for inbox in &mut fixture.io {
        assert!(matches!(inbox.messages.pop(), Some(Message::Function(_))));
    }
    ack(&fixture, 0, 1);
    fixture.work_queue.pump();
    assert!(
        fixture.io[1].messages.pop().is_none(),
        "one has not said so"
    );
    ack(&fixture, 1, 1);
    fixture.work_queue.pump();
    let Some(Message::Reply { token: 7, reply }) = fixture.io[1].messages.pop() else {
        panic!("no reply");
    };
    assert!(matches!(reply, Reply::Registered { created: true, .. }));
    assert!(fixture.io[0].messages.pop().is_none());
    assert!(fixture.work_queue.is_settled());
}

#[test]
fn an_inline_scheduler_is_informed_before_its_thread() {
    let mut fixture = fixture(1);
    assert_eq!(fixture.work_queue.register(draft("echo"), false), Ok(()));
    let refused = fixture.work_queue.register(draft("echo"), false);
    assert_eq!(refused, Err(BridgeError::Exists));
    let messages = &mut fixture.io[0].messages;
    assert!(matches!(
        messages.pop(),
        Some(Message::Event(Event::LaneOpened { .. }))
    ));
    assert!(matches!(messages.pop(), Some(Message::Function(_))));
    assert!(messages.pop().is_none());
}

#[test]
fn a_lane_keeps_its_function_while_it_exists() {
    let mut fixture = fixture(1);
    fixture
        .work_queue
        .register(draft("echo"), false)
        .expect("new");
    fixture.work_queue.pump();
    let remove = BridgeRequest::Remove {
        name: "echo".into(),
    };
    let message = BridgeMessage::Request {
        request: remove,
        reply: to(0, 1),
    };
    assert!(fixture.bridge.send(message).is_ok());
    let start = Order::Start {
        lane: LANE,
        pod: POD,
        wanted_at: Uptime::ZERO,
    };
    order(&fixture, start);
    let commands = fixture.work_queue.pump();
    assert!(matches!(
        &commands[..],
        [
            BridgeCommand::Removed { lane: LANE, .. },
            BridgeCommand::Start { pod: POD, wanted_at: Uptime::ZERO, function },
        ] if &**function.name() == "echo"
    ));
    ack(&fixture, 0, 2);
    fixture.work_queue.pump();
    assert_eq!(fixture.work_queue.leaving_stats().count(), 1);
    order(&fixture, Order::LaneGone { lane: LANE });
    order(&fixture, start);
    assert!(fixture.work_queue.pump().is_empty());
    assert_eq!(fixture.work_queue.leaving_stats().count(), 0);
    let mut last = None;
    while let Some(message) = fixture.io[0].messages.pop() {
        last = Some(message);
    }
    assert!(matches!(last, Some(Message::Event(Event::PodDown(POD)))));
}

#[test]
fn a_reused_lane_outlives_the_old_removal() {
    let mut fixture = fixture(1);
    fixture
        .work_queue
        .register(draft("echo"), false)
        .expect("new");
    let remove = BridgeRequest::Remove {
        name: "echo".into(),
    };
    let message = BridgeMessage::Request {
        request: remove,
        reply: to(0, 1),
    };
    assert!(fixture.bridge.send(message).is_ok());
    ack(&fixture, 0, 2);
    fixture.work_queue.pump();
    fixture
        .work_queue
        .register(draft("echo"), false)
        .expect("again");
    order(&fixture, Order::LaneGone { lane: LANE });
    fixture.work_queue.pump();
    let again = LaneId { epoch: 2, ..LANE };
    assert!(fixture.work_queue.function_at(LANE).is_none());
    assert!(fixture.work_queue.function_at(again).is_some());
    assert!(fixture.work_queue.functions().contains_key("echo"));
}

#[test]
fn a_full_ring_delays_messages_in_order() {
    let mut fixture = fixture(2);
    let stop = MESSAGES_DEPTH as u64 + 10;
    for at in 0..stop {
        let call = CallId {
            index: 0,
            generation: 0,
            shard: ShardId::new(1),
        };
        let message = Message::JobStarting {
            call,
            attempt: 1,
            running_since: Some(Uptime::from_ns(at)),
            start: Arc::default(),
            held_up: None,
        };
        fixture.work_queue.send_to(ShardId::new(1), message);
    }
    fixture.work_queue.event(Event::PodUp(POD));
    assert_eq!(fixture.work_queue.waiting(), 11);
    assert_eq!(fixture.work_queue.rest(), Rest::Shortly);
    let events = &mut fixture.scheduler.as_mut().expect("pinned").events;
    assert!(events.pop().is_none(), "it waits behind the others");
    let mut seen = 0;
    while seen < stop {
        while let Some(message) = fixture.io[1].messages.pop() {
            assert!(
                matches!(message, Message::JobStarting { running_since, .. } if running_since == Some(Uptime::from_ns(seen)))
            );
            seen += 1;
        }
        fixture.work_queue.pump();
    }
    assert!(matches!(events.pop(), Some(Event::PodUp(POD))));
    assert_eq!(fixture.work_queue.rest(), Rest::UntilBell);
}

#[test]
fn events_wait_for_a_full_scheduler() {
    let mut fixture = fixture(2);
    let mut sent = 0;
    while fixture.work_queue.waiting() < 2 {
        fixture.work_queue.event(Event::PodUp(PodId::new(sent, 1)));
        sent += 1;
    }
    for number in 0..sent {
        let events = &mut fixture.scheduler.as_mut().expect("pinned").events;
        assert!(matches!(events.pop(), Some(Event::PodUp(pod)) if pod == PodId::new(number, 1)));
        fixture.work_queue.pump();
    }
    assert_eq!(fixture.work_queue.waiting(), 0);
}

#[test]
fn a_message_ends_a_short_rest() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }
    let rings = Arc::new(Count(AtomicUsize::new(0)));
    let mut fixture = fixture(1);
    let (bridge, inbox) = BridgePost::pair(Arc::new(Doorbell::new(rings.clone().into())));
    fixture.bridge = bridge;
    fixture.work_queue.inbox = inbox;
    for _ in 0..=MESSAGES_DEPTH {
        fixture.work_queue.send_to(ShardId::new(0), Message::Drain);
    }
    assert_eq!(fixture.work_queue.rest(), Rest::Shortly);
    register(&fixture, "echo", to(0, 1));
    assert_eq!(rings.0.load(Relaxed), 1);
    fixture.work_queue.pump();
    for _ in 0..WORK_QUEUE_BACKLOG {
        fixture.work_queue.send_to(ShardId::new(0), Message::Drain);
    }
    register(&fixture, "other", to(0, 2));
    assert_eq!(
        fixture.work_queue.rest(),
        Rest::Shortly,
        "it would take no message"
    );
}

#[test]
fn nothing_is_taken_while_too_much_is_pending() {
    let mut fixture = fixture(1);
    for _ in 0..MESSAGES_DEPTH + WORK_QUEUE_BACKLOG {
        fixture.work_queue.send_to(ShardId::new(0), Message::Drain);
    }
    register(&fixture, "echo", to(0, 1));
    assert!(fixture.work_queue.pump().is_empty());
    assert!(fixture.io[0].messages.pop().is_some());
    assert!(matches!(
        &fixture.work_queue.pump()[..],
        [BridgeCommand::Function(_)]
    ));
}

#[test]
fn a_message_keeps_it_from_sleeping() {
    let mut fixture = fixture(1);
    assert_eq!(fixture.work_queue.rest(), Rest::UntilBell);
    order(&fixture, Order::Stop { pod: POD });
    assert_eq!(fixture.work_queue.rest(), Rest::No);
    assert!(matches!(
        &fixture.work_queue.pump()[..],
        [BridgeCommand::Stop { pod: POD }]
    ));
    fixture
        .work_queue
        .register(draft("echo"), false)
        .expect("new");
    assert_eq!(
        fixture.work_queue.rest(),
        Rest::No,
        "a command waits for the backend"
    );
}

#[test]
fn a_function_with_the_planes_account_is_refused() {
    let registry = Registry::new(1, Defaults::DEFAULT, Platform::Local);
    let mut registry = registry.guarding(Some("plane".to_owned()));
    let change = |account: &str| {
        let json = format!(
            r#"{{"name":"f","executionMode":"LOCAL","timeoutMs":0,
                "podTemplate":{{"spec":{{"serviceAccountName":"{account}"}}}}}}"#
        );
        let draft = Box::new(serde_json::from_str(&json).expect("a draft"));
        let replace = true;
        Change::Register { draft, replace }
    };
    let faults = |refused| match refused {
        BridgeError::Invalid(faults) => faults.into_iter().map(|fault| fault.field).collect(),
        other => panic!("{other:?}"),
    };
    let own: Vec<_> = faults(registry.check(&change("plane")).expect_err("refused"));
    assert_eq!(own, ["timeoutMs", "podTemplate.spec.serviceAccountName"]);
    let other: Vec<_> = faults(registry.check(&change("mine")).expect_err("refused"));
    assert_eq!(other, ["timeoutMs"]);
    // A caller may make the change without `check`, so `Registry::change` has to refuse it, too.
    let mut out = RegistryOut::default();
    registry.change(change("plane"), None, &mut out);
    assert!(registry.functions().is_empty());
}

#[test]
fn pods_of_warm_functions_alone_are_reshaped() {
    let mut fixture = fixture(1);
    for (name, mode) in [("w", "WARM"), ("j", "JOB")] {
        let json = format!(r#"{{"name":"{name}","executionMode":"{mode}","command":["x"]}}"#);
        let draft = Box::new(serde_json::from_str(&json).expect("a draft"));
        fixture.work_queue.register(draft, false).expect("new");
    }
    while fixture.io[0].messages.pop().is_some() {}
    fixture.work_queue.reshape_pods();
    let messages = &mut fixture.io[0].messages;
    let Some(Message::Event(Event::LaneChanged { lane, reshaped, .. })) = messages.pop() else {
        panic!("the scheduler gets no event");
    };
    assert_eq!((lane, reshaped), (LANE, true));
    assert!(messages.pop().is_none());
}
