//! These tests run the plane under load, with lost pods and with many functions. Every accepted call must end
//! exactly once, and no process, call or memory may be left behind.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nanofaas_testkit::client::{RawClient, Request};
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::form::io_threads;
use nanofaas_testkit::functions::{local, pool, with};
use nanofaas_testkit::pod::ScriptedPod;
use nanofaas_testkit::process::is_alive;
use nanofaas_testkit::wait::{Gate, eventually};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::handlers;

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane = SharedControlPlane::new(&["--rate-max-per-second", "off"]);
    PLANE.get()
}

#[test]
fn the_first_call_with_default_settings_succeeds() {
    let folder = ScratchFolder::create();
    let plane = ControlPlane::start(&[]);
    plane.register(&folder.python("first", "WARM", handlers::ECHO));
    assert_eq!(
        plane.invoke("first", &json!("hello")).expect(200).json()["output"],
        "hello"
    );
}

#[test]
fn sixty_four_parallel_sync_calls_do_not_stall() {
    let pod = ScriptedPod::tcp(|got, line| {
        std::thread::sleep(Duration::from_millis(20));
        line.json(&got.input().to_string())
    });
    plane().register(&with(pool("parallel", &pod), &json!({"concurrency": 64})));
    let begun = Instant::now();
    for _ in 0..5 {
        let mut wires: Vec<RawClient> = (0..64)
            .map(|n| Request::invoke("parallel", &json!(n)).begin(plane().listen))
            .collect();
        for (number, wire) in wires.iter_mut().enumerate() {
            assert_eq!(wire.answer().expect(200).json()["output"], number);
        }
    }
    println!(
        "5 times 64 parallel calls of 20 ms took {:?}",
        begun.elapsed()
    );
}

#[test]
fn a_hundred_impatient_clients_leave_no_trace() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    let function = with(
        pool("trace", &pod),
        &json!({"queueSize": 100, "timeoutMs": 60_000}),
    );
    plane().register(&function);
    let mut running = Request::invoke("trace", &json!("long")).begin(plane().listen);
    pod.wait_calls(1);
    for _ in 0..3 {
        let wires: Vec<RawClient> = (0..100)
            .map(|n| Request::invoke("trace", &json!(n)).begin(plane().listen))
            .collect();
        plane().wait_for("trace", 100, 1);
        drop(wires);
        plane().wait_for("trace", 0, 1);
    }
    gate.open();
    assert_eq!(running.answer().expect(200).json()["output"], "long");
    plane().invoke("trace", &json!("next")).expect(200);
    assert_eq!(pod.calls().len(), 2, "a call of a client that had left ran");
}

/// Returns false if the process had ended already.
fn kill_now(pid: i32) -> bool {
    kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok()
}

