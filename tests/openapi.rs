//! Compares openapi.yaml with the code: paths, codes, and every field of a function with its
//! default and range. The test fails if only one of the two is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use nanofaas_core::spec::{
    API_VERSION, Defaults, ENV_RESERVED, ExecutionMode, FIELDS, FunctionDraft, FunctionSpec,
    ImagePullPolicy, KIND, Platform, PodSecurity, RESOLVED_FIELDS, RetryOn, RuntimeMode,
    ScalingConfig, bound, check_name,
};
use serde_json::{Value, json};

const TEXT: &str = include_str!("../openapi.yaml");

fn description() -> Value {
    serde_saphyr::from_str(TEXT).expect("openapi.yaml is YAML")
}

fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    value
        .pointer(path)
        .unwrap_or_else(|| panic!("openapi.yaml has no {path}"))
}

fn schema<'a>(description: &'a Value, name: &str) -> &'a Value {
    at(description, &format!("/components/schemas/{name}"))
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect()
}

/// Returns a function with the required fields only, so every other field has its default.
fn resolved(platform: Platform) -> Value {
    let draft = json!({"name": "f", "image": "i", "command": ["c"]});
    let draft: FunctionDraft = serde_json::from_value(draft).expect("a draft");
    let spec = FunctionSpec::resolve(&draft, &Defaults::DEFAULT, platform).expect("sound");
    serde_json::to_value(&spec).expect("serialises")
}

/// The codes of `/fn/`, where `default` is the function's own answer.
const FORWARDED: &str = "default 404 405 409 410 429 501 502 504 508";

#[test]
fn it_has_every_path_with_every_code() {
    // Every path may also answer 400, 403, 414, 431 and 503. A path with `body` may also answer 411 and 413.
    let expected = [
        ("/v1/functions get", "200"),
        ("/v1/functions post", "201 409 415 body"),
        ("/v1/functions/{name} get", "200 404"),
        ("/v1/functions/{name} put", "200 201 415 body"),
        ("/v1/functions/{name} delete", "204 404"),
        ("/v1/functions/{name}/replicas put", "200 404 409 415 body"),
        ("/v1/functions/{name}/cold-starts get", "200 404"),
        (
            "/v1/functions/{name}:invoke post",
            "200 202 404 408 409 410 415 422 429 500 502 body",
        ),
        (
            "/v1/functions/{name}:enqueue post",
            "202 404 415 422 429 body",
        ),
        ("/v1/executions/{id} get", "200 404"),
        ("/v1/executions/{id} delete", "200 202 404"),
        ("/v1/executions/{id}/output get", "200 404 409 410"),
        (
            "/v1/internal/{token}/executions/{id}:complete post",
            "204 404 409 415 body",
        ),
        (
            "/v1/internal/{token}/executions/{id}/input get",
            "200 404 409",
        ),
        ("/v1/internal/{token}/pods/{pod}:ready post", "204 body"),
        ("/openapi.yaml get", "200"),
        ("/fn/{name} get", FORWARDED),
        ("/fn/{name}/{path} get", FORWARDED),
        ("/fn/{name}/{path} put", FORWARDED),
        ("/fn/{name}/{path} post", FORWARDED),
        ("/fn/{name}/{path} delete", FORWARDED),
        ("/fn/{name}/{path} options", FORWARDED),
        ("/fn/{name}/{path} head", FORWARDED),
        ("/fn/{name}/{path} patch", FORWARDED),
    ];
    let expected: BTreeMap<String, BTreeSet<String>> = expected
        .iter()
        .map(|(operation, codes)| {
            let codes = format!("{codes} 400 403 414 431 503").replace("body", "411 413");
            (
                operation.to_string(),
                codes.split(' ').map(str::to_owned).collect(),
            )
        })
        .collect();
    let mut described = BTreeMap::new();
    let description = description();
    for (path, item) in at(&description, "/paths").as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("a path") {
            if method != "parameters" {
                let codes = keys(at(operation, "/responses"))
                    .into_iter()
                    .map(str::to_owned);
                described.insert(format!("{path} {method}"), codes.collect());
            }
        }
    }
    assert_eq!(described, expected);
}

