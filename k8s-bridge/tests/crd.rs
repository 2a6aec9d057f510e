//! The CRD in the manifests is the one that the Rust types make.
//! To write it anew: `NANOFAAS_WRITE_CRD=1 cargo test -p nanofaas-k8s-bridge --test crd`.

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
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    column("Mode", "string", ".spec.executionMode"),
                    column("Accepted", "string", ".status.conditions[?(@.type==\"Accepted\")].status"),
                    column("Ready", "integer", ".status.readyPods"),
                    column("Age", "date", ".metadata.creationTimestamp"),
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "required": ["spec"],
                    "properties": {"spec": schema(), "status": status()},
                }},
            }],
        },
    })
}

fn column(name: &str, kind: &str, path: &str) -> Value {
    json!({"name": name, "type": kind, "jsonPath": path})
}

/// The parts of a condition are Kubernetes' own.
fn status() -> Value {
    let text = || json!({"type": "string"});
    let number = |format: &str| json!({"type": "integer", "format": format});
    json!({
        "type": "object",
        "description": "What the control plane says of the function.",
        "properties": {
            "readyPods": number("int32"),
            "observedGeneration": number("int64"),
            "conditions": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "required": ["type", "status"],
                    "properties": {
                        "type": text(),
                        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                        "reason": text(),
                        "message": text(),
                        "observedGeneration": number("int64"),
                        "lastTransitionTime": {"type": "string", "format": "date-time"},
                    },
                },
            },
        },
    })
}

#[test]
fn the_manifest_is_the_one_that_the_types_make() {
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
fn the_schema_has_no_defaults_and_requires_no_field_of_a_function() {
    fn look(value: &Value, path: &str) {
        if let Value::Object(fields) = value {
            assert!(!fields.contains_key("default"), "{path} has a default");
            for (name, inner) in fields {
                look(inner, &format!("{path}/{name}"));
            }
        }
    }
    let schema = schema();
    look(&schema, "");
    assert_eq!(schema.get("required"), None);
    assert_eq!(schema["properties"]["timeoutMs"]["maximum"], 300_000);
    let modes = &schema["properties"]["executionMode"]["enum"];
    assert!(
        modes
            .as_array()
            .is_some_and(|words| words.contains(&json!("DEPLOYMENT")))
    );
}
