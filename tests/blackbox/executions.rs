//! These tests check the record of an execution: its fields, how long the plane keeps it, and that it does
//! not change after the execution has ended.

use std::collections::BTreeSet;

use nanofaas_testkit::client::{RawClient, Request};
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::form::is_pinned;
use nanofaas_testkit::functions::{local, pool, with};
use nanofaas_testkit::pod::ScriptedPod;
use nanofaas_testkit::wait::{Gate, eventually};
use serde_json::{Value, json};

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane = SharedControlPlane::new(&["--rate-max-per-second", "off"]);
    PLANE.get()
}

/// Checks that a time is in RFC 3339 and UTC, and returns it with nine digits after the point. Texts of this
/// form sort in the order of their times.
fn time(value: &Value) -> String {
    let text = value.as_str().unwrap_or_else(|| panic!("no time: {value}"));
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    let plain = "0000-00-00T00:00:00";
    assert!(shape.starts_with(plain) && text.ends_with('Z'), "{text}");
    let fraction = &text[plain.len()..text.len() - 1];
    format!(
        "{}.{:0<9}",
        &text[..plain.len()],
        fraction.trim_start_matches('.')
    )
}

#[test]
fn an_execution_is_queued_running_then_ended() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&pool("life", &pod));
    let blocker = plane().enqueue("life", &json!("before"));
    pod.wait_calls(1);
    let id = plane().enqueue("life", &json!({"x": 1}));
    let queued = plane().status(&id);
    let expected = json!({
        "executionId": id, "function": "life", "status": "queued", "attempt": 0,
        "enqueuedAt": queued["enqueuedAt"], "startedAt": null, "finishedAt": null,
        "coldStart": false, "initDurationMs": null, "startPhases": null, "output": null,
        "outputKept": false, "error": null,
    });
    assert_eq!(queued, expected);
    let running = plane().status(&blocker);
    assert_eq!(
        (&running["status"], &running["attempt"]),
        (&json!("running"), &json!(1))
    );
    assert_eq!(running["finishedAt"], Value::Null);
    gate.open();
    let ended = plane().ended(&id);
    assert_eq!(
        (&ended["status"], &ended["attempt"]),
        (&json!("success"), &json!(1))
    );
    assert_eq!(
        (&ended["output"], &ended["outputKept"]),
        (&json!({"x": 1}), &json!(true))
    );
    assert_eq!(ended["error"], Value::Null);
    let times = ["enqueuedAt", "startedAt", "finishedAt"].map(|field| time(&ended[field]));
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(plane().status(&id), ended);
}

#[test]
fn a_retry_keeps_the_id_and_counts_attempts() {
    let pod = ScriptedPod::tcp(|got, line| match got.number {
        0 | 1 => line.answer(500, "", b"{\"error\":\"not yet\"}"),
        _ => line.json("\"done\""),
    });
    let retried = json!({"maxRetries": 3, "retryOn": ["ERROR"]});
    plane().register(&with(pool("retried", &pod), &retried));
    let id = plane().enqueue("retried", &json!(1));
    let ended = plane().ended(&id);
    assert_eq!(
        (&ended["status"], &ended["attempt"]),
        (&json!("success"), &json!(3))
    );
    assert_eq!(ended["error"], Value::Null);
    let calls = pod.calls();
    let attempts: Vec<_> = calls
        .iter()
        .map(|got| got.header("x-dispatch-attempt"))
        .collect();
    assert_eq!(attempts, [Some("1"), Some("2"), Some("3")]);
    assert!(
        calls
            .iter()
            .all(|got| got.header("x-execution-id") == Some(&id))
    );
    let retries = plane()
        .metrics()
        .sum("function_retry_total", &[("function", "retried")]);
    assert_eq!(retries, 2.0);
}

