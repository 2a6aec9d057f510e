//! Tests of warm pods that are servers on a port. The control plane finds such a pod by its answer to a
//! probe, and must not take another process's server for the pod.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use nanofaas_core::event::{Event, Order};
use nanofaas_testkit::process::is_alive;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ProcessTest;
use crate::fixture::{LocalFixture, until, with, with_config};

pub(crate) const TESTS: &[ProcessTest] = &[
    ("a_server_on_its_port_is_a_pod", serves),
    ("a_server_on_another_loopback_is_a_pod", serves_v6),
    ("an_orphaned_server_belongs_to_its_pod", orphan),
    ("another_processs_server_is_not_the_pod", stranger),
    ("a_port_is_another_one_for_each_pod", ports),
    ("processes_hidden_by_an_ended_pod_end", hidden),
];

/// A server at port `PORT` of the address `sys.argv[1]`. It answers 503 while a file `sick` exists.
const SERVER: &str = r#"
import http.server, os, socket, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if os.path.exists("sick") else 200)
        self.end_headers()
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = Server((sys.argv[1], int(os.environ["PORT"])), Answer)
with open("pid", "w") as file:
    file.write(f"{os.getpid()}\n")
server.serve_forever()
"#;

/// The first part of a program. It forks twice and leaves its session; the code after this part runs in the
/// last process.
const ORPHAN: &str = r#"
import os, time
if os.fork() != 0:
    os.wait()
    time.sleep(1000)
os.setsid()
if os.fork() != 0:
    os._exit(0)
"#;

async fn up_at(fixture: &mut LocalFixture, program: &str, address: &str) -> SocketAddr {
    fixture.scratch.executable("server.py", program);
    let command = format!(r#"["python3","server.py","{address}"]"#);
    let function = fixture.warm(&command, r#","timeoutMs":1"#).await;
    let pod = fixture.pod(&function);
    fixture.up(pod).await;
    let at = fixture.tcp_address(pod);
    // The pod is up, so these probes go only to its port. During the start, the bridge also probed its
    // socket.
    fixture.order(Order::Probe { pod });
    fixture.up(pod).await;
    std::fs::write(fixture.scratch.join("sick"), "").expect("written");
    fixture.order(Order::Probe { pod });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(fixture.scheduler.events.pop().is_none(), "it has 5 s");
    std::fs::remove_file(fixture.scratch.join("sick")).expect("there");
    fixture.up(pod).await;
    fixture.order(Order::Stop { pod });
    fixture.down(pod).await;
    fixture.gone(pod);
    at
}

fn serves() {
    with(|mut fixture| async move {
        for address in ["127.0.0.1", "0.0.0.0"] {
            let at = up_at(&mut fixture, SERVER, address).await;
            assert_eq!(at.ip().to_string(), "127.0.0.1");
        }
        fixture
    });
}

fn serves_v6() {
    if TcpListener::bind("[::1]:0").is_err() {
        return println!("there is no IPv6 on this machine");
    }
    with(|mut fixture| async move {
        let at = up_at(&mut fixture, SERVER, "::1").await;
        assert_eq!(at.ip().to_string(), "::1");
        fixture
    });
}

fn orphan() {
    with(|mut fixture| async move {
        up_at(&mut fixture, &[ORPHAN, SERVER].concat(), "127.0.0.1").await;
        let pid = fixture.pid("pid").await;
        until("it is ended with its pod", || !is_alive(pid)).await;
        fixture
    });
}

fn serve_all(listener: TcpListener) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
}

fn stranger() {
    let short = Duration::from_secs(2);
    with_config(
        |config| config.start_timeout = short,
        |mut fixture| async move {
            let script = "#!/bin/sh\necho \"$PORT\" >port\nexec sleep 1000\n";
            fixture.scratch.executable("pod", script);
            let function = fixture.warm(r#"["./pod"]"#, "").await;
            let pod = fixture.pod(&function);
            let port: u16 = fixture.line("port").await.parse().expect("a port");
            serve_all(TcpListener::bind(("127.0.0.1", port)).expect("it is free"));
            let Event::StartFailed {
                pod: failed,
                failure,
            } = fixture.event().await
            else {
                panic!("a stranger's server was taken for the pod");
            };
            assert_eq!(failed, pod);
            let expected =
                format!("a process listens at 127.0.0.1:{port} that is none of the pod's");
            assert!(failure.message.contains(&expected), "{failure:?}");
            fixture
        },
    );
}

fn ports() {
    with(|mut fixture| async move {
        let script = "#!/bin/sh\necho \"$PORT\" >>ports\nexec sleep 1000\n";
        fixture.scratch.executable("pod", script);
        let function = fixture.warm(r#"["./pod"]"#, "").await;
        let pods: Vec<_> = (0..8).map(|_| fixture.pod(&function)).collect();
        let read = |fixture: &LocalFixture| {
            let text = std::fs::read_to_string(fixture.scratch.join("ports")).unwrap_or_default();
            let mut ports: Vec<u16> = text.lines().filter_map(|port| port.parse().ok()).collect();
            ports.sort_unstable();
            ports.dedup();
            ports
        };
        until("each has its own", || read(&fixture).len() == 8).await;
        for pod in pods {
            fixture.order(Order::Stop { pod });
            fixture.down(pod).await;
        }
        fixture
    });
}

/// Starts a process that leaves its group and session, changes its name and drops all environment variables.
const HIDES: &str = r#"
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    with open("hidden", "w") as file:
        file.write(f"{os.getpid()}\n")
    os.execve("/bin/sleep", ["nobody", "1000"], {})
os.wait()
"#;

fn hidden() {
    with(|mut fixture| async move {
        fixture
            .scratch
            .executable("server.py", &[HIDES, SERVER].concat());
        let command = r#"["python3","server.py","127.0.0.1"]"#;
        let function = fixture.warm(command, "").await;
        // When one of two pods ends, only the processes of that pod are ended.
        let mut pods = Vec::new();
        for _ in 0..2 {
            let pod = fixture.pod(&function);
            fixture.up(pod).await;
            fixture.tcp_address(pod);
            let (pid, hidden) = (fixture.pid("pid").await, fixture.pid("hidden").await);
            for name in ["pid", "hidden"] {
                std::fs::remove_file(fixture.scratch.join(name)).expect("there");
            }
            pods.push((pod, pid, hidden));
        }
        let (pod, pid, ended) = pods.remove(0);
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it lives");
        fixture.down(pod).await;
        fixture.gone(pod);
        until("it is gone", || !is_alive(ended)).await;
        let (pod, _, other) = pods.remove(0);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(is_alive(other), "its pod lives");
        fixture.order(Order::Stop { pod });
        fixture.down(pod).await;
        until("it is gone", || !is_alive(other)).await;
        fixture
    });
}
