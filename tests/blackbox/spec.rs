//! These tests send descriptions of functions to the API, and check defaults, both ends of ranges, formats
//! and modes.

use nanofaas_testkit::client::{Answer, Request};
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::functions::{local, with};
use serde_json::{Value, json};

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane = SharedControlPlane::new(&["--rate-max-per-second", "off"]);
    PLANE.get()
}

#[track_caller]
fn post(function: &Value) -> Answer {
    plane().send(&Request::new("POST", "/v1/functions").json(function))
}

/// Registers a LOCAL function with these fields. Returns the names of the invalid fields.
#[track_caller]
fn faults(name: &str, more: &Value) -> Vec<String> {
    let base = json!({"name": name, "executionMode": "LOCAL"});
    let answer = plane()
        .send(&Request::new("PUT", &format!("/v1/functions/{name}")).json(&with(base, more)));
    if matches!(answer.status, 200 | 201) {
        return Vec::new();
    }
    let body = answer.expect_error(400, "VALIDATION_ERROR").json();
    let details = body["details"].as_array().expect("details").iter();
    let fields = details.map(|detail| {
        let (field, message) = detail
            .as_str()
            .and_then(|text| text.split_once(": "))
            .expect("two");
        assert!(!message.is_empty());
        field.to_owned()
    });
    fields.collect()
}

#[test]
fn what_is_left_out_has_its_default() {
    let answer = post(&json!({"name": "defaults", "command": ["/bin/true"]}))
        .expect(201)
        .json();
    let expected = json!({
        "name": "defaults", "image": null, "imagePullPolicy": "IfNotPresent",
        "imagePullSecrets": [], "command": ["/bin/true"], "env": {},
        "resources": {"cpu": null, "memory": null}, "podTemplate": null, "podSecurity": "restricted", "executionMode": "JOB",
        "effectiveExecutionMode": "JOB", "endpointUrl": null, "timeoutMs": 30000, "concurrency": 4, "queueSize": 100,
        "maxRetries": 3, "retryOn": ["POD"],
        "scalingConfig": {
            "minReplicas": 1, "maxReplicas": 4, "targetInFlightPerPod": 1, "idleTimeoutMs": 600_000,
        },
        "runtimeMode": "HTTP", "runtimeCommand": null, "healthPath": "/health",
        "http": false, "allowedOrigins": [], "streamIdleMs": 60_000, "streamMaxMs": 3_600_000,
        "local": {"command": [], "env": {}, "build": null, "directory": null},
    });
    assert_eq!(answer, expected);
}

#[test]
fn a_null_counts_as_left_out() {
    let nulls = json!({
        "name": "nulls", "executionMode": "LOCAL", "timeoutMs": null, "scalingConfig": null,
        "env": null, "retryOn": null, "image": null, "local": null,
    });
    let answer = post(&nulls).expect(201).json();
    assert_eq!(
        (&answer["timeoutMs"], &answer["retryOn"]),
        (&json!(30_000), &json!(["POD"]))
    );
}

#[test]
fn max_replicas_follows_from_concurrency() {
    for (name, concurrency, target, most) in [
        ("follow-a", 10, 3, 4),
        ("follow-b", 1024, 1, 256),
        ("follow-c", 1, 8, 1),
    ] {
        let scaling = json!({"targetInFlightPerPod": target});
        let function = json!({
            "name": name, "executionMode": "LOCAL", "concurrency": concurrency,
            "scalingConfig": scaling,
        });
        let answer = post(&function).expect(201).json();
        assert_eq!(answer["scalingConfig"]["maxReplicas"], most, "{name}");
    }
}

