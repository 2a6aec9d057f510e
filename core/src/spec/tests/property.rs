//! Tests with random drafts: a resolved draft reads back as the same function, and no draft causes a panic.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::bound::*;
use super::super::{Defaults, FunctionDraft, FunctionSpec, Platform, check_name};

const PLATFORMS: [Platform; 3] = [Platform::Local, Platform::Kubernetes, Platform::None];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i32>().prop_map(|halves| Value::from(f64::from(halves) / 2.0)),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map("[a-zA-Z.]{0,6}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

fn env() -> impl Strategy<Value = Value> {
    btree_map("[a-z_][A-Z0-9_]{0,8}", "[^\0]{0,12}", 0..4).prop_map(|map| json!(map))
}

fn endpoint() -> impl Strategy<Value = String> {
    prop_oneof![
        "http://[a-z][a-z0-9.-]{0,12}(:[1-9][0-9]{0,3})?(/[a-z/?=%]{0,8})?",
        "http://\\[::[1-9a-f]\\]:[1-9][0-9]{0,3}/[a-z]{0,4}",
        "http\\+unix:///[a-z/]{0,20}[a-z](:/[a-z?]{0,8})?",
    ]
}

fn sound_fields() -> impl Strategy<Value = Value> {
    let pod = (
        "[a-z]([a-z0-9-]{0,48}[a-z0-9])?",
        "[a-z0-9./:@-]{1,20}",
        vec("[^\0]{1,8}", 1..4),
        env(),
        option::of("[1-9][0-9]{0,3}(m|Mi|Gi|k|)"),
        option::of(btree_map("[a-z]{1,6}", any_json(), 0..3)),
        option::of(endpoint()),
    );
    let numbers = (
        option::of(TIMEOUT_MS),
        option::of(CONCURRENCY),
        option::of(QUEUE_SIZE),
        option::of(MAX_RETRIES),
        option::of(TARGET_IN_FLIGHT_PER_POD),
        option::of(IDLE_TIMEOUT_MS),
        (MIN_REPLICAS, MAX_REPLICAS),
    );
    let words = (
        proptest::sample::select(vec!["JOB", "WARM", "LOCAL", "REMOTE", "DEPLOYMENT"]),
        proptest::sample::subsequence(vec!["POD", "TIMEOUT", "ERROR"], 0..=3),
        option::of("[^\0]{1,9}"),
        option::of("/[a-z/]{0,12}"),
        env(),
    );
    (pod, numbers, words).prop_map(|(pod, numbers, words)| {
        let (name, image, command, env, memory, template, endpoint) = pod;
        let (timeout, concurrency, queue, retries, target, idle, (one, other)) = numbers;
        let (mode, retry_on, build, directory, local_env) = words;
        let (min, max) = (one.min(other), one.max(other));
        json!({
            "name": name, "image": image, "command": command, "env": env,
            "resources": {"memory": memory}, "podTemplate": template, "endpointUrl": endpoint,
            "timeoutMs": timeout, "concurrency": concurrency, "queueSize": queue,
            "maxRetries": retries, "executionMode": mode, "retryOn": retry_on,
            "scalingConfig": {"minReplicas": min, "maxReplicas": max,
                              "targetInFlightPerPod": target, "idleTimeoutMs": idle},
            "runtimeCommand": build.clone(),
            "local": {"env": local_env, "build": build, "directory": directory},
        })
    })
}

fn any_fields() -> impl Strategy<Value = Value> {
    let names = prop_oneof![
        proptest::sample::select(vec![
            "name",
            "image",
            "imagePullPolicy",
            "imagePullSecrets",
            "command",
            "env",
            "resources",
            "podTemplate",
            "podSecurity",
            "executionMode",
            "endpointUrl",
            "timeoutMs",
            "concurrency",
            "queueSize",
            "maxRetries",
            "retryOn",
            "scalingConfig",
            "runtimeMode",
            "runtimeCommand",
            "local",
            "apiVersion",
            "kind",
            "metadata",
            "spec",
        ])
        .prop_map(str::to_owned),
        "[a-z]{1,4}",
    ];
    btree_map(names, any_json(), 0..8).prop_map(|map| json!(map))
}

proptest! {
    // By default, proptest writes the smallest failing input to a file in the source folder. The failing test
    // prints this input anyway.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_resolved_reads_back_as_itself(fields in sound_fields()) {
        let draft: FunctionDraft = serde_json::from_value(fields).expect("an object");
        for platform in [Platform::Local, Platform::Kubernetes] {
            let spec = FunctionSpec::resolve(&draft, &Defaults::DEFAULT, platform)
                .expect("sound fields resolve");
            let text = serde_json::to_string(&spec).expect("serialises");
            let again: FunctionDraft = serde_json::from_str(&text).expect("reads back");
            let other = Defaults { timeout_ms: 1, concurrency: 1, queue_size: 1, max_retries: 1 };
            let back = FunctionSpec::resolve(&again, &other, platform).expect("still sound");
            prop_assert_eq!(back.shape_hash(platform), spec.shape_hash(platform));
            prop_assert_eq!(back, spec);
        }
    }

    #[test]
    fn any_input_is_within_bounds_or_a_fault(fields in any_fields()) {
        let draft: FunctionDraft = serde_json::from_value(fields).expect("an object");
        for platform in PLATFORMS {
            match FunctionSpec::resolve(&draft, &Defaults::DEFAULT, platform) {
                Ok(spec) => {
                    prop_assert!(check_name(&spec.name, platform).is_ok());
                    prop_assert!(TIMEOUT_MS.contains(&spec.timeout_ms));
                    prop_assert!(CONCURRENCY.contains(&spec.concurrency));
                    let scaling = spec.scaling_config;
                    prop_assert!(scaling.min_replicas <= scaling.max_replicas);
                    prop_assert!(MAX_REPLICAS.contains(&scaling.max_replicas));
                }
                Err(faults) => {
                    prop_assert!(!faults.is_empty());
                    prop_assert!(faults.iter().all(|fault| !fault.message.is_empty()));
                }
            }
        }
    }
}
