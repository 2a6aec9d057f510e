//! Puts a control plane under a test's control: a bridge to the fake API server, with a real work queue. Time
//! is paused and advances when no task can run, so a wait takes almost no real time.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Once;
use std::time::{Duration, SystemTime};

use nanofaas_core::cold_start::WallClock;
use nanofaas_core::event::Order;
use nanofaas_core::function::Function;
use nanofaas_core::message::{BridgeMessage, BridgeRequest, Message, Reply, ReplyTo};
use nanofaas_core::shard::ShardId;
use nanofaas_core::ticket::PodId;
use nanofaas_core::time::Uptime;
use nanofaas_core::work_queue::{WorkQueue, controller_loop};
use nanofaas_fake_api_server::script::of;
use nanofaas_fake_api_server::server::FakeApiServer;
use nanofaas_k8s_bridge::{KubernetesBridge, KubernetesConfig, Memory, OwnPod};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep};

use crate::rings::{OWN_ACCOUNT, POLL, Rings, work_queue_and_rings};

/// The longest wait for a condition, in the test's time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(20);

thread_local! {
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// Runs a test with paused time. A panic in any of its tasks fails the test.
pub(crate) fn scenario<F: Future<Output = ()>>(test: impl FnOnce(FakeApiServer) -> F) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            before(info);
        }));
        let logs = tracing_subscriber::fmt().with_test_writer().without_time();
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        logs.with_env_filter(filter).init();
    });
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(LocalSet::new().run_until(async {
        let server = FakeApiServer::start().await;
        test(server).await;
    }));
    assert_eq!(PANICS.get(), 0, "a task panicked");
}

/// Waits until a condition holds; a failure shows its name `what`.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "it never was that {what}");
        sleep(POLL).await;
    }
}

/// Lets this many seconds of the test's time pass.
pub(crate) async fn pass(seconds: f64) {
    sleep(Duration::from_secs_f64(seconds)).await;
}

pub(crate) struct ClusterFixture {
    pub(crate) server: FakeApiServer,
    pub(crate) work_queue: Rc<RefCell<WorkQueue>>,
    pub(crate) rings: Rc<Rings>,
    memory: Rc<Memory>,
    bridge: Rc<RefCell<Option<Rc<KubernetesBridge>>>>,
    is_deposed: Rc<Cell<bool>>,
    running: Option<JoinHandle<()>>,
    turning: JoinHandle<()>,
    kubeconfig: PathBuf,
    token: u64,
    own_pod: Option<OwnPod>,
    pub(crate) start_timeout: Duration,
    pub(crate) seeds: Vec<Value>,
    /// The path of the default podTemplate's file.
    pub(crate) pod_template: Option<PathBuf>,
}

fn own_pod(name: &str, uid: &str) -> OwnPod {
    OwnPod {
        name: name.to_owned(),
        uid: uid.to_owned(),
        namespace: None,
        service_account: Some(OWN_ACCOUNT.to_owned()),
    }
}

impl Drop for ClusterFixture {
    fn drop(&mut self) {
        self.turning.abort();
        self.end();
        let _ = std::fs::remove_file(&self.kubeconfig);
    }
}

impl ClusterFixture {
    /// Makes a fixture whose bridge is not built yet; the test plays the scheduler.
    pub(crate) fn new(server: &FakeApiServer) -> Self {
        Self::with(server, false)
    }

    /// Makes a fixture whose bridge is ready; the test plays the scheduler.
    pub(crate) async fn acting(server: &FakeApiServer) -> Self {
        let mut fixture = Self::new(server);
        fixture.ready().await;
        fixture
    }

    /// Makes a fixture whose bridge is not built yet, with a real scheduler.
    pub(crate) fn scheduled(server: &FakeApiServer) -> Self {
        Self::with(server, true)
    }

