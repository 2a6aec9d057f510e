//! Tests the rules of a function's description, on both sides of their bounds.

mod part;
mod property;

use serde_json::{Value, json};

use super::*;

/// Makes a draft that every platform accepts, and sets the fields of `changes` in it.
fn sound_with(changes: Value) -> FunctionDraft {
    let mut fields = json!({"name": "f", "image": "img:1", "command": ["./f"]});
    let Value::Object(changes) = changes else {
        panic!("changes are an object")
    };
    for (name, value) in changes {
        fields[&name] = value;
    }
    draft(fields)
}

fn draft(value: Value) -> FunctionDraft {
    serde_json::from_value(value).expect("a draft takes any object")
}

fn resolve(draft: &FunctionDraft, platform: Platform) -> Result<FunctionSpec, Vec<String>> {
    FunctionSpec::resolve(draft, &Defaults::DEFAULT, platform)
        .map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

fn sound(changes: Value) -> FunctionSpec {
    resolve(&sound_with(changes), Platform::Local).expect("a sound function")
}

fn faults(changes: Value) -> Vec<String> {
    resolve(&sound_with(changes), Platform::Local).expect_err("a faulty function")
}

#[test]
fn a_bare_spec_gets_every_default() {
    let spec = sound(json!({}));
    let shown = serde_json::to_value(&spec).expect("serialises");
    let expected = json!({
        "name": "f", "image": "img:1", "imagePullPolicy": "IfNotPresent", "imagePullSecrets": [],
        "command": ["./f"], "env": {}, "resources": {"cpu": null, "memory": null},
        "podTemplate": null, "podSecurity": "restricted", "executionMode": "JOB", "effectiveExecutionMode": "JOB", "endpointUrl": null, "timeoutMs": 30000,
        "concurrency": 4, "queueSize": 100, "maxRetries": 3, "retryOn": ["POD"],
        "scalingConfig": {"minReplicas": 1, "maxReplicas": 4, "targetInFlightPerPod": 1,
                          "idleTimeoutMs": 600_000},
        "runtimeMode": "HTTP", "runtimeCommand": null, "healthPath": "/health",
        "http": false, "allowedOrigins": [], "streamIdleMs": 60_000, "streamMaxMs": 3_600_000,
        "local": {"command": [], "env": {}, "build": null, "directory": null},
    });
    assert_eq!(shown, expected);
}

#[test]
fn the_platforms_defaults_are_used() {
    let defaults = Defaults {
        timeout_ms: 7,
        concurrency: 9,
        queue_size: 11,
        max_retries: 0,
    };
    let spec = FunctionSpec::resolve(&sound_with(json!({})), &defaults, Platform::Local);
    let spec = spec.expect("sound");
    assert_eq!((spec.timeout_ms, spec.concurrency), (7, 9));
    assert_eq!((spec.queue_size, spec.max_retries), (11, 0));
    assert_eq!(spec.scaling_config.max_replicas, 9);
}

#[test]
fn null_means_default_and_unknown_fields_are_ignored() {
    let nulls = json!({
        "image": null, "imagePullPolicy": null, "imagePullSecrets": null, "env": null,
        "resources": null, "podTemplate": null, "podSecurity": null, "executionMode": null, "endpointUrl": null,
        "timeoutMs": null, "concurrency": null, "queueSize": null, "maxRetries": null,
        "retryOn": null, "scalingConfig": {"minReplicas": null, "maxReplicas": null},
        "runtimeMode": null, "runtimeCommand": null, "healthPath": null, "http": null,
        "allowedOrigins": null, "streamIdleMs": null, "streamMaxMs": null, "local": null, "colour": {"a": [1]},
    });
    assert_eq!(sound(nulls), sound(json!({"image": null})));
}

#[test]
fn unknown_fields_are_told_apart_from_known_ones() {
    let shown = serde_json::to_value(sound(json!({}))).expect("serialises");
    assert_eq!(draft(shown.clone()).unknown_fields(), [""; 0]);
    let mut shown_names: Vec<_> = shown.as_object().expect("an object").keys().collect();
    let mut names = [&FIELDS[..], &RESOLVED_FIELDS[..]].concat();
    shown_names.sort();
    names.sort_unstable();
    assert_eq!(shown_names, names);
    let misspelt = json!({"timeoutMS": 1, "scalingConfig": {"min": 1}, "podTemplate": {"x": 1}});
    assert_eq!(
        sound_with(misspelt).unknown_fields(),
        ["scalingConfig.min", "timeoutMS"]
    );
}

#[test]
fn the_kubernetes_object_is_the_same_function() {
    let object = draft(json!({
        "apiVersion": "nanofaas.io/v1", "kind": "Function",
        "metadata": {"name": "f", "labels": {"a": "b"}},
        "spec": {"image": "img:1", "command": ["./f"]}, "status": {},
    }));
    assert_eq!(resolve(&object, Platform::Kubernetes), Ok(sound(json!({}))));
    assert_eq!(object.name(), Some("f"));
    let repeated = draft(json!({
        "apiVersion": "nanofaas.io/v1", "kind": "Function", "metadata": {"name": "f"},
        "spec": {"name": "f", "image": "i"},
    }));
    assert!(resolve(&repeated, Platform::Kubernetes).is_ok());
}

#[test]
fn outer_and_inner_faults_are_named_together() {
    let object = draft(json!({
        "apiVersion": "v1", "metadata": {"name": "f"},
        "spec": {"name": "g", "timeoutMs": 0, "command": ["x"]},
    }));
    let expected = [
        "apiVersion: must be \"nanofaas.io/v1\", is \"v1\"",
        "kind: must be \"Function\", is null",
        "name: differs from metadata.name, which is \"f\"",
        "timeoutMs: must be 1 to 300000, is 0",
    ];
    let given = resolve(&object, Platform::Local).expect_err("faulty");
    assert_eq!(given, expected);
    let listed = draft(json!({"kind": "Function", "apiVersion": "nanofaas.io/v1", "spec": []}));
    let given = resolve(&listed, Platform::Local).expect_err("faulty");
    assert!(
        given.contains(&"spec: must be an object, is a list".to_owned()),
        "{given:?}"
    );
    assert!(given.contains(&"name: is required".to_owned()), "{given:?}");
}

#[test]
fn a_draft_that_is_no_object_is_refused() {
    for text in ["[]", "1", "\"f\"", "null", "true"] {
        let error = serde_json::from_str::<FunctionDraft>(text)
            .expect_err(text)
            .to_string();
        assert!(error.contains("function: must be an object"), "{error}");
    }
}

#[test]
fn all_faults_come_back_at_once() {
    let given = faults(json!({
        "name": "9f", "timeoutMs": "soon", "concurrency": 1025, "env": {"PORT": "1", "A": 2},
        "retryOn": ["POD", "NEVER"], "executionMode": "JOBS", "command": "./f",
        "local": {"env": {"TRACE_ID": "x"}, "command": [1]}, "resources": {"cpu": "fast"},
    }));
    let fields: Vec<&str> = given
        .iter()
        .map(|fault| fault.split_once(": ").expect("field: message").0)
        .collect();
    let expected = [
        "name",
        "concurrency",
        "executionMode",
        "command",
        "env.A",
        "env.PORT",
        "resources.cpu",
        "timeoutMs",
        "retryOn[1]",
        "local.command[0]",
        "local.env.TRACE_ID",
    ];
    assert_eq!(fields, expected, "{given:#?}");
}

#[test]
fn numbers_hold_on_both_sides_of_every_bound() {
    let bounds: [(&str, u32, u32); 4] = [
        ("timeoutMs", 1, 300_000),
        ("concurrency", 1, 1024),
        ("queueSize", 1, 10_000),
        ("maxRetries", 0, 10),
    ];
    for (field, least, most) in bounds {
        for within in [least, most] {
            let shown = serde_json::to_value(sound(json!({field: within}))).expect("serialises");
            assert_eq!(shown[field], within, "{field}");
        }
        for outside in [i64::from(least) - 1, i64::from(most) + 1, i64::MAX] {
            let expected = format!("{field}: must be {least} to {most}, is {outside}");
            assert_eq!(faults(json!({field: outside})), [expected]);
        }
    }
}

#[test]
fn scaling_numbers_hold_at_every_bound() {
    let bounds: [(&str, u32, u32); 4] = [
        ("minReplicas", 0, 256),
        ("maxReplicas", 1, 256),
        ("targetInFlightPerPod", 1, 1024),
        ("idleTimeoutMs", 1, 86_400_000),
    ];
    for (field, least, most) in bounds {
        for within in [least, most] {
            let changes = json!({"concurrency": 1024, "scalingConfig": {field: within}});
            let shown = serde_json::to_value(sound(changes)).expect("serialises");
            assert_eq!(shown["scalingConfig"][field], within, "{field}");
        }
        for outside in [i64::from(least) - 1, i64::from(most) + 1] {
            let expected =
                format!("scalingConfig.{field}: must be {least} to {most}, is {outside}");
            let given = faults(json!({"concurrency": 1024, "scalingConfig": {field: outside}}));
            assert_eq!(given, [expected]);
        }
    }
}

#[test]
fn a_whole_number_may_be_written_any_way() {
    assert_eq!(sound(json!({"timeoutMs": 4.0})).timeout_ms, 4);
    assert_eq!(
        faults(json!({"timeoutMs": 4.5})),
        ["timeoutMs: must be 1 to 300000, is 4.5"]
    );
    for wrong in [json!("4"), json!(true), json!([4]), json!({"a": 4})] {
        let given = faults(json!({"timeoutMs": wrong}));
        assert!(given[0].starts_with("timeoutMs: must be a whole number from 1 to 300000, is "));
    }
}

#[test]
fn max_replicas_defaults_to_what_calls_can_fill() {
    let scaled = |concurrency: u32, config: Value| {
        let changes = json!({"concurrency": concurrency, "scalingConfig": config});
        sound(changes).scaling_config.max_replicas
    };
    assert_eq!(scaled(10, json!({"targetInFlightPerPod": 4})), 3);
    assert_eq!(scaled(1, json!({"targetInFlightPerPod": 1024})), 1);
    assert_eq!(scaled(256, json!({})), 256);
    assert_eq!(scaled(1024, json!({})), 256);
    assert_eq!(scaled(4, json!({"minReplicas": 9})), 9);
    assert_eq!(scaled(4, json!({"minReplicas": 0})), 4);
}

#[test]
fn min_replicas_is_at_most_max_replicas() {
    let both =
        |min: u32, max: u32| json!({"scalingConfig": {"minReplicas": min, "maxReplicas": max}});
    assert_eq!(sound(both(3, 3)).scaling_config.min_replicas, 3);
    let expected = "scalingConfig.minReplicas: must be at most maxReplicas, which is 3, is 4";
    assert_eq!(faults(both(4, 3)), [expected]);
}

#[test]
fn replicas_are_the_new_floor() {
    let spec = sound(json!({"scalingConfig": {"maxReplicas": 3}}));
    for floor in [0, 3] {
        let changed = spec.with_min_replicas(floor).expect("within");
        assert_eq!(changed.scaling_config.min_replicas, floor);
        assert_eq!(
            changed.shape_hash(Platform::Local),
            spec.shape_hash(Platform::Local)
        );
    }
    let fault = spec.with_min_replicas(4).expect_err("above maxReplicas");
    assert_eq!(
        fault.to_string(),
        "replicas: must be 0 to 3, the function's maxReplicas, is 4"
    );
}

#[test]
fn names() {
    let longest = "a".repeat(63);
    for name in ["f", "F", "word-stats", "a.b_c-D9", "a-", longest.as_str()] {
        assert_eq!(check_name(name, Platform::Local), Ok(()), "{name}");
        assert_eq!(check_name(name, Platform::None), Ok(()), "{name}");
    }
    let too_long = "a".repeat(64);
    for name in [
        "",
        "9f",
        "-f",
        ".f",
        "a b",
        "a/b",
        "ä",
        "a:b",
        "a\n",
        too_long.as_str(),
    ] {
        assert!(check_name(name, Platform::Local).is_err(), "{name}");
    }
    let longest = "a".repeat(50);
    for name in ["f", "word-stats", "a9", longest.as_str()] {
        assert_eq!(check_name(name, Platform::Kubernetes), Ok(()), "{name}");
    }
    let too_long = "a".repeat(51);
    for name in ["", "F", "a.b", "a_b", "a-", "9a", "-a", too_long.as_str()] {
        assert!(check_name(name, Platform::Kubernetes).is_err(), "{name}");
    }
    assert_eq!(faults(json!({"name": null})), ["name: is required"]);
    assert_eq!(faults(json!({"name": ""})), ["name: must not be empty"]);
    assert_eq!(
        faults(json!({"name": 5})),
        ["name: must be a text (in quotes), is 5"]
    );
}

#[test]
fn a_mode_is_shown_with_its_meaning() {
    let words = [
        ("JOB", "JOB"),
        ("REMOTE", "JOB"),
        ("WARM", "WARM"),
        ("DEPLOYMENT", "WARM"),
        ("LOCAL", "LOCAL"),
    ];
    for (given, shown) in words {
        let spec = sound(json!({"executionMode": given}));
        let json = serde_json::to_value(&spec).expect("serialises");
        assert_eq!(json["executionMode"], given);
        assert_eq!(json["effectiveExecutionMode"], shown);
        assert_eq!(spec.execution_mode.as_str(), shown);
        assert_eq!(
            resolve(&draft(json), Platform::Local),
            Ok(spec),
            "it reads back"
        );
    }
    let expected =
        "executionMode: must be JOB, WARM, POOL, LOCAL, REMOTE or DEPLOYMENT, is \"warm\"";
    assert_eq!(faults(json!({"executionMode": "warm"})), [expected]);
    let expected = "imagePullPolicy: must be IfNotPresent, Always or Never, is 1";
    assert_eq!(faults(json!({"imagePullPolicy": 1})), [expected]);
    let expected = "podSecurity: must be restricted or baseline, is \"root\"";
    assert_eq!(faults(json!({"podSecurity": "root"})), [expected]);
    assert_eq!(
        faults(json!({"runtimeMode": "PIPE"})),
        ["runtimeMode: must be HTTP, STDIO or FILE, is \"PIPE\""]
    );
    assert_eq!(
        sound(json!({"runtimeMode": "STDIO"})).runtime_mode,
        RuntimeMode::Stdio
    );
    let file = sound(json!({"runtimeMode": "FILE"})).runtime_mode;
    assert_eq!((file, file.as_str()), (RuntimeMode::File, "FILE"));
}

#[test]
fn a_pool_needs_its_endpoint() {
    let pool = |url: Value| json!({"executionMode": "POOL", "endpointUrl": url});
    let given = faults(pool(Value::Null));
    assert_eq!(given.len(), 1);
    assert!(
        given[0].starts_with("endpointUrl: is required for POOL"),
        "{given:?}"
    );
    let given = faults(pool(json!("ftp://x")));
    assert_eq!(
        given,
        ["endpointUrl: must begin with http:// or http+unix://, is \"ftp://x\""]
    );
    assert_eq!(faults(pool(json!(5))).len(), 1);
    assert!(sound(pool(json!("http://x/"))).endpoint_url.is_some());
}

#[test]
fn env_names() {
    for name in ENV_RESERVED {
        let expected = format!("env.{name}: is set by the platform and cannot be overridden");
        assert_eq!(faults(json!({"env": {name: "x"}})), [expected]);
        assert_eq!(faults(json!({"local": {"env": {name: "x"}}})).len(), 1);
    }
    for name in ["A", "_a", "a.b-c", "-x", ".x", "PORT2", "port"] {
        assert_eq!(sound(json!({"env": {name: ""}})).env[name], "");
    }
    for name in ["", "9a", "a=b", "a b", "ä"] {
        assert_eq!(faults(json!({"env": {name: "x"}})).len(), 1, "{name}");
    }
    assert_eq!(
        faults(json!({"env": {"A": 1}})),
        ["env.A: must be a text (in quotes), is 1"]
    );
    let expected = "env.A: must not contain a NUL character";
    assert_eq!(faults(json!({"env": {"A": "\0"}})), [expected]);
    assert_eq!(
        faults(json!({"env": ["A"]})),
        ["env: must be an object, is a list"]
    );
}

#[test]
fn images_secrets_and_commands() {
    assert_eq!(faults(json!({"image": ""})), ["image: must not be empty"]);
    assert_eq!(faults(json!({"image": "a b"})).len(), 1);
    assert_eq!(
        sound(json!({"imagePullSecrets": ["a.b-c9"]})).image_pull_secrets,
        ["a.b-c9"]
    );
    for name in ["", "A", "-a", "a-", "a_b"] {
        let given = faults(json!({"imagePullSecrets": ["ok", name]}));
        assert!(given[0].starts_with("imagePullSecrets[1]: "), "{given:?}");
    }
    assert_eq!(
        faults(json!({"command": [""]})),
        ["command[0]: must name a program, is empty"]
    );
    assert_eq!(sound(json!({"command": ["x", ""]})).command, ["x", ""]);
    let expected = "command[1]: must not contain a NUL character";
    assert_eq!(faults(json!({"command": ["x", "\0"]})), [expected]);
    assert_eq!(
        faults(json!({"podTemplate": "x"})),
        ["podTemplate: must be an object, is \"x\""]
    );
    assert_eq!(
        sound(json!({"runtimeCommand": "a b"}))
            .runtime_command
            .as_deref(),
        Some("a b")
    );
    assert_eq!(
        faults(json!({"runtimeCommand": ""})),
        ["runtimeCommand: must not be empty"]
    );
}

#[test]
fn each_platform_asks_for_what_it_needs() {
    let bare = |mode: &str| draft(json!({"name": "f", "executionMode": mode}));
    for mode in ["JOB", "WARM"] {
        let given = resolve(&bare(mode), Platform::Local).expect_err("no command");
        assert_eq!(given.len(), 1);
        assert!(
            given[0].starts_with(&format!("command: is required for {mode}")),
            "{given:?}"
        );
        let given = resolve(&bare(mode), Platform::Kubernetes).expect_err("no image");
        assert_eq!(
            given,
            [format!("image: is required for {mode} on Kubernetes")]
        );
        let given = resolve(&bare(mode), Platform::None).expect_err("no pods");
        assert!(
            given[0].starts_with(&format!("executionMode: {mode} needs")),
            "{given:?}"
        );
    }
    for platform in [Platform::Local, Platform::Kubernetes, Platform::None] {
        assert!(resolve(&bare("LOCAL"), platform).is_ok());
    }
    let own = draft(json!({"name": "f", "local": {"command": ["x"]}}));
    assert!(resolve(&own, Platform::Local).is_ok());
}

#[test]
fn local_goes_over_what_kubernetes_uses() {
    let spec = sound(json!({
        "env": {"A": "1", "B": "2"},
        "local": {"command": ["x", "y"], "env": {"B": "3", "C": "4"}, "build": "make",
                  "directory": "/srv"},
    }));
    assert_eq!(spec.local_command(), ["x", "y"]);
    let env: Vec<_> = spec.local_env().into_iter().collect();
    assert_eq!(env, [("A", "1"), ("B", "3"), ("C", "4")]);
    assert_eq!(sound(json!({})).local_command(), ["./f"]);
    let relative = sound_with(json!({"local": {"directory": "srv"}}));
    let given = resolve(&relative, Platform::Local).expect_err("relative");
    assert_eq!(
        given,
        ["local.directory: must be an absolute path, is \"srv\""]
    );
    assert!(
        resolve(&relative, Platform::Kubernetes).is_ok(),
        "ignored there"
    );
}
