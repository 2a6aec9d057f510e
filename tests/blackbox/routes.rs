//! These tests check the routes of the API: their answers, and their refusals of unknown input.

use std::time::{Duration, Instant};

use nanofaas_testkit::client::Request;
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::functions::{local, pool, with};
use nanofaas_testkit::pod::ScriptedPod;
use nanofaas_testkit::wait::{Gate, eventually};
use serde_json::{Value, json};

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane = SharedControlPlane::new(&["--rate-max-per-second", "off"]);
    PLANE.get()
}

fn put(name: &str, function: &Value) -> Request {
    Request::new("PUT", &format!("/v1/functions/{name}")).json(function)
}

#[test]
fn post_registers_and_returns_the_resolved_function() {
    let function = json!({"name": "routes-post", "executionMode": "LOCAL", "timeoutMs": 1234});
    let answer = plane()
        .send(&Request::new("POST", "/v1/functions").json(&function))
        .expect(201);
    assert_eq!(answer.header("location"), Some("/v1/functions/routes-post"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let body = answer.json();
    assert_eq!(
        (&body["name"], &body["timeoutMs"]),
        (&json!("routes-post"), &json!(1234))
    );
    let got = plane().get("/v1/functions/routes-post").expect(200).json();
    assert_eq!(got, body);
    let mut fields: Vec<&str> = got
        .as_object()
        .expect("fields")
        .keys()
        .map(|k| &**k)
        .collect();
    fields.sort_unstable();
    let all = [
        "allowedOrigins",
        "command",
        "concurrency",
        "effectiveExecutionMode",
        "endpointUrl",
        "env",
        "executionMode",
        "healthPath",
        "http",
        "image",
        "imagePullPolicy",
        "imagePullSecrets",
        "local",
        "maxRetries",
        "name",
        "podSecurity",
        "podTemplate",
        "queueSize",
        "resources",
        "retryOn",
        "runtimeCommand",
        "runtimeMode",
        "scalingConfig",
        "streamIdleMs",
        "streamMaxMs",
        "timeoutMs",
    ];
    assert_eq!(fields, all);
}

#[test]
fn post_of_a_known_name_is_409() {
    plane().register(&with(local("routes-twice"), &json!({"timeoutMs": 1000})));
    let again = with(local("routes-twice"), &json!({"timeoutMs": 2000}));
    let answer = plane().send(&Request::new("POST", "/v1/functions").json(&again));
    answer.expect_error(409, "FUNCTION_EXISTS");
    let kept = plane().get("/v1/functions/routes-twice").json();
    assert_eq!(kept["timeoutMs"], 1000);
}

#[test]
fn post_with_faults_is_400_and_names_all() {
    let function = json!({
        "name": "9bad", "executionMode": "POOL", "timeoutMs": 0, "queueSize": "many",
        "surprise": 1,
    });
    let answer = plane().send(&Request::new("POST", "/v1/functions").json(&function));
    let body = answer.expect_error(400, "VALIDATION_ERROR").json();
    let details = body["details"].as_array().expect("details");
    let named = |field: &str| {
        let prefix = format!("{field}: ");
        details.iter().any(|detail| {
            detail
                .as_str()
                .is_some_and(|text| text.starts_with(&prefix))
        })
    };
    for field in ["name", "endpointUrl", "timeoutMs", "queueSize"] {
        assert!(named(field), "{field} in {body}");
    }
    assert_eq!(details.len(), 4, "unknown fields are ignored: {body}");
}

#[test]
fn put_creates_and_then_replaces() {
    let function = with(local("routes-put"), &json!({"queueSize": 5}));
    let answer = plane().send(&put("routes-put", &function)).expect(201);
    assert_eq!(answer.header("location"), Some("/v1/functions/routes-put"));
    let nameless = json!({"executionMode": "LOCAL", "queueSize": 6});
    let answer = plane().send(&put("routes-put", &nameless)).expect(200);
    assert_eq!(answer.json()["queueSize"], 6);
    assert_eq!(
        plane().get("/v1/functions/routes-put").json()["queueSize"],
        6
    );
    let other = plane().send(&put("routes-put", &local("routes-other")));
    other.expect_error(400, "VALIDATION_ERROR");
}

#[test]
fn put_gives_only_queued_calls_the_new_spec() {
    let (gate, second) = (
        Gate::default(),
        ScriptedPod::answering(|_| "\"new\"".to_owned()),
    );
    let old_gate = gate.clone();
    let first = ScriptedPod::tcp(move |_, line| {
        line.wait(&old_gate);
        line.json("\"old\"")
    });
    plane().register(&pool("routes-change", &first));
    let mut running = Request::invoke("routes-change", &json!(1)).begin(plane().listen);
    first.wait_calls(1);
    let mut queued = Request::invoke("routes-change", &json!(2)).begin(plane().listen);
    plane().wait_for("routes-change", 1, 1);
    plane().replace(&pool("routes-change", &second));
    // The new concurrency is 1, and the running call counts, so no other call may run.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(second.calls().len(), 0, "two calls at once");
    plane().wait_for("routes-change", 1, 1);
    gate.open();
    assert_eq!(running.answer().expect(200).json()["output"], "old");
    assert_eq!(queued.answer().expect(200).json()["output"], "new");
    assert_eq!((first.calls().len(), second.calls().len()), (1, 1));
}

#[test]
fn the_list_is_sorted_by_name() {
    for name in ["routes-list-c", "routes-list-a", "routes-list-B"] {
        plane().register(&local(name));
    }
    let list = plane().get("/v1/functions").expect(200).json();
    let names = list
        .as_array()
        .expect("an array")
        .iter()
        .map(|one| one["name"].as_str());
    let names: Vec<&str> = names.map(|name| name.expect("a name")).collect();
    assert!(names.is_sorted(), "{names:?}");
    for name in ["routes-list-c", "routes-list-a", "routes-list-B"] {
        assert!(names.contains(&name), "{names:?}");
    }
}

#[test]
fn delete_frees_the_functions_name() {
    plane().register(&local("routes-gone"));
    plane().invoke("routes-gone", &json!(1)).expect(200);
    let answer = plane()
        .send(&Request::delete("/v1/functions/routes-gone"))
        .expect(204);
    assert!(answer.body.is_empty());
    let again = Request::delete("/v1/functions/routes-gone");
    plane().send(&again).expect_error(404, "FUNCTION_NOT_FOUND");
    plane()
        .get("/v1/functions/routes-gone")
        .expect_error(404, "FUNCTION_NOT_FOUND");
    plane()
        .invoke("routes-gone", &json!(1))
        .expect_error(404, "FUNCTION_NOT_FOUND");
    plane().register(&local("routes-gone"));
    plane().invoke("routes-gone", &json!(1)).expect(200);
}

#[test]
fn delete_ends_queued_calls_and_not_running_ones() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&pool("routes-delete", &pod));
    let mut running = Request::invoke("routes-delete", &json!("ran")).begin(plane().listen);
    pod.wait_calls(1);
    let mut queued = Request::invoke("routes-delete", &json!(2)).begin(plane().listen);
    plane().wait_for("routes-delete", 1, 1);
    let async_id = plane().enqueue("routes-delete", &json!(3));
    plane().remove("routes-delete");
    queued
        .answer()
        .expect_failure(410, "error", "FUNCTION_REMOVED");
    let ended = plane().ended(&async_id);
    assert_eq!(ended["error"]["code"], "FUNCTION_REMOVED", "{ended}");
    gate.open();
    assert_eq!(running.answer().expect(200).json()["output"], "ran");
    assert_eq!(pod.calls().len(), 1);
}

