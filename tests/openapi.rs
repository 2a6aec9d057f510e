//! Compares openapi.yaml with the code: paths, codes, and every field of a function with its default and
//! range. It also compares the table of these fields in docs/contract.md with the code. A change of only one
//! of the three fails a test.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use nanofaas_core::spec::{
    API_VERSION, Defaults, ENV_RESERVED, ExecutionMode, FIELDS, FunctionDraft, FunctionSpec,
    ImagePullPolicy, KIND, Platform, PodSecurity, RESOLVED_FIELDS, RetryOn, RuntimeMode,
    ScalingConfig, bound, check_name,
};
use serde_json::{Value, json};

const TEXT: &str = include_str!("../openapi.yaml");
const CONTRACT: &str = include_str!("../docs/contract.md");

/// The fields with a range, as paths below the properties of `FunctionSpec`.
const RANGES: [(&str, RangeInclusive<u32>); 10] = [
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
        assert_eq!(given, in_path, "openapi.yaml, paths, {path}");
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
        assert_eq!(
            described,
            keys(&resolved[outer]),
            "openapi.yaml, FunctionSpec/{outer}"
        );
    }
}

#[test]
fn a_functions_defaults_are_the_cores() {
    // The comparison leaves these fields out. They are required, depend on other fields, or are objects whose
    // fields have defaults.
    const WITHOUT: [&str; 5] = ["name", "maxReplicas", "resources", "scalingConfig", "local"];
    fn compare(described: &Value, mut resolved: Value, given: &[&str]) {
        for (name, field) in described.as_object().expect("properties") {
            let place = format!("openapi.yaml, FunctionSpec, {name}");
            if let Some(inner) = field.get("properties") {
                compare(inner, resolved[name].take(), &[]);
            }
            if WITHOUT.contains(&name.as_str()) {
                assert_eq!(field.get("default"), None, "{place}");
            } else if !given.contains(&name.as_str()) {
                assert_eq!(field.get("default"), Some(&resolved[name]), "{place}");
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
    for (path, range) in RANGES {
        let field = at(spec, path);
        let place = format!("openapi.yaml, FunctionSpec{path}");
        assert_eq!(field["minimum"], *range.start(), "{place}");
        assert_eq!(field["maximum"], *range.end(), "{place}");
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

/// Returns the rows of the table of fields in docs/contract.md: the names, the cell of their defaults, the
/// rule.
fn contract_rows() -> Vec<(Vec<&'static str>, &'static str, &'static str)> {
    let (_, section) = CONTRACT
        .split_once("\n## 2. A function's spec\n")
        .expect("docs/contract.md has section 2");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [names, defaults, rule] = cells[..] else {
            panic!("docs/contract.md, section 2: {row}")
        };
        let names = names.split('`').skip(1).step_by(2);
        let names = names.map(|name| name.split('{').next().unwrap_or(name));
        (names.collect(), defaults, rule)
    })
    .collect()
}

/// Returns all `1 … 9` of a rule, in their order.
fn ranges_in(rule: &str) -> Vec<RangeInclusive<u32>> {
    let words: Vec<&str> = rule.split([' ', ';', ',']).collect();
    let range = |three: &[&str]| match three {
        [first, "…", last] => Some(first.parse().ok()?..=last.parse().ok()?),
        _ => None,
    };
    words.windows(3).filter_map(range).collect()
}

#[test]
fn the_contracts_ranges_are_the_cores() {
    let mut named = Vec::new();
    for (names, _, rule) in contract_rows() {
        let bounds = names.iter().filter_map(|name| {
            let mut all = RANGES.iter();
            all.find(|(path, _)| path[1..] == **name)
        });
        let bounds: Vec<RangeInclusive<u32>> = bounds.map(|(_, range)| range.clone()).collect();
        assert_eq!(ranges_in(rule), bounds, "docs/contract.md, {names:?}");
        if names == ["scalingConfig"] {
            let most = format!("at most {}", bound::REPLICAS_MAX);
            assert!(rule.contains(&most), "docs/contract.md, {rule}: {most}");
        }
        named.extend(names);
    }
    named.sort_unstable();
    let mut fields = FIELDS;
    fields.sort_unstable();
    assert_eq!(named, fields, "docs/contract.md, section 2");
}

#[test]
fn the_contracts_defaults_are_the_cores() {
    // The comparison leaves these fields out. They are given in the test, or depend on other fields.
    const WITHOUT: [&str; 4] = ["name", "image", "command", "http"];
    fn is_empty(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.values().all(is_empty),
            _ => false,
        }
    }
    let resolved = resolved(Platform::Local);
    for (names, cell, _) in contract_rows() {
        let separator = if cell.contains("; ") { "; " } else { ", " };
        let defaults: Vec<&str> = cell.split(separator).collect();
        if names == ["scalingConfig"] {
            for default in defaults {
                let (name, number) = default.split_once(' ').expect("a name and a number");
                let expected = resolved["scalingConfig"][name.trim_matches('`')].to_string();
                assert_eq!(number, expected, "docs/contract.md, scalingConfig, {name}");
            }
            continue;
        }
        for (at, name) in names.iter().enumerate() {
            // If a row has several fields and one default, this default holds for each of the fields.
            let default = defaults[at.min(defaults.len() - 1)];
            let value = &resolved[name];
            let same = match default {
                "none" | "empty" => is_empty(value),
                _ => default.trim_matches('`') == value.to_string().trim_matches('"'),
            };
            let skipped = WITHOUT.contains(name);
            assert!(
                same || skipped,
                "docs/contract.md, {name}: {default}, not {value}"
            );
        }
    }
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
        assert_eq!(
            draft.unknown_fields(),
            [""; 0],
            "openapi.yaml, example {name}"
        );
        for platform in [Platform::Local, Platform::Kubernetes] {
            let resolved = FunctionSpec::resolve(&draft, &Defaults::DEFAULT, platform);
            assert!(
                resolved.is_ok(),
                "openapi.yaml, example {name}: {resolved:?}"
            );
        }
    }
}
