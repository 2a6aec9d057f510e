//! Runs a bridge with its work queue and rings; the test plays the rest of the control plane.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use nanofaas_core::cold_start::{ColdStarts, WallClock};
use nanofaas_core::doorbell::Doorbell;
use nanofaas_core::event::{Event, Order};
use nanofaas_core::function::Function;
use nanofaas_core::message::{
    BridgeMessage, BridgeRequest, Message, PodAddress, PodEnd, Reply, ReplyTo,
};
use nanofaas_core::post::{BridgePost, IoInbox, IoPost, PinnedInbox, PinnedPost, SchedulerPost};
use nanofaas_core::registry::Registry;
use nanofaas_core::shard::ShardId;
use nanofaas_core::spec::{Defaults, Platform};
use nanofaas_core::ticket::PodId;
use nanofaas_core::time::Uptime;
use nanofaas_core::work_queue::{Home, WorkQueue, controller_loop};
use nanofaas_local_bridge::{LocalBridge, LocalConfig};
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::wait::PATIENCE;
use tokio::task::{LocalSet, spawn_local};

pub(crate) const IO_THREADS: usize = 2;

/// `what` names the condition.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "it never was that {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) struct LocalFixture {
    pub(crate) scratch: ScratchFolder,
    pub(crate) work_queue: Rc<RefCell<WorkQueue>>,
    pub(crate) post: BridgePost,
    pub(crate) io: Vec<IoInbox>,
    pub(crate) scheduler: PinnedInbox,
    pub(crate) start: Instant,
    unread: Vec<VecDeque<Message>>,
    functions: u32,
    pods: u32,
}

fn silent_bell() -> Arc<Doorbell> {
    Arc::new(Doorbell::new(Waker::noop().clone()))
}

pub(crate) fn config(scratch: &ScratchFolder) -> LocalConfig {
    let program = std::env::current_exe().expect("this program");
    LocalConfig {
        callback_base: "http://127.0.0.1:1".into(),
        start_timeout: PATIENCE,
        stop_grace: Duration::from_secs(10),
        guard: vec![program.into(), "guard".into()],
        run_base: Some(scratch.join("")),
        origin: Instant::now(),
    }
}

pub(crate) fn with<F>(test: impl FnOnce(LocalFixture) -> F)
where
    F: Future<Output = LocalFixture> + 'static,
{
    with_config(|_| {}, test);
}