#[test]
fn a_remade_function_counts_the_old_calls() {
    let gate = Gate::default();
    let (old, new) = (ScriptedPod::held(&gate), ScriptedPod::echo());
    plane().register(&pool("routes-anew", &old));
    let mut running = Request::invoke("routes-anew", &json!(1)).begin(plane().listen);
    old.wait_calls(1);
    plane().remove("routes-anew");
    plane().register(&pool("routes-anew", &new));
    let mut next = Request::invoke("routes-anew", &json!(2)).begin(plane().listen);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(
        new.calls().len(),
        0,
        "the old call still holds the only slot"
    );
    gate.open();
    running.answer().expect(200);
    assert_eq!(next.answer().expect(200).json()["output"], 2);
}

#[test]
fn replicas_sets_the_floor_as_min_replicas() {
    let function = json!({
        "name": "routes-replicas", "executionMode": "WARM", "command": ["/bin/false"],
        "scalingConfig": {"minReplicas": 0, "maxReplicas": 3},
    });
    plane().register(&function);
    let set = |replicas: Value| {
        let path = "/v1/functions/routes-replicas/replicas";
        plane().send(&Request::new("PUT", path).json(&json!({ "replicas": replicas })))
    };
    let answer = set(json!(2)).expect(200).json();
    assert_eq!(
        answer,
        json!({"function": "routes-replicas", "replicas": 2})
    );
    let kept = plane().get("/v1/functions/routes-replicas").json();
    assert_eq!(kept["scalingConfig"]["minReplicas"], 2);
    for bad in [
        json!(4),
        json!(-1),
        json!(1.5),
        json!("2"),
        json!(null),
        json!(257),
    ] {
        assert_eq!(set(bad.clone()).status, 400, "{bad}");
    }
    set(json!(0)).expect(200);
    let unknown = Request::new("PUT", "/v1/functions/routes-none/replicas");
    let unknown = plane().send(&unknown.json(&json!({"replicas": 1})));
    unknown.expect_error(404, "FUNCTION_NOT_FOUND");
    plane().remove("routes-replicas");
    let jobs =
        json!({"name": "routes-no-floor", "executionMode": "JOB", "command": ["/bin/false"]});
    for function in [jobs, local("routes-no-floor")] {
        plane().register(&function);
        let set = Request::new("PUT", "/v1/functions/routes-no-floor/replicas");
        let refused = plane().send(&set.json(&json!({"replicas": 1})));
        let message = refused.expect_error(409, "NOT_WARM").json()["message"].clone();
        let mode = function["executionMode"].as_str().expect("a mode");
        assert!(
            message.as_str().is_some_and(|text| text.contains(mode)),
            "{message}"
        );
        plane().remove("routes-no-floor");
    }
    let gone = plane().send(&Request::delete("/v1/functions/routes-no-floor"));
    let gone = gone.expect_error(404, "FUNCTION_NOT_FOUND").json();
    let message = gone["message"].as_str().expect("a message");
    assert!(!message.contains("register"), "{message}");
}