#[test]
fn numbers_are_taken_up_to_their_bounds() {
    for (field, least, most) in [
        ("timeoutMs", 1, 300_000),
        ("concurrency", 1, 1024),
        ("queueSize", 1, 10_000),
        ("maxRetries", 0, 10),
    ] {
        for (value, fine) in [
            (least, true),
            (most, true),
            (least - 1, false),
            (most + 1, false),
        ] {
            let found = faults("numbers", &json!({field: value}));
            assert_eq!(found.is_empty(), fine, "{field} {value}: {found:?}");
            assert!(fine || found == [field], "{found:?}");
        }
        for value in [
            json!("5"),
            json!(1.5),
            json!(true),
            json!([]),
            json!({}),
            json!(1e30),
        ] {
            assert_eq!(
                faults("numbers", &json!({field: value})),
                [field],
                "{value}"
            );
        }
    }
    for (field, least, most) in [
        ("minReplicas", 0, 256),
        ("maxReplicas", 1, 256),
        ("targetInFlightPerPod", 1, 1024),
        ("idleTimeoutMs", 1, 86_400_000),
    ] {
        for (value, fine) in [
            (least, true),
            (most, true),
            (least - 1, false),
            (most + 1, false),
        ] {
            let mut scaling = json!({"minReplicas": 0});
            scaling[field] = json!(value);
            let found = faults("numbers", &json!({"scalingConfig": scaling}));
            assert_eq!(found.is_empty(), fine, "{field} {value}: {found:?}");
        }
    }
    let scaling = json!({"scalingConfig": {"minReplicas": 3, "maxReplicas": 2}});
    assert!(!faults("numbers", &scaling).is_empty());
}

#[test]
fn words_keep_their_own_spelling() {
    for (given, effective) in [
        ("JOB", "JOB"),
        ("REMOTE", "JOB"),
        ("WARM", "WARM"),
        ("DEPLOYMENT", "WARM"),
        ("LOCAL", "LOCAL"),
    ] {
        let function = json!({
            "name": format!("mode-{given}"), "executionMode": given, "command": ["/bin/true"],
            "scalingConfig": {"minReplicas": 0},
        });
        let path = format!("/v1/functions/mode-{given}");
        let made = post(&function).expect(201).json();
        assert_eq!(
            (&made["executionMode"], &made["effectiveExecutionMode"]),
            (&json!(given), &json!(effective))
        );
        assert_eq!(plane().get(&path).expect(200).json(), made);
        let list = plane().get("/v1/functions").expect(200).json();
        assert!(list.as_array().is_some_and(|all| all.contains(&made)));
        // A client may send this answer back as a registration, which changes nothing.
        let put = plane().send(&Request::new("PUT", &path).json(&made));
        assert_eq!(put.expect(200).json(), made);
        plane().remove(&format!("mode-{given}"));
    }
    for (field, bad) in [
        ("executionMode", json!("lambda")),
        ("executionMode", json!(1)),
        ("imagePullPolicy", json!("Sometimes")),
        ("podSecurity", json!("privileged")),
        ("runtimeMode", json!("GRPC")),
        ("retryOn", json!(["POD", "ALWAYS"])),
        ("retryOn", json!("POD")),
    ] {
        let found = faults("words", &json!({field: bad}));
        assert!(
            found.len() == 1 && found[0].starts_with(field),
            "{field} {bad}: {found:?}"
        );
    }
    assert_eq!(faults("words", &json!({"runtimeMode": "FILE"})), [""; 0]);
    let retry = post(&json!({"name": "retry-set", "executionMode": "LOCAL", "retryOn": []}));
    assert_eq!(retry.expect(201).json()["retryOn"], json!([]));
}

#[test]
fn a_name_has_63_characters_at_most() {
    let long = format!("a{}", "b".repeat(62));
    for fine in ["a", "Z9._-x", &long] {
        post(&json!({"name": fine, "executionMode": "LOCAL"})).expect(201);
        plane().invoke(fine, &json!(1)).expect(200);
    }
    let longer = format!("{long}b");
    for bad in [
        "", "9a", "_a", "-a", ".a", "a b", "a/b", "a:b", "ä", "a\n", &longer,
    ] {
        let answer = post(&json!({"name": bad, "executionMode": "LOCAL"}));
        let body = answer.expect_error(400, "VALIDATION_ERROR").json();
        assert!(
            body["details"][0]
                .as_str()
                .is_some_and(|text| text.starts_with("name: ")),
            "{bad}"
        );
    }
    for bad in [json!(null), json!(5), json!(["a"])] {
        post(&json!({"name": bad, "executionMode": "LOCAL"})).expect(400);
    }
    post(&json!({"executionMode": "LOCAL"})).expect(400);
}

