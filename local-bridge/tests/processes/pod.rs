//! Tests of warm pods: they become ready or fail, are stopped and probed, and end.

use std::fs;
use std::os::unix::net::UnixStream;

use nanofaas_core::event::{Event, Order, StartFailure};
use nanofaas_core::message::{BridgeError, BridgeRequest, Message, ReadyTimestamps, Reply};
use nanofaas_testkit::process::is_alive;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ProcessTest;
use crate::fixture::{FOR_EVER, HEALTHY, LocalFixture, WITH_ORPHAN, until, with, with_config};

pub(crate) const TESTS: &[ProcessTest] = &[
    ("a_pod_is_up_when_it_answers_health", up_by_health),
    ("a_pod_is_up_when_it_reports_so", up_by_its_report),
    (
        "a_start_that_exits_reports_its_last_output",
        exits_before_ready,
    ),
    ("a_missing_program_is_a_permanent_failure", no_program),
    ("a_start_that_takes_too_long_is_ended", start_timeout),
    ("a_stopped_pod_may_finish", stop_drains),
    ("a_pod_that_ignores_sigterm_is_killed", stop_kills),
    ("a_pod_may_be_stopped_while_it_starts", stop_while_starting),
    ("a_well_pod_returns_a_sick_one_goes", probes),
    ("a_killed_pod_takes_all_its_children_along", killed),
    ("functions_get_a_clean_environment", environment),
    ("a_python_function_is_a_pod", python_runtime),
];

async fn failure(fixture: &mut LocalFixture) -> StartFailure {
    match fixture.event().await {
        Event::StartFailed { failure, .. } => failure,
        _ => panic!("it did not fail"),
    }
}

fn up_by_health() {
    with(|mut fixture| async move {
        fixture
            .scratch
            .executable("pod.py", &[HEALTHY, FOR_EVER].concat());
        let (function, pod, socket) = fixture.running("pod.py").await;
        assert!(UnixStream::connect(&socket).is_ok());
        let name = function.name().clone();
        let Reply::ColdStarts(starts) = fixture.ask(BridgeRequest::ColdStarts { name }).await
        else {
            panic!("no cold starts");
        };
        let phases: Vec<&str> = starts[0].phases.iter().map(|(name, _)| *name).collect();
        assert_eq!(phases, ["spawned", "usable"]);
        let pid = fixture.pid("pid").await;
        fixture.order(Order::Stop { pod });
        fixture.down(pod).await;
        let end = fixture.gone(pod);
        assert!(!end.oom && end.message.contains("SIGTERM"), "{end:?}");
        assert!(!is_alive(pid) && !socket.exists());
        // The bridge answers an order for a pod that is gone with `PodDown`.
        fixture.order(Order::Probe { pod });
        fixture.down(pod).await;
        fixture
    });
}