#[test]
fn a_function_without_cold_starts_lists_none() {
    plane().register(&local("routes-cold"));
    let answer = plane()
        .get("/v1/functions/routes-cold/cold-starts")
        .expect(200)
        .json();
    assert_eq!(answer, json!({"function": "routes-cold", "coldStarts": []}));
    let unknown = plane().get("/v1/functions/routes-nobody/cold-starts");
    unknown.expect_error(404, "FUNCTION_NOT_FOUND");
}

#[test]
fn invoke_waits_for_the_result() {
    plane().register(&local("routes-invoke"));
    let answer = plane()
        .invoke("routes-invoke", &json!({"a": [1, null]}))
        .expect(200);
    let body = answer.json();
    let id = answer.id();
    let expected = json!({
        "executionId": id, "status": "success", "output": {"a": [1, null]}, "error": null,
    });
    assert_eq!(body, expected);
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

#[test]
fn enqueue_answers_before_the_call_has_ended() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&pool("routes-enqueue", &pod));
    let answer = plane()
        .send(&Request::enqueue("routes-enqueue", &json!("x")))
        .expect(202);
    let id = answer.id();
    assert_eq!(
        answer.json(),
        json!({"executionId": id, "status": "queued"})
    );
    assert_eq!(
        answer.header("location"),
        Some(&*format!("/v1/executions/{id}"))
    );
    pod.wait_calls(1);
    gate.open();
    let ended = plane().ended(&id);
    assert_eq!(
        (&ended["status"], &ended["output"]),
        (&json!("success"), &json!("x"))
    );
}

#[test]
fn an_execution_can_be_waited_for() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&pool("routes-wait", &pod));
    let id = plane().enqueue("routes-wait", &json!(7));
    pod.wait_calls(1);
    eventually("the call runs", || {
        plane().status(&id)["status"] == "running"
    });
    let begun = Instant::now();
    let status = plane()
        .get(&format!("/v1/executions/{id}?waitMs=200"))
        .expect(200)
        .json();
    assert!(
        begun.elapsed() >= Duration::from_millis(200),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(status["status"], "running");
    let path = format!("/v1/executions/{id}?waitMs=60000");
    let mut waiting: Vec<_> = (0..20)
        .map(|_| Request::get(&path).begin(plane().listen))
        .collect();
    gate.open();
    for wire in &mut waiting {
        let status = wire.answer().expect(200).json();
        assert_eq!(
            (&status["status"], &status["output"]),
            (&json!("success"), &json!(7))
        );
    }
    for bad in ["60001", "-1", "x", "", "1.5"] {
        let answer = plane().get(&format!("/v1/executions/{id}?waitMs={bad}"));
        assert_eq!(answer.status, 400, "{bad}");
    }
}