#[test]
fn pool_needs_an_endpoint_that_is_one() {
    let pool = |url: Value| {
        with(
            json!({"name": "endpoint"}),
            &json!({"executionMode": "POOL", "endpointUrl": url}),
        )
    };
    for bad in [
        json!(null),
        json!(""),
        json!("ftp://a/"),
        json!("http://"),
        json!("https://a:1/"),
        json!("http://a:0/"),
        json!("http://a:99999/"),
        json!("http://user@a/"),
        json!("http://a b/"),
        json!("http+unix://relative.sock"),
        json!("http://a/\r\nX: y"),
        json!(5),
    ] {
        let body = post(&pool(bad.clone()))
            .expect_error(400, "VALIDATION_ERROR")
            .json();
        let detail = body["details"][0].as_str().unwrap_or_default();
        assert!(detail.starts_with("endpointUrl: "), "{bad}: {body}");
    }
    for fine in [
        "http://127.0.0.1:9/",
        "http://[::1]:9/x?y",
        "http+unix:///run/a.sock:/invoke",
    ] {
        let answer = post(&pool(json!(fine))).expect(201).json();
        assert_eq!(answer["endpointUrl"], fine);
        plane().remove("endpoint");
    }
}

#[test]
fn a_function_that_runs_here_needs_a_command() {
    for mode in ["JOB", "WARM"] {
        let body = post(&json!({"name": "commandless", "executionMode": mode}));
        let body = body.expect_error(400, "VALIDATION_ERROR").json();
        let detail = body["details"][0].as_str().unwrap_or_default();
        assert!(detail.starts_with("command: "), "{body}");
    }
}

#[test]
fn env_cannot_override_the_platforms_names() {
    for name in [
        "PORT",
        "NANOFAAS_SOCKET",
        "FUNCTION_NAME",
        "EXECUTION_MODE",
        "WATCHDOG_CMD",
        "NANOFAAS_READY_URL",
        "NANOFAAS_HEALTH_PATH",
        "CALLBACK_URL",
        "EXECUTION_ID",
        "DISPATCH_ATTEMPT",
        "TRACE_ID",
        "TIMEOUT_MS",
        "INVOCATION_TIMEOUT_MS",
        "INVOCATION_PAYLOAD",
        "INVOCATION_PAYLOAD_URL",
    ] {
        let found = faults("reserved", &json!({"env": {name: "x"}}));
        assert_eq!(found, [format!("env.{name}")]);
        let found = faults("reserved", &json!({"local": {"env": {name: "x"}}}));
        assert_eq!(found.len(), 1, "{found:?}");
    }
    assert_eq!(
        faults("reserved", &json!({"env": {"MINE": "x", "port": "y"}})),
        [""; 0]
    );
    assert_eq!(faults("reserved", &json!({"env": {"MINE": 5}})).len(), 1);
}

#[test]
fn the_kubernetes_object_is_taken_as_well() {
    let object = |fields: Value| {
        let base = json!({
            "apiVersion": "nanofaas.io/v1", "kind": "Function",
            "metadata": {"name": "object", "labels": {"a": "b"}},
            "spec": {"executionMode": "LOCAL", "timeoutMs": 77},
        });
        with(base, &fields)
    };
    let answer = post(&object(json!({}))).expect(201).json();
    assert_eq!(
        (&answer["name"], &answer["timeoutMs"]),
        (&json!("object"), &json!(77))
    );
    for bad in [
        json!({"apiVersion": "v1"}),
        json!({"kind": "Pod"}),
        json!({"metadata": {}}),
        json!({"spec": 5}),
        json!({"spec": {"name": "other", "executionMode": "LOCAL"}}),
    ] {
        post(&object(bad)).expect_error(400, "VALIDATION_ERROR");
    }
}