fn up_by_its_report() {
    with(|mut fixture| async move {
        // A ready report is enough if the socket's file exists. The control plane does not check that a
        // process listens there.
        let script = "#!/bin/sh\n: >\"$NANOFAAS_SOCKET\"\necho \"$NANOFAAS_READY_URL\" >url\n\
                      exec sleep 1000\n";
        fixture.scratch.executable("pod", script);
        let function = fixture.warm(r#"["./pod"]"#, "").await;
        let pod = fixture.pod(&function);
        let url = fixture.line("url").await;
        let path = url
            .strip_prefix("http://127.0.0.1:1/v1/internal/")
            .expect("our base");
        let (token, rest) = path.split_once("/pods/").expect("a pod");
        let name = rest.strip_suffix(":ready").expect("the word");
        let timestamps = ReadyTimestamps {
            started_at_ms: Some(1),
            loaded_at_ms: Some(2),
            ready_at_ms: Some(3),
        };
        let ready = |token: &str, pod: &str| BridgeRequest::PodReady {
            token: token.into(),
            pod: pod.into(),
            address: None,
            timestamps,
        };
        for (token, name, refused) in [
            ("0123", name, BridgeError::Forbidden),
            ("", name, BridgeError::Forbidden),
            (token, "fn-f1-00000", BridgeError::NotFound),
        ] {
            let reply = fixture.ask(ready(token, name)).await;
            assert!(matches!(reply, Reply::Refused(why) if why == refused));
        }
        assert!(fixture.scheduler.events.pop().is_none());
        assert!(matches!(
            fixture.ask(ready(token, name)).await,
            Reply::Ready
        ));
        fixture.up(pod).await;
        fixture.address(pod);
        let of = function.name().clone();
        let Reply::ColdStarts(starts) = fixture.ask(BridgeRequest::ColdStarts { name: of }).await
        else {
            panic!("no cold starts");
        };
        assert_eq!(starts[0].pod, name);
        let phases: Vec<&str> = starts[0].phases.iter().map(|(name, _)| *name).collect();
        // The pod's own timestamps are from 1970, so they sort before the phases that the control plane
        // recorded.
        assert_eq!(phases, ["started", "loaded", "ready", "spawned", "usable"]);
        let unknown = BridgeRequest::ColdStarts {
            name: "nobody".into(),
        };
        let reply = fixture.ask(unknown).await;
        assert!(matches!(reply, Reply::Refused(BridgeError::NotFound)));
        fixture
    });
}

fn exits_before_ready() {
    with(|mut fixture| async move {
        let command = r#"["sh","-c","echo out; echo first >&2; echo broken >&2; exit 3"]"#;
        let function = fixture.warm(command, "").await;
        fixture.pod(&function);
        let failure = failure(&mut fixture).await;
        assert!(!failure.permanent);
        let message = &*failure.message;
        assert!(message.contains("status 3"), "{message}");
        assert!(message.ends_with("stderr:\nfirst\nbroken"), "{message}");
        let name = function.name().clone();
        let Reply::ColdStarts(starts) = fixture.ask(BridgeRequest::ColdStarts { name }).await
        else {
            panic!("no cold starts");
        };
        assert_eq!(starts[0].failure.as_deref(), Some(message));
        fixture
    });
}

fn no_program() {
    with(|mut fixture| async move {
        fs::write(fixture.scratch.join("data"), "no program").expect("written");
        for (command, word) in [
            (r#"["no-such-program"]"#, "No such file"),
            (r#"["./nor/this"]"#, "No such file"),
            (r#"["./data"]"#, "Permission denied"),
        ] {
            let function = fixture.warm(command, "").await;
            fixture.pod(&function);
            let failure = failure(&mut fixture).await;
            assert!(failure.permanent, "{failure:?}");
            assert!(failure.message.contains(word), "{failure:?}");
        }
        let gone = r#""executionMode":"WARM","command":["true"],"local":{"directory":"/no/dir"}"#;
        let function = fixture.register(gone).await;
        assert!(matches!(fixture.event().await, Event::LaneOpened { .. }));
        fixture.pod(&function);
        let failure = failure(&mut fixture).await;
        assert!(
            failure.permanent && failure.message.contains("/no/dir"),
            "{failure:?}"
        );
        fixture
    });
}

fn start_timeout() {
    let short = std::time::Duration::from_millis(1500);
    with_config(
        |config| config.start_timeout = short,
        |mut fixture| async move {
            let script = "#!/bin/sh\necho slow >&2\nsleep 1000 &\necho $! >child\nwait\n";
            fixture.scratch.executable("pod", script);
            let function = fixture.warm(r#"["./pod"]"#, "").await;
            fixture.pod(&function);
            let failure = failure(&mut fixture).await;
            assert!(!failure.permanent);
            let message = &*failure.message;
            assert!(
                message.contains("1500 ms") && message.ends_with("slow"),
                "{message}"
            );
            let child = fixture.pid("child").await;
            until("the child is gone", || !is_alive(child)).await;
            fixture
        },
    );
}

fn stop_drains() {
    with(|mut fixture| async move {
        let finish = r#"
import signal, sys, time
def stop(*_):
    time.sleep(0.3)
    open("finished", "w").close()
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
"#;
        fixture
            .scratch
            .executable("pod.py", &[HEALTHY, finish, FOR_EVER].concat());
        let (_, pod, _) = fixture.running("pod.py").await;
        fixture.order(Order::Stop { pod });
        fixture.down(pod).await;
        assert!(fixture.has_file("finished"));
        let end = fixture.gone(pod);
        assert!(end.message.contains("status 0"), "{end:?}");
        fixture
    });
}

fn stop_kills() {
    with(|mut fixture| async move {
        let ignore = "\nimport signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n";
        fixture
            .scratch
            .executable("pod.py", &[HEALTHY, ignore, FOR_EVER].concat());
        let (_, pod, _) = fixture.running("pod.py").await;
        fixture.order(Order::Stop { pod });
        fixture.down(pod).await;
        let end = fixture.gone(pod);
        assert!(!end.oom && end.message.contains("SIGKILL"), "{end:?}");
        fixture
    });
}

fn stop_while_starting() {
    with(|mut fixture| async move {
        fixture
            .scratch
            .executable("pod", "#!/bin/sh\necho $$ >pid\nexec sleep 1000\n");
        let function = fixture.warm(r#"["./pod"]"#, "").await;
        let pod = fixture.pod(&function);
        let pid = fixture.pid("pid").await;
        fixture.order(Order::Stop { pod });
        fixture.down(pod).await;
        assert!(!is_alive(pid));
        // Now the order to stop comes before the process has started.
        let pod = fixture.pod(&function);
        fixture.order(Order::Stop { pod });
        fixture.down(pod).await;
        assert!(fixture.scheduler.events.pop().is_none());
        fixture
    });
}

fn probes() {
    with(|mut fixture| async move {
        fixture
            .scratch
            .executable("pod.py", &[HEALTHY, FOR_EVER].concat());
        let (_, pod, _) = fixture.running("pod.py").await;
        for _ in 0..3 {
            fixture.order(Order::Probe { pod });
            fixture.up(pod).await;
        }
        fs::write(fixture.scratch.join("sick"), "").expect("written");
        fixture.order(Order::Probe { pod });
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert!(fixture.scheduler.events.pop().is_none(), "it has 5 s");
        fs::remove_file(fixture.scratch.join("sick")).expect("there");
        fixture.up(pod).await;
        fs::write(fixture.scratch.join("sick"), "").expect("written");
        fixture.order(Order::Probe { pod });
        fixture.down(pod).await;
        fixture.gone(pod);
        fixture
    });
}

fn killed() {
    with(|mut fixture| async move {
        fixture
            .scratch
            .executable("pod.py", &[HEALTHY, WITH_ORPHAN, FOR_EVER].concat());
        let (_, pod, _) = fixture.running("pod.py").await;
        let (pid, orphan) = (fixture.pid("pid").await, fixture.pid("orphan").await);
        assert!(is_alive(orphan));
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it lives");
        fixture.down(pod).await;
        let end = fixture.gone(pod);
        assert!(!end.oom, "a plain kill -9 is not the kernel's: {end:?}");
        until("the orphan is gone", || !is_alive(orphan)).await;
        fixture
    });
}

fn environment() {
    // Functions inherit the environment of the control plane, which is this process, except a few variables.
    // The test therefore runs again in a process that has such variables.
    let program = std::env::current_exe().expect("this program");
    let inner = std::env::var_os("NANOFAAS_LISTEN").is_some();
    if !inner {
        let status = std::process::Command::new(program)
            .args(["one", "functions_get_a_clean_environment"])
            .env("NANOFAAS_LISTEN", "127.0.0.1:1")
            .env("CALLBACK_URL", "http://127.0.0.1:1")
            .env("OF_THE_PLANE", "1")
            .status();
        assert!(status.expect("run").success());
        return;
    }
    with(|mut fixture| async move {
        let script = "#!/bin/sh\nenv >env\ngrep -E 'Sig(Blk|Ign)' /proc/self/status >masks\n\
                      cut -d' ' -f6 /proc/$$/stat >session\n\
                      ls /proc/$$/fd >fds\n";
        fixture.scratch.executable("pod", script);
        let more = r#","env":{"OWN":"two words"},"runtimeMode":"STDIO","runtimeCommand":"wc""#;
        let function = fixture.warm(r#"["./pod"]"#, more).await;
        fixture.pod(&function);
        failure(&mut fixture).await;
        let env = fixture.line("env").await;
        let has = |line: &str| env.lines().any(|known| known == line);
        for line in [
            "OF_THE_PLANE=1",
            "OWN=two words",
            "FUNCTION_NAME=f1",
            "EXECUTION_MODE=STDIO",
            "WATCHDOG_CMD=wc",
        ] {
            assert!(has(line), "{line} is not in\n{env}");
        }
        let starts = |name: &str| env.lines().any(|line| line.starts_with(name));
        assert!(starts("PATH=") && starts("NANOFAAS_SOCKET=/") && starts("PORT="));
        assert!(has("TIMEOUT_MS=30000"), "{env}");
        assert!(
            !starts("NANOFAAS_LISTEN") && !starts("CALLBACK_URL"),
            "{env}"
        );
        let masks = fixture.line("masks").await;
        let ours = fs::read_to_string("/proc/self/status").expect("there");
        for line in masks.lines() {
            assert!(
                ours.lines().any(|known| is_same_but_sigpipe(known, line)),
                "{masks}"
            );
        }
        // A shell keeps its script and saved descriptors at 10, 11, 12 and 255.
        let fds = fixture.line("fds").await;
        let known = ["0", "1", "2", "10", "11", "12", "255"];
        assert!(fds.lines().all(|fd| known.contains(&fd)), "{fds}");
        let session = fixture.pid("session").await;
        let ours = nix::unistd::getsid(None).expect("ours").as_raw();
        assert_ne!(session, ours, "Ctrl-C must reach only the plane");
        fixture
    });
}

/// True if the child's mask equals ours without SIGPIPE. Rust programs ignore SIGPIPE, but their children
/// must get the default handling.
fn is_same_but_sigpipe(ours: &str, theirs: &str) -> bool {
    let parts = |line: &str| {
        let (name, mask) = line.split_once(":\t")?;
        Some((name.to_owned(), u64::from_str_radix(mask, 16).ok()?))
    };
    let sigpipe = 1 << (Signal::SIGPIPE as u64 - 1);
    match (parts(ours), parts(theirs)) {
        (Some((name, ours)), Some((of, theirs))) => name == of && ours & !sigpipe == theirs,
        _ => false,
    }
}

fn python_runtime() {
    with(|mut fixture| async move {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../python-runtime/src");
        fixture
            .scratch
            .executable("handler.py", "def handle(input):\n    return input\n");
        let more = format!(r#","env":{{"PYTHONPATH":"{source}"}},"timeoutMs":1000"#);
        let command = r#"["python3","-m","nanofaas_runtime"]"#;
        let function = fixture.warm(command, &more).await;
        let pod = fixture.pod(&function);
        fixture.up(pod).await;
        fixture.address(pod);
        fixture.order(Order::Stop { pod });
        fixture.down(pod).await;
        let end = fixture.gone(pod);
        assert!(end.message.contains("status 0"), "{end:?}");
        assert!(!matches!(
            fixture.try_message(0),
            Some(Message::PodGone { .. })
        ));
        fixture
    });
}