pub(crate) fn with_config<F>(
    edit: impl FnOnce(&mut LocalConfig),
    test: impl FnOnce(LocalFixture) -> F,
) where
    F: Future<Output = LocalFixture> + 'static,
{
    let scratch = ScratchFolder::create();
    let mut config = config(&scratch);
    edit(&mut config);
    let start = config.origin;
    let (post, inbox) = BridgePost::pair(silent_bell());
    let pairs = (0..IO_THREADS).map(|_| IoPost::pair(silent_bell(), true));
    let (posts, io): (Vec<_>, Vec<_>) = pairs.unzip();
    let (pinned, scheduler) = PinnedPost::pair(silent_bell(), IO_THREADS);
    let registry = Registry::new(IO_THREADS, Defaults::DEFAULT, Platform::Local);
    let registry = (registry, Home::Memory);
    let starts = ColdStarts::new(WallClock(SystemTime::now()));
    let work_queue = WorkQueue::new(
        inbox,
        posts,
        SchedulerPost::Pinned(pinned),
        registry,
        starts,
    );
    let fixture = LocalFixture {
        scratch,
        work_queue: Rc::new(RefCell::new(work_queue)),
        post,
        io,
        scheduler,
        start,
        unread: (0..IO_THREADS).map(|_| VecDeque::new()).collect(),
        functions: 0,
        pods: 0,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let fixture = runtime.block_on(LocalSet::new().run_until(async move {
        let bridge =
            Rc::new(LocalBridge::open(config, fixture.work_queue.clone()).expect("a bridge"));
        let (attended, work_queue) = (bridge.clone(), fixture.work_queue.clone());
        let controller = spawn_local(async move {
            // The loop sleeps for 1 ms, because the bells of this fixture wake no thread.
            let pause = async |_| tokio::time::sleep(Duration::from_millis(1)).await;
            controller_loop(&work_queue, |command| attended.take(command), pause).await;
        });
        let fixture = test(fixture).await;
        controller.abort();
        tokio::time::timeout(PATIENCE, bridge.stop())
            .await
            .expect("it stops");
        fixture
    }));
    let left: Vec<_> = fs::read_dir(fixture.scratch.join(""))
        .expect("there")
        .map(|entry| entry.expect("readable").file_name())
        .filter(|name| name.to_string_lossy().starts_with("nanofaas-"))
        .collect();
    assert!(left.is_empty(), "the run directory is left: {left:?}");
}

impl LocalFixture {
    pub(crate) fn send(&self, message: BridgeMessage) {
        assert!(
            self.post.send(message).is_ok(),
            "the bridge's inbox is full"
        );
    }

    pub(crate) fn order(&self, order: Order) {
        self.send(BridgeMessage::Order(order));
    }

    /// Registers a function, given in JSON without its outer braces and its name.
    pub(crate) async fn register(&mut self, fields: &str) -> Arc<Function> {
        self.functions += 1;
        let json = format!(r#"{{"name":"f{}",{fields}}}"#, self.functions);
        let draft = Box::new(serde_json::from_str(&json).expect("a draft"));
        let reply = ReplyTo {
            shard: ShardId::new(0),
            token: 1,
        };
        let request = BridgeRequest::Register {
            draft,
            replace: false,
        };
        self.send(BridgeMessage::Request { request, reply });
        match self.reply().await {
            Reply::Registered { function, .. } => function,
            Reply::Refused(refused) => panic!("{refused:?}"),
            _ => panic!("another reply"),
        }
    }

    pub(crate) async fn warm(&mut self, command: &str, more: &str) -> Arc<Function> {
        let directory = self.scratch.path().display();
        let fields = format!(
            r#""executionMode":"WARM","command":{command},
            "local":{{"directory":"{directory}"}}{more}"#
        );
        let function = self.register(&fields).await;
        let event = self.event().await;
        assert!(matches!(event, Event::LaneOpened { .. }));
        function
    }

    pub(crate) fn pod(&mut self, function: &Function) -> PodId {
        self.pods += 1;
        let pod = PodId::new(self.pods, 7);
        let order = Order::Start {
            lane: function.lane,
            pod,
            wanted_at: self.now(),
        };
        self.order(order);
        pod
    }

    pub(crate) fn now(&self) -> Uptime {
        Uptime::ZERO + self.start.elapsed().into()
    }

    pub(crate) async fn event(&mut self) -> Event {
        let since = Instant::now();
        loop {
            self.take_messages();
            if let Some(event) = self.scheduler.events.pop() {
                return event;
            }
            assert!(since.elapsed() < PATIENCE, "the scheduler gets nothing");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) async fn up(&mut self, pod: PodId) {
        match self.event().await {
            Event::PodUp(up) => assert_eq!(up, pod),
            Event::StartFailed { failure, .. } => panic!("{failure:?}"),
            _ => panic!("another event"),
        }
    }

    pub(crate) async fn down(&mut self, pod: PodId) {
        match self.event().await {
            Event::PodDown(down) => assert_eq!(down, pod),
            Event::StartFailed { failure, .. } => panic!("{failure:?}"),
            _ => panic!("another event"),
        }
    }

    /// Moves the io threads' messages to `unread`. Changes of functions are acknowledged at once instead.
    fn take_messages(&mut self) {
        let threads = self.io.iter_mut().zip(&mut self.unread);
        for (shard, (inbox, unread)) in (0..).map(ShardId::new).zip(threads) {
            while let Some(message) = inbox.messages.pop() {
                let version = match &message {
                    Message::Function(function) => function.version,
                    Message::FunctionRemoved { version, .. } => *version,
                    _ => {
                        unread.push_back(message);
                        continue;
                    }
                };
                let ack = BridgeMessage::Ack { shard, version };
                assert!(self.post.send(ack).is_ok());
            }
        }
    }

    pub(crate) fn try_message(&mut self, thread: usize) -> Option<Message> {
        self.take_messages();
        self.unread[thread].pop_front()
    }

    /// Waits for the next message to this io thread. Changes of functions are skipped.
    pub(crate) async fn message(&mut self, thread: usize) -> Message {
        let since = Instant::now();
        loop {
            if let Some(message) = self.try_message(thread) {
                return message;
            }
            assert!(
                since.elapsed() < PATIENCE,
                "io thread {thread} gets nothing"
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits for the reply to a request. Other messages stay in `unread`.
    pub(crate) async fn reply(&mut self) -> Reply {
        let since = Instant::now();
        loop {
            self.take_messages();
            let is_reply = |message: &Message| matches!(message, Message::Reply { .. });
            if let Some(at) = self.unread[0].iter().position(is_reply)
                && let Some(Message::Reply { reply, .. }) = self.unread[0].remove(at)
            {
                return reply;
            }
            assert!(since.elapsed() < PATIENCE, "nobody answers");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) async fn ask(&mut self, request: BridgeRequest) -> Reply {
        let reply = ReplyTo {
            shard: ShardId::new(0),
            token: 1,
        };
        self.send(BridgeMessage::Request { request, reply });
        self.reply().await
    }

    /// Returns the address of a pod after `PodUp`. By then, each io thread must have the address.
    fn sent_address(&mut self, pod: PodId) -> PodAddress {
        let mut found = None;
        for thread in 0..IO_THREADS {
            match self.try_message(thread) {
                Some(Message::PodAddress {
                    pod: at, address, ..
                }) => {
                    assert_eq!(at, pod);
                    assert!(found.as_ref().is_none_or(|known| *known == address));
                    found = Some(address);
                }
                _ => panic!("thread {thread} does not know the address"),
            }
        }
        found.expect("an address")
    }

    pub(crate) fn address(&mut self, pod: PodId) -> PathBuf {
        match self.sent_address(pod) {
            PodAddress::Unix(path) => path,
            PodAddress::Tcp(address) => panic!("it is at {address}"),
        }
    }

    pub(crate) fn tcp_address(&mut self, pod: PodId) -> SocketAddr {
        match self.sent_address(pod) {
            PodAddress::Tcp(address) => address,
            PodAddress::Unix(path) => panic!("it is at {}", path.display()),
        }
    }

    /// Returns the end of a pod after `PodDown`. By then, each io thread must know the end.
    pub(crate) fn gone(&mut self, pod: PodId) -> PodEnd {
        let mut found = None;
        for thread in 0..IO_THREADS {
            match self.try_message(thread) {
                Some(Message::PodGone { pod: at, end }) => {
                    assert_eq!(at, pod);
                    found = Some(end);
                }
                _ => panic!("thread {thread} does not know of the end"),
            }
        }
        found.expect("an end")
    }

    /// Starts a pod that runs `program`, and waits until it is up.
    pub(crate) async fn running(&mut self, program: &str) -> (Arc<Function>, PodId, PathBuf) {
        let command = format!(r#"["python3","{program}"]"#);
        let function = self.warm(&command, r#","timeoutMs":1"#).await;
        let pod = self.pod(&function);
        self.up(pod).await;
        let address = self.address(pod);
        (function, pod, address)
    }

    /// Waits until a file ends with a complete line; returns the text of the file.
    pub(crate) async fn line(&self, name: &str) -> String {
        let file = self.scratch.join(name);
        until(&format!("{name} is written"), || {
            fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n'))
        })
        .await;
        let text = fs::read_to_string(&file).expect("written");
        text.trim().to_owned()
    }

    pub(crate) async fn pid(&self, name: &str) -> i32 {
        self.line(name).await.parse().expect("a pid")
    }

    pub(crate) fn has_file(&self, name: &str) -> bool {
        self.scratch.join(name).exists()
    }
}

/// The first part of a pod's program. The program writes its pid into the file `pid`. It answers a GET with
/// 200, or with 503 while a file `sick` exists.
pub(crate) const HEALTHY: &str = r#"
import http.server, os, socketserver
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if os.path.exists("sick") else 200)
        self.end_headers()
    def log_message(self, *_):
        pass
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    def get_request(self):
        return super().get_request()[0], ("pod", 0)
server = Server(os.environ["NANOFAAS_SOCKET"], Answer)
with open("pid", "w") as file:
    file.write(f"{os.getpid()}\n")
"#;

pub(crate) const FOR_EVER: &str = "\nserver.serve_forever()\n";

/// A part of a pod's program that leaves an orphan in a group and session of its own. The orphan's pid is in
/// the file `orphan`.
pub(crate) const WITH_ORPHAN: &str = r#"
if os.fork() == 0:
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    with open("orphan", "w") as file:
        file.write(f"{os.getpid()}\n")
    import time
    time.sleep(1000)
"#;
