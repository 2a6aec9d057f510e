//! These tests check the Role of the control plane. It names each verb and resource, gives no access to
//! secrets or roles, lets the plane change only its own Lease, and holds only in the namespace.

use serde_json::json;

use crate::files::{at, base, only, strings};

#[test]
fn the_role_names_each_verb_and_resource() {
    let role = only("Role");
    let mut seen = Vec::new();
    for rule in at(&role, "/rules").as_array().expect("a list") {
        for field in ["apiGroups", "resources", "verbs", "resourceNames"] {
            if let Some(list) = rule.get(field) {
                assert!(!strings(list).contains(&"*"), "{rule}");
            }
        }
        let names = rule.get("resourceNames").is_some();
        for group in strings(&rule["apiGroups"]) {
            for resource in strings(&rule["resources"]) {
                for verb in strings(&rule["verbs"]) {
                    // Requests with these verbs carry no name, so a rule with names cannot allow them.
                    let nameless = ["create", "list", "watch"].contains(&verb);
                    assert!(!(names && nameless), "{rule}");
                    seen.push(format!("{verb} {group}/{resource}"));
                }
            }
        }
    }
    let granted = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), granted, "something is granted twice");
    let powers = [
        "secrets",
        "pods/exec",
        "serviceaccounts",
        "roles",
        "rolebindings",
    ];
    for one in &seen {
        let resource = one.split('/').skip(1).collect::<Vec<_>>().join("/");
        assert!(!powers.contains(&resource.as_str()), "{one}");
    }
}

#[test]
fn only_its_own_lease_can_be_changed() {
    let role = only("Role");
    for rule in at(&role, "/rules").as_array().expect("a list") {
        if strings(&rule["resources"]).contains(&"leases") && rule["verbs"] != json!(["create"]) {
            assert_eq!(rule["resourceNames"], json!(["nanofaas"]));
        }
    }
}

#[test]
fn the_role_ends_at_the_namespace() {
    let binding = only("RoleBinding");
    assert_eq!(binding["roleRef"]["kind"], "Role");
    assert_eq!(binding["roleRef"]["name"], only("Role")["metadata"]["name"]);
    let account = only("ServiceAccount");
    let subject = json!([{
        "kind": "ServiceAccount",
        "name": account["metadata"]["name"],
        "namespace": account["metadata"]["namespace"],
    }]);
    assert_eq!(binding["subjects"], subject);
    for object in base() {
        let kind = object["kind"].as_str().expect("a text");
        assert!(!kind.starts_with("ClusterRole"), "{kind}");
    }
}