#[test]
fn killed_pods_leave_every_execution_one_end() {
    const KILLS: usize = 200;
    let folder = ScratchFolder::create();
    std::fs::create_dir(folder.path().join("pids")).expect("a folder");
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    let function = folder.python("killed", "WARM", handlers::TO_BE_KILLED);
    let more =
        json!({"concurrency": 4, "queueSize": 10_000, "timeoutMs": 60_000, "maxRetries": 10});
    plane.register(&with(function, &more));
    plane.invoke("killed", &json!(0)).expect(200);
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let begun = Instant::now();
    let ids = std::thread::scope(|scope| {
        let _over = Over(&over);
        let callers: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let mut ids = Vec::new();
                    while !over.load(Ordering::Relaxed) {
                        let answer = plane.invoke("killed", &json!("sync"));
                        assert!(
                            matches!(answer.status, 200 | 500 | 502 | 503),
                            "{}",
                            answer.text()
                        );
                        if answer.status == 500 {
                            // The pod lives longer than its worker, and reports how the worker ended.
                            assert_eq!(answer.json()["error"]["code"], "OOM");
                        }
                        answered.fetch_add(1, Ordering::Relaxed);
                        for _ in 0..4 {
                            ids.push((plane.enqueue("killed", &json!("async")), false));
                        }
                        ids.push((answer.id(), true));
                    }
                    ids
                })
            })
            .collect();
        let mut kills = 0;
        while kills < KILLS {
            let pids = std::fs::read_dir(folder.path().join("pids")).expect("a folder");
            for entry in pids.map_while(Result::ok) {
                let pid: i32 = entry.file_name().to_string_lossy().parse().expect("a pid");
                // Every second kill hits the watchdog, which is the worker's parent, and so ends the whole
                // pod. The other kills hit the worker.
                let whole = kills % 2 == 0;
                let target = if whole {
                    parent_of(pid).unwrap_or(pid)
                } else {
                    pid
                };
                let _ = std::fs::remove_file(entry.path());
                kills += usize::from(is_alive(target) && kill_now(target));
                std::thread::sleep(Duration::from_millis(10));
            }
            assert!(
                begun.elapsed() < Duration::from_secs(300),
                "only {kills} kills"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        over.store(true, Ordering::Relaxed);
        let all = callers
            .into_iter()
            .flat_map(|caller| caller.join().expect("a caller"));
        all.collect::<Vec<_>>()
    });
    let (mut success, mut failed) = (0, 0);
    for (id, was_sync) in &ids {
        let path = format!("/v1/executions/{id}?waitMs=55000");
        let answer = plane.get(&path);
        if *was_sync && answer.status == 404 {
            continue; // Later records have overwritten the record of this plain call.
        }
        match answer.expect(200).json()["status"].as_str() {
            Some("success") => success += 1,
            Some("error") => failed += 1,
            other => panic!("{id}: {other:?}"),
        }
    }
    let ledger = plane.settle();
    let of = |name: &str| ledger.sum(name, &[("function", "killed")]);
    let ended = ["success", "error", "timeout"].map(|end| of(&format!("function_{end}_total")));
    assert_eq!(
        ended.iter().sum::<f64>(),
        of("function_enqueue_total"),
        "each ends once"
    );
    assert_eq!(of("function_enqueue_total"), ids.len() as f64 + 1.0);
    println!(
        "{KILLS} kills in {:?}: {} calls, of those looked at {success} succeeded, {failed} failed",
        begun.elapsed(),
        ids.len(),
    );
    eventually("calls succeed again", || {
        plane.invoke("killed", &json!(1)).status == 200
    });
}

/// Dropping this value stops the callers, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Returns the parent of a process if the parent is a function's watchdog. Other parents are the guard and
/// the plane.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let parent: i32 = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
    let line = std::fs::read_to_string(format!("/proc/{parent}/cmdline")).ok()?;
    line.contains("nanofaas_runtime").then_some(parent)
}

#[test]
fn no_function_process_outlives_the_plane() {
    let folder = ScratchFolder::create();
    let (warm, job) = (ScratchFolder::create(), ScratchFolder::create());
    let plane = ControlPlane::start(&[]);
    plane.register(&warm.python("warm", "WARM", handlers::FAMILY));
    let script = "setsid sleep 600 & echo $! > grandchild; echo $$ > pid; exec sleep 600";
    plane.register(&job.shell("job", "JOB", script));
    let output = plane.invoke("warm", &json!(1)).expect(200).json()["output"].clone();
    let mut pids: Vec<i32> = serde_json::from_value(output).expect("pids");
    plane.enqueue("job", &json!(1));
    for (folder, file) in [(&warm, "grandchild"), (&job, "grandchild"), (&job, "pid")] {
        eventually("the processes have written their pids", || {
            folder.read(file).is_some_and(|text| text.ends_with('\n'))
        });
        let text = folder.read(file).expect("a pid");
        pids.push(text.trim().parse().expect("a pid"));
    }
    assert!(pids.iter().all(|pid| is_alive(*pid)), "{pids:?}");
    plane.signal(Signal::SIGKILL);
    plane
        .exit_within(Duration::from_secs(20))
        .expect("it is dead");
    for pid in &pids {
        eventually(&format!("process {pid} of {pids:?} is ended"), || {
            !is_alive(*pid)
        });
    }
    drop(folder);
}

