//! Tests what happens to function processes when a guard or a control plane is gone.

use std::cell::RefCell;
use std::process::{Command, ExitCode, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nanofaas_core::event::Event;
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::process::is_alive;
use nanofaas_testkit::wait::PATIENCE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ProcessTest;
use crate::fixture::{FOR_EVER, HEALTHY, WITH_ORPHAN, until, with, with_config};

pub(crate) const TESTS: &[ProcessTest] = &[
    ("nothing_outlives_a_killed_plane", plane_killed),
    ("a_killed_guard_is_replaced", guard_killed),
    ("a_guard_that_ends_is_started_rarely", guard_ends_at_once),
    ("a_stopped_bridge_leaves_nothing", stopped),
];

/// Runs a control plane with one pod of the program `pod.py` in `directory`, until the test kills it.
pub(crate) fn plane(directory: &str) -> ExitCode {
    let directory = directory.to_owned();
    with(|mut fixture| async move {
        let fields = format!(
            r#""executionMode":"WARM","command":["python3","pod.py"],
            "local":{{"directory":"{directory}"}}"#
        );
        let function = fixture.register(&fields).await;
        assert!(matches!(fixture.event().await, Event::LaneOpened { .. }));
        let pod = fixture.pod(&function);
        fixture.up(pod).await;
        println!("up");
        tokio::time::sleep(PATIENCE).await;
        fixture
    });
    ExitCode::FAILURE
}

fn guard_of(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let rest = &stat[stat.rfind(')').expect("a name") + 2..];
    rest.split(' ')
        .nth(1)
        .expect("a parent")
        .parse()
        .expect("a pid")
}

fn plane_killed() {
    let scratch = ScratchFolder::create();
    scratch.executable("pod.py", &[HEALTHY, WITH_ORPHAN, FOR_EVER].concat());
    let mut plane = Command::new(std::env::current_exe().expect("this program"))
        .arg("plane")
        .arg(scratch.path())
        .env("TMPDIR", scratch.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a plane");
    let mut up = String::new();
    let mut said = std::io::BufReader::new(plane.stdout.take().expect("piped"));
    std::io::BufRead::read_line(&mut said, &mut up).expect("readable");
    assert_eq!(up.trim(), "up");
    let read = |name| std::fs::read_to_string(scratch.join(name)).expect("written");
    let pid = |name| read(name).trim().parse::<i32>().expect("a pid");
    let since = Instant::now();
    while !scratch.join("orphan").exists() || read("orphan").is_empty() {
        assert!(since.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    let (pod, orphan) = (pid("pid"), pid("orphan"));
    let guard = guard_of(pod);
    for pid in [pod, orphan, guard] {
        assert!(is_alive(pid));
    }
    plane.kill().expect("it runs");
    plane.wait().expect("our child");
    let killed = Instant::now();
    while [pod, orphan, guard].into_iter().any(is_alive) {
        assert!(killed.elapsed() < PATIENCE, "something outlives the plane");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn guard_killed() {
    with(|mut fixture| async move {
        fixture
            .scratch
            .executable("pod.py", &[HEALTHY, WITH_ORPHAN, FOR_EVER].concat());
        for _ in 0..3 {
            let (_, pod, _) = fixture.running("pod.py").await;
            let (pid, orphan) = (fixture.pid("pid").await, fixture.pid("orphan").await);
            let guard = guard_of(pid);
            kill(Pid::from_raw(guard), Signal::SIGKILL).expect("it lives");
            fixture.down(pod).await;
            let end = fixture.gone(pod);
            assert!(!end.oom && end.message.contains("guard"), "{end:?}");
            for pid in [pid, orphan, guard] {
                assert!(!is_alive(pid), "it was ended before it was called gone");
            }
            std::fs::remove_file(fixture.scratch.join("orphan")).expect("written");
            std::fs::remove_file(fixture.scratch.join("pid")).expect("written");
        }
        fixture
    });
}

fn guard_ends_at_once() {
    let scratch = ScratchFolder::create();
    let starts = scratch.join("starts");
    let script = format!("echo started >>{}", starts.display());
    let guard = ["sh", "-c", &script].map(Into::into).to_vec();
    with_config(
        |config| config.guard = guard,
        |fixture| async move {
            let count = || std::fs::read_to_string(&starts).unwrap_or_default();
            until("it was started 4 times", || count().lines().count() >= 4).await;
            // The pauses before the second, third and fourth start are of 100, 200 and 400 ms.
            assert!(fixture.start.elapsed() >= Duration::from_millis(700));
            fixture
        },
    );
}

fn stopped() {
    let left = Rc::new(RefCell::new(Vec::new()));
    let seen = left.clone();
    with(|mut fixture| async move {
        fixture
            .scratch
            .executable("pod.py", &[HEALTHY, WITH_ORPHAN, FOR_EVER].concat());
        fixture.running("pod.py").await;
        let (pid, orphan) = (fixture.pid("pid").await, fixture.pid("orphan").await);
        *seen.borrow_mut() = vec![pid, orphan, guard_of(pid)];
        until("they run", || [pid, orphan].into_iter().all(is_alive)).await;
        fixture
    });
    assert_eq!(left.borrow().len(), 3);
    assert!(!left.borrow().iter().any(|pid| is_alive(*pid)));
}
