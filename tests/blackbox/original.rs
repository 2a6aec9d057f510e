//! These tests act as the client and the pods of the original nanofaas, as its documentation describes them.
//! They make the requests of its command line, read the fields that its client reads, and run the servers of
//! its SDKs and the programs of its one-shot images. docs/coming-from-the-original.md lists the tested
//! features.

use nanofaas_testkit::client::{Answer, Request};
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::functions::{interpreter, with};
use nanofaas_testkit::pod::{ReceivedCall, ScriptedConn, ScriptedPod};
use nanofaas_testkit::wait::eventually;
use serde_json::{Value, json};

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane = SharedControlPlane::new(&["--rate-max-per-second", "off"]);
    PLANE.get()
}

/// Returns a request with the headers that Java's HTTP client sends over plain HTTP: it asks for an upgrade
/// to HTTP/2.
fn java(method: &str, path: &str) -> Request {
    let host = plane().listen.to_string();
    Request::new(method, path)
        .host(&host)
        .header("Connection", "Upgrade, HTTP2-Settings")
        .header(
            "HTTP2-Settings",
            "AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAABgAGAAA",
        )
        .header("Upgrade", "h2c")
        .header("User-Agent", "Java-http-client/25.0.1")
}

fn send(request: &Request) -> Answer {
    plane().send(request)
}

/// Makes a spec with every field that the client sends. Fields without a value are null.
pub(crate) fn spec(name: &str, more: &Value) -> Value {
    let mut spec = json!({"name": name, "image": format!("registry.example/{name}:1")});
    for field in [
        "command",
        "env",
        "resources",
        "timeoutMs",
        "concurrency",
        "queueSize",
        "maxRetries",
        "endpointUrl",
        "executionMode",
        "runtimeMode",
        "runtimeCommand",
        "scalingConfig",
        "imagePullSecrets",
        "offload",
    ] {
        spec[field] = Value::Null;
    }
    with(spec, more)
}

pub(crate) fn register(spec: &Value) -> Answer {
    send(&java("POST", "/v1/functions").json(spec))
}

pub(crate) fn get(name: &str) -> Answer {
    send(&java("GET", &format!("/v1/functions/{name}")))
}

/// Does what `fn delete` does, which also succeeds if the function does not exist.
#[track_caller]
fn delete(name: &str) {
    let answer = send(&java("DELETE", &format!("/v1/functions/{name}")));
    assert!(matches!(answer.status, 204 | 404), "{}", answer.status);
}

/// Does what `fn apply` does: deletes an existing function of that name, and registers the new one.
#[track_caller]
fn apply(spec: &Value) {
    let answer = register(spec);
    if answer.status == 409 {
        let name = spec["name"].as_str().expect("a name");
        assert_eq!(get(name).expect(200).json()["name"], name);
        delete(name);
        register(spec).expect(201);
    } else {
        answer.expect(201);
    }
}

/// Returns the request that the original's command line sends: it has the input in an envelope without
/// metadata.
fn request(name: &str, how: &str, input: &Value) -> Request {
    let body = json!({"input": input, "metadata": null});
    java("POST", &format!("/v1/functions/{name}:{how}")).json(&body)
}

pub(crate) fn invoke(name: &str, input: &Value) -> Answer {
    send(&request(name, "invoke", input))
}

/// Does what `enqueue` and `exec get --watch` do: polls until the state is final.
#[track_caller]
pub(crate) fn enqueue_and_watch(name: &str, input: &Value) -> Value {
    let queued = send(&request(name, "enqueue", input)).expect(202).json();
    assert_eq!(queued["status"], "queued");
    let id = queued["executionId"].as_str().expect("an id").to_owned();
    let mut last = Value::Null;
    eventually("the execution has ended", || {
        let path = format!("/v1/executions/{id}");
        last = send(&java("GET", &path)).expect(200).json();
        let state = last["status"].as_str().expect("a state");
        assert!(
            ["queued", "running", "success", "error", "timeout"].contains(&state),
            "{last}"
        );
        ["success", "error", "timeout"].contains(&state)
    });
    assert_eq!(last["executionId"], id.as_str());
    for time in ["startedAt", "finishedAt"] {
        let text = last[time].as_str().expect("a time");
        assert!(text.contains('T') && text.ends_with('Z'), "{text}");
    }
    assert!(last["coldStart"].is_boolean(), "{last}");
    let init = &last["initDurationMs"];
    assert!(init.is_null() || init.is_u64(), "{last}");
    last
}