    fn with(server: &FakeApiServer, is_real: bool) -> Self {
        let (work_queue, rings) = work_queue_and_rings(is_real);
        let kubeconfig = write_kubeconfig(&server.url());
        Self {
            server: server.clone(),
            work_queue: Rc::new(RefCell::new(work_queue)),
            turning: spawn_local(rings.clone().turn()),
            rings,
            memory: Rc::default(),
            bridge: Rc::default(),
            is_deposed: Rc::default(),
            running: None,
            kubeconfig,
            token: 0,
            own_pod: Some(own_pod("plane-0", "plane-uid")),
            start_timeout: START_TIMEOUT,
            seeds: Vec::new(),
            pod_template: None,
        }
    }

    /// Makes this the control plane of another Pod, whose uid is `holder`.
    pub(crate) fn named(mut self, holder: &str) -> Self {
        self.own_pod = Some(own_pod(&format!("pod-of-{holder}"), holder));
        self
    }

    /// Puts the control plane's own Pod into a namespace other than the functions' namespace.
    pub(crate) fn at_home_in(mut self, namespace: &str) -> Self {
        let own_pod = self.own_pod.as_mut().expect("it runs in the cluster");
        own_pod.namespace = Some(namespace.to_owned());
        self
    }

    pub(crate) fn under(mut self, account: &str) -> Self {
        let own_pod = self.own_pod.as_mut().expect("it runs in the cluster");
        own_pod.service_account = Some(account.to_owned());
        self
    }

    pub(crate) fn outside(mut self) -> Self {
        self.own_pod = None;
        self
    }

    fn config(&self) -> KubernetesConfig {
        let drafts = self.seeds.iter().cloned();
        KubernetesConfig {
            kubeconfig: Some(self.kubeconfig.clone()),
            namespace: Some("test".to_owned()),
            own_pod: self.own_pod.clone(),
            pod_template: self.pod_template.clone(),
            callback_base: "http://127.0.0.1:1".to_owned(),
            start_timeout: self.start_timeout,
            functions: drafts
                .map(|draft| serde_json::from_value(draft).expect("a draft"))
                .collect(),
            origin: std::time::Instant::now(),
            clock: WallClock(SystemTime::now()),
        }
    }

    /// Builds a bridge around the fixture's work queue and memory, which an earlier bridge may have used.
    pub(crate) fn begin(&mut self) {
        assert!(self.running.is_none(), "it runs");
        let (config, memory, work_queue) =
            (self.config(), self.memory.clone(), self.work_queue.clone());
        let (slot, is_deposed) = (self.bridge.clone(), self.is_deposed.clone());
        let living = async move {
            let bridge = KubernetesBridge::open(config, memory, work_queue.clone()).await;
            let bridge = Rc::new(bridge.expect("a bridge"));
            slot.replace(Some(bridge.clone()));
            let watched = bridge.clone();
            spawn_local(async move {
                watched.deposed().await;
                is_deposed.set(true);
            });
            // The loop polls, because the bells of this fixture wake no thread.
            let pause = async |_| sleep(POLL).await;
            controller_loop(&work_queue, |command| bridge.take(command), pause).await;
        };
        let tasks = LocalSet::new();
        self.running = Some(spawn_local(async move { tasks.run_until(living).await }));
    }

    /// Tries to build the bridge, and returns why this fails.
    pub(crate) async fn refusal(&self) -> String {
        let (memory, work_queue) = (self.memory.clone(), self.work_queue.clone());
        let built = KubernetesBridge::open(self.config(), memory, work_queue).await;
        built.err().expect("it is not built").to_string()
    }

    /// Drops the bridge with all its tasks, as a panic in the bridge would.
    pub(crate) fn end(&mut self) {
        self.bridge.replace(None);
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        let bridge = self.bridge.borrow();
        bridge.as_ref().is_some_and(|bridge| bridge.is_ready())
    }

    pub(crate) fn is_deposed(&self) -> bool {
        self.is_deposed.get()
    }

    pub(crate) async fn stop(&self) {
        let bridge = self.bridge.borrow().clone();
        bridge.expect("it runs").stop().await;
    }

    pub(crate) async fn ready(&mut self) {
        self.begin();
        until("the plane is ready", || self.is_ready()).await;
    }

    /// Returns the names of the registered functions, with their images.
    pub(crate) fn table(&self) -> Vec<(String, String)> {
        let work_queue = self.work_queue.borrow();
        let all = work_queue.functions().iter();
        let of = |function: &Function| function.spec.image.clone().map(|image| image.to_string());
        all.map(|(name, function)| (name.to_string(), of(function).unwrap_or_default()))
            .collect()
    }