#[test]
fn a_killed_guard_is_restarted_and_leaves_nothing() {
    let folder = ScratchFolder::create();
    let plane = ControlPlane::start(&[]);
    plane.register(&folder.python("guarded", "WARM", handlers::PID));
    let call = || plane.invoke("guarded", &json!(1)).expect(200).json()["output"].as_i64();
    let first = i32::try_from(call().expect("a pid")).expect("a pid");
    let guards = children_of(plane.pid);
    assert_eq!(guards.len(), 1, "the guard is the only child");
    assert!(kill_now(guards[0]));
    eventually("the guard's functions are ended", || !is_alive(first));
    let next = call().expect("a pid");
    assert_ne!(i64::from(first), next);
    plane.signal(Signal::SIGKILL);
    let next = i32::try_from(next).expect("a pid");
    eventually("the new guard ends them", || !is_alive(next));
}

/// Returns the children of all threads of a process.
fn children_of(pid: Pid) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let lists = threads
        .map_while(Result::ok)
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let pids = lists.collect::<Vec<String>>().concat();
    let pids = pids.split_whitespace().map(|pid| pid.parse());
    pids.collect::<Result<_, _>>().expect("pids")
}

/// Raises the limit of descriptors to the highest allowed value, and returns this value.
fn raise_descriptors() -> u64 {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("within the limit");
    most
}

#[test]
fn ten_thousand_functions_and_idle_connections_fit() {
    const MANY: usize = 10_000;
    /// The number of functions that are called. Only called functions have a queue and counters.
    const CALLED: usize = 1000;
    let descriptors = raise_descriptors();
    let connections = MANY.min(usize::try_from(descriptors).expect("a number") - 2000);
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    let begun = Instant::now();
    let mut wire = RawClient::connect(plane.listen);
    for batch in 0..MANY / 50 {
        let each = (0..50).map(|n| {
            let function = local(&format!("f{:05}", batch * 50 + n));
            Request::new("POST", "/v1/functions")
                .json(&function)
                .bytes()
        });
        wire.send(&each.flatten().collect::<Vec<u8>>());
        (0..50).for_each(|_| _ = wire.answer().expect(201));
    }
    let registered = begun.elapsed();
    let by_functions = plane.resident_bytes();
    let request = Request::invoke("f00000", &json!(1)).bytes();
    let mut idle: Vec<RawClient> = Vec::with_capacity(connections);
    for number in 0..connections {
        let mut wire = RawClient::connect(plane.listen);
        let request = Request::invoke(&format!("f{:05}", number % CALLED), &json!(1)).bytes();
        wire.send(&request);
        wire.answer().expect(200);
        idle.push(wire);
    }
    let connected = begun.elapsed();
    let resident = plane.resident_bytes();
    // Calls must still work, over the idle connections and over a new one.
    for at in (0..connections).step_by(connections / 100) {
        idle[at].send(&request);
        idle[at].answer().expect(200);
    }
    plane.invoke("f09999", &json!(1)).expect(200);
    let list = plane.get("/v1/functions").expect(200).json();
    assert_eq!(list.as_array().map(Vec::len), Some(MANY));
    let metrics = plane.settle();
    assert!(metrics.sum("function_success_total", &[]) >= connections as f64);
    println!(
        "{MANY} functions in {registered:?}, {connections} connections in {:?}: \
         {} MiB resident, {} before",
        connected - registered,
        resident >> 20,
        by_functions >> 20,
    );
    // Each io thread has its own tables and rings, so the limit grows with their number.
    let most = 100 + 50 * io_threads() as u64;
    assert!(resident < most << 20, "{} MiB", resident >> 20);
}

