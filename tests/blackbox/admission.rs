//! These tests check admission: the reasons for a refusal, with their headers, and the order in which the
//! accepted calls run.

use std::time::Duration;

use nanofaas_testkit::client::{Answer, RawClient, Request};
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::form::is_pinned;
use nanofaas_testkit::functions::{local, pool, with};
use nanofaas_testkit::pod::{ReceivedCall, ScriptedPod};
use nanofaas_testkit::wait::{Gate, eventually};
use serde_json::json;

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane = SharedControlPlane::new(&["--rate-max-per-second", "off"]);
    PLANE.get()
}

#[track_caller]
fn expect_refusal(answer: Answer, reason: &str) {
    let answer = answer.expect_error(429, "TOO_MANY_REQUESTS");
    assert_eq!(answer.header("x-queue-reject-reason"), Some(reason));
    let after = answer
        .header("retry-after")
        .and_then(|seconds| seconds.parse::<u64>().ok());
    assert!(
        after.is_some_and(|seconds| seconds >= 1),
        "{:?}",
        answer.headers
    );
    assert_eq!(
        answer.header("x-execution-id"),
        None,
        "a refusal leaves no record"
    );
}

/// Returns the head of a call that waits for a `100 Continue` before it sends its body.
fn expecting(name: &str, length: usize) -> String {
    format!(
        "POST /v1/functions/{name}:invoke HTTP/1.1\r\nHost: localhost\r\nContent-Type: a/b\r\n\
         Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    )
}

#[test]
fn a_rate_of_zero_refuses_only_calls() {
    let plane = ControlPlane::start(&["--rate-max-per-second", "0"]);
    plane.register(&local("rate"));
    expect_refusal(plane.invoke("rate", &json!(1)), "rate");
    expect_refusal(plane.send(&Request::enqueue("rate", &json!(1))), "rate");
    expect_refusal(plane.invoke("unknown", &json!(1)), "rate");
    let mut wire = RawClient::connect(plane.listen);
    wire.send(expecting("rate", 10).as_bytes());
    expect_refusal(wire.answer(), "rate");
    plane.get("/v1/functions").expect(200);
    plane.get("/v1/executions/nobody").expect(404);
    let refused = plane
        .metrics()
        .sum("function_queue_rejected_total", &[("reason", "rate")]);
    assert_eq!(refused, 4.0);
    let ledger = plane.settle();
    assert_eq!(ledger.sum("nanofaas_executions_accepted", &[]), 0.0);
}

#[test]
fn the_rate_holds_for_the_whole_plane() {
    let plane = ControlPlane::start(&["--rate-max-per-second", "5"]);
    plane.register(&local("rate-a"));
    plane.register(&local("rate-b"));
    let calls = 200;
    let mut wire = RawClient::connect(plane.listen);
    let mut taken = 0;
    let begun = std::time::Instant::now();
    for number in 0..calls {
        let name = if number % 2 == 0 { "rate-a" } else { "rate-b" };
        wire.send(&Request::invoke(name, &json!(1)).bytes());
        let answer = wire.answer();
        if answer.status == 200 {
            taken += 1
        } else {
            expect_refusal(answer, "rate")
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    assert!(taken >= 5, "{taken}");
    assert!(
        f64::from(taken) <= 5.0 * (1.0 + seconds) + 1.0,
        "{taken} in {seconds} s"
    );
    eventually("the rate limit has a token again", || {
        plane.invoke("rate-a", &json!(1)).status == 200
    });
}

#[test]
fn an_unknown_function_is_404_before_its_body() {
    let mut wire = RawClient::connect(plane().listen);
    wire.send(expecting("nobody", 1000).as_bytes());
    wire.answer().expect_error(404, "FUNCTION_NOT_FOUND");
    let enqueue = Request::enqueue("nobody", &json!(1));
    plane()
        .send(&enqueue)
        .expect_error(404, "FUNCTION_NOT_FOUND");
}

#[test]
fn memory_is_charged_by_declared_length_and_returned() {
    let flags = [
        "--rate-max-per-second",
        "off",
        "--max-body",
        "64KiB",
        "--max-response",
        "64KiB",
        "--inflight-bytes",
        "512KiB",
    ];
    let plane = ControlPlane::start(&flags);
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane.register(&with(pool("memory", &pod), &json!({"concurrency": 10})));
    let large = |name: &str| {
        let input = json!("a".repeat(40 * 1024));
        Request::invoke(name, &input)
    };
    let mut first: Vec<_> = (0..3)
        .map(|_| large("memory").begin(plane.listen))
        .collect();
    pod.wait_calls(3);
    expect_refusal(plane.send(&large("memory")), "memory");
    let mut wire = RawClient::connect(plane.listen);
    wire.send(expecting("memory", 40 * 1024).as_bytes());
    expect_refusal(wire.answer(), "memory");
    // The plane refuses an unknown function before it checks memory.
    plane
        .send(&large("unknown"))
        .expect_error(404, "FUNCTION_NOT_FOUND");
    let mut small = Request::invoke("memory", &json!(1)).begin(plane.listen);
    pod.wait_calls(4);
    // The bytes of a chunked body are charged when they arrive.
    let mut chunked = RawClient::connect(plane.listen);
    chunked.send(
        b"POST /v1/functions/memory:invoke HTTP/1.1\r\nHost: localhost\r\nContent-Type: a/b\r\n\
          Transfer-Encoding: chunked\r\n\r\na000\r\n",
    );
    chunked.send(&[b'a'; 0xa000]);
    expect_refusal(chunked.answer(), "memory");
    assert!(chunked.closes_within(Duration::from_secs(20)));
    gate.open();
    for first in &mut first {
        first.answer().expect(200);
    }
    small.answer().expect(200);
    for _ in 0..20 {
        plane.send(&large("memory")).expect(200);
    }
    let refused = [("function", "memory"), ("reason", "memory")];
    assert_eq!(
        plane
            .metrics()
            .sum("function_queue_rejected_total", &refused),
        3.0
    );
    plane.settle();
}

#[test]
fn a_full_queue_refuses_and_counts_live_calls() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&with(pool("depth", &pod), &json!({"queueSize": 2})));
    let begin = |input: &str| Request::invoke("depth", &json!(input)).begin(plane().listen);
    let mut running = begin("runs");
    pod.wait_calls(1);
    let (mut left, mut leaving) = (begin("left"), begin("leaving"));
    plane().wait_for("depth", 2, 1);
    expect_refusal(plane().invoke("depth", &json!("refused")), "depth");
    // Next, two clients leave, one call is cancelled and one times out. After each of these steps, the depth
    // must be 0 again.
    left.finish();
    drop(leaving);
    plane().wait_for("depth", 0, 1);
    let cancelled = plane().enqueue("depth", &json!("cancelled"));
    let late = Request::invoke("depth", &json!("late")).header("X-Timeout-Ms", "50");
    plane()
        .send(&late)
        .expect_failure(408, "timeout", "TIMEOUT");
    plane().cancel(&cancelled).expect(202);
    plane().wait_for("depth", 0, 1);
    let (mut second, mut third) = (begin("second"), begin("third"));
    plane().wait_for("depth", 2, 1);
    expect_refusal(plane().invoke("depth", &json!("refused")), "depth");
    gate.open();
    for wire in [&mut running, &mut second, &mut third] {
        wire.answer().expect(200);
    }
    let mut ran: Vec<_> = pod.calls().iter().map(ReceivedCall::input).collect();
    ran.sort_by_key(ToString::to_string);
    assert_eq!(ran, ["runs", "second", "third"]);
    leaving = begin("again");
    leaving.answer().expect(200);
    let metrics = plane().metrics();
    let by = |reason: &str| {
        metrics.sum(
            "function_queue_rejected_total",
            &[("function", "depth"), ("reason", reason)],
        )
    };
    assert_eq!((by("depth"), by("est_wait"), by("memory")), (2.0, 0.0, 0.0));
}

#[test]
fn sync_and_async_calls_queue_separately() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&with(pool("own-queues", &pod), &json!({"queueSize": 2})));
    let begin = |input: &str| Request::invoke("own-queues", &json!(input)).begin(plane().listen);
    let enqueue = |input: &str| plane().send(&Request::enqueue("own-queues", &json!(input)));
    let mut calls = vec![begin("runs")];
    pod.wait_calls(1);
    let queued = ["first", "second"].map(|input| enqueue(input).expect(202).id());
    plane().wait_for("own-queues", 2, 1);
    expect_refusal(enqueue("refused"), "depth");
    calls.extend([begin("third"), begin("fourth")]);
    plane().wait_for("own-queues", 4, 1);
    expect_refusal(plane().invoke("own-queues", &json!("refused")), "depth");
    expect_refusal(enqueue("refused"), "depth");
    gate.open();
    for call in &mut calls {
        call.answer().expect(200);
    }
    for id in &queued {
        assert_eq!(plane().ended(id)["status"], "success");
    }
    assert_eq!(pod.calls().len(), 5);
}