#[test]
fn an_unknown_execution_is_404() {
    plane().register(&local("routes-ids"));
    let id = plane().invoke("routes-ids", &json!(1)).id();
    let mut other = id.clone();
    other.replace_range(5..6, if &id[5..6] == "0" { "1" } else { "0" });
    let long = "a".repeat(200);
    for unknown in [
        &*other,
        "x",
        "0",
        &long,
        "..",
        "%00",
        "zz00000000000000000000000000",
    ] {
        for suffix in ["", "/output", "?waitMs=10"] {
            let answer = plane().get(&format!("/v1/executions/{unknown}{suffix}"));
            let known = matches!(answer.status, 400 | 404);
            assert!(known, "{unknown}{suffix}: {}", answer.status);
            if unknown == other {
                answer.expect_error(404, "EXECUTION_NOT_FOUND");
            }
        }
    }
    plane()
        .cancel(&other)
        .expect_error(404, "EXECUTION_NOT_FOUND");
}

#[test]
fn output_has_raw_bytes_and_their_type() {
    let gate = Gate::default();
    let held = gate.clone();
    let pod = ScriptedPod::tcp(move |_, line| {
        line.wait(&held);
        line.answer(
            200,
            "Content-Type: image/x-test; v=1\r\n",
            b"\x00\xff\r\n\r\nraw",
        )
    });
    plane().register(&pool("routes-output", &pod));
    let id = plane().enqueue("routes-output", &json!(null));
    let path = format!("/v1/executions/{id}/output");
    plane().get(&path).expect(409);
    gate.open();
    plane().ended(&id);
    let answer = plane().get(&path).expect(200);
    assert_eq!(answer.header("content-type"), Some("image/x-test; v=1"));
    assert_eq!(answer.body, b"\x00\xff\r\n\r\nraw");
    let status = plane().status(&id);
    let shown = json!({"contentType": "image/x-test; v=1", "base64": "AP8NCg0KcmF3"});
    assert_eq!(
        (&status["output"], &status["outputKept"]),
        (&shown, &json!(true))
    );
}

#[test]
fn output_of_a_sync_call_is_gone() {
    plane().register(&local("routes-kept"));
    let id = plane().invoke("routes-kept", &json!(1)).id();
    plane()
        .get(&format!("/v1/executions/{id}/output"))
        .expect(410);
    let id = plane().enqueue("routes-kept", &json!({"b": 2}));
    plane().ended(&id);
    let answer = plane()
        .get(&format!("/v1/executions/{id}/output"))
        .expect(200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.body, br#"{"b":2}"#);
}

#[test]
fn cancel_ends_queued_and_running_calls() {
    let gate = Gate::default();
    let pod = ScriptedPod::held(&gate);
    plane().register(&pool("routes-cancel", &pod));
    let running = plane().enqueue("routes-cancel", &json!("running"));
    pod.wait_calls(1);
    let queued = plane().enqueue("routes-cancel", &json!("queued"));
    plane().cancel(&queued).expect(202);
    let ended = plane().ended(&queued);
    assert_eq!(
        (&ended["status"], &ended["attempt"]),
        (&json!("error"), &json!(0))
    );
    assert_eq!(ended["error"]["code"], "CANCELLED");
    let answer = plane().cancel(&running).expect(202);
    assert_eq!(answer.json()["executionId"], *running);
    let ended = plane().ended(&running);
    assert_eq!(ended["error"]["code"], "CANCELLED");
    eventually("the pod's call is interrupted", || pod.cuts() == 1);
    let again = plane().cancel(&running).expect(200).json();
    assert_eq!(again, ended, "a terminal state never changes");
    gate.open();
    assert_eq!(
        plane()
            .invoke("routes-cancel", &json!(1))
            .expect(200)
            .json()["output"],
        1
    );
    assert_eq!(pod.calls().len(), 2, "the queued call never ran");
}
