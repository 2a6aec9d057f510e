//! The watchdog's HTTP mode: a program that serves by itself, started, watched, started anew.

mod support;

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::peer::{NO_CONTENT, Peer};
use support::{Program, Scratch, read_pid, several, until, until_gone, until_written, watchdog};

fn path(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// The watchdog over `several`, which listens on the socket itself.
fn start(more: &[(&str, &str)]) -> Program {
    let mut env = vec![("EXECUTION_MODE", "HTTP"), ("FUNCTION_HANDLER", "facts")];
    env.extend_from_slice(more);
    Program::start(&watchdog(), &["--", &path(&several())], &env)
}

fn pid_of(pod: &Program) -> Pid {
    let pid = pod.invoke("null").json()["pid"].as_i64().expect("a pid");
    Pid::from_raw(pid.try_into().expect("a pid"))
}

#[test]
fn the_platform_is_told_once_the_program_serves() {
    let peer = Peer::start(&[NO_CONTENT]);
    let scratch = Scratch::new();
    let gate = path(&scratch.path("gate"));
    let ready = peer.url("/ready");
    let env = [
        ("EXECUTION_MODE", "HTTP"),
        ("FUNCTION_HANDLER", "facts"),
        ("INIT_GATE", gate.as_str()),
        ("NANOFAAS_READY_URL", ready.as_str()),
    ];
    let program = path(&several());
    let pod = Program::start_in(scratch, &watchdog(), &["--", &program], &env);
    assert_eq!(pod.invoke("null").status, 503);
    assert!(peer.rest().is_empty());
    std::fs::write(&gate, "").expect("the gate opens");
    let got = peer.next();
    assert_eq!(got.line, "POST /ready HTTP/1.1");
    assert!(got.json()["readyAt"].as_u64() >= got.json()["startedAt"].as_u64());
    assert_ne!(pid_of(&pod), pod.pid());
    assert!(peer.rest().is_empty());
}

#[test]
fn a_program_that_died_is_started_anew() {
    let pod = start(&[]);
    pod.until_up();
    let mut last = pid_of(&pod);
    for _ in 0..2 {
        kill(last, Signal::SIGKILL).expect("it lives");
        until_gone(last);
        pod.until_up();
        let next = pid_of(&pod);
        assert_ne!(next, last);
        last = next;
    }
    assert!(pod.said().contains("SIGKILL"), "{}", pod.said());
}

#[test]
fn a_crash_loop_ends_the_watchdog() {
    let scratch = Scratch::new();
    let script = scratch.script(r#"echo run >> "$D/runs"; echo 'no config' >&2; exit 7"#);
    let folder = path(&scratch.path(""));
    let env = [("EXECUTION_MODE", "HTTP"), ("D", &folder)];
    let mut pod = Program::start_in(scratch, &watchdog(), &["--", &path(&script)], &env);
    assert_eq!(pod.exit().code(), Some(1));
    assert_eq!(until_written(&pod.path("runs")).lines().count(), 5);
    let said = pod.said();
    let last = said.lines().last().expect("a line");
    for part in ["crash loop", "status 7", "no config"] {
        assert!(last.contains(part), "{last}");
    }
}

#[test]
fn sigterm_goes_on_to_the_program() {
    let mut pod = start(&[]);
    pod.until_up();
    let program = pid_of(&pod);
    pod.signal(Signal::SIGTERM);
    until("/health is 503", || {
        let health = pod.connect().call("GET", "/health", &[], b"");
        (health.status == 503).then_some(())
    });
    // The program's own drain: it still answers.
    assert_eq!(pod.invoke("null").status, 200);
    assert_eq!(pod.exit().code(), Some(0));
    until_gone(program);
}

#[test]
fn nothing_of_the_program_is_left() {
    let scratch = Scratch::new();
    let text = r#"
        setsid sh -c 'echo $$ > "$D/stray"; sleep 1000' &
        sleep 1000 & echo $! > "$D/child"
        echo $$ > "$D/leader"
        exec sleep 1000"#;
    let script = scratch.script(text);
    let folder = path(&scratch.path(""));
    let env = [("EXECUTION_MODE", "HTTP"), ("D", &folder)];
    let mut pod = Program::start_in(scratch, &watchdog(), &["--", &path(&script)], &env);
    let pids = ["stray", "child", "leader"].map(|name| read_pid(&pod.path(name)));
    pod.signal(Signal::SIGTERM);
    assert_eq!(pod.exit().code(), Some(0));
    for pid in pids {
        until_gone(pid);
    }
}

#[test]
fn a_program_that_knows_ports_alone_is_reached_by_the_socket() {
    let peer = Peer::start(&[NO_CONTENT]);
    let ready = peer.url("/ready");
    let env = [
        ("EXECUTION_MODE", "HTTP"),
        ("FUNCTION_HANDLER", "echo"),
        ("NANOFAAS_READY_URL", &ready),
    ];
    let program = path(&several());
    let line = ["--", "env", "-u", "NANOFAAS_SOCKET", &program];
    let mut pod = Program::start(&watchdog(), &line, &env);
    peer.next();
    let mut wire = pod.connect();
    for input in ["1", "\"two\""] {
        assert_eq!(wire.invoke(input).text(), input);
    }
    let long = format!("{:?}", "a".repeat(1_000_000));
    assert_eq!(wire.invoke(&long).text(), long);
    pod.signal(Signal::SIGTERM);
    until("/health is 503", || {
        let health = pod.connect().call("GET", "/health", &[], b"");
        (health.status == 503).then_some(())
    });
    assert_eq!(pod.exit().code(), Some(0));
}

#[test]
fn a_job_is_one_call_to_the_program() {
    let peer = Peer::start(&[NO_CONTENT]);
    let callback = peer.url("/1.s3cret");
    let env = |input: &'static str, handler: &'static str| {
        [
            ("FUNCTION_HANDLER", handler),
            ("CALLBACK_URL", callback.as_str()),
            ("EXECUTION_ID", "e1"),
            ("TRACE_ID", "t1"),
            ("DISPATCH_ATTEMPT", "2"),
            ("TIMEOUT_MS", "60000"),
            ("INVOCATION_PAYLOAD", input),
            ("NANOFAAS_SOCKET", ""),
        ]
    };
    let mut job = start(&env(r#"{"input":null,"metadata":{"a":"b"}}"#, "facts"));
    assert_eq!(job.exit().code(), Some(0), "{}", job.said());
    let got = peer.next();
    assert_eq!(got.line, "POST /1.s3cret/e1:complete HTTP/1.1");
    let output = &got.json()["output"];
    assert_eq!(
        (&output["id"], &output["trace"]),
        (&"e1".into(), &"t1".into())
    );
    assert_eq!(
        (&output["attempt"], &output["metadata"]["a"]),
        (&2.into(), &"b".into())
    );

    let mut job = start(&env(r#"{"input":"code"}"#, "fail"));
    assert_eq!(job.exit().code(), Some(0));
    let error = peer.next().json()["error"].clone();
    assert_eq!(
        (&error["code"], &error["message"]),
        (&"MY_CODE".into(), &"my message".into())
    );

    let mut job = start(&env(r#"{"input":"png"}"#, "fail"));
    assert_eq!(job.exit().code(), Some(0));
    assert_eq!(peer.next().headers["content-type"], "image/png");

    let mut job = start(&env(r#"{"input":1}"#, "nobody"));
    assert_eq!(job.exit().code(), Some(0));
    let error = peer.next().json()["error"].clone();
    let message = error["message"].as_str().expect("a message");
    assert!(
        message.contains("status 2") && message.contains("FUNCTION_HANDLER"),
        "{message}"
    );
}
