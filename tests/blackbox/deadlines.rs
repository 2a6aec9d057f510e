//! These tests check deadlines, retries, the `Prefer` header, and calls whose clients leave.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nanofaas_testkit::client::{RawClient, Request};
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::functions::{local, pool, with};
use nanofaas_testkit::pod::{After, ScriptedPod};
use nanofaas_testkit::wait::{Gate, eventually};
use serde_json::{Value, json};

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane = SharedControlPlane::new(&["--rate-max-per-second", "off"]);
    PLANE.get()
}

#[test]
fn a_request_may_set_its_own_deadline() {
    let pod = ScriptedPod::tcp(|_, line| {
        std::thread::sleep(Duration::from_millis(400));
        line.json("1")
    });
    let function = with(
        pool("own", &pod),
        &json!({"timeoutMs": 200, "concurrency": 4}),
    );
    plane().register(&function);
    plane()
        .invoke("own", &json!(1))
        .expect_failure(408, "timeout", "TIMEOUT");
    let longer = Request::invoke("own", &json!(1)).header("X-Timeout-Ms", "30000");
    plane().send(&longer).expect(200);
    plane().replace(&with(function, &json!({"timeoutMs": 30_000})));
    let shorter = Request::invoke("own", &json!(1)).header("X-Timeout-Ms", "100");
    plane()
        .send(&shorter)
        .expect_failure(408, "timeout", "TIMEOUT");
    let left: Vec<u64> = pod
        .calls()
        .iter()
        .map(|got| {
            got.header("x-deadline-ms")
                .and_then(|ms| ms.parse().ok())
                .expect("a number")
        })
        .collect();
    assert!(
        left[0] <= 200 && (20_000..=30_000).contains(&left[1]) && left[2] <= 100,
        "{left:?}"
    );
}

#[test]
fn a_deadline_frees_the_slot_of_its_call() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&with(pool("cut-off", &pod), &json!({"timeoutMs": 150})));
    for round in 1..=5 {
        plane()
            .invoke("cut-off", &json!(1))
            .expect_failure(408, "timeout", "TIMEOUT");
        eventually("the pod sees the end of the call", || pod.cuts() == round);
    }
    gate.open();
    plane().invoke("cut-off", &json!(1)).expect(200);
    assert_eq!(
        pod.calls().len(),
        6,
        "a timeout is not tried again unless retryOn says so"
    );
}

#[test]
fn an_expired_time_is_named_with_its_setting() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&with(pool("named", &pod), &json!({"timeoutMs": 200})));
    let message_of = |error: &Value| error["message"].as_str().expect("a message").to_owned();
    let id = plane().enqueue("named", &json!(1));
    let message = message_of(&plane().ended(&id)["error"]);
    assert!(
        message.ends_with("running, after 200 ms (timeoutMs)"),
        "{message}"
    );
    // A timeout that the pod reports shortly before the deadline gets the message of a timeout of the plane.
    // If the call has time left, the plane passes on the pod's code and message.
    let late = ScriptedPod::tcp(|got, line| {
        std::thread::sleep(Duration::from_millis(got.input().as_u64().unwrap_or(0)));
        line.answer(500, "", br#"{"code":"TIMEOUT","message":"the database"}"#)
    });
    plane().register(&pool("named-by-the-pod", &late));
    let call = |sleep_ms: u64, timeout_ms: &str| {
        let call = Request::invoke("named-by-the-pod", &json!(sleep_ms));
        plane().send(&call.header("X-Timeout-Ms", timeout_ms))
    };
    let answer = call(380, "400").expect_failure(408, "timeout", "TIMEOUT");
    let message = message_of(&answer.json()["error"]);
    assert!(
        message.ends_with("running, after 400 ms (X-Timeout-Ms)"),
        "{message}"
    );
    let answer = call(0, "20000").expect_failure(500, "error", "TIMEOUT");
    assert_eq!(message_of(&answer.json()["error"]), "the database");
    let short = ControlPlane::start(&["--async-max-age-ms", "300"]);
    let pod = ScriptedPod::held(&gate);
    short.register(&pool("named-async", &pod));
    let id = short.enqueue("named-async", &json!(1));
    let message = message_of(&short.ended(&id)["error"]);
    assert!(
        message.ends_with("running, after 300 ms (--async-max-age-ms)"),
        "{message}"
    );
}

