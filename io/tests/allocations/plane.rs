//! One io thread with the inline scheduler. The test plays the bridge: it registers functions at a real work
//! queue, and announces one of its threads as the address of each ordered pod. When `start` returns, all
//! functions can be called, and the work queue is not polled any more.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use nanofaas_core::cold_start::{ColdStarts, WallClock};
use nanofaas_core::doorbell::Doorbell;
use nanofaas_core::entries::Entries;
use nanofaas_core::event::Event;
use nanofaas_core::message::{Message, PodAddress};
use nanofaas_core::metrics::ThreadLedger;
use nanofaas_core::post::{BridgePost, IoPost, SchedulerPost};
use nanofaas_core::rate::{RateBucket, RateLimit};
use nanofaas_core::registry::Registry;
use nanofaas_core::spec::{Defaults, Platform};
use nanofaas_core::work_queue::{BridgeCommand, Home, WorkQueue};
use nanofaas_io::start::{
    DriverChoice, IoConfig, IoStartError, IoThreads, Plumbing, SchedulerSetup,
};
use nanofaas_io::start::{bell, start};

use crate::pod;

const FUNCTIONS: [&str; 3] = [
    r#"{"name":"local","executionMode":"LOCAL","concurrency":64}"#,
    r#"{"name":"tcp","executionMode":"WARM","command":["true"],"concurrency":64,
        "scalingConfig":{"minReplicas":1,"maxReplicas":1,"targetInFlightPerPod":64}}"#,
    r#"{"name":"unix","executionMode":"WARM","command":["true"],"concurrency":64,
        "scalingConfig":{"minReplicas":1,"maxReplicas":1,"targetInFlightPerPod":64}}"#,
];
const PODS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct ControlPlaneThreads {
    io: IoThreads,
    post: IoPost,
    socket: PathBuf,
    pub(crate) listen: SocketAddr,
}

fn config(driver: DriverChoice) -> IoConfig {
    const LARGE: u64 = 1 << 26;
    IoConfig {
        listen: "127.0.0.1:0".parse().expect("an address"),
        internal_listen: None,
        driver,
        pin: Vec::new(),
        spin_for: None,
        body_bytes_max: LARGE,
        response_bytes_max: LARGE,
        inflight_bytes: LARGE,
        connect_timeout_ms: 1000,
        async_max_age_ms: 3_600_000,
        execution_ttl_ms: 900_000,
        execution_store_bytes: LARGE,
        callback_base: "http://127.0.0.1:9".to_owned(),
        begun: true,
        collect_memory: || {},
        openapi: "",
    }
}

impl ControlPlaneThreads {
    /// Returns `None` if the machine does not have the driver.
    pub(crate) fn start(driver: DriverChoice) -> Option<Self> {
        let (io_bell, waking) = bell().expect("a pair of sockets");
        let (post, inbox) = IoPost::pair(io_bell, false);
        // The work queue is polled in a loop that never sleeps, so its doorbell needs no waker.
        let nobody = Arc::new(Doorbell::new(Waker::noop().clone()));
        let (bridge, bridge_inbox) = BridgePost::pair(nobody);
        let origin_wall = SystemTime::now();
        let plumbing = Plumbing {
            on_end: Waker::noop().clone(),
            origin: Instant::now(),
            origin_wall,
            entries: Arc::new(Entries::new(1)),
            scheduler: SchedulerSetup::Inline,
            inboxes: vec![(inbox, waking)],
            bridge,
            ledgers: Arc::new([ThreadLedger::default()]),
            rate: Arc::new(RateBucket::new(RateLimit::Off)),
        };
        let io = match start(&config(driver), plumbing) {
            Ok(io) => io,
            Err(IoStartError::NoUring(_)) => return None,
            Err(error) => panic!("{error}"),
        };
        let registry = Registry::new(1, Defaults::DEFAULT, Platform::Local);
        let mut work_queue = WorkQueue::new(
            bridge_inbox,
            vec![post.clone()],
            SchedulerPost::Inline(post.clone()),
            (registry, Home::Memory),
            ColdStarts::new(WallClock(origin_wall)),
        );
        let process = std::process::id();
        let socket = std::env::temp_dir().join(format!("nanofaas-allocations-{process}.sock"));
        let _ = std::fs::remove_file(&socket);
        open(
            &mut work_queue,
            &[("tcp", pod::tcp()), ("unix", pod::unix(&socket))],
        );
        Some(Self {
            listen: io.listen,
            io,
            post,
            socket,
        })
    }

    pub(crate) fn stop(self) {
        assert!(self.post.send(Message::Stop).is_ok(), "room for a message");
        for thread in self.io.threads {
            thread.join().expect("an io thread ends well");
        }
        let _ = std::fs::remove_file(self.socket);
    }
}

fn open(work_queue: &mut WorkQueue, addresses: &[(&str, PodAddress)]) {
    for json in FUNCTIONS {
        let draft = serde_json::from_str(json).expect("a draft");
        work_queue.register(draft, false).expect("a function");
    }
    let begun = Instant::now();
    let mut up = 0;
    while up < PODS || !work_queue.is_settled() {
        assert!(begun.elapsed() < PATIENCE, "pods are not wanted");
        for command in work_queue.pump() {
            let BridgeCommand::Start { function, pod, .. } = command else {
                continue;
            };
            let name = &**function.name();
            let (_, address) = addresses
                .iter()
                .find(|(of, _)| *of == name)
                .expect("a pod of a function");
            work_queue.broadcast(|| Message::PodAddress {
                pod,
                address: address.clone(),
                start: Arc::default(),
            });
            work_queue.event(Event::PodUp(pod));
            up += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
