//! Tests of the bridge thread. The test plays an io thread and a client of the management port.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::SystemTime;

use nanofaas_core::event::{Event, Order};
use nanofaas_core::message::{BridgeMessage, BridgeRequest, Message, PodAddress, Reply, ReplyTo};
use nanofaas_core::post::{BridgePost, IoInbox};
use nanofaas_core::shard::ShardId;
use nanofaas_core::spec::{Defaults, Platform};
use nanofaas_core::ticket::{LaneId, PodId};
use nanofaas_core::time::Uptime;

use super::*;
use crate::management::HealthState;
use crate::metrics::tests::info_of;

/// Returns the lane of the function that was registered as number `index`, counted from 0.
const fn id(index: u32) -> LaneId {
    let epoch = index + 1;
    LaneId { index, epoch }
}

const LONGEST: Duration = Duration::from_secs(60);

struct BridgeFixture {
    thread: BridgeThread,
    post: BridgePost,
    io: IoInbox,
    settled: Receiver<Result<(), StartError>>,
    management: std::net::SocketAddr,
}

fn draft(json: &str) -> FunctionDraft {
    serde_json::from_str(json).expect("a draft")
}

fn health() -> Arc<HealthState> {
    Arc::new(HealthState {
        origin: Instant::now(),
        ledgers: Arc::new([]),
        scheduler_beat: None,
        bells: Vec::new(),
        started: AtomicBool::new(true),
        draining: AtomicBool::new(false),
    })
}

/// Starts a bridge with these functions, one io thread and an inline scheduler.
fn fixture(backend: Backend, functions: &[&str]) -> BridgeFixture {
    let (io_bell, _waking) = bell();
    let (io_post, io) = IoPost::pair(io_bell, false);
    let (bell, wake) = bell();
    let (post, inbox) = BridgePost::pair(bell);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (ask, asked) = mpsc::channel(4);
    let management = Management::new(health(), ask, Box::new(|| info_of(Arc::new([]))), 10);
    let (settled, reports) = sync_channel(1);
    let config = BridgeThreadConfig {
        backend,
        inbox,
        wake,
        io: vec![io_post.clone()],
        scheduler: SchedulerPost::Inline(io_post),
        registry: Registry::new(1, Defaults::DEFAULT, Platform::Local),
        clock: WallClock(SystemTime::now()),
        functions: functions.iter().map(|json| draft(json)).collect(),
        settled,
        listener,
        management: Arc::new(management),
        asked,
    };
    BridgeFixture {
        thread: start(config, OnEnd(std::task::Waker::noop().clone())).expect("a thread"),
        post,
        io,
        settled: reports,
        management: address,
    }
}

impl BridgeFixture {
    /// Returns the first value that `find` returns for a message to the io thread. Acknowledges the
    /// function messages before that message.
    fn next<T>(&mut self, mut find: impl FnMut(&Message) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(message) = self.io.messages.pop() {
                if let Message::Function(function) = &message {
                    let (shard, version) = (ShardId::new(0), function.version);
                    let ack = BridgeMessage::Ack { shard, version };
                    assert!(self.post.send(ack).is_ok());
                }
                if let Some(found) = find(&message) {
                    return found;
                }
            } else {
                assert!(begun.elapsed() < LONGEST, "nothing came");
                sleep(Duration::from_millis(1));
            }
        }
    }

    fn function(&mut self, name: &str) {
        self.next(|message| match message {
            Message::Function(function) => (&**function.name() == name).then_some(()),
            _ => None,
        });
    }

    fn endpoint(&mut self, lane: LaneId) -> Result<PodAddress, Arc<str>> {
        self.next(|message| match message {
            Message::Endpoint { lane: of, address } if *of == lane => Some(address.clone()),
            _ => None,
        })
    }

    fn end(self) {
        self.thread.stop();
        let begun = Instant::now();
        while !self.thread.is_finished() {
            assert!(begun.elapsed() < LONGEST, "the bridge does not end");
            sleep(Duration::from_millis(1));
        }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.management).expect("a connection");
        stream.set_read_timeout(Some(LONGEST)).expect("a timeout");
        let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }
}

const LOCAL: &str = r#"{"name":"near","executionMode":"LOCAL"}"#;
const WARM: &str = r#"{"name":"warm","executionMode":"WARM","command":["true"]}"#;
const POOL: &str = r#"{"name":"far","executionMode":"POOL","endpointUrl":"http://localhost:9/x"}"#;

#[test]
fn it_is_settled_when_io_threads_know_all() {
    let mut fixture = fixture(Backend::None, &[LOCAL, WARM]);
    fixture.function("near");
    assert!(fixture.settled.try_recv().is_err(), "one is not known yet");
    fixture.function("warm");
    let settled = fixture.settled.recv_timeout(LONGEST).expect("a report");
    assert!(settled.is_ok());
    let page = fixture.get("/metrics");
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    fixture.end();
}

