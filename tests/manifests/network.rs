//! These tests check which pods may connect to which ports. They compute this from the policies as a network
//! plugin does.

use serde_json::{Value, json};

use crate::files::{FUNCTION_LABELS, at, base_of, only};

/// A pod that opens or accepts a connection.
struct NetworkPeer {
    namespace: &'static str,
    labels: Value,
}

fn plane() -> NetworkPeer {
    let labels = at(&only("Deployment"), "/spec/template/metadata/labels").clone();
    NetworkPeer {
        namespace: "nanofaas",
        labels,
    }
}

fn function_in(namespace: &'static str) -> NetworkPeer {
    let labels = FUNCTION_LABELS
        .into_iter()
        .map(|(key, value)| (key.to_owned(), json!(value)));
    NetworkPeer {
        namespace,
        labels: Value::Object(labels.collect()),
    }
}

fn client_in(namespace: &'static str) -> NetworkPeer {
    NetworkPeer {
        namespace,
        labels: json!({"app": "client"}),
    }
}

/// Returns whether a label selector matches these labels. A selector of an unknown form fails the test.
fn selects(selector: &Value, labels: &Value) -> bool {
    selector
        .as_object()
        .expect("a selector")
        .iter()
        .all(|(kind, wanted)| match kind.as_str() {
            "matchLabels" => {
                let mut wanted = wanted.as_object().expect("labels").iter();
                wanted.all(|(key, value)| labels.get(key) == Some(value))
            }
            "matchExpressions" => wanted.as_array().expect("a list").iter().all(|expression| {
                let carried = labels
                    .get(expression["key"].as_str().expect("a text"))
                    .is_some();
                match expression["operator"].as_str() {
                    Some("Exists") => carried,
                    Some("DoesNotExist") => !carried,
                    other => panic!("operator {other:?}"),
                }
            }),
            other => panic!("selector {other}"),
        })
}

/// Returns whether one entry of `from` matches a pod, for a policy of the namespace `nanofaas`.
fn admits(peer: &Value, pod: &NetworkPeer) -> bool {
    let fields = peer.as_object().expect("a peer");
    assert!(
        !fields.contains_key("ipBlock"),
        "an ipBlock matches function pods, too"
    );
    let namespace = match fields.get("namespaceSelector") {
        None => pod.namespace == "nanofaas",
        Some(selector) => {
            assert_eq!(
                *selector,
                json!({}),
                "labels of namespaces are not known here"
            );
            true
        }
    };
    let labels = fields
        .get("podSelector")
        .is_none_or(|selector| selects(selector, &pod.labels));
    namespace && labels
}

fn may_reach(from: &NetworkPeer, to: &NetworkPeer, port: u16) -> bool {
    let mut chosen = base_of("NetworkPolicy");
    chosen.retain(|policy| selects(at(policy, "/spec/podSelector"), &to.labels));
    assert!(
        !chosen.is_empty(),
        "a pod without a policy accepts every connection"
    );
    chosen.iter().any(|policy| {
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]));
        let mut rules = at(policy, "/spec/ingress")
            .as_array()
            .expect("a list")
            .iter();
        rules.any(|rule| {
            let mut ports = at(rule, "/ports").as_array().expect("a list").iter();
            let mut peers = at(rule, "/from").as_array().expect("a list").iter();
            ports.any(|one| one["protocol"] == "TCP" && one["port"] == port)
                && peers.any(|peer| admits(peer, from))
        })
    })
}

fn reached(from: &NetworkPeer, to: &NetworkPeer) -> Vec<u16> {
    let ports = [8080, 8081, 8082, 9000];
    ports
        .into_iter()
        .filter(|port| may_reach(from, to, *port))
        .collect()
}

#[test]
fn functions_reach_only_the_internal_port() {
    assert_eq!(reached(&function_in("nanofaas"), &plane()), [8082]);
    assert_eq!(reached(&function_in("elsewhere"), &plane()), [0; 0]);
}

#[test]
fn everybody_else_reaches_the_api_and_the_metrics() {
    assert_eq!(reached(&client_in("nanofaas"), &plane()), [8080, 8081]);
    assert_eq!(reached(&client_in("elsewhere"), &plane()), [8080, 8081]);
}

#[test]
fn functions_are_called_by_the_plane_alone() {
    let function = function_in("nanofaas");
    assert_eq!(reached(&plane(), &function), [8080]);
    for other in [
        client_in("nanofaas"),
        client_in("elsewhere"),
        function_in("nanofaas"),
        NetworkPeer {
            namespace: "elsewhere",
            labels: plane().labels,
        },
    ] {
        assert_eq!(reached(&other, &function), [0; 0]);
    }
}
