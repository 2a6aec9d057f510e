//! Tests of the port over loopback, with requests like those of a kubelet or Prometheus.

use std::io::{Read, Write};
use std::net::TcpStream as Blocking;
use std::sync::atomic::AtomicU64;
use std::task::Wake;

use nanofaas_core::queue_stats::QueueStats;
use nanofaas_core::time::Uptime;

use super::*;
use crate::metrics::tests::info_of;

struct ManagementPort {
    address: SocketAddr,
    health: Arc<HealthState>,
}

fn port(answers: bool) -> ManagementPort {
    let ledgers: Arc<[ThreadLedger]> = (0..2).map(|_| ThreadLedger::default()).collect();
    let health = Arc::new(HealthState {
        origin: Instant::now(),
        ledgers: ledgers.clone(),
        scheduler_beat: Some(Arc::default()),
        bells: Vec::new(),
        started: AtomicBool::new(false),
        draining: AtomicBool::new(false),
    });
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let process = move || info_of(ledgers.clone());
    let (ask, mut asked) = mpsc::channel::<Ask>(4);
    let management = Arc::new(Management::new(health.clone(), ask, Box::new(process), 10));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            tokio::spawn(async move {
                while let Some(answer) = asked.recv().await {
                    if answers {
                        let stats = Arc::new(QueueStats::new(2));
                        stats.metrics(0).success.add();
                        let registered = vec![("echo".into(), stats)];
                        let _ = answer.send(ScrapedFunctions {
                            registered,
                            leaving: Vec::new(),
                            ..ScrapedFunctions::default()
                        });
                    }
                }
            });
            serve(listener, management).await
        })
    });
    ManagementPort { address, health }
}

