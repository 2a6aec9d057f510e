//! Tests the life of a pod with a runner that only notes how it is called. The test acts in place of the
//! scheduler and of an io thread. Time is paused: it advances only when no task can run.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant as ProcessStart, SystemTime};

use nanofaas_backend::announcer::{Announcer, ended};
use nanofaas_backend::pod::life::{Begin, PROBE, PodRunner, live};
use nanofaas_backend::pod::{PodFate, PodStartError, WarmPod};
use nanofaas_core::cold_start::{ColdStarts, WallClock};
use nanofaas_core::doorbell::Doorbell;
use nanofaas_core::event::Event;
use nanofaas_core::function::Function;
use nanofaas_core::message::{Message, PodAddress, PodEnd};
use nanofaas_core::post::{BridgePost, IoInbox, IoPost, PinnedInbox, PinnedPost, SchedulerPost};
use nanofaas_core::queue_stats::QueueStats;
use nanofaas_core::registry::Registry;
use nanofaas_core::spec::{Defaults, FunctionSpec, Platform};
use nanofaas_core::ticket::{LaneId, PodId};
use nanofaas_core::time::Uptime;
use nanofaas_core::work_queue::{Home, WorkQueue};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep};

const LIMIT: Duration = Duration::from_secs(30);
const POD: PodId = PodId::new(3, 1);

/// A runner whose pod listens nowhere. The pod becomes ready when it reports ready.
struct NotingRunner {
    pod: Rc<WarmPod>,
    announcer: Announcer,
    notes: Rc<RefCell<Vec<&'static str>>>,
    is_leaving: bool,
}

impl NotingRunner {
    fn note(&self, what: &'static str) {
        self.notes.borrow_mut().push(what);
    }
}

impl PodRunner for NotingRunner {
    type Fault = ();

    fn pod(&self) -> &WarmPod {
        &self.pod
    }

    fn announcer(&self) -> &Announcer {
        &self.announcer
    }

    async fn create(&mut self, _deadline: Instant) -> Result<(), PodStartError<()>> {
        self.note("create");
        Ok(())
    }

    fn observe_start(&mut self) {}

    async fn start_fault(&mut self) -> Option<PodStartError<()>> {
        None
    }

    fn addresses(&self) -> Vec<PodAddress> {
        vec![PodAddress::Unix("/nowhere".into())]
    }

    fn owner(&self) -> impl Fn(SocketAddr) -> bool + 'static {
        |_| true
    }

    fn ready_at(&self) -> Option<PodAddress> {
        self.pod
            .is_ready()
            .then(|| PodAddress::Unix("/nowhere".into()))
    }

    async fn not_ready(&mut self) -> PodStartError<()> {
        PodStartError::new((), false, "late")
    }

    async fn abandon(&mut self) {
        self.note("abandon");
    }

    fn on_up(&mut self, _address: &PodAddress) {
        self.note("up");
    }

    fn end(&mut self) -> Option<PodEnd> {
        None
    }

    fn is_leaving(&self) -> bool {
        self.is_leaving
    }

    async fn stop(&mut self) -> PodEnd {
        self.note("stop");
        ended("stopped")
    }

    async fn end_unwell(&mut self, why: String) -> PodEnd {
        self.note("end_unwell");
        ended(&why)
    }
}

/// The inboxes of the scheduler and of the only io thread.
struct Inboxes {
    scheduler: PinnedInbox,
    io: IoInbox,
    _bridge: BridgePost,
}

impl Inboxes {
    /// Takes the scheduler's events about the pod and returns their names in order.
    fn events(&mut self) -> Vec<&'static str> {
        let events = std::iter::from_fn(|| self.scheduler.events.pop());
        let named = events.filter_map(|event| match event {
            Event::PodUp(pod) => Some((pod, "PodUp")),
            Event::PodLeaving(pod) => Some((pod, "PodLeaving")),
            _ => None,
        });
        named
            .map(|(pod, name)| {
                assert_eq!(pod, POD);
                name
            })
            .collect()
    }

    fn received_address(&mut self) -> bool {
        std::iter::from_fn(|| self.io.messages.pop())
            .any(|message| matches!(message, Message::PodAddress { pod: POD, .. }))
    }
}

fn bell() -> Arc<Doorbell> {
    Arc::new(Doorbell::new(Waker::noop().clone()))
}

