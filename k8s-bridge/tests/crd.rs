//! Checks that the CRD in the manifests is the one that the Rust types give.
//! `NANOFAAS_WRITE_CRD=1 cargo test -p nanofaas-k8s-bridge --test crd` writes the file again.

#![allow(
    clippy::disallowed_methods,
    reason = "tests act in place of clients, pods and clocks"
)]

use std::fs;
use std::path::Path;

use nanofaas_core::spec::{API_VERSION, KIND, schema};
use serde_json::{Value, json};

const HEADER: &str = "\
# Written by `NANOFAAS_WRITE_CRD=1 cargo test -p nanofaas-k8s-bridge --test crd` from the Rust types.
# No defaults: what is left out follows the plane's --default-... settings.
";

fn crd() -> Value {
    let (group, version) = API_VERSION.split_once('/').expect("group/version");
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("functions.{group}"),
            "labels": {"app.kubernetes.io/name": "nanofaas"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": format!("{KIND}List"),
                "plural": "functions",
                "singular": "function",
                "shortNames": ["fn"],
            },
            "versions": [{
                "name": version,
                "served": true,
                "storage": true,
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.scalingConfig.minReplicas",
                    "statusReplicasPath": ".status.replicas",
                    "labelSelectorPath": ".status.selector",
                }},
                "additionalPrinterColumns": columns(),
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": "A function that nanofaas runs.",
                    "required": ["spec"],
                    "properties": {"spec": spec(), "status": status()},
                }},
            }],
        },
    })
}

fn columns() -> Value {
    let column =
        |name: &str, kind: &str, path: &str| json!({"name": name, "type": kind, "jsonPath": path});
    let condition =
        |kind: &str, field: &str| format!(".status.conditions[?(@.type==\"{kind}\")].{field}");
    let wide = |mut column: Value| {
        column["priority"] = json!(1);
        column
    };
    json!([
        column("Mode", "string", ".spec.executionMode"),
        column("Ready", "string", &condition("Ready", "status")),
        column("Reason", "string", &condition("Ready", "reason")),
        column("Pods", "integer", ".status.readyPods"),
        column("Wanted", "integer", ".status.wantedPods"),
        column("Age", "date", ".metadata.creationTimestamp"),
        wide(column(
            "Accepted",
            "string",
            &condition("Accepted", "status")
        )),
        wide(column("Image", "string", ".spec.image")),
    ])
}

fn spec() -> Value {
    let mut spec = schema();
    spec["description"] =
        json!("What the function is. A field that is left out, or null, has its default.");
    spec
}

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

fn time(description: &str) -> Value {
    json!({"type": "string", "format": "date-time", "description": description})
}

fn number(format: &str, description: &str) -> Value {
    json!({"type": "integer", "format": format, "description": description})
}

fn status() -> Value {
    let last_failed_start = json!({
        "type": "object",
        "description": "The last start that failed. It stays when later starts work: whether the \
            function can serve is what the condition Ready says.",
        "required": ["at", "pod", "reason", "message"],
        "properties": {
            "at": time("When it failed."),
            "pod": text("Name of the pod, or of the Job where the function is a JOB."),
            "reason": text("Why in one word: one of the reasons that the condition Ready has."),
            "message": text("The words of the cluster or of the program, up to 1 KiB of them."),
        },
    });
    let mut accepted_spec = text(
        "While the spec is not accepted: the last one that was, as JSON. It is in force, also after \
         the control plane is replaced.",
    );
    accepted_spec["nullable"] = json!(true);
    json!({
        "type": "object",
        "description": "What the control plane says of the function. Only it writes here.",
        "properties": {
            "observedGeneration": number("int64",
                "The metadata.generation that the control plane has looked at."),
            "readyPods": number("int32",
                "Pods of a WARM function that take calls, whichever spec they were made from."),
            "wantedPods": number("int32",
                "Pods of a WARM function that are wanted now: those that start or take calls, and \
                 at least minReplicas. 0 in other modes."),
            "replicas": number("int32",
                "Pods of a WARM function that there are, also those that end: what the scale \
                 subresource shows. 0 in other modes."),
            "selector": text("Label selector of the pods of a WARM function, for the scale subresource."),
            "lastFailedStart": last_failed_start,
            "acceptedSpec": accepted_spec,
            "conditions": conditions(),
        },
    })
}

