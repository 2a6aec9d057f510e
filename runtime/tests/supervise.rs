//! Tests of the watchdog's HTTP mode: the watchdog starts a program that is an HTTP server, watches it and
//! restarts it.

mod support;

use std::path::Path;

use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::wait::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::peer::{NO_CONTENT, Peer};
use support::{
    PodClient as _, PodError as _, Program, read_pid, several, shell_script, until_gone,
    until_written, watchdog,
};

fn path(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// Starts the watchdog with `several`, which listens on the socket itself.
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
    let scratch = ScratchFolder::create();
    let gate = path(&scratch.join("gate"));
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
    assert_eq!(got.first_line, "POST /ready HTTP/1.1");
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

/// Runs a script until the watchdog exits. Returns the number of runs, and the watchdog's last line.
fn gives_up(script: &str) -> (usize, String) {
    let scratch = ScratchFolder::create();
    let serves = script.contains("PROGRAM");
    let script = shell_script(&scratch, script);
    let (folder, program) = (path(&scratch.join("")), path(&several()));
    let peer = Peer::start(&[NO_CONTENT]);
    let ready = peer.url("/ready");
    let env = [
        ("EXECUTION_MODE", "HTTP"),
        ("FUNCTION_HANDLER", "facts"),
        ("NANOFAAS_READY_URL", &ready),
        ("D", &folder),
        ("PROGRAM", &program),
    ];
    let mut pod = Program::start_in(scratch, &watchdog(), &["--", &path(&script)], &env);
    if serves {
        peer.next();
        kill(pid_of(&pod), Signal::SIGKILL).expect("it lives");
    }
    assert_eq!(pod.exit().code(), Some(1));
    let runs = until_written(&pod.path("runs")).lines().count();
    let said = pod.said();
    (runs, said.lines().last().expect("a line").to_owned())
}

#[test]
fn a_program_that_cannot_begin_ends_the_watchdog() {
    let (runs, last) = gives_up(r#"echo run >> "$D/runs"; echo 'no config' >&2; exit 7"#);
    assert_eq!(runs, 1);
    for part in ["before it served", "status 7", "no config"] {
        assert!(last.contains(part), "{last}");
    }
}

/// A program that opened its socket counts as one that has served. Before the watchdog found it ready, the
/// platform may have sent calls to the socket.
#[test]
fn a_program_with_its_own_socket_is_restarted() {
    let (runs, last) = gives_up(r#"echo run >> "$D/runs"; : > "$NANOFAAS_SOCKET"; exit 7"#);
    assert_eq!(runs, 5);
    assert!(last.contains("crash loop"), "{last}");
}

#[test]
fn a_crash_loop_ends_the_watchdog() {
    let serves_once = r#"echo run >> "$D/runs"
        [ "$(wc -l < "$D/runs")" = 1 ] && exec "$PROGRAM"
        echo 'no config' >&2; exit 7"#;
    let (runs, last) = gives_up(serves_once);
    assert_eq!(runs, 5);
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
    // During its own drain the program still answers.
    assert_eq!(pod.invoke("null").status, 200);
    assert_eq!(pod.exit().code(), Some(0));
    until_gone(program);
}

#[test]
fn nothing_of_the_program_is_left() {
    let scratch = ScratchFolder::create();
    let text = r#"
        setsid sh -c 'echo $$ > "$D/stray"; sleep 1000' &
        sleep 1000 & echo $! > "$D/child"
        echo $$ > "$D/leader"
        exec sleep 1000"#;
    let script = shell_script(&scratch, text);
    let folder = path(&scratch.join(""));
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
fn a_program_on_a_port_is_relayed() {
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
    assert_eq!(got.first_line, "POST /1.s3cret/e1:complete HTTP/1.1");
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
    assert_eq!(peer.next().header("content-type"), Some("image/png"));

    let mut job = start(&env(r#"{"input":1}"#, "nobody"));
    assert_eq!(job.exit().code(), Some(0));
    let error = peer.next().json()["error"].clone();
    let message = error["message"].as_str().expect("a message");
    assert_eq!(error["code"], "HANDLER_ERROR");
    assert!(
        message.starts_with("the program exited with status 2 before it served: ")
            && message.contains("FUNCTION_HANDLER"),
        "{message}"
    );
}

/// A server on `PORT` only. The input decides what it does with a call: `wait`, `exit` with a status, `kill`
/// by a signal, `close`, or an answer with a status and a body.
const ENDS: &str = r#"
import http.server, json, os, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(200, b"{}")
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        how = json.loads(body)["input"]
        if how == "wait":
            open(os.environ["D"] + "/waits", "a").write("x")
            threading.Event().wait()
        if how[0] == "exit":
            print("its last line", file=sys.stderr, flush=True)
            os._exit(how[1])
        if how[0] == "kill":
            os.kill(os.getpid(), how[1])
        if how[0] == "close":
            self.close_connection = True
            return
        self.answer(how[0], json.dumps(how[1]).encode())
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// `ENDS` is in Python, because the Rust programs of these tests do not end in such ways.
fn start_ends(more: &[(&str, &str)]) -> Program {
    let scratch = ScratchFolder::create();
    let program = scratch.join("ends.py");
    std::fs::write(&program, ENDS).expect("a program");
    let (program, folder) = (path(&program), path(&scratch.join("")));
    let mut env = vec![("EXECUTION_MODE", "HTTP"), ("D", folder.as_str())];
    env.extend_from_slice(more);
    let line = ["--", "python3", program.as_str()];
    Program::start_in(scratch, &watchdog(), &line, &env)
}

#[test]
fn a_relayed_programs_end_answers_its_calls() {
    let pod = start_ends(&[]);
    for (how, status, code, message) in [
        (
            r#"["exit",3]"#,
            502,
            "POD_LOST",
            "the program exited with status 3",
        ),
        (
            r#"["kill",11]"#,
            502,
            "POD_LOST",
            "the program was ended by signal 11 (SIGSEGV)",
        ),
        (
            r#"["kill",9]"#,
            500,
            "OOM",
            "the program was ended by signal 9 (SIGKILL), most likely for its memory",
        ),
    ] {
        pod.until_up();
        let _ = std::fs::remove_file(pod.path("waits"));
        let mut waits: Vec<_> = (0..3).map(|_| pod.connect()).collect();
        for (number, wire) in waits.iter_mut().enumerate() {
            wire.send_invoke("\"wait\"", &[("X-Execution-Id", &format!("e{number}"))]);
        }
        until("they run", || {
            let waits = std::fs::read(pod.path("waits")).ok()?;
            (waits.len() == 3).then_some(())
        });
        let answer = pod.invoke(how);
        assert_eq!((answer.status, answer.code().as_str()), (status, code));
        assert_eq!(answer.message(), message);
        assert_eq!(answer.header("connection"), Some("close"));
        for (number, wire) in waits.iter_mut().enumerate() {
            let answer = wire.answer();
            assert_eq!((answer.status, answer.code().as_str()), (status, code));
            let id = format!("e{number}");
            assert_eq!(answer.header("x-execution-id"), Some(id.as_str()));
            assert!(wire.closed());
        }
    }
    // If the program closes a connection and still runs, the relay closes the platform's connection without
    // an answer.
    pod.until_up();
    let mut wire = pod.connect();
    wire.send_invoke(r#"["close"]"#, &[]);
    assert!(wire.closed());
    assert_eq!(pod.invoke(r#"[200,"on"]"#).text(), "\"on\"");
}

#[test]
fn a_stopped_relayed_program_answers_its_calls() {
    let mut pod = start_ends(&[]);
    pod.until_up();
    let mut wire = pod.connect();
    wire.send_invoke("\"wait\"", &[]);
    until_written(&pod.path("waits"));
    // This Python program does not handle SIGTERM, so it ends at once.
    pod.signal(Signal::SIGTERM);
    let answer = wire.answer();
    assert_eq!((answer.status, answer.code().as_str()), (502, "POD_LOST"));
    let words = "the program was ended by signal 15 (SIGTERM)";
    assert_eq!(answer.message(), words);
    assert_eq!(pod.exit().code(), Some(0));
}

#[test]
fn a_jobs_program_that_ends_is_lost() {
    for (how, code, message) in [
        (
            r#"["exit",3]"#,
            "POD_LOST",
            "the program exited with status 3: its last line",
        ),
        ("[\"kill\",9]", "OOM", "was ended by signal 9 (SIGKILL)"),
        ("[\"close\"]", "POD_LOST", "closed before the answer"),
        (
            r#"[500,{"error":{"code":"MINE","message":"so"}}]"#,
            "MINE",
            "so",
        ),
        (
            r#"[400,{"detail":"not that"}]"#,
            "HANDLER_ERROR",
            "not that",
        ),
        (r#"[422,{"error":"no"}]"#, "HANDLER_ERROR", "no"),
        (r#"[500,[1]]"#, "HANDLER_ERROR", "[1]"),
    ] {
        let peer = Peer::start(&[NO_CONTENT]);
        let callback = peer.url("/1.s3cret");
        let payload = format!(r#"{{"input":{how}}}"#);
        let mut job = start_ends(&[
            ("CALLBACK_URL", &callback),
            ("EXECUTION_ID", "e1"),
            ("INVOCATION_PAYLOAD", &payload),
            ("NANOFAAS_SOCKET", ""),
        ]);
        assert_eq!(job.exit().code(), Some(0), "{}", job.said());
        let error = peer.next().json()["error"].clone();
        assert_eq!(error["code"], code, "{error}");
        let said = error["message"].as_str().expect("a message");
        assert!(said.contains(message), "{said}");
        assert!(peer.rest().is_empty(), "told once");
    }
}
