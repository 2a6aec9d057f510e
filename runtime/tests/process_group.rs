//! Tests that no process that a call started is left when the call ends. In the watchdog's STDIO mode, each
//! call has a process of its own.

mod support;

use nanofaas_testkit::wait::until;
use nix::sys::signal::Signal;
use support::peer::{NO_CONTENT, Peer};
use support::stdio::{pod, start};
use support::{PodClient as _, PodError as _, Program, read_pid, until_file, until_gone};

#[test]
fn a_kill_from_elsewhere_is_called_oom() {
    let answer = pod("kill -9 $$").invoke("1");
    assert_eq!((answer.status, answer.code().as_str()), (500, "OOM"));
    // A shell reports a signal of its last command as 128 + signal.
    let answer = pod("sh -c 'kill -9 $$'; exit $?").invoke("1");
    assert_eq!(answer.code(), "OOM");
    let answer = pod("kill -15 $$").invoke("1");
    assert_eq!(answer.code(), "HANDLER_ERROR");
    let words = "the program was ended by signal 15 (SIGTERM)";
    assert_eq!(answer.message(), words);
    let answer = pod("echo bye >&2; kill -11 $$").invoke("1");
    let words = "the program was ended by signal 11 (SIGSEGV): bye";
    assert_eq!(answer.message(), words);
}

/// A script that starts a child, a grandchild, and a stray: a process that left the group. Only SIGKILL ends
/// them, because all of them ignore SIGTERM.
const FAMILY: &str = r#"
    trap '' TERM
    sh -c 'trap "" TERM; sleep 1000 & echo $! > "$D/grandchild"; wait' &
    echo $! > "$D/child"
    setsid sh -c 'echo $$ > "$D/stray"; sleep 1000' &
    echo $$ > "$D/leader"
"#;

fn until_family_gone(pod: &Program, pids: &[nix::unistd::Pid]) {
    for pid in pids {
        until_gone(*pid);
    }
    assert!(pod.path("leader").exists());
}

fn family(pod: &Program) -> Vec<nix::unistd::Pid> {
    let names = ["grandchild", "child", "stray", "leader"];
    names.map(|name| read_pid(&pod.path(name))).to_vec()
}

#[test]
fn a_deadline_ends_the_whole_group() {
    let pod = pod(&format!("{FAMILY} wait"));
    let mut wire = pod.connect();
    // The deadline leaves enough time for all processes of the family to start.
    wire.send_invoke("1", &[("X-Deadline-Ms", "3000")]);
    let pids = family(&pod);
    let answer = wire.answer();
    assert_eq!((answer.status, answer.code().as_str()), (504, "TIMEOUT"));
    until_family_gone(&pod, &pids);
    assert_eq!(wire.call("GET", "/health", &[], b"").status, 200);
}

#[test]
fn a_caller_that_leaves_ends_the_whole_group() {
    let pod = pod(&format!("{FAMILY} wait"));
    let mut wire = pod.connect();
    wire.send_invoke("1", &[]);
    let pids = family(&pod);
    drop(wire);
    until_family_gone(&pod, &pids);
    pod.until_up();
}

#[test]
fn what_a_program_leaves_behind_ends_with_it() {
    let all_there = r#"
        while ! [ -s "$D/grandchild" ] || ! [ -s "$D/stray" ]; do sleep 0.01; done
        echo 1"#;
    let pod = pod(&format!("{FAMILY} {all_there}"));
    // The call is answered although the rest of the family holds the pipes open.
    assert_eq!(pod.invoke("1").text(), "1");
    let pids = family(&pod);
    until_family_gone(&pod, &pids);
}

#[test]
fn calls_at_once_are_processes_at_once() {
    // Each of the two processes ends only after the other one has started.
    let text = r#"
        read -r me
        touch "$D/here-$me"
        while ! [ -e "$D/here-$((1 - me))" ]; do sleep 0.01; done
        echo "$me""#;
    let pod = pod(&text.replace("read -r me", "me=$(cat)"));
    let (mut one, mut two) = (pod.connect(), pod.connect());
    one.send_invoke("0", &[]);
    two.send_invoke("1", &[]);
    assert_eq!(one.answer().text(), "0");
    assert_eq!(two.answer().text(), "1");
}

#[test]
fn many_calls_leave_no_process() {
    let pod = pod("cat");
    std::thread::scope(|scope| {
        for client in 0..8 {
            let pod = &pod;
            scope.spawn(move || {
                let mut wire = pod.connect();
                for call in 0..25 {
                    let input = format!("[{client},{call}]");
                    assert_eq!(wire.invoke(&input).text(), input);
                }
            });
        }
    });
    let children = format!("/proc/{0}/task/{0}/children", pod.pid());
    until("no child is left", || {
        let list = std::fs::read_to_string(&children).ok()?;
        list.is_empty().then_some(())
    });
}

#[test]
fn told_to_stop_it_lets_the_call_end() {
    let text = r#"touch "$D/began"; while ! [ -e "$D/gate" ]; do sleep 0.01; done; echo 1"#;
    let mut pod = pod(text);
    let mut wire = pod.connect();
    wire.send_invoke("1", &[]);
    until_file(&pod.path("began"));
    pod.signal(Signal::SIGTERM);
    let health = || pod.connect().call("GET", "/health", &[], b"").status;
    until("/health is 503", || (health() == 503).then_some(()));
    std::fs::write(pod.path("gate"), "").expect("the gate opens");
    assert_eq!(wire.answer().text(), "1");
    assert_eq!(pod.exit().code(), Some(0));
}

#[test]
fn a_second_stop_ends_at_once_cleanly() {
    let mut pod = pod(&format!("{FAMILY} wait"));
    let mut wire = pod.connect();
    wire.send_invoke("1", &[]);
    let pids = family(&pod);
    pod.signal(Signal::SIGTERM);
    let health = || pod.connect().call("GET", "/health", &[], b"").status;
    until("/health is 503", || (health() == 503).then_some(()));
    pod.signal(Signal::SIGTERM);
    assert_eq!(pod.exit().code(), Some(130));
    until_family_gone(&pod, &pids);
    drop(wire);
}

#[test]
fn a_job_that_overstays_leaves_nothing() {
    let peer = Peer::start(&[NO_CONTENT]);
    let callback = peer.url("/executions");
    let env = [
        ("CALLBACK_URL", callback.as_str()),
        ("EXECUTION_ID", "e1"),
        ("TIMEOUT_MS", "3000"),
        ("INVOCATION_PAYLOAD", r#"{"input":1}"#),
    ];
    let mut job = start(&format!("{FAMILY} wait"), &env);
    let pids = family(&job);
    assert_eq!(job.exit().code(), Some(0), "{}", job.said());
    assert_eq!(peer.next().json()["error"]["code"], "TIMEOUT");
    until_family_gone(&job, &pids);
}