#[test]
fn an_async_call_has_timeout_ms_per_attempt() {
    let pod = ScriptedPod::tcp(|got, line| {
        if got.number == 0 {
            line.wait(&Gate::default());
            return After::Close;
        }
        line.json("\"second\"")
    });
    let more = json!({"timeoutMs": 200, "maxRetries": 1, "retryOn": ["TIMEOUT"]});
    plane().register(&with(pool("attempts", &pod), &more));
    let id = plane().enqueue("attempts", &json!(1));
    let ended = plane().ended(&id);
    assert_eq!(
        (&ended["status"], &ended["output"]),
        (&json!("success"), &json!("second"))
    );
    assert_eq!(ended["attempt"], 2);
    let more = json!({"timeoutMs": 200, "name": "attempts-final", "retryOn": ["POD"]});
    let never = ScriptedPod::held(&Gate::default());
    plane().register(&with(pool("attempts-final", &never), &more));
    let ended = plane().ended(&plane().enqueue("attempts-final", &json!(1)));
    assert_eq!(
        (&ended["status"], &ended["error"]["code"]),
        (&json!("timeout"), &json!("TIMEOUT"))
    );
}

#[test]
fn an_async_call_has_a_greatest_age() {
    let plane = ControlPlane::start(&["--async-max-age-ms", "400"]);
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane.register(&pool("old", &pod));
    let mut running = Request::invoke("old", &json!("sync")).begin(plane.listen);
    pod.wait_calls(1);
    let ended = plane.ended(&plane.enqueue("old", &json!("async")));
    assert_eq!(
        (&ended["status"], &ended["attempt"]),
        (&json!("timeout"), &json!(0))
    );
    let message = ended["error"]["message"].as_str().expect("a message");
    assert!(message.contains("queued"), "{message}");
    gate.open();
    running.answer().expect(200);
    assert_eq!(pod.calls().len(), 1);
}

/// Calls a pod that fails in one way, under one retry rule. Returns the number of attempts and the error
/// code.
fn tries(name: &str, rule: &Value, pod: &ScriptedPod) -> (usize, String) {
    plane().register(&with(pool(name, pod), rule));
    let body = plane().invoke(name, &json!(1)).json();
    let code = body["error"]["code"].as_str().unwrap_or("").to_owned();
    (pod.calls().len(), code)
}

#[test]
fn what_may_have_run_follows_retry_on() {
    let dies = || ScriptedPod::tcp(|_, _| After::Close);
    let fails = || ScriptedPod::tcp(|_, line| line.answer(500, "", b""));
    let lost = "POD_LOST".to_owned();
    let error = "HANDLER_ERROR".to_owned();
    let rule = |most: u32, on: &[&str]| json!({"maxRetries": most, "retryOn": on});
    assert_eq!(
        tries("lost-pod", &rule(5, &["POD"]), &dies()),
        (2, lost.clone()),
        "at most once"
    );
    assert_eq!(
        tries("lost-none", &rule(5, &[]), &dies()),
        (1, lost.clone())
    );
    assert_eq!(
        tries("lost-error", &rule(5, &["ERROR"]), &dies()),
        (1, lost.clone())
    );
    assert_eq!(tries("lost-zero", &rule(0, &["POD"]), &dies()), (1, lost));
    assert_eq!(
        tries("fail-pod", &rule(5, &["POD"]), &fails()),
        (1, error.clone())
    );
    assert_eq!(
        tries("fail-error", &rule(2, &["ERROR"]), &fails()),
        (3, error.clone())
    );
    assert_eq!(
        tries("fail-zero", &rule(0, &["ERROR"]), &fails()),
        (1, error)
    );
    let bad = ScriptedPod::tcp(|_, line| line.json("{"));
    let all = rule(3, &["POD", "TIMEOUT", "ERROR"]);
    assert_eq!(tries("bad-all", &all, &bad), (1, "BAD_OUTPUT".to_owned()));
}

