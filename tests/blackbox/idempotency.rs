//! A key joins several requests into one call: which request runs, which ones wait for the result, which ones
//! are refused, and when a key expires.

use std::time::Duration;

use nanofaas_testkit::client::{Answer, RawClient, Request};
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::functions::{pool, with};
use nanofaas_testkit::pod::ScriptedPod;
use nanofaas_testkit::wait::{Gate, eventually};
use serde_json::json;

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane = SharedControlPlane::new(&["--rate-max-per-second", "off"]);
    PLANE.get()
}

fn keyed(name: &str, input: &str, key: &str) -> Request {
    Request::invoke(name, &json!(input)).header("Idempotency-Key", key)
}

fn keyed_enqueue(name: &str, input: &str, key: &str) -> Request {
    Request::enqueue(name, &json!(input)).header("Idempotency-Key", key)
}

fn is_replay(answer: &Answer) -> bool {
    answer.header("idempotent-replay") == Some("true")
}

#[test]
fn two_first_calls_at_once_run_once() {
    let pod = ScriptedPod::tcp(|got, line| {
        std::thread::sleep(Duration::from_millis(2));
        line.json(&got.input().to_string())
    });
    plane().register(&with(pool("once", &pod), &json!({"concurrency": 8})));
    for round in 0..30 {
        let request = keyed("once", "same", &format!("key-{round}"));
        let mut wires: Vec<RawClient> =
            (0..4).map(|_| RawClient::connect(plane().listen)).collect();
        let bytes = request.bytes();
        wires.iter_mut().for_each(|wire| wire.send(&bytes));
        let answers: Vec<Answer> = wires
            .iter_mut()
            .map(|wire| wire.answer().expect(200))
            .collect();
        let id = answers[0].id();
        for answer in &answers {
            assert_eq!((answer.id(), &answer.body), (id.clone(), &answers[0].body));
        }
        let replays = answers.iter().filter(|answer| is_replay(answer)).count();
        assert_eq!(replays, 3);
        assert_eq!(pod.calls().len(), round + 1, "one run a key");
    }
}