#[test]
fn sigterm_under_load_answers_every_accepted_call() {
    let plane = ControlPlane::start(&["--rate-max-per-second", "off", "--drain-ms", "30000"]);
    let pod = ScriptedPod::tcp(|got, line| {
        std::thread::sleep(Duration::from_millis(5));
        line.json(&got.input().to_string())
    });
    plane.register(&with(
        pool("load", &pod),
        &json!({"concurrency": 8, "queueSize": 1000}),
    ));
    let listen = plane.listen;
    let accepted = AtomicUsize::new(0);
    let begun = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    let mut wire = RawClient::connect(listen);
                    loop {
                        let sent = wire.try_send(&Request::invoke("load", &json!("x")).bytes());
                        match wire.read(true) {
                            Ok(answer) if answer.status == 200 => {
                                assert_eq!(answer.json()["output"], "x");
                                accepted.fetch_add(1, Ordering::Relaxed);
                            }
                            Ok(answer) => {
                                answer.expect_error(503, "SHUTTING_DOWN");
                                return;
                            }
                            // The plane closed the connection. If the plane had accepted the sent request as
                            // a call, the pod would have received more calls than were answered.
                            Err(error) => {
                                assert!(!sent || pod_saw_all(&pod, &accepted), "{error}");
                                return;
                            }
                        }
                    }
                })
            })
            .collect();
        eventually("200 calls are answered", || {
            accepted.load(Ordering::Relaxed) > 200
        });
        plane.signal(Signal::SIGTERM);
        let begun = Instant::now();
        callers
            .into_iter()
            .for_each(|caller| caller.join().expect("a caller"));
        begun
    });
    let status = plane
        .exit_within(Duration::from_secs(30))
        .expect("within the drain time");
    println!(
        "{} calls; it drained in {:?}",
        accepted.load(Ordering::Relaxed),
        begun.elapsed()
    );
    assert_eq!(status.code(), Some(0));
    assert_eq!(
        pod.calls().len(),
        accepted.load(Ordering::Relaxed),
        "a call ran unanswered"
    );
}

/// Waits half a second for the last answers. Then returns whether each call that reached the pod was
/// answered.
fn pod_saw_all(pod: &ScriptedPod, accepted: &AtomicUsize) -> bool {
    std::thread::sleep(Duration::from_millis(500));
    pod.calls().len() == accepted.load(Ordering::Relaxed)
}

#[test]
fn garbage_on_many_connections_harms_nobody() {
    plane().register(&local("beside"));
    let seeds: [&[u8]; 5] = [
        b"\r\n\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x00\xff\x00",
        b"POST /v1/functions/beside:invoke HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n{",
        b"POST /v1/functions/beside:invoke HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ];
    let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..400_usize {
        let mut bytes = seeds[round % seeds.len()].to_vec();
        for _ in 0..3 {
            let at = random() as usize % bytes.len();
            bytes[at] = random() as u8;
        }
        let mut wire = RawClient::connect(plane().listen);
        wire.send(&bytes);
        if round % 3 == 0 {
            wire.finish();
            let _ = wire.read(true);
        }
        if round % 20 == 0 {
            plane().invoke("beside", &json!(1)).expect(200);
        }
    }
    plane().wait_for("beside", 0, 0);
    let answer: Value = plane().invoke("beside", &json!(1)).expect(200).json();
    assert_eq!(answer["status"], "success");
}

#[test]
fn a_client_that_reads_nothing_costs_little() {
    const MANY: usize = 1_500;
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    let mut wire = RawClient::connect(plane.listen);
    let large = Request::new("GET", "/openapi.yaml").bytes();
    // The io thread sends at the end of its iteration, so the last small answer is still unsent when the io
    // thread makes the first large answers. The large answers must not pile up behind the small answer.
    const SMALL: usize = 100;
    let mut asked = Request::new("GET", "/v1/nothing").bytes().repeat(SMALL);
    asked.extend(large.repeat(MANY));
    let before = plane.resident_bytes();
    wire.send(&asked);
    std::thread::sleep(Duration::from_millis(500));
    let grown = plane.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{} MiB for one client", grown >> 20);
    plane.get("/v1/functions").expect(200);
    (0..SMALL).for_each(|_| _ = wire.answer().expect(404));
    (0..MANY).for_each(|_| _ = wire.answer().expect(200));
}