#[test]
fn a_wait_past_the_deadline_is_refused_early() {
    let gate = Gate::default();
    let held = gate.clone();
    let pod = ScriptedPod::tcp(move |got, line| {
        if got.number < 3 {
            std::thread::sleep(Duration::from_millis(300));
        } else {
            line.wait(&held);
        }
        line.json("1")
    });
    plane().register(&pool("predict", &pod));
    let begin = || Request::invoke("predict", &json!(1)).begin(plane().listen);
    let hasty = Request::invoke("predict", &json!(1)).header("X-Timeout-Ms", "100");
    // A call takes 300 ms and `hasty` allows 100 ms. If no call was measured, or no call waits, admission
    // predicts no wait and accepts `hasty`.
    let mut first = begin();
    pod.wait_calls(1);
    let mut second = begin();
    plane().wait_for("predict", 1, 1);
    plane()
        .send(&hasty)
        .expect_failure(408, "timeout", "TIMEOUT");
    first.answer().expect(200);
    second.answer().expect(200);
    plane()
        .send(&hasty)
        .expect_failure(408, "timeout", "TIMEOUT");
    let mut running = begin();
    pod.wait_calls(4);
    plane()
        .send(&hasty)
        .expect_failure(408, "timeout", "TIMEOUT");
    // Now one call waits, and the measured calls took about 300 ms each.
    let mut waiting = begin();
    plane().wait_for("predict", 1, 1);
    expect_refusal(plane().send(&hasty), "est_wait");
    let patient = Request::invoke("predict", &json!(1)).header("X-Timeout-Ms", "60000");
    let mut patient = patient.begin(plane().listen);
    plane().wait_for("predict", 2, 1);
    // Admission predicts no wait for async calls.
    let queued = plane().enqueue("predict", &json!(1));
    gate.open();
    for wire in [&mut running, &mut waiting, &mut patient] {
        wire.answer().expect(200);
    }
    assert_eq!(plane().ended(&queued)["status"], "success");
}