#[test]
fn a_repeat_gets_the_stored_result_either_way() {
    let pod = ScriptedPod::answering(|got| format!(r#"{{"run": {}}}"#, got.number));
    plane().register(&pool("repeat", &pod));
    let first = plane().send(&keyed("repeat", "a", "k")).expect(200);
    assert!(!is_replay(&first));
    for _ in 0..3 {
        let again = plane().send(&keyed("repeat", "a", "k")).expect(200);
        assert!(is_replay(&again));
        assert_eq!((again.id(), &again.body), (first.id(), &first.body));
    }
    let queued = plane().send(&keyed_enqueue("repeat", "a", "k")).expect(202);
    assert_eq!(
        queued.json(),
        json!({"executionId": first.id(), "status": "success"})
    );
    assert_eq!(pod.calls().len(), 1);
    assert_eq!(pod.calls()[0].header("idempotency-key"), Some("k"));
    let status = plane().status(&first.id());
    assert_eq!(
        (&status["outputKept"], &status["output"]),
        (&json!(true), &json!({"run": 0}))
    );
}

#[test]
fn a_key_dies_with_its_function() {
    let pod = ScriptedPod::answering(|got| format!(r#"{{"run": {}}}"#, got.number));
    for round in 0..8 {
        plane().register(&pool("dies", &pod));
        let key = format!("k-{}", round % 2);
        let first = plane().send(&keyed("dies", "a", &key)).expect(200);
        assert!(
            !is_replay(&first),
            "a result of a removed function is not replayed"
        );
        assert_eq!(first.json()["output"]["run"], round);
        plane().replace(&with(pool("dies", &pod), &json!({"timeoutMs": 1000})));
        let again = plane().send(&keyed("dies", "a", &key)).expect(200);
        assert!(is_replay(&again), "a replaced function keeps its results");
        assert_eq!(again.id(), first.id());
        plane().remove("dies");
        plane().status(&first.id());
    }
}

#[test]
fn an_invoke_joins_an_enqueue_with_its_key() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&pool("follow", &pod));
    let queued = plane().send(&keyed_enqueue("follow", "a", "k")).expect(202);
    pod.wait_calls(1);
    eventually("the call runs", || {
        plane().status(&queued.id())["status"] == "running"
    });
    let again = plane().send(&keyed_enqueue("follow", "a", "k")).expect(202);
    assert_eq!(
        again.json(),
        json!({"executionId": queued.id(), "status": "running"})
    );
    let mut follower = keyed("follow", "a", "k").begin(plane().listen);
    assert!(follower.stays_quiet_for(Duration::from_millis(50)));
    gate.open();
    let answer = follower.answer().expect(200);
    assert_eq!(
        (answer.id(), &answer.json()["output"]),
        (queued.id(), &json!("a"))
    );
    assert_eq!(pod.calls().len(), 1);
}

#[test]
fn a_key_with_another_body_is_422() {
    let pod = ScriptedPod::echo();
    plane().register(&pool("mismatch", &pod));
    plane().register(&pool("mismatch-other", &pod));
    let first = plane().send(&keyed("mismatch", "a", "k")).expect(200);
    let other = plane().send(&keyed("mismatch", "b", "k"));
    other.expect_error(422, "IDEMPOTENCY_MISMATCH");
    let other = plane().send(&keyed_enqueue("mismatch", "b", "k"));
    other.expect_error(422, "IDEMPOTENCY_MISMATCH");
    let foreign = plane().send(&keyed("mismatch-other", "b", "k")).expect(200);
    assert_ne!(foreign.id(), first.id());
    assert_eq!(
        plane().send(&keyed("mismatch", "a", "k")).expect(200).id(),
        first.id()
    );
    assert_eq!(pod.calls().len(), 2);
}

#[test]
fn another_spelling_of_a_content_type_matches() {
    let pod = ScriptedPod::echo();
    plane().register(&pool("spelling", &pod));
    let send = |key: &str, content_type: &str| {
        let request = Request::new("POST", "/v1/functions/spelling:invoke");
        let request = request.header("Idempotency-Key", key);
        plane().send(&request.body(content_type, "{\"input\":1}"))
    };
    let same = [
        [
            "application/json",
            "Application/JSON",
            "application/json;charset=utf-8",
            "application/json ; Charset=\"UTF-8\"",
            "application/json;",
            "application/json;charset=utf8 ;",
        ],
        [
            "image/x-a; b=\"c d\"; e=f",
            "image/x-a;e=f;b=\"c d\"",
            "IMAGE/X-A ; E=f ; B=\"c\\ d\"",
            "image/x-a; e=\"f\"; b=\"c d\"",
            "image/x-a;;e=f;\tb=\"c d\";",
            "image/x-a; b=\"c d\"; e=\"\\f\"",
        ],
    ];
    for (number, spellings) in same.iter().enumerate() {
        let key = format!("key-{number}");
        let first = send(&key, spellings[0]).expect(200);
        for spelling in spellings {
            let again = send(&key, spelling).expect(200);
            assert_eq!(again.id(), first.id(), "{spelling}");
        }
        assert_eq!(pod.calls().len(), number + 1);
    }
    for (key, other) in [
        ("key-0", "application/json; v=1"),
        ("key-0", "application/json; charset=utf-16"),
        ("key-0", "text/plain"),
        ("key-0", ""),
        ("key-1", "image/x-a; b=\"C d\"; e=f"),
        ("key-1", "image/x-a; b=\"c d\""),
        ("key-1", "image/x-a; b=\"c d; e=f\""),
        ("key-1", "image/x-a; b=\"c d\"; e=f, image/x-a"),
    ] {
        send(key, other).expect_error(422, "IDEMPOTENCY_MISMATCH");
    }
    assert_eq!(pod.calls().len(), 2);
}

#[test]
fn a_failure_is_a_result_too() {
    let pod = ScriptedPod::tcp(|_, line| line.answer(500, "", b"{\"error\":\"no\"}"));
    plane().register(&pool("failed", &pod));
    let first = plane().send(&keyed("failed", "a", "k"));
    let first = first.expect_failure(500, "error", "HANDLER_ERROR");
    let again = plane().send(&keyed("failed", "a", "k"));
    let again = again.expect_failure(500, "error", "HANDLER_ERROR");
    assert!(is_replay(&again) && !is_replay(&first));
    assert_eq!((again.id(), pod.calls().len()), (first.id(), 1));
}

#[test]
fn a_raw_result_is_repeated_as_it_was() {
    let pod = ScriptedPod::tcp(|got, line| {
        line.answer(
            200,
            "Content-Type: image/x-test\r\n",
            &[0xff, got.number as u8],
        )
    });
    plane().register(&pool("rawly", &pod));
    for _ in 0..2 {
        let answer = plane().send(&keyed("rawly", "a", "k")).expect(200);
        assert_eq!(answer.header("content-type"), Some("image/x-test"));
        assert_eq!(answer.header("x-execution-status"), Some("success"));
        assert_eq!(answer.body, [0xff, 0]);
    }
}

#[test]
fn a_follower_has_a_deadline_of_his_own() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&pool("deadline", &pod));
    let mut first = keyed("deadline", "a", "k").begin(plane().listen);
    pod.wait_calls(1);
    let hasty = keyed("deadline", "a", "k").header("X-Timeout-Ms", "100");
    let hasty = plane().send(&hasty).expect(408);
    let status = hasty.json()["status"].clone();
    assert_eq!(
        status,
        "running",
        "the execution's real status: {}",
        hasty.text()
    );
    gate.open();
    let first = first.answer().expect(200);
    assert_eq!((first.id(), pod.cuts()), (hasty.id(), 0));
    assert_eq!(
        plane().send(&keyed("deadline", "a", "k")).expect(200).id(),
        first.id()
    );
}