impl ManagementPort {
    fn ask(&self, request: &str) -> String {
        let mut stream = Blocking::connect(self.address).expect("a connection");
        let deadline = Some(Duration::from_secs(60));
        stream.set_read_timeout(deadline).expect("a timeout");
        write!(
            stream,
            "{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        )
        .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// Sends a `GET` and returns the status and body of the answer.
    fn get(&self, path: &str) -> (u16, String) {
        let answer = self.ask(&format!("GET {path}"));
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
        let status = head.split(' ').nth(1).expect("a status");
        (status.parse().expect("a number"), body.to_owned())
    }
}

#[test]
fn it_is_ready_until_it_drains() {
    let port = port(true);
    let up = || (200, r#"{"status":"UP"}"#.to_owned());
    for path in ["/readyz", "/actuator/health/readiness", "/actuator/health"] {
        assert_eq!(
            port.get(path),
            (503, r#"{"status":"DOWN","reason":"starting"}"#.to_owned())
        );
    }
    port.health.started.store(true, Relaxed);
    for path in ["/readyz", "/actuator/health/readiness", "/actuator/health"] {
        assert_eq!(port.get(path), up(), "{path}");
    }
    port.health.draining.store(true, Relaxed);
    for path in ["/readyz", "/actuator/health/readiness", "/actuator/health"] {
        assert_eq!(
            port.get(path),
            (503, r#"{"status":"DOWN","reason":"draining"}"#.to_owned())
        );
    }
    for path in ["/healthz", "/actuator/health/liveness"] {
        assert_eq!(port.get(path), up(), "{path}");
    }
}

struct CountedStream(AtomicU64);

impl Wake for CountedStream {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn a_thread_that_does_not_answer_shows() {
    let ledgers: Arc<[ThreadLedger]> = (0..2).map(|_| ThreadLedger::default()).collect();
    let began = Instant::now()
        .checked_sub(BEAT_MAX * 3)
        .expect("a machine up for a minute");
    let rung = Arc::new(CountedStream(AtomicU64::new(0)));
    let bell = Arc::new(Doorbell::new(rung.clone().into()));
    let health = HealthState {
        origin: began,
        ledgers,
        scheduler_beat: Some(Arc::default()),
        bells: vec![bell.clone()],
        started: AtomicBool::new(true),
        draining: AtomicBool::new(false),
    };
    assert!(bell.sleep(|| false));
    assert_eq!(health.not_alive(), None, "nobody was asked before");
    assert_eq!(rung.0.load(Relaxed), 1);
    assert_eq!(health.not_alive(), None, "they have time to answer");
    let now = Uptime::ZERO + (BEAT_MAX * 4).into();
    let long_ago = Uptime::from_ns(1);
    let health = HealthState {
        ledgers: (0..2).map(|_| ThreadLedger::default()).collect(),
        scheduler_beat: Some(Arc::default()),
        ..health
    };
    let scheduler = health.scheduler_beat.as_deref().expect("it is there");
    for beat in [&health.ledgers[0].beat, &health.ledgers[1].beat, scheduler] {
        beat.ask(long_ago);
    }
    assert_eq!(health.not_alive(), Some("an io thread does not answer"));
    health.ledgers[0].beat.beat(now);
    assert_eq!(health.not_alive(), Some("an io thread does not answer"));
    health.ledgers[1].beat.beat(now);
    assert_eq!(health.not_alive(), Some("the scheduler does not answer"));
    scheduler.beat(now);
    assert_eq!(health.not_alive(), None);
}

#[test]
fn metrics_are_served_under_both_paths() {
    let port = port(true);
    for path in ["/metrics", "/actuator/prometheus"] {
        let (status, body) = port.get(path);
        assert_eq!(status, 200);
        assert!(
            body.contains(r#"function_success_total{function="echo"} 1"#),
            "{body}"
        );
        let head = port.ask(&format!("GET {path}"));
        assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    }
}

#[test]
fn metrics_are_served_without_the_bridge() {
    let (status, body) = port(false).get("/metrics");
    assert_eq!(status, 200);
    assert!(body.contains("nanofaas_executions_accepted 0"), "{body}");
}

#[test]
fn what_is_not_there_says_so() {
    let port = port(true);
    let (status, body) = port.get("/v1/functions");
    assert_eq!(status, 404);
    assert!(body.contains("NOT_FOUND"), "{body}");
    let answer = port.ask("POST /metrics");
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert!(answer.to_lowercase().contains("\r\nallow: get"), "{answer}");
}

#[test]
fn health_is_answered_beside_connections_that_say_nothing() {
    let port = port(true);
    port.health.started.store(true, Relaxed);
    let silent: Vec<_> = (0..600)
        .map(|at| {
            let mut stream = Blocking::connect(port.address).expect("a connection");
            if at % 2 == 0 {
                // The write fails if the server has already closed this connection to make room for a newer
                // one.
                let _closed = stream.write_all(b"GET /metrics HT");
            }
            stream
        })
        .collect();
    for _ in 0..10 {
        assert_eq!(port.get("/healthz").0, 200);
    }
    drop(silent);
}

#[test]
fn an_incomplete_head_ends_its_connection() {
    let port = port(true);
    let mut stream = Blocking::connect(port.address).expect("a connection");
    stream.write_all(b"GET /readyz HTTP/1.1\r\n").expect("sent");
    let deadline = Some(Duration::from_secs(60));
    stream.set_read_timeout(deadline).expect("a timeout");
    let mut answer = String::new();
    let _closed = stream.read_to_string(&mut answer).is_ok();
    assert!(!answer.contains("200"), "{answer}");
}

#[test]
fn pages_of_other_sites_may_not_ask() {
    let port = port(true);
    port.health.started.store(true, Relaxed);
    let status = |lines: &str| {
        let mut stream = Blocking::connect(port.address).expect("a connection");
        write!(
            stream,
            "GET /readyz HTTP/1.1\r\n{lines}connection: close\r\n\r\n"
        )
        .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer.split(' ').nth(1).expect("a status").to_owned()
    };
    assert_eq!(status("host: localhost:8081\r\n"), "200");
    assert_eq!(status("host: rebound.example\r\n"), "403");
    assert_eq!(
        status("host: localhost\r\norigin: http://a.example\r\n"),
        "403"
    );
}