#[test]
fn later_async_calls_refuse_no_sync_one() {
    let gate = Gate::default();
    let held = gate.clone();
    let pod = ScriptedPod::tcp(move |got, line| {
        match got.number {
            0 => std::thread::sleep(Duration::from_millis(300)),
            _ => _ = line.wait(&held),
        }
        line.json("1")
    });
    plane().register(&pool("after", &pod));
    plane().invoke("after", &json!(1)).expect(200);
    let ids: Vec<String> = (0..60)
        .map(|_| plane().enqueue("after", &json!(1)))
        .collect();
    plane().wait_for("after", 59, 1);
    // The 60 async calls would take 18 s. A sync call goes before them, so it waits for only one or two of
    // them.
    let sync = Request::invoke("after", &json!("sync")).header("X-Timeout-Ms", "9000");
    let mut sync = sync.begin(plane().listen);
    plane().wait_for("after", 60, 1);
    gate.open();
    sync.answer().expect(200);
    ids.iter()
        .for_each(|id| assert_eq!(plane().ended(id)["status"], "success"));
}

#[test]
fn a_keyed_repeat_passes_a_full_queue() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&with(pool("full", &pod), &json!({"queueSize": 1})));
    let keyed = Request::invoke("full", &json!("keyed")).header("Idempotency-Key", "k");
    let mut first = keyed.begin(plane().listen);
    pod.wait_calls(1);
    let mut waiting = Request::invoke("full", &json!("waits")).begin(plane().listen);
    plane().wait_for("full", 1, 1);
    let mut repeat = keyed.begin(plane().listen);
    expect_refusal(plane().invoke("full", &json!("refused")), "depth");
    gate.open();
    let (first, repeat) = (first.answer().expect(200), repeat.answer().expect(200));
    assert_eq!(first.id(), repeat.id());
    waiting.answer().expect(200);
    assert_eq!(pod.calls().len(), 2);
}