#[test]
fn an_unregistrable_function_stops_the_start() {
    let fixture = fixture(Backend::None, &[LOCAL, LOCAL]);
    let settled = fixture.settled.recv_timeout(LONGEST).expect("a report");
    let message = settled.expect_err("one too many").to_string();
    assert!(
        message.contains("near") && message.contains("already"),
        "{message}"
    );
    fixture.end();
}

#[test]
fn without_pods_a_failed_start_names_the_remedy() {
    let mut fixture = fixture(Backend::None, &[WARM]);
    let pod = PodId::new(0, 1);
    fixture.function("warm");
    let start = Order::Start {
        lane: id(0),
        pod,
        wanted_at: Uptime::ZERO,
    };
    assert!(fixture.post.send(BridgeMessage::Order(start)).is_ok());
    let failure = fixture.next(|message| match message {
        Message::Event(Event::StartFailed { pod: at, failure }) if *at == pod => {
            Some(failure.clone())
        }
        _ => None,
    });
    assert!(failure.permanent && failure.message.contains("--backend"));
    let request = BridgeRequest::ColdStarts {
        name: "warm".into(),
    };
    let reply = ReplyTo {
        shard: ShardId::new(0),
        token: 5,
    };
    assert!(
        fixture
            .post
            .send(BridgeMessage::Request { request, reply })
            .is_ok()
    );
    let starts = fixture.next(|message| match message {
        Message::Reply {
            token: 5,
            reply: Reply::ColdStarts(starts),
        } => Some(starts.len()),
        _ => None,
    });
    assert_eq!(starts, 0);
    fixture.end();
}

#[test]
fn an_endpoints_address_is_reported_once_known() {
    let tcp = |text: &str| PodAddress::Tcp(text.parse().expect("an address"));
    for (url, expected) in [
        ("http://127.0.0.1:81/a", tcp("127.0.0.1:81")),
        ("http://[::1]:82", tcp("[::1]:82")),
        (
            "http+unix:///a/b.sock:/c",
            PodAddress::Unix("/a/b.sock".into()),
        ),
    ] {
        let pool = format!(r#"{{"name":"p","executionMode":"POOL","endpointUrl":"{url}"}}"#);
        let mut fixture = fixture(Backend::None, &[&pool]);
        assert_eq!(fixture.endpoint(id(0)), Ok(expected));
        fixture.end();
    }
    let second = POOL.replace("far", "farther");
    let mut fixture = fixture(Backend::None, &[POOL, &second]);
    let Ok(PodAddress::Tcp(address)) = fixture.endpoint(id(0)) else {
        panic!("no address");
    };
    assert!(address.ip().is_loopback() && address.port() == 9);
    // The second function gets the address from the same look-up.
    assert_eq!(fixture.endpoint(id(1)), Ok(PodAddress::Tcp(address)));
    fixture.end();
}

#[test]
fn ten_thousand_functions_are_known_before_settling() {
    const COUNT: usize = 10_000;
    let functions = (0..COUNT).map(|number| LOCAL.replace("near", &format!("near-{number}")));
    let functions: Vec<String> = functions.collect();
    let functions: Vec<&str> = functions.iter().map(String::as_str).collect();
    let mut fixture = fixture(Backend::None, &functions);
    for function in &functions {
        assert!(
            fixture.settled.try_recv().is_err(),
            "{function} is not known"
        );
        fixture.next(|message| matches!(message, Message::Function(_)).then_some(()));
    }
    let settled = fixture.settled.recv_timeout(LONGEST).expect("a report");
    assert!(settled.is_ok());
    fixture.end();
}

#[test]
fn a_panic_rebuilds_the_bridge_around_its_desk() {
    static BUILT: AtomicUsize = AtomicUsize::new(0);
    let config = || {
        assert!(
            BUILT.fetch_add(1, Relaxed) >= 2,
            "planted: the first two panic"
        );
        LocalConfig {
            callback_base: "http://127.0.0.1:9".to_owned(),
            start_timeout: LONGEST,
            stop_grace: Duration::ZERO,
            // Like a guard, `cat` ends when its standard input is closed.
            guard: vec!["cat".into()],
            run_base: Some(std::env::temp_dir()),
            origin: Instant::now(),
        }
    };
    let mut fixture = fixture(Backend::Local(Box::new(config)), &[LOCAL]);
    fixture.function("near");
    let settled = fixture.settled.recv_timeout(LONGEST).expect("a report");
    assert!(settled.is_ok());
    assert_eq!(BUILT.load(Relaxed), 3);
    let page = fixture.get("/readyz");
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    fixture.end();
}