fn conditions() -> Value {
    let mut status = text("True or False.");
    status["enum"] = json!(["True", "False", "Unknown"]);
    json!({
        "type": "array",
        "description": "Accepted: whether the control plane serves the spec as it is. Ready: whether \
            the function can serve calls with it. `kubectl wait --for=condition=Ready fn/NAME` waits \
            for it.",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "description": "One condition.",
            "required": ["type", "status"],
            "properties": {
                "type": text("Accepted or Ready."),
                "status": status,
                "reason": text(
                    "Why, in one word. Accepted: Valid, Invalid. Ready, where it is True: PodsReady, \
                     ScaledToZero, OnDemand, Endpoint, BuiltIn; where it is False: NotAccepted, \
                     Starting, ImagePull, Config, CrashLoop, Unschedulable, Quota, Refused, ApiServer, \
                     Deleted, NotReady."),
                "message": text("Why, in words; those of the cluster where there are any."),
                "observedGeneration": number("int64",
                    "The metadata.generation that it is said of. Ready speaks of the last accepted one."),
                "lastTransitionTime": time("Since when the condition has this status."),
            },
        },
    })
}

#[test]
fn the_manifest_is_what_the_types_generate() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../k8s/base/crd.yaml");
    let body = serde_saphyr::to_string(&crd()).expect("YAML");
    let made = format!("{HEADER}{body}");
    if std::env::var_os("NANOFAAS_WRITE_CRD").is_some() {
        fs::write(&path, &made).expect("written");
    }
    let kept = fs::read_to_string(&path).expect("the manifest");
    assert!(
        kept == made,
        "k8s/base/crd.yaml is not what the types make; write it anew as its first line says"
    );
}

#[test]
fn the_schema_has_no_defaults() {
    fn visit(value: &Value, path: &str) {
        if let Value::Object(fields) = value {
            assert!(!fields.contains_key("default"), "{path} has a default");
            for (name, inner) in fields {
                visit(inner, &format!("{path}/{name}"));
            }
        }
    }
    let schema = schema();
    visit(&schema, "");
    assert_eq!(schema.get("required"), None);
    assert_eq!(schema["properties"]["timeoutMs"]["maximum"], 300_000);
    let modes = &schema["properties"]["executionMode"]["enum"];
    assert!(
        modes
            .as_array()
            .is_some_and(|words| words.contains(&json!("DEPLOYMENT")))
    );
}

#[test]
fn every_field_says_what_it_is() {
    fn visit(schema: &Value, path: &str, missing: &mut Vec<String>) {
        let text = schema["description"].as_str().unwrap_or_default();
        if text.is_empty() && !path.ends_with("[]") {
            missing.push(path.to_owned());
        }
        assert!(!text.contains('\n'), "{path}: {text}");
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            visit(inner, &format!("{path}.{name}"), missing);
        }
        if schema["items"].is_object() {
            visit(&schema["items"], &format!("{path}[]"), missing);
        }
    }
    let crd = crd();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut missing = Vec::new();
    visit(schema, "fn", &mut missing);
    assert!(missing.is_empty(), "without a description: {missing:?}");
    // The API server refuses a CRD if the paths of its scale subresource do not exist.
    let paths = crd["spec"]["versions"][0]["subresources"]["scale"].as_object();
    for (name, path) in paths.expect("a scale subresource") {
        let path = path.as_str().expect("a path").replace('.', "/properties/");
        assert!(schema.pointer(&path).is_some(), "{name}: {path}");
    }
}