#[test]
fn a_retry_goes_back_to_queued() {
    let gate = Gate::default();
    let held = gate.clone();
    let pod = ScriptedPod::tcp(move |got, line| match got.input().as_str() {
        Some("fails") => line.answer(500, "", b""),
        _ => {
            line.wait(&held);
            line.json("1")
        }
    });
    let retried = json!({"maxRetries": 1, "retryOn": ["ERROR"]});
    plane().register(&with(pool("back", &pod), &retried));
    let mut blocker = Request::invoke("back", &json!("first")).begin(plane().listen);
    pod.wait_calls(1);
    let id = plane().enqueue("back", &json!("fails"));
    let mut last = Request::invoke("back", &json!("last")).begin(plane().listen);
    plane().wait_for("back", 2, 1);
    gate.open();
    blocker.answer().expect(200);
    last.answer().expect(200);
    let ended = plane().ended(&id);
    assert_eq!(
        (&ended["status"], &ended["attempt"]),
        (&json!("error"), &json!(2))
    );
    assert_eq!(ended["error"]["code"], "HANDLER_ERROR");
    plane().wait_for("back", 0, 0);
}

#[test]
fn a_plain_sync_call_leaves_a_record() {
    plane().register(&local("plain"));
    let id = plane().invoke("plain", &json!([1, 2])).expect(200).id();
    let status = plane().status(&id);
    assert_eq!(
        (&status["status"], &status["function"]),
        (&json!("success"), &json!("plain"))
    );
    assert_eq!(
        (&status["output"], &status["outputKept"]),
        (&Value::Null, &json!(false))
    );
    let failing = ScriptedPod::tcp(|_, line| line.answer(500, "", b"{\"error\":\"why\"}"));
    plane().register(&pool("plain-failing", &failing));
    let id = plane().invoke("plain-failing", &json!(1)).expect(500).id();
    let status = plane().status(&id);
    let error = json!({"code": "HANDLER_ERROR", "message": "why"});
    assert_eq!(
        (&status["status"], &status["error"]),
        (&json!("error"), &error)
    );
}

#[test]
fn the_last_4096_plain_sync_calls_are_remembered() {
    plane().register(&local("many"));
    // Each io thread keeps 4096 records of its own. All calls use one connection, so their records belong to
    // one io thread.
    let mut wire = RawClient::connect(plane().listen);
    let request = Request::invoke("many", &json!(1)).bytes();
    let mut ids = Vec::new();
    for _ in 0..50 {
        wire.send(&request.repeat(100));
        ids.extend((0..100).map(|_| wire.answer().expect(200).id()));
    }
    plane()
        .get(&format!("/v1/executions/{}", ids[0]))
        .expect(404);
    // Calls of other tests on the same plane replace some of the 4096 records, so the test reads only 3000.
    for id in &ids[ids.len() - 3000..] {
        wire.send(&Request::get(&format!("/v1/executions/{id}")).bytes());
        wire.answer().expect(200);
    }
}

#[test]
fn ids_are_lower_case_short_and_all_different() {
    plane().register(&local("ids"));
    let ids: BTreeSet<String> = (0..300)
        .map(|_| plane().invoke("ids", &json!(1)).expect(200).id())
        .collect();
    assert_eq!(ids.len(), 300);
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    assert!(
        ids.iter().all(|id| id.len() <= 40 && id.chars().all(fine)),
        "{ids:?}"
    );
    // Random ids differ in most positions. Ids from a counter would be equal in most positions.
    let list: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes()).collect();
    let varied = (0..list[0].len()).filter(|at| {
        list.iter()
            .map(|id| id[*at])
            .collect::<BTreeSet<u8>>()
            .len()
            >= 8
    });
    assert!(varied.count() >= 24, "{ids:?}");
}

#[test]
fn every_connection_finds_every_execution() {
    plane().register(&local("anywhere"));
    let ids: Vec<String> = (0..8)
        .map(|_| plane().enqueue("anywhere", &json!(1)))
        .collect();
    for id in &ids {
        for _ in 0..8 {
            assert_eq!(
                plane().ended(id)["status"],
                "success",
                "pinned: {}",
                is_pinned()
            );
        }
        plane()
            .get(&format!("/v1/executions/{id}/output"))
            .expect(200);
        plane().cancel(id).expect(200);
    }
}

