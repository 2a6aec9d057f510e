//! Who ends what when a guard or a plane is gone.

use std::cell::RefCell;
use std::process::{Command, ExitCode, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nanofaas_core::event::Event;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Test;
use crate::bench::{FOR_EVER, HEALTHY, PATIENCE, Scratch, WITH_STRAY, lives, until, with};

pub(crate) const TESTS: &[Test] = &[
    ("nothing_outlives_a_killed_plane", plane_killed),
    ("a_killed_guard_is_replaced", guard_killed),
    ("a_stopped_bridge_leaves_nothing", stopped),
];

/// A plane with one pod of the program `pod.py` in `directory`, until it is killed.
pub(crate) fn plane(directory: &str) -> ExitCode {
    let directory = directory.to_owned();
    with(|mut bench| async move {
        let fields = format!(
            r#""executionMode":"WARM","command":["python3","pod.py"],
            "local":{{"directory":"{directory}"}}"#
        );
        let function = bench.register(&fields).await;
        assert!(matches!(bench.event().await, Event::LaneOpened { .. }));
        let pod = bench.pod(&function);
        bench.up(pod).await;
        println!("up");
        tokio::time::sleep(PATIENCE).await;
        bench
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
    let scratch = Scratch::new();
    scratch.program("pod.py", &[HEALTHY, WITH_STRAY, FOR_EVER].concat());
    let mut plane = Command::new(std::env::current_exe().expect("this program"))
        .args(["plane", scratch.path()])
        .env("TMPDIR", scratch.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a plane");
    let mut up = String::new();
    let mut said = std::io::BufReader::new(plane.stdout.take().expect("piped"));
    std::io::BufRead::read_line(&mut said, &mut up).expect("readable");
    assert_eq!(up.trim(), "up");
    let read = |name| std::fs::read_to_string(scratch.at(name)).expect("written");
    let pid = |name| read(name).trim().parse::<i32>().expect("a pid");
    let since = Instant::now();
    while !scratch.at("stray").exists() || read("stray").is_empty() {
        assert!(since.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    let (pod, stray) = (pid("pid"), pid("stray"));
    let guard = guard_of(pod);
    for pid in [pod, stray, guard] {
        assert!(lives(pid));
    }
    plane.kill().expect("it runs");
    plane.wait().expect("our child");
    let killed = Instant::now();
    while [pod, stray, guard].into_iter().any(lives) {
        assert!(killed.elapsed() < PATIENCE, "something outlives the plane");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn guard_killed() {
    with(|mut bench| async move {
        bench
            .scratch
            .program("pod.py", &[HEALTHY, WITH_STRAY, FOR_EVER].concat());
        for _ in 0..3 {
            let (_, pod, _) = bench.running("pod.py").await;
            let (pid, stray) = (
                bench.scratch.pid("pid").await,
                bench.scratch.pid("stray").await,
            );
            let guard = guard_of(pid);
            kill(Pid::from_raw(guard), Signal::SIGKILL).expect("it lives");
            bench.down(pod).await;
            let end = bench.gone(pod);
            assert!(!end.oom && end.message.contains("guard"), "{end:?}");
            for pid in [pid, stray, guard] {
                assert!(!lives(pid), "it was ended before it was called gone");
            }
            std::fs::remove_file(bench.scratch.at("stray")).expect("written");
            std::fs::remove_file(bench.scratch.at("pid")).expect("written");
        }
        bench
    });
}

fn stopped() {
    let left = Rc::new(RefCell::new(Vec::new()));
    let seen = left.clone();
    with(|mut bench| async move {
        bench
            .scratch
            .program("pod.py", &[HEALTHY, WITH_STRAY, FOR_EVER].concat());
        bench.running("pod.py").await;
        let (pid, stray) = (
            bench.scratch.pid("pid").await,
            bench.scratch.pid("stray").await,
        );
        *seen.borrow_mut() = vec![pid, stray, guard_of(pid)];
        until("they run", || [pid, stray].into_iter().all(lives)).await;
        bench
    });
    assert_eq!(left.borrow().len(), 3);
    assert!(!left.borrow().iter().any(|pid| lives(*pid)));
}