#[test]
fn a_follower_waits_as_its_own_preference_says() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&pool("patience", &pod));
    let mut first = keyed("patience", "a", "k").begin(plane().listen);
    pod.wait_calls(1);
    let follow = |prefer: &str| {
        let request = keyed("patience", "a", "k").header("Prefer", prefer);
        plane().send(&request)
    };
    for prefer in ["wait=0", "wait=1", "respond-async", "respond-async, wait=1"] {
        let answer = follow(prefer).expect(202);
        assert!(is_replay(&answer), "{prefer}");
        assert_eq!(answer.json()["status"], "running", "{prefer}");
        assert_eq!(
            answer.header("location"),
            Some(&*format!("/v1/executions/{}", answer.id()))
        );
    }
    // The call's deadline comes before the end of `wait`, so the answer is a 408.
    let hasty = keyed("patience", "a", "k").header("Prefer", "wait=20");
    plane()
        .send(&hasty.header("X-Timeout-Ms", "100"))
        .expect(408);
    gate.open();
    let id = first.answer().expect(200).id();
    assert_eq!(follow("wait=20").expect(200).id(), id);
    assert_eq!(pod.cuts(), 0);
}

#[test]
fn a_call_that_never_ran_releases_its_key() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&pool("never", &pod));
    let mut running = Request::invoke("never", &json!(1)).begin(plane().listen);
    pod.wait_calls(1);
    let mut first = keyed("never", "a", "k").begin(plane().listen);
    plane().wait_for("never", 1, 1);
    let mut follower = keyed("never", "a", "k").begin(plane().listen);
    assert!(follower.stays_quiet_for(Duration::from_millis(100)));
    let again = plane().send(&keyed_enqueue("never", "a", "k")).expect(202);
    plane().cancel(&again.id()).expect(202);
    let first = first.answer().expect_failure(409, "error", "CANCELLED");
    let follower = follower.answer().expect_failure(409, "error", "CANCELLED");
    assert_eq!(follower.id(), first.id());
    // The key is free again, so a call with another body is accepted.
    let mut anew = keyed("never", "b", "k").begin(plane().listen);
    plane().wait_for("never", 1, 1);
    gate.open();
    running.answer().expect(200);
    let anew = anew.answer().expect(200);
    assert_ne!(anew.id(), first.id());
    assert_eq!(anew.json()["output"], "b");
}

#[test]
fn a_refused_call_leaves_its_key_free() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&with(pool("refused", &pod), &json!({"queueSize": 1})));
    let mut running = Request::invoke("refused", &json!(1)).begin(plane().listen);
    pod.wait_calls(1);
    let mut waiting = Request::invoke("refused", &json!(2)).begin(plane().listen);
    let enqueued = plane().enqueue("refused", &json!(3));
    plane().wait_for("refused", 2, 1);
    for request in [
        keyed("refused", "a", "k"),
        keyed_enqueue("refused", "a", "k"),
    ] {
        plane()
            .send(&request)
            .expect_error(429, "TOO_MANY_REQUESTS");
    }
    gate.open();
    running.answer().expect(200);
    waiting.answer().expect(200);
    plane().ended(&enqueued);
    let answer = plane().send(&keyed("refused", "b", "k")).expect(200);
    assert!(!is_replay(&answer));
    assert_eq!(answer.json()["output"], "b");
}

#[test]
fn a_keyed_call_outlives_its_client() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&with(pool("left", &pod), &json!({"timeoutMs": 60_000})));
    let running = keyed("left", "a", "k").begin(plane().listen);
    let id = pod.wait_calls(1)[0]
        .header("x-execution-id")
        .expect("an id")
        .to_owned();
    let queued = keyed("left", "b", "other").begin(plane().listen);
    plane().wait_for("left", 1, 1);
    drop(running);
    drop(queued);
    std::thread::sleep(Duration::from_millis(100));
    plane().wait_for("left", 1, 1);
    gate.open();
    assert_eq!(plane().ended(&id)["status"], "success");
    let (first, second) = (keyed("left", "a", "k"), keyed("left", "b", "other"));
    assert_eq!(plane().send(&first).expect(200).id(), id);
    assert_eq!(plane().send(&second).expect(200).json()["output"], "b");
    assert_eq!((pod.calls().len(), pod.cuts()), (2, 0));
}

#[test]
fn record_output_and_key_go_together() {
    let plane = ControlPlane::start(&["--execution-ttl-ms", "300"]);
    let pod = ScriptedPod::answering(|got| got.number.to_string());
    plane.register(&pool("ttl", &pod));
    let first = plane.send(&keyed("ttl", "a", "k")).expect(200);
    assert_eq!(
        plane.send(&keyed("ttl", "a", "k")).expect(200).id(),
        first.id()
    );
    let path = format!("/v1/executions/{}", first.id());
    eventually("the execution is forgotten", || {
        plane.get(&path).status == 404
    });
    plane
        .get(&format!("{path}/output"))
        .expect_error(404, "EXECUTION_NOT_FOUND");
    let anew = plane.send(&keyed("ttl", "b", "k")).expect(200);
    assert!(!is_replay(&anew));
    assert_ne!(anew.id(), first.id());
    assert_eq!(anew.json()["output"], 1);
}