#[test]
fn a_sync_call_is_retried_within_its_deadline() {
    let pod = ScriptedPod::tcp(|got, line| match got.number {
        0 => After::Close,
        _ => line.json("\"again\""),
    });
    plane().register(&with(
        pool("again", &pod),
        &json!({"maxRetries": 1, "retryOn": ["POD"]}),
    ));
    let answer = plane().invoke("again", &json!(1)).expect(200);
    assert_eq!(answer.json()["output"], "again");
    let calls = pod.calls();
    assert!(
        calls
            .iter()
            .all(|got| got.header("x-execution-id") == Some(&answer.id()))
    );
    assert_eq!(calls[1].header("x-dispatch-attempt"), Some("2"));
    let held = ScriptedPod::held(&Gate::default());
    let rule = json!({"maxRetries": 5, "retryOn": ["TIMEOUT"], "timeoutMs": 200});
    let begun = Instant::now();
    assert_eq!(tries("no-time", &rule, &held), (1, "TIMEOUT".to_owned()));
    println!("a sync call with one deadline took {:?}", begun.elapsed());
}

#[test]
fn what_cannot_have_begun_is_always_retried() {
    let refusing = |times: usize| {
        ScriptedPod::tcp(move |got, line| match got.number < times {
            true => line.answer(503, "X-Not-Started: true\r\n", b""),
            false => line.json("\"begun\""),
        })
    };
    let rule = |most: u32| json!({"maxRetries": most, "retryOn": []});
    assert_eq!(tries("begun", &rule(3), &refusing(3)), (4, String::new()));
    let unreachable = "POD_UNREACHABLE".to_owned();
    assert_eq!(
        tries("unbegun", &rule(2), &refusing(100)),
        (3, unreachable.clone())
    );
    assert_eq!(
        tries("unbegun-once", &rule(0), &refusing(100)),
        (1, unreachable)
    );
    // A 503 without `X-Not-Started` may come from an attempt that ran the function, so the call is not
    // retried.
    let busy = ScriptedPod::tcp(|_, line| line.answer(503, "", b""));
    assert_eq!(
        tries("busy", &rule(3), &busy),
        (1, "HANDLER_ERROR".to_owned())
    );
    // With another status than 503, the header comes from the function itself, so the call is not retried
    // either.
    let odd = ScriptedPod::tcp(|_, line| line.answer(500, "X-Not-Started: true\r\n", b""));
    assert_eq!(
        tries("odd", &rule(3), &odd),
        (1, "HANDLER_ERROR".to_owned())
    );
}

#[test]
fn a_pod_closing_idle_connections_loses_no_call() {
    // The pod closes the connection some time after its answer, so the next call may find a closed
    // connection.
    let closed = std::sync::Arc::new(AtomicUsize::new(0));
    let counter = closed.clone();
    let pod = ScriptedPod::tcp(move |_, line| {
        line.json("1");
        std::thread::sleep(Duration::from_millis(3));
        counter.fetch_add(1, Ordering::SeqCst);
        After::Close
    });
    plane().register(&pool("idle-close", &pod));
    for calls in 1..=40 {
        plane().invoke("idle-close", &json!(1)).expect(200);
        eventually("the pod has closed the connection", || {
            closed.load(Ordering::SeqCst) >= calls
        });
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn prefer_respond_async_answers_as_enqueue_does() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&pool("prefer", &pod));
    let request = Request::invoke("prefer", &json!("x")).header("Prefer", "respond-async");
    let answer = plane().send(&request).expect(202);
    let id = answer.id();
    assert_eq!(
        answer.json(),
        json!({"executionId": id, "status": "queued"})
    );
    assert_eq!(
        answer.header("location"),
        Some(&*format!("/v1/executions/{id}"))
    );
    gate.open();
    let ended = plane().ended(&id);
    assert_eq!(
        (&ended["output"], &ended["outputKept"]),
        (&json!("x"), &json!(true))
    );
}