/// A server of an SDK gets the whole envelope, and needs the call's id in a header.
pub(crate) fn sdk_server() -> ScriptedPod {
    ScriptedPod::tcp(|got: &ReceivedCall, line: &mut ScriptedConn| {
        if got.header("x-execution-id").is_none() {
            return line.answer(400, "", br#"{"error":"X-Execution-Id header is required"}"#);
        }
        let envelope: Value = serde_json::from_slice(&got.body).expect("JSON");
        let json = "Content-Type: application/json\r\n";
        match envelope["input"].as_str() {
            Some("fail") => line.answer(500, json, br#"{"error":"it did not work"}"#),
            Some("text") => line.answer(200, "Content-Type: text/plain\r\n", b"plain text"),
            Some("created") => {
                let marked = format!("{json}X-NanoFaaS-Function-Status: true\r\n");
                line.answer(201, &marked, br#"{"id":7}"#)
            }
            Some("missing") => {
                let marked = format!("{json}X-NanoFaaS-Function-Status: true\r\n");
                line.answer(404, &marked, br#"{"error":"no such thing"}"#)
            }
            _ => {
                let cold = format!("{json}X-Cold-Start: true\r\nX-Init-Duration-Ms: 321\r\n");
                let body = json!({"echo": envelope["input"]}).to_string();
                line.answer(200, &cold, body.as_bytes())
            }
        }
    })
}

#[track_caller]
fn pool(name: &str, pod: &ScriptedPod) {
    let mode = json!({"executionMode": "POOL", "endpointUrl": pod.url});
    apply(&spec(name, &mode));
}

/// A one-shot program, which reads its call from its environment and posts the result.
pub(crate) const ONE_SHOT: &str = r#"
import json, os, urllib.request
call = json.loads(os.environ["INVOCATION_PAYLOAD"])
how = call["input"]
if how == "fail":
    error = {"code": "FUNCTION_ERROR", "message": "Process exited with exit status: 3"}
    result = {"success": False, "output": None, "error": error}
else:
    output = {"echo": how, "trace": os.environ.get("TRACE_ID"), "limit": os.environ["TIMEOUT_MS"]}
    result = {"success": True, "output": output, "error": None}
if how == "marked":
    result.update(statusCode=201, headers={"Location": "/x"}, encoding=None)
url = os.environ["CALLBACK_URL"]
if not url.endswith(":complete"):
    url = f"{url}/{os.environ['EXECUTION_ID']}:complete"
headers = {"Content-Type": "application/json", "X-Dispatch-Attempt": "1"}
if "TRACE_ID" in os.environ:
    headers["X-Trace-Id"] = os.environ["TRACE_ID"]
request = urllib.request.Request(url, json.dumps(result).encode(), headers)
urllib.request.urlopen(request, timeout=10)
"#;

/// Makes a function for the local backend. Except `local`, its fields are fields of the original's client.
pub(crate) fn local(folder: &ScratchFolder, name: &str, program: &str, more: &Value) -> Value {
    let path = folder.write(&format!("{name}.py"), program);
    let command = json!({"local": {"command": [interpreter(), path]}});
    with(spec(name, more), &command)
}

#[test]
fn its_client_lists_applies_gets_and_deletes() {
    let pod = sdk_server();
    get("orig-fn").expect_error(404, "FUNCTION_NOT_FOUND");
    delete("orig-fn");
    let mode = json!({"executionMode": "POOL", "endpointUrl": pod.url, "timeoutMs": 10_000,
        "concurrency": 2, "queueSize": 50, "maxRetries": 3});
    let first = spec("orig-fn", &mode);
    let answer = register(&first).expect(201).json();
    assert_eq!(answer["name"], "orig-fn");
    assert_eq!(answer["image"], "registry.example/orig-fn:1");
    register(&first).expect_error(409, "FUNCTION_EXISTS");
    // `apply` runs with the same spec, and then with another image. Each time `apply` deletes the function
    // and registers the new spec.
    apply(&first);
    apply(&with(
        first,
        &json!({"image": "registry.example/orig-fn:2"}),
    ));
    let one = get("orig-fn").expect(200).json();
    for (field, value) in [
        ("name", json!("orig-fn")),
        ("image", json!("registry.example/orig-fn:2")),
        ("timeoutMs", json!(10_000)),
        ("concurrency", json!(2)),
        ("queueSize", json!(50)),
        ("maxRetries", json!(3)),
        ("endpointUrl", json!(pod.url)),
        ("runtimeMode", json!("HTTP")),
    ] {
        assert_eq!(one[field], value, "{field}");
    }
    let all = send(&java("GET", "/v1/functions")).expect(200).json();
    let all = all.as_array().expect("a list");
    let ours = all.iter().find(|one| one["name"] == "orig-fn");
    let image = &ours.expect("it is listed")["image"];
    assert_eq!(image, "registry.example/orig-fn:2");
    delete("orig-fn");
    get("orig-fn").expect(404);
}

#[test]
fn its_client_invokes_what_its_sdks_serve() {
    let pod = sdk_server();
    pool("orig-sdk", &pod);
    let answer = invoke("orig-sdk", &json!({"n": [1.5, null]})).expect(200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let id = answer.id();
    let body = answer.json();
    assert_eq!(body["executionId"], id.as_str());
    assert_eq!(
        (&body["status"], &body["output"]),
        (&json!("success"), &json!({"echo": {"n": [1.5, null]}}))
    );
    let got = pod.wait_calls(1)[0].clone();
    assert_eq!(got.first_line, "POST /invoke HTTP/1.1");
    let body = br#"{"input":{"n":[1.5,null]},"metadata":null}"#;
    assert_eq!(got.body, body, "the envelope as it was sent");
    assert_eq!(got.header("x-execution-id"), Some(id.as_str()));
    assert_eq!(got.header("x-dispatch-attempt"), Some("1"));
    // The plane does not pass the client's upgrade to HTTP/2 on to the pod.
    assert_eq!(got.header("upgrade"), None);

    let named = request("orig-sdk", "invoke", &json!("a"))
        .header("Idempotency-Key", "idem-1")
        .header("X-Trace-Id", "trace-1")
        .header("X-Timeout-Ms", "5000");
    let first = send(&named).expect(200).json();
    let again = send(&named).expect(200).json();
    assert_eq!(first, again, "the same key, the same result");
    let calls = pod.calls();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[1].header("x-trace-id"), Some("trace-1"));
    assert_eq!(calls[1].header("idempotency-key"), Some("idem-1"));

    let text = invoke("orig-sdk", &json!("text")).expect(200).json();
    assert_eq!(text["output"], "plain text");
    let failed = invoke("orig-sdk", &json!("fail"));
    let failed = failed.expect_failure(500, "error", "HANDLER_ERROR").json();
    assert_eq!(failed["error"]["message"], "it did not work");
    let none = invoke("orig-none", &json!(1));
    none.expect_error(404, "FUNCTION_NOT_FOUND");
}

/// A handler of the original sets its status with `X-NanoFaaS-Function-Status`. On this platform the header
/// has no effect.
#[test]
fn a_handlers_status_does_not_reach_the_client() {
    let pod = sdk_server();
    pool("orig-status", &pod);
    let created = invoke("orig-status", &json!("created")).expect(200);
    assert_eq!(created.header("x-nanofaas-function-status"), None);
    assert_eq!(created.json()["output"], json!({"id": 7}));
    let missing = invoke("orig-status", &json!("missing"));
    let missing = missing.expect_failure(500, "error", "HANDLER_ERROR").json();
    assert_eq!(missing["error"]["message"], "no such thing");
}

#[test]
fn its_client_enqueues_and_watches() {
    let pod = sdk_server();
    pool("orig-async", &pod);
    let ended = enqueue_and_watch("orig-async", &json!("later"));
    assert_eq!(ended["status"], "success");
    assert_eq!(ended["output"], json!({"echo": "later"}));
    assert_eq!(ended["coldStart"], true);
    assert_eq!(ended["initDurationMs"], 321);
    assert_eq!(ended["error"], Value::Null);
    let failed = enqueue_and_watch("orig-async", &json!("fail"));
    assert_eq!(failed["status"], "error");
    assert_eq!(failed["error"]["code"], "HANDLER_ERROR");
    assert_eq!(failed["error"]["message"], "it did not work");
    let none = send(&java("GET", "/v1/executions/none"));
    none.expect_error(404, "EXECUTION_NOT_FOUND");
}

#[test]
fn its_one_shot_images_are_jobs() {
    let folder = ScratchFolder::create();
    let mode = json!({"executionMode": "REMOTE", "timeoutMs": 40_000});
    register(&local(&folder, "orig-job", ONE_SHOT, &mode)).expect(201);
    let traced = request("orig-job", "invoke", &json!("x")).header("X-Trace-Id", "t-1");
    let output = send(&traced).expect(200).json()["output"].clone();
    assert_eq!(
        (&output["echo"], &output["trace"]),
        (&json!("x"), &json!("t-1"))
    );
    let limit = output["limit"].as_str().and_then(|text| text.parse().ok());
    assert!(
        limit.is_some_and(|ms: u64| (1..=40_000).contains(&ms)),
        "{output}"
    );
    let failed = invoke("orig-job", &json!("fail"));
    let failed = failed.expect_failure(500, "error", "FUNCTION_ERROR").json();
    let message = failed["error"]["message"].as_str().expect("a message");
    assert!(message.contains("exit status: 3"), "{message}");
    let marked = invoke("orig-job", &json!("marked")).expect(200).json();
    assert_eq!(marked["output"]["echo"], "marked");
    let ended = enqueue_and_watch("orig-job", &json!("later"));
    assert_eq!(ended["output"]["echo"], "later");
    assert_eq!(ended["coldStart"], true);
}

/// The original's client reads `/openapi.yaml` before it uses a feature that the plane may lack.
#[test]
fn what_is_missing_is_said_before_the_try() {
    let answer = send(&java("GET", "/openapi.yaml")).expect(200);
    let text = answer.text();
    let path = |path: &str| {
        let begin = text.find(&format!("\n  {path}:\n"))?;
        let rest = &text[begin + 1..];
        let rest = &rest[rest.find('\n')? + 1..];
        let end = rest.find("\n  /").or_else(|| rest.find("\n\n"));
        Some(rest[..end.unwrap_or(rest.len())].to_owned())
    };
    let has = |at: &str, method: &str| {
        path(at).is_some_and(|operations| {
            format!("\n{operations}").contains(&format!("\n    {method}:"))
        })
    };
    assert!(has("/v1/functions/{name}:enqueue", "post"));
    assert!(has("/v1/functions/{name}/replicas", "put"));
    assert!(!has("/v1/functions/{name}", "patch"), "fn update");
    assert!(!has("/modules/build-metadata", "get"), "control-plane info");
    assert!(
        !has("/v1/admin/runtime-config", "get"),
        "control-plane config"
    );
    // For the client, a 404 from these paths means that the module was not built in.
    for path in ["/modules/build-metadata", "/v1/admin/runtime-config"] {
        send(&java("GET", path)).expect(404);
    }
    let pod = sdk_server();
    pool("orig-patch", &pod);
    let patch = java("PATCH", "/v1/functions/orig-patch").json(&json!({"concurrency": 3}));
    let refused = send(&patch).expect(405);
    let allow = refused.header("allow").expect("Allow");
    assert!(allow.contains("PUT") && allow.contains("GET"), "{allow}");
}

#[test]
fn its_dashboards_find_the_counters() {
    let pod = sdk_server();
    pool("orig-metrics", &pod);
    invoke("orig-metrics", &json!(1)).expect(200);
    invoke("orig-metrics", &json!("fail")).expect(500);
    let label = [("function", "orig-metrics")];
    let metrics = plane().metrics();
    for (name, value) in [
        ("function_enqueue_total", 2.0),
        ("function_dispatch_total", 2.0),
        ("function_success_total", 1.0),
        ("function_error_total", 1.0),
        ("function_timeout_total", 0.0),
        ("function_retry_total", 0.0),
        ("function_queue_rejected_total", 0.0),
        ("function_queue_depth", 0.0),
        ("function_inFlight", 0.0),
    ] {
        assert!(metrics.has(name, &label), "{name}");
        eventually(name, || plane().metrics().sum(name, &label) == value);
    }
    for name in ["function_cold_start_total", "function_warm_start_total"] {
        assert!(metrics.has(name, &label), "{name}");
    }
    // These timers have other names in the original.
    for (theirs, ours) in [
        (
            "function_latency_ms_seconds_count",
            "function_handler_seconds_count",
        ),
        (
            "function_e2e_latency_ms_seconds_count",
            "function_e2e_seconds_count",
        ),
        (
            "function_queue_wait_ms_seconds_count",
            "function_queue_wait_seconds_count",
        ),
    ] {
        assert!(!metrics.has(theirs, &label), "{theirs}");
        assert!(metrics.has(ours, &label), "{ours}");
    }
    for path in ["", "/liveness", "/readiness"] {
        let health = Request::get(&format!("/actuator/health{path}"));
        let health = health.send(plane().management).expect(200).json();
        assert_eq!(health["status"], "UP");
    }
    let scraped = Request::get("/actuator/prometheus").send(plane().management);
    assert!(
        scraped
            .expect(200)
            .text()
            .contains("function_enqueue_total")
    );
}
