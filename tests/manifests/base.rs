//! These tests check the objects that `kubectl apply -k k8s/` creates, and whether old and new clusters know
//! them.

use nanofaas_core::spec::{Defaults, FunctionDraft, FunctionSpec, Platform};
use serde_json::{Value, json};

use crate::files::{at, base, document, documents, names, strings};

/// The API versions and kinds that the manifests may use. Kubernetes 1.20 and current releases serve all of
/// them except two: kustomize reads `Kustomization`, and `Function` is our own CRD.
const SERVED: [(&str, &str); 11] = [
    ("v1", "Namespace"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
    ("apps/v1", "DaemonSet"),
    ("apps/v1", "Deployment"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    ("kustomize.config.k8s.io/v1beta1", "Kustomization"),
    ("nanofaas.io/v1", "Function"),
];

fn manifests(folder: &str) -> Vec<String> {
    let mut files = names(folder);
    files.retain(|name| name.ends_with(".yaml"));
    files
}

#[test]
fn the_installation_is_every_file_of_the_base() {
    assert_eq!(
        document("k8s/kustomization.yaml")["resources"],
        json!(["base"])
    );
    let listed = document("k8s/base/kustomization.yaml");
    let mut listed = strings(at(&listed, "/resources"));
    // Other objects can be created in the namespace only after it exists, so it must come first.
    assert_eq!(listed[0], "namespace.yaml");
    listed.push("kustomization.yaml");
    listed.sort_unstable();
    assert_eq!(manifests("k8s/base"), listed);
}

#[test]
fn old_and_new_clusters_serve_every_object() {
    for folder in ["k8s", "k8s/base", "k8s/overlays/io-uring"] {
        for file in manifests(folder) {
            for object in documents(&format!("{folder}/{file}")) {
                let version = at(&object, "/apiVersion").as_str().expect("a text");
                let kind = at(&object, "/kind").as_str().expect("a text");
                assert!(
                    SERVED.contains(&(version, kind)),
                    "{folder}/{file}: {version} {kind}"
                );
            }
        }
    }
}

#[test]
fn everything_has_the_namespace_and_an_owner() {
    for object in base() {
        let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
        let whole_cluster = kind == "Namespace" || kind == "CustomResourceDefinition";
        let namespace = &object["metadata"]["namespace"];
        let expected = if whole_cluster {
            Value::Null
        } else {
            json!("nanofaas")
        };
        assert_eq!(*namespace, expected, "{kind} {name}");
        if kind != "CustomResourceDefinition" {
            let label = &object["metadata"]["labels"]["app.kubernetes.io/name"];
            assert_eq!(label, "nanofaas", "{kind} {name}");
        }
    }
}

/// This test checks only the namespace. `deployment.rs` checks that the namespace allows the plane's pod, and
/// the bridge's tests check this for function pods.
#[test]
fn the_namespace_takes_no_root_pod() {
    let labels = &document("k8s/base/namespace.yaml")["metadata"]["labels"];
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");
}

#[test]
fn the_example_is_a_sound_function() {
    let example = document("k8s/example.yaml");
    assert_eq!(example["metadata"]["namespace"], "nanofaas");
    let own = document("functions/word-stats/function.yaml");
    for field in ["image", "executionMode"] {
        assert_eq!(example["spec"][field], own["spec"][field], "{field}");
    }
    let draft: FunctionDraft = serde_json::from_value(example).expect("a draft");
    assert_eq!(draft.unknown_fields(), [""; 0]);
    let resolved = FunctionSpec::resolve(&draft, &Defaults::DEFAULT, Platform::Kubernetes);
    assert!(resolved.is_ok(), "{resolved:?}");
}