#[test]
fn a_description_without_an_object_is_400() {
    for bad in [
        "",
        "{",
        "[]",
        "1",
        "null",
        r#"{"name":"a","name":"b","executionMode":"LOCAL"}"#,
        r#"{"name":"a","executionMode":"LOCAL"} x"#,
    ] {
        let request = Request::new("POST", "/v1/functions").body("application/json", bad);
        let answer = plane().send(&request);
        assert_eq!(answer.status, 400, "{bad}: {}", answer.text());
    }
    let deep = format!(
        r#"{{"name":"deep","executionMode":"LOCAL","podTemplate":{{"a":{}1{}}}}}"#,
        "[".repeat(10_000),
        "]".repeat(10_000),
    );
    let request = Request::new("POST", "/v1/functions").body("application/json", deep);
    plane().send(&request).expect(400);
    let latin = Request::new("POST", "/v1/functions").body(
        "application/json",
        &b"{\"name\":\"a\xff\",\"executionMode\":\"LOCAL\"}"[..],
    );
    plane().send(&latin).expect(400);
}

#[test]
fn without_a_backend_only_podless_modes_work() {
    let plane = ControlPlane::start(&["--backend", "none"]);
    plane.register(&json!({"name": "echo", "executionMode": "LOCAL"}));
    plane.invoke("echo", &json!(1)).expect(200);
    for mode in ["JOB", "WARM"] {
        let function = json!({"name": "pods", "executionMode": mode, "command": ["/bin/true"]});
        let answer = plane.send(&Request::new("POST", "/v1/functions").json(&function));
        answer.expect_error(400, "VALIDATION_ERROR");
    }
}

#[test]
fn defaults_can_be_set_for_the_whole_plane() {
    let plane = ControlPlane::start(&[
        "--default-timeout-ms",
        "1111",
        "--default-concurrency",
        "7",
        "--default-queue-size",
        "33",
        "--default-max-retries",
        "1",
    ]);
    plane.register(&json!({"name": "echo", "executionMode": "LOCAL"}));
    let got = plane.get("/v1/functions/echo").expect(200).json();
    let fields = ["timeoutMs", "concurrency", "queueSize", "maxRetries"];
    assert_eq!(
        fields.map(|field| got[field].clone()),
        [1111, 7, 33, 1].map(Value::from)
    );
}

#[test]
fn unknown_fields_are_warned_of_by_path() {
    let is_none = "is not a field of a function, and is ignored";
    let expected = |path: &str| format!("299 - \"{path} {is_none}\"");
    let bare = json!({
        "name": "warned", "executionMode": "LOCAL", "colour": 1, "scalingConfig": {"foo": 1},
    });
    let made = post(&bare).expect(201);
    let paths = ["colour", "scalingConfig.foo"].map(expected);
    assert_eq!(made.headers("warning"), paths);
    let put = Request::new("PUT", "/v1/functions/warned");
    let object = json!({
        "apiVersion": "nanofaas.io/v1", "kind": "Function", "metadata": {"name": "warned"},
        "spec": {"executionMode": "LOCAL", "colour": 1, "resources": {"disk": "1Gi"}},
    });
    let replaced = plane().send(&put.json(&object)).expect(200);
    let paths = ["spec.colour", "spec.resources.disk"].map(expected);
    assert_eq!(replaced.headers("warning"), paths);
    let known = with(local("warned"), &json!({"podTemplate": {"colour": 1}}));
    let put = Request::new("PUT", "/v1/functions/warned");
    let known = plane().send(&put.json(&known)).expect(200);
    assert_eq!(known.headers("warning"), [""; 0]);
}

#[test]
fn warnings_are_bounded_and_cannot_forge_a_header() {
    let mut many = local("many");
    for number in 0..100 {
        many[format!("x{number:03}")] = json!(1);
    }
    let answer = post(&many).expect(201);
    let warnings = answer.headers("warning");
    assert_eq!(warnings.len(), 16);
    assert!(warnings[15].contains("85 more fields"), "{warnings:?}");
    let mut forged = local("forged");
    forged["a\"\r\nX-Forged: 1\r\n\r\n"] = json!(1);
    forged["z".repeat(100_000)] = json!(1);
    let answer = post(&forged).expect(201);
    assert_eq!(
        (answer.headers("warning").len(), answer.header("x-forged")),
        (2, None)
    );
    assert!(
        answer
            .headers("warning")
            .iter()
            .all(|value| value.len() < 512)
    );
    plane().remove("forged");
}