#[test]
fn every_reference_and_every_part_is_used() {
    fn collect<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| collect(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let description = description();
    let mut references = BTreeSet::new();
    collect(&description, &mut references);
    for reference in &references {
        at(
            &description,
            reference.strip_prefix('#').expect("a place in this file"),
        );
    }
    for (kind, parts) in at(&description, "/components")
        .as_object()
        .expect("components")
    {
        for name in keys(parts) {
            let reference = format!("#/components/{kind}/{name}");
            // No `$ref` points to the schema `Bytes`. The field `output` of `ExecutionStatus` may be any
            // JSON, so it has no schema, and only its description names `Bytes`.
            if name != "Bytes" {
                assert!(
                    references.contains(reference.as_str()),
                    "{reference} is used nowhere"
                );
            }
        }
    }
}

#[test]
fn every_operation_and_parameter_is_named_once() {
    let description = description();
    let mut ids = BTreeSet::new();
    for (path, item) in at(&description, "/paths").as_object().expect("paths") {
        let in_path = path.matches('{').count();
        let given = item
            .get("parameters")
            .and_then(Value::as_array)
            .map_or(0, Vec::len);
        assert_eq!(given, in_path, "{path}");
        for (method, operation) in item.as_object().expect("a path") {
            if method != "parameters" {
                let id = at(operation, "/operationId").as_str().expect("a text");
                assert!(ids.insert(id), "{id} names two operations");
                assert!(at(operation, "/summary").is_string());
            }
        }
    }
    assert_eq!(at(&description, "/info/version"), env!("CARGO_PKG_VERSION"));
}

#[test]
fn a_functions_fields_are_the_cores() {
    let description = description();
    let spec = at(schema(&description, "FunctionSpec"), "/properties");
    assert_eq!(keys(spec), BTreeSet::from(FIELDS));
    let required = at(schema(&description, "ResolvedFunction"), "/required");
    let required: Vec<&str> = required
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(required, [&FIELDS[..], &RESOLVED_FIELDS[..]].concat());
    let more = at(schema(&description, "ResolvedFunction"), "/properties");
    assert_eq!(keys(more), BTreeSet::from(RESOLVED_FIELDS));
    let resolved = resolved(Platform::Local);
    for outer in ["resources", "scalingConfig", "local"] {
        let described = keys(at(spec, &format!("/{outer}/properties")));
        assert_eq!(described, keys(&resolved[outer]), "{outer}");
    }
}

#[test]
fn a_functions_defaults_are_the_cores() {
    // The comparison leaves these fields out. They are required, depend on other fields, or are objects whose
    // fields have defaults.
    const WITHOUT: [&str; 5] = ["name", "maxReplicas", "resources", "scalingConfig", "local"];
    fn compare(described: &Value, mut resolved: Value, given: &[&str]) {
        for (name, field) in described.as_object().expect("properties") {
            if let Some(inner) = field.get("properties") {
                compare(inner, resolved[name].take(), &[]);
            }
            if WITHOUT.contains(&name.as_str()) {
                assert_eq!(field.get("default"), None, "{name}");
            } else if !given.contains(&name.as_str()) {
                assert_eq!(field.get("default"), Some(&resolved[name]), "{name}");
            }
        }
    }
    let description = description();
    let spec = at(schema(&description, "FunctionSpec"), "/properties");
    compare(spec, resolved(Platform::Local), &["image", "command"]);
    assert_eq!(spec["image"]["default"], Value::Null);
    assert_eq!(spec["command"]["default"], json!([]));
    let scaling = at(spec, "/scalingConfig/properties");
    assert_eq!(
        scaling["minReplicas"]["default"],
        ScalingConfig::MIN_REPLICAS_DEFAULT
    );
}

#[test]
fn a_functions_ranges_are_the_cores() {
    let description = description();
    let spec = at(schema(&description, "FunctionSpec"), "/properties");
    let ranges: [(&str, RangeInclusive<u32>); 10] = [
        ("/timeoutMs", bound::TIMEOUT_MS),
        ("/concurrency", bound::CONCURRENCY),
        ("/queueSize", bound::QUEUE_SIZE),
        ("/streamIdleMs", bound::STREAM_IDLE_MS),
        ("/streamMaxMs", bound::STREAM_MAX_MS),
        ("/maxRetries", bound::MAX_RETRIES),
        ("/scalingConfig/properties/minReplicas", bound::MIN_REPLICAS),
        ("/scalingConfig/properties/maxReplicas", bound::MAX_REPLICAS),
        (
            "/scalingConfig/properties/targetInFlightPerPod",
            bound::TARGET_IN_FLIGHT_PER_POD,
        ),
        (
            "/scalingConfig/properties/idleTimeoutMs",
            bound::IDLE_TIMEOUT_MS,
        ),
    ];
    for (path, range) in ranges {
        let field = at(spec, path);
        assert_eq!(field["minimum"], *range.start(), "{path}");
        assert_eq!(field["maximum"], *range.end(), "{path}");
    }
    assert_eq!(spec["endpointUrl"]["maxLength"], bound::ENDPOINT_LEN_MAX);
    assert_eq!(spec["healthPath"]["maxLength"], bound::HEALTH_PATH_LEN_MAX);
    let name = schema(&description, "FunctionName");
    assert_eq!(name["maxLength"], bound::NAME_LEN_MAX);
    assert_eq!(name["pattern"], "^[a-zA-Z][a-zA-Z0-9._-]{0,62}$");
    assert!(check_name(&"a".repeat(63), Platform::Local).is_ok());
    let timeout = at(&description, "/components/parameters/TimeoutMs/schema");
    assert_eq!(timeout["minimum"], *bound::TIMEOUT_MS.start());
    assert_eq!(timeout["maximum"], *bound::TIMEOUT_MS.end());
    let replicas = "/paths/~1v1~1functions~1{name}~1replicas/put/requestBody/content/\
                    application~1json/schema/properties/replicas";
    assert_eq!(at(&description, replicas)["maximum"], bound::REPLICAS_MAX);
}

#[test]
fn a_functions_words_are_the_cores() {
    fn names<T>(all: &[(&'static str, T)]) -> BTreeSet<&'static str> {
        all.iter().map(|(word, _)| *word).collect()
    }
    fn described(field: &Value) -> BTreeSet<&str> {
        let list = field["enum"].as_array().expect("a list");
        list.iter().filter_map(Value::as_str).collect()
    }
    let description = description();
    let spec = at(schema(&description, "FunctionSpec"), "/properties");
    assert_eq!(
        described(&spec["executionMode"]),
        names(&ExecutionMode::NAMES)
    );
    assert_eq!(
        described(&spec["imagePullPolicy"]),
        names(&ImagePullPolicy::NAMES)
    );
    assert_eq!(described(&spec["podSecurity"]), names(&PodSecurity::NAMES));
    assert_eq!(described(&spec["runtimeMode"]), names(&RuntimeMode::NAMES));
    assert_eq!(described(&spec["retryOn"]["items"]), names(&RetryOn::NAMES));
    let reserved = at(schema(&description, "Environment"), "/propertyNames/not");
    assert_eq!(described(reserved), BTreeSet::from(ENV_RESERVED));
    let object = at(schema(&description, "FunctionDraft"), "/oneOf/1/properties");
    assert_eq!(object["apiVersion"]["const"], API_VERSION);
    assert_eq!(object["kind"]["const"], KIND);
}

#[test]
fn the_examples_of_functions_are_sound() {
    let description = description();
    let examples = at(
        &description,
        "/components/requestBodies/Function/content/application~1json/examples",
    );
    for (name, example) in examples.as_object().expect("examples") {
        let draft: FunctionDraft =
            serde_json::from_value(example["value"].clone()).expect("an object");
        assert_eq!(draft.unknown_fields(), [""; 0], "{name}");
        for platform in [Platform::Local, Platform::Kubernetes] {
            let resolved = FunctionSpec::resolve(&draft, &Defaults::DEFAULT, platform);
            assert!(resolved.is_ok(), "{name}: {resolved:?}");
        }
    }
}