#[test]
fn prefer_wait_answers_in_time_and_goes_on() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    let function = with(
        pool("wait", &pod),
        &json!({"concurrency": 4, "timeoutMs": 60_000}),
    );
    plane().register(&function);
    plane().register(&local("wait-fast"));
    for prefer in ["wait=1", "respond-async, wait=1", "WAIT=1;x=y"] {
        let request = Request::invoke("wait", &json!("x")).header("Prefer", prefer);
        let begun = Instant::now();
        let answer = plane().send(&request).expect(202);
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(990), "{prefer}: {took:?}");
        assert_eq!(answer.json()["status"], "running");
        assert_eq!(
            answer.header("location"),
            Some(&*format!("/v1/executions/{}", answer.id()))
        );
        let fast = Request::invoke("wait-fast", &json!(1)).header("Prefer", prefer);
        let fast = plane().send(&fast).expect(200);
        assert_eq!(fast.json()["output"], 1);
        let kept = plane().status(&fast.id());
        assert_eq!(
            (&kept["output"], &kept["outputKept"]),
            (&json!(1), &json!(true))
        );
    }
    gate.open();
    let ids = pod.calls();
    for got in &ids {
        let ended = plane().ended(got.header("x-execution-id").expect("an id"));
        assert_eq!(
            (&ended["status"], &ended["output"]),
            (&json!("success"), &json!("x"))
        );
    }
    assert_eq!((ids.len(), pod.cuts()), (3, 0));
}

#[test]
fn a_client_that_leaves_takes_its_call_along() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&pool("leaves", &pod));
    // A FIN counts as leaving, although the client could still read.
    let mut running = Request::invoke("leaves", &json!("running")).begin(plane().listen);
    let id = pod.wait_calls(1)[0]
        .header("x-execution-id")
        .expect("an id")
        .to_owned();
    let queued = Request::invoke("leaves", &json!("queued")).begin(plane().listen);
    plane().wait_for("leaves", 1, 1);
    drop(queued);
    plane().wait_for("leaves", 0, 1);
    running.finish();
    eventually("the pod's call is interrupted", || pod.cuts() == 1);
    plane().wait_for("leaves", 0, 0);
    let ended = plane().ended(&id);
    assert_eq!(
        (&ended["status"], &ended["error"]["code"]),
        (&json!("error"), &json!("CANCELLED"))
    );
    gate.open();
    plane().invoke("leaves", &json!("next")).expect(200);
    assert_eq!(pod.calls().len(), 2, "the queued call never ran");
}

#[test]
fn an_enqueued_call_outlives_its_client() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&pool("stays", &pod));
    let mut wire = Request::enqueue("stays", &json!("x")).begin(plane().listen);
    let id = wire.answer().expect(202).id();
    drop(wire);
    pod.wait_calls(1);
    let path = format!("/v1/executions/{id}?waitMs=60000");
    drop(Request::get(&path).begin(plane().listen));
    gate.open();
    assert_eq!(plane().ended(&id)["output"], "x");
    assert_eq!(pod.cuts(), 0);
}

#[test]
fn a_large_calls_leaving_client_is_noticed() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&pool("large-left", &pod));
    // This body is longer than the bytes that the plane reads ahead of a call, so the plane uses larger reads
    // for it. After these reads, the plane must still notice that the client leaves.
    let large = json!("x".repeat(70 * 1024));
    for cuts in 1..=3 {
        let mut wire = RawClient::connect(plane().listen);
        for _ in 0..3 {
            wire.send(&Request::get("/openapi.yaml").bytes());
            wire.answer().expect(200);
        }
        wire.send(&Request::invoke("large-left", &large).bytes());
        eventually("the call runs", || pod.calls().len() == cuts);
        drop(wire);
        eventually("the pod's call is interrupted", || pod.cuts() == cuts);
    }
    gate.open();
}

#[test]
fn a_leaving_pipelining_client_ends_its_calls() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&pool("pipeline", &pod));
    let mut bytes = Request::invoke("pipeline", &json!("first")).bytes();
    bytes.extend(Request::invoke("pipeline", &json!("second")).bytes());
    let mut wire = RawClient::connect(plane().listen);
    wire.send(&bytes);
    pod.wait_calls(1);
    drop(wire);
    eventually("the pod's call is interrupted", || pod.cuts() == 1);
    plane().wait_for("pipeline", 0, 0);
    gate.open();
    plane().invoke("pipeline", &json!("third")).expect(200);
    assert_eq!(
        pod.calls().len(),
        2,
        "the second request of the client that left ran"
    );
}
