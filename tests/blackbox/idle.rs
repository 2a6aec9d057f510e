//! These tests check that the threads of an idle plane sleep, and that the plane returns unused memory.

use std::time::{Duration, Instant};

use nanofaas_testkit::client::Request;
use nanofaas_testkit::control_plane::ControlPlane;
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::functions::{local, pool, with};
use nanofaas_testkit::pod::ScriptedPod;
use nanofaas_testkit::wait::eventually;
use nix::unistd::Pid;
use serde_json::json;

/// Returns for each thread its name, the number of its sleeps, and its CPU time in hundredths of a second. If
/// a thread runs and never sleeps, only its CPU time grows.
fn done(pid: Pid) -> Vec<(String, u64, u64)> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives");
    let status = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path.join("status")).expect("a thread's status");
        let field = |name| {
            let found = text.lines().find_map(|line| line.strip_prefix(name));
            found.expect("a field").trim().to_owned()
        };
        let sleeps = field("voluntary_ctxt_switches:").parse().expect("a number");
        let stat = std::fs::read_to_string(path.join("stat")).expect("a thread's times");
        let (_, times) = stat.rsplit_once(") ").expect("a name before them");
        let times = times.split(' ').skip(11).take(2);
        let ticks = times.map(|field| field.parse::<u64>().expect("a number"));
        (field("Name:"), sleeps, ticks.sum())
    };
    let mut all: Vec<_> = threads
        .map(|thread| status(thread.expect("a thread").path()))
        .collect();
    all.sort();
    all
}

/// Waits until no thread has run for three seconds.
#[track_caller]
fn until_still(plane: &ControlPlane) {
    const STILL: Duration = Duration::from_secs(3);
    let until = Instant::now() + Duration::from_secs(90);
    loop {
        let before = done(plane.pid);
        std::thread::sleep(STILL);
        let after = done(plane.pid);
        if before == after {
            return;
        }
        assert!(Instant::now() < until, "{before:?}\n{after:?}");
    }
}

/// The plane must become idle although it still has executions. `until_still` waits at most 90 s: longer than
/// the plane keeps idle pod connections, and shorter than it keeps executions.
#[test]
fn nothing_wakes_an_idle_plane() {
    let plane = ControlPlane::start(&[]);
    let pod = ScriptedPod::echo();
    plane.register(&pool("idle-pool", &pod));
    plane.register(&local("idle-local"));
    for name in ["idle-pool", "idle-local"] {
        plane.invoke(name, &json!(1)).expect(200);
        let id = plane.enqueue(name, &json!(2));
        assert_eq!(plane.ended(&id)["status"], "success");
        let keyed = Request::invoke(name, &json!(3)).header("Idempotency-Key", "k");
        plane.send(&keyed).expect(200);
    }
    Request::get("/healthz").send(plane.management).expect(200);
    until_still(&plane);
    plane.invoke("idle-local", &json!(4)).expect(200);
    Request::get("/healthz").send(plane.management).expect(200);
}

#[test]
fn nothing_runs_once_all_clients_are_gone() {
    let plane = ControlPlane::start(&[]);
    plane.register(&local("idle-gone"));
    // The number of calls is so high that each io thread gets some.
    for at in 0..32 {
        plane.invoke("idle-gone", &json!(at)).expect(200);
    }
    until_still(&plane);
    plane.invoke("idle-gone", &json!(1)).expect(200);
}

#[test]
fn functions_have_huge_pages_the_plane_has_none() {
    let status = |pid: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
        let line = text.lines().find(|line| line.starts_with("THP_enabled:"));
        line.map(|line| line.split_whitespace().last().expect("a value").to_owned())
    };
    // The line `THP_enabled` exists since Linux 5.0.
    let Some(here) = status("self") else {
        return eprintln!(
            "NOT RUN: this kernel does not report whether a process may have huge pages"
        );
    };
    let plane = ControlPlane::start(&[]);
    let folder = ScratchFolder::create();
    let handler = "def handle(input):\n    lines = open('/proc/self/status').read().split('\\n')\n    \
         return [l.split()[-1] for l in lines if l.startswith('THP_enabled:')][0]\n";
    plane.register(&folder.python("thp", "WARM", handler));
    let there = plane.invoke("thp", &json!(1)).expect(200).json()["output"].clone();
    assert_eq!(there, json!(here));
    let own = plane.pid.to_string();
    assert_eq!(status(&own).as_deref(), Some("0"));
    let smaps = std::fs::read_to_string(format!("/proc/{own}/smaps_rollup")).expect("its memory");
    let huge = smaps
        .lines()
        .find(|line| line.starts_with("AnonHugePages:"));
    let kib = huge.and_then(|line| line.split_whitespace().nth(1));
    assert_eq!(kib, Some("0"), "{smaps}");
}

fn anonymous_kib(pid: Pid) -> u64 {
    let path = format!("/proc/{pid}/smaps_rollup");
    let smaps = std::fs::read_to_string(path).expect("its memory");
    let line = smaps.lines().find(|line| line.starts_with("Anonymous:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.expect("a size").parse().expect("a number")
}

#[test]
fn memory_is_given_back_after_a_load() {
    const CALLERS: usize = 24;
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    plane.register(&with(
        local("bulk"),
        &json!({"concurrency": 64, "queueSize": 1000}),
    ));
    plane.invoke("bulk", &json!(1)).expect(200);
    let idle = anonymous_kib(plane.pid);
    let input = json!("x".repeat(900_000));
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                for _ in 0..4 {
                    plane.invoke("bulk", &input).expect(200);
                }
            });
        }
    });
    let loaded = anonymous_kib(plane.pid);
    assert!(
        loaded > idle + 8 * 1024,
        "{idle} KiB idle, {loaded} KiB in use"
    );
    eventually("the memory is returned", || {
        anonymous_kib(plane.pid) < idle + 8 * 1024
    });
}