#[test]
fn past_the_budget_the_oldest_finished_goes_first() {
    let plane = ControlPlane::start(&["--execution-store-bytes", "200KiB"]);
    let gate = Gate::default();
    let held = ScriptedPod::held(&gate);
    let pod = ScriptedPod::answering(|_| format!("\"{}\"", "a".repeat(30 * 1024)));
    plane.register(&pool("budget-held", &held));
    plane.register(&pool("budget", &pod));
    let unfinished = plane.enqueue("budget-held", &json!("kept"));
    held.wait_calls(1);
    let ids: Vec<String> = (0..20)
        .map(|_| {
            let id = plane.enqueue("budget", &json!(1));
            eventually("the execution ends", || {
                let answer = plane.get(&format!("/v1/executions/{id}"));
                answer.status == 404 || answer.json()["status"] == "success"
            });
            id
        })
        .collect();
    let is_there = |id: &String| plane.get(&format!("/v1/executions/{id}")).status == 200;
    eventually("the oldest is gone", || !is_there(&ids[0]));
    let there = ids.iter().filter(|id| is_there(id)).count();
    assert!(
        (1..=6).contains(&there),
        "{there} outputs of 30 KiB in 200 KiB"
    );
    // The store evicts the oldest execution first, whichever io thread owns it.
    let oldest = ids.iter().position(is_there).expect("one at least");
    assert!(ids[oldest..].iter().all(is_there), "not the oldest first");
    assert_eq!(plane.status(&unfinished)["status"], "running");
    gate.open();
    assert_eq!(plane.ended(&unfinished)["output"], "kept");
    let text = plane.metrics().text;
    assert!(text.contains("evicted"), "evictions are counted: {text}");
}

#[test]
fn a_terminal_state_never_changes() {
    plane().register(&local("terminal"));
    let id = plane().enqueue("terminal", &json!("x"));
    let ended = plane().ended(&id);
    for _ in 0..3 {
        assert_eq!(plane().cancel(&id).expect(200).json(), ended);
    }
    plane().remove("terminal");
    let kept = plane()
        .get(&format!("/v1/executions/{id}"))
        .expect(200)
        .json();
    assert_eq!(kept, ended, "an execution outlives its function");
}

#[test]
fn a_cancel_racing_the_end_leaves_one_end() {
    let pod = ScriptedPod::echo();
    plane().register(&with(pool("race", &pod), &json!({"concurrency": 16})));
    for _ in 0..100 {
        let id = plane().enqueue("race", &json!(1));
        let answer = plane().cancel(&id);
        assert!(matches!(answer.status, 200 | 202), "{}", answer.status);
        let ended = plane().ended(&id);
        let code = ended["error"]["code"].as_str();
        assert!(
            ended["status"] == "success" || code == Some("CANCELLED"),
            "{ended}"
        );
        assert_eq!(plane().ended(&id), ended);
    }
    plane().wait_for("race", 0, 0);
}

#[test]
fn an_id_is_known_only_whole() {
    plane().register(&local("whole-id"));
    let kept = plane()
        .send(&Request::enqueue("whole-id", &json!(1)))
        .expect(202);
    let plain = plane().invoke("whole-id", &json!(1)).expect(200);
    for id in [kept.id(), plain.id()] {
        plane().get(&format!("/v1/executions/{id}")).expect(200);
        // The first two characters of an id are the number of the io thread. The other characters hold the
        // index of the record and random bits. A change of any of these must give a 404.
        for at in 2..id.len() {
            let other = if &id[at..=at] == "0" { "1" } else { "0" };
            let wrong = format!("{}{other}{}", &id[..at], &id[at + 1..]);
            plane().get(&format!("/v1/executions/{wrong}")).expect(404);
        }
    }
}
