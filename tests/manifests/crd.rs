//! These tests check that the CRD of functions has exactly the fields that the code knows, and no default
//! values that the cluster would add.

use std::collections::BTreeSet;

use nanofaas_core::spec::{API_VERSION, FIELDS, KIND};
use serde_json::{Value, json};

use crate::files::{at, only};

fn version() -> Value {
    let definition = only("CustomResourceDefinition");
    let versions = at(&definition, "/spec/versions")
        .as_array()
        .expect("a list");
    assert_eq!(versions.len(), 1);
    versions[0].clone()
}

#[test]
fn it_is_the_kind_that_the_api_reads() {
    let definition = only("CustomResourceDefinition");
    let spec = at(&definition, "/spec");
    let group = spec["group"].as_str().expect("a text");
    let version = version();
    assert_eq!(
        format!("{group}/{}", version["name"].as_str().expect("a text")),
        API_VERSION
    );
    assert_eq!(spec["names"]["kind"], KIND);
    assert_eq!(spec["names"]["plural"], "functions");
    assert_eq!(spec["names"]["shortNames"], json!(["fn"]));
    assert_eq!(spec["scope"], "Namespaced");
    assert_eq!(definition["metadata"]["name"], "functions.nanofaas.io");
    // An applied status would overwrite the cluster's own, so the file has no `status`.
    assert_eq!(definition.get("status"), None);
}

#[test]
fn its_spec_has_every_field_but_the_name() {
    let version = version();
    let spec = at(
        &version,
        "/schema/openAPIV3Schema/properties/spec/properties",
    );
    let fields = spec
        .as_object()
        .expect("properties")
        .keys()
        .map(String::as_str);
    let expected = FIELDS.into_iter().filter(|field| *field != "name");
    assert_eq!(fields.collect::<BTreeSet<_>>(), expected.collect());
    assert_eq!(
        spec["podTemplate"]["x-kubernetes-preserve-unknown-fields"],
        true
    );
}

#[test]
fn the_cluster_fills_nothing_in() {
    fn look(value: &Value, place: &str) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(key, value)| {
                // The API server would write a default into stored objects, where it would override the
                // plane's settings.
                assert_ne!(key, "default", "{place}");
                look(value, &format!("{place}/{key}"));
            }),
            Value::Array(items) => items.iter().for_each(|value| look(value, place)),
            _ => {}
        }
    }
    look(&version()["schema"], "");
}

#[test]
fn kubectl_shows_mode_readiness_pods_and_age() {
    let version = version();
    let shown: Vec<(&Value, &Value)> = at(&version, "/additionalPrinterColumns")
        .as_array()
        .expect("a list")
        .iter()
        .filter(|column| column.get("priority").is_none())
        .map(|column| (&column["name"], &column["jsonPath"]))
        .collect();
    let expected = [
        ("Mode", ".spec.executionMode"),
        ("Ready", ".status.conditions[?(@.type==\"Ready\")].status"),
        ("Reason", ".status.conditions[?(@.type==\"Ready\")].reason"),
        ("Pods", ".status.readyPods"),
        ("Wanted", ".status.wantedPods"),
        ("Age", ".metadata.creationTimestamp"),
    ];
    assert_eq!(json!(shown), json!(expected));
    assert_eq!(version["subresources"]["status"], json!({}));
    let scale = &version["subresources"]["scale"];
    assert_eq!(scale["specReplicasPath"], ".spec.scalingConfig.minReplicas");
    assert_eq!(scale["statusReplicasPath"], ".status.replicas");
    let status = at(
        &version,
        "/schema/openAPIV3Schema/properties/status/properties",
    );
    assert_eq!(status["readyPods"]["type"], "integer");
    assert_eq!(status["conditions"]["type"], "array");
}