    pub(crate) fn knows(&self, name: &str, image: &str) -> bool {
        let table = self.table();
        table.contains(&(name.to_owned(), image.to_owned()))
    }

    pub(crate) fn function(&self, name: &str) -> Arc<Function> {
        self.work_queue.borrow().functions()[name].clone()
    }

    /// Returns the token with which `reply` waits for the answer.
    pub(crate) fn request(&mut self, request: BridgeRequest) -> u64 {
        self.token += 1;
        let reply = ReplyTo {
            shard: ShardId::new(0),
            token: self.token,
        };
        self.rings.send(BridgeMessage::Request { request, reply });
        self.token
    }

    /// Returns `None` if the answer has not come yet.
    pub(crate) fn try_reply(&self, token: u64) -> Option<Reply> {
        let mut messages = self.rings.messages.borrow_mut();
        let is_it =
            |message: &Message| matches!(message, Message::Reply { token: of, .. } if *of == token);
        let at = messages[0].iter().position(is_it)?;
        match messages[0].remove(at) {
            Some(Message::Reply { reply, .. }) => Some(reply),
            _ => None,
        }
    }

    pub(crate) async fn reply(&self, token: u64) -> Reply {
        let mut found = None;
        until("somebody answers", || {
            found = self.try_reply(token);
            found.is_some()
        })
        .await;
        found.expect("there")
    }

    pub(crate) async fn ask(&mut self, request: BridgeRequest) -> Reply {
        let token = self.request(request);
        self.reply(token).await
    }

    /// Registers a function, as a client of the HTTP API does.
    pub(crate) async fn register(&mut self, spec: Value, replace: bool) -> Reply {
        self.ask(registration(spec, replace)).await
    }

    /// Registers a WARM function with the image `i:1`.
    pub(crate) async fn warm(&mut self, name: &str) -> Arc<Function> {
        let reply = self.register(warm(name), false).await;
        match reply {
            Reply::Registered { function, .. } => function,
            Reply::Refused(refused) => panic!("{refused:?}"),
            _ => panic!("another reply"),
        }
    }

    pub(crate) fn start(&self, function: &Function) -> PodId {
        let pod = self.rings.new_pod_id();
        let lane = function.lane;
        self.rings.order(Order::Start {
            lane,
            pod,
            wanted_at: Uptime::ZERO,
        });
        pod
    }

    /// Starts a pod and waits until it takes calls; returns its id and its name.
    pub(crate) async fn running(&mut self, function: &Function) -> (PodId, String) {
        let before = self.server.names("pods");
        let pod = self.start(function);
        self.up(pod).await;
        self.address(pod).await;
        let mut new = self.server.names("pods");
        new.retain(|name| !before.contains(name));
        (pod, new.pop().expect("a pod"))
    }

    /// Returns the number of requests to create an object of this resource.
    pub(crate) fn created(&self, resource: &'static str) -> usize {
        self.server.count(of("create", resource))
    }
}

pub(crate) fn registration(spec: Value, replace: bool) -> BridgeRequest {
    let draft = Box::new(serde_json::from_value(spec).expect("a draft"));
    BridgeRequest::Register { draft, replace }
}

pub(crate) fn warm(name: &str) -> Value {
    json!({"name": name, "image": "i:1", "executionMode": "WARM", "timeoutMs": 1000,
        "scalingConfig": {"minReplicas": 0, "maxReplicas": 4}})
}

/// Turns a spec into an object of the cluster.
pub(crate) fn object(mut spec: Value) -> Value {
    let name = spec["name"].take();
    spec.as_object_mut().expect("an object").remove("name");
    json!({"metadata": {"name": name}, "spec": spec})
}

fn write_kubeconfig(url: &str) -> PathBuf {
    let port = url.rsplit(':').next().unwrap_or_default();
    static FILES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = FILES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("k8s-bridge-{}-{port}-{number}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": {}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    });
    std::fs::write(&path, config.to_string()).expect("written");
    path
}