fn function() -> Arc<Function> {
    let draft = r#"{"name":"f","executionMode":"WARM","command":["f"]}"#;
    let draft = serde_json::from_str(draft).expect("a draft");
    let spec = FunctionSpec::resolve(&draft, &Defaults::DEFAULT, Platform::Local);
    Arc::new(Function {
        spec: spec.expect("a sound spec"),
        lane: LaneId { index: 0, epoch: 1 },
        stats: Arc::new(QueueStats::new(1)),
        version: 1,
    })
}

fn fixture() -> (NotingRunner, Inboxes) {
    let (io_post, io) = IoPost::pair(bell(), true);
    let (post, scheduler) = PinnedPost::pair(bell(), 1);
    let (bridge, inbox) = BridgePost::pair(bell());
    let registry = Registry::new(1, Defaults::DEFAULT, Platform::Local);
    let starts = ColdStarts::new(WallClock(SystemTime::UNIX_EPOCH));
    let post = SchedulerPost::Pinned(post);
    let work_queue = WorkQueue::new(inbox, vec![io_post], post, (registry, Home::Memory), starts);
    let pod = WarmPod::new(Some(POD), "fn-f-00000".to_owned(), function(), Uptime::ZERO);
    let runner = NotingRunner {
        pod: Rc::new(pod),
        announcer: Announcer::new(Rc::new(RefCell::new(work_queue)), ProcessStart::now()),
        notes: Rc::default(),
        is_leaving: false,
    };
    let inboxes = Inboxes {
        scheduler,
        io,
        _bridge: bridge,
    };
    (runner, inboxes)
}

/// Runs a test with paused time.
fn run(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(LocalSet::new().run_until(test));
}

#[test]
fn addresses_are_known_before_pods_are_up() {
    run(async {
        let (mut runner, mut inboxes) = fixture();
        let (pod, notes) = (runner.pod.clone(), runner.notes.clone());
        let life = spawn_local(async move { live(&mut runner, Begin::Create, LIMIT).await });
        sleep(Duration::from_secs(1)).await;
        assert!(!inboxes.received_address() && inboxes.events().is_empty());
        pod.report_ready(None);
        sleep(Duration::from_secs(1)).await;
        assert!(inboxes.received_address());
        assert_eq!(inboxes.events(), ["PodUp"]);
        pod.stop();
        let fate = life.await.expect("no panic");
        assert!(matches!(fate, PodFate::Ended(end) if &*end.message == "stopped"));
        assert_eq!(*notes.borrow(), ["create", "up", "stop"]);
    });
}

#[test]
fn a_late_idle_start_is_abandoned() {
    run(async {
        for (begin, expected) in [
            (Begin::Create, &["create", "abandon"][..]),
            (Begin::Start, &["abandon"]),
            (Begin::Adopt, &[]),
        ] {
            let (mut runner, mut inboxes) = fixture();
            let began = Instant::now();
            let fate = live(&mut runner, begin, LIMIT).await;
            assert_eq!(began.elapsed().as_secs(), LIMIT.as_secs());
            let is_unanswered = matches!(fate, PodFate::Unanswered(_));
            assert_eq!(is_unanswered, begin == Begin::Adopt);
            assert_eq!(*runner.notes.borrow(), expected, "{begin:?}");
            assert!(inboxes.events().is_empty());
        }
    });
}

#[test]
fn a_pod_stopped_in_its_start_is_abandoned() {
    run(async {
        let (mut runner, _inboxes) = fixture();
        runner.pod.stop();
        let fate = live(&mut runner, Begin::Create, LIMIT).await;
        assert!(matches!(fate, PodFate::Ended(_)));
        assert_eq!(*runner.notes.borrow(), ["create", "abandon"]);
    });
}

#[test]
fn a_silent_quarantined_pod_is_ended() {
    run(async {
        let (mut runner, mut inboxes) = fixture();
        runner.pod.probe();
        let began = Instant::now();
        let fate = live(&mut runner, Begin::Serve, LIMIT).await;
        assert_eq!(began.elapsed().as_secs(), PROBE.as_secs());
        assert!(matches!(fate, PodFate::Ended(end) if end.message.contains("not well")));
        assert_eq!(*runner.notes.borrow(), ["end_unwell"]);
        assert!(inboxes.events().is_empty());
    });
}

#[test]
fn a_leaving_pod_is_announced_once() {
    run(async {
        let (mut runner, mut inboxes) = fixture();
        let pod = runner.pod.clone();
        runner.is_leaving = true;
        let life = spawn_local(async move { live(&mut runner, Begin::Serve, LIMIT).await });
        for _ in 0..3 {
            pod.bell.notify_one();
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(inboxes.events(), ["PodLeaving"]);
        pod.stop();
        assert!(life.await.is_ok());
    });
}