#[test]
fn a_saturated_function_delays_no_other() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&with(pool("busy", &pod), &json!({"concurrency": 4})));
    plane().register(&local("idle"));
    let mut busy: Vec<RawClient> = (0..60)
        .map(|n| Request::invoke("busy", &json!(n)).begin(plane().listen))
        .collect();
    pod.wait_calls(4);
    plane().wait_for("busy", 56, 4);
    for number in 0..200 {
        plane().invoke("idle", &json!(number)).expect(200);
    }
    plane().wait_for("busy", 56, 4);
    assert_eq!(pod.calls().len(), 4, "never more than its concurrency");
    gate.open();
    busy.iter_mut()
        .for_each(|wire| _ = wire.answer().expect(200));
}

#[test]
fn calls_begin_in_the_order_they_came() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&pool("order", &pod));
    let mut wires = Vec::new();
    for number in 0..30 {
        // With several io threads, the calls keep their order only if each call is counted before the next
        // call is sent.
        wires.push(Request::invoke("order", &json!(number)).begin(plane().listen));
        let waiting = u32::try_from(wires.len() - 1).expect("few");
        plane().wait_for("order", waiting, 1);
    }
    gate.open();
    wires
        .iter_mut()
        .for_each(|wire| _ = wire.answer().expect(200));
    let order: Vec<_> = pod.calls().iter().map(ReceivedCall::input).collect();
    assert_eq!(
        order,
        (0..30).map(|n| json!(n)).collect::<Vec<_>>(),
        "pinned: {}",
        is_pinned()
    );
}

#[test]
fn sync_calls_go_first_and_async_ones_follow() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&pool("classes", &pod));
    let mut running = Request::invoke("classes", &json!("first")).begin(plane().listen);
    pod.wait_calls(1);
    let ids: Vec<String> = (0..4)
        .map(|_| plane().enqueue("classes", &json!("async")))
        .collect();
    let mut wires: Vec<RawClient> = (0..32)
        .map(|_| Request::invoke("classes", &json!("sync")).begin(plane().listen))
        .collect();
    plane().wait_for("classes", 36, 1);
    gate.open();
    running.answer().expect(200);
    wires
        .iter_mut()
        .for_each(|wire| _ = wire.answer().expect(200));
    ids.iter()
        .for_each(|id| assert_eq!(plane().ended(id)["status"], "success"));
    let order: Vec<bool> = pod.calls()[1..]
        .iter()
        .map(|got| got.input() == "sync")
        .collect();
    let asyncs: Vec<usize> = (0..36).filter(|at| !order[*at]).collect();
    assert!(asyncs[0] >= 4, "async calls came first: {asyncs:?}");
    assert!(asyncs[2] <= 30, "async calls starved: {asyncs:?}");
}

#[test]
fn a_full_call_table_refuses_as_memory() {
    // The size of the call table of one io thread. The test uses one connection, so all calls are in one
    // table.
    const CALLS: usize = 16_384;
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    let pod = ScriptedPod::held(&Gate::default());
    for name in ["full-a", "full-b"] {
        plane.register(&with(pool(name, &pod), &json!({"queueSize": 10_000})));
    }
    let mut wire = RawClient::connect(plane.listen);
    let mut taken = 0;
    let refused = 'table: loop {
        assert!(taken <= CALLS, "{taken} calls on one thread");
        let name = if taken < 8192 { "full-a" } else { "full-b" };
        wire.send(&Request::enqueue(name, &json!(1)).bytes().repeat(64));
        let mut first = None;
        for _ in 0..64 {
            let answer = wire.answer();
            if answer.status == 202 {
                taken += 1;
            } else if answer.header("x-queue-reject-reason") != Some("depth") {
                first.get_or_insert(answer);
            } else {
                // The lane's ring to a pinned scheduler was full, so the call was refused.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if let Some(answer) = first {
            break 'table answer;
        }
    };
    assert_eq!(taken, CALLS);
    expect_refusal(refused, "memory");
    plane.remove("full-a");
    wire.send(&Request::enqueue("full-b", &json!(1)).bytes());
    wire.answer().expect(202);
    plane.remove("full-b");
    eventually("all calls but the running ones have ended", || {
        plane.metrics().sum("nanofaas_executions_waiting", &[]) == 0.0
    });
    assert_eq!(plane.metrics().drift(), 0.0);
}
