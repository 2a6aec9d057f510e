//! Checks that the Role allows exactly the requests of a control plane that does everything it can do.

use std::collections::BTreeSet;

use nanofaas_core::event::Order;
use nanofaas_core::message::{BridgeRequest, Reply};
use nanofaas_fake_api_server::kubelet::Fate;
use nanofaas_fake_api_server::script::{QUOTA, any, of};
use serde_json::{Value, json};

use crate::attempt;
use crate::fixture::{pass, scenario, until, warm};

fn granted() -> BTreeSet<(String, String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../k8s/base/role.yaml");
    let text = std::fs::read_to_string(path).expect("the Role");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
    let role = documents.iter().find(|one| one["kind"] == "Role");
    let rules = role.expect("a Role")["rules"].as_array().expect("rules");
    let words = |rule: &Value, field: &str| -> Vec<String> {
        let words = rule[field].as_array().expect("a list").iter();
        words
            .map(|word| word.as_str().expect("a word").to_owned())
            .collect()
    };
    let mut all = BTreeSet::new();
    for rule in rules {
        for group in words(rule, "apiGroups") {
            for resource in words(rule, "resources") {
                for verb in words(rule, "verbs") {
                    all.insert((verb, group.clone(), resource.clone()));
                }
            }
        }
    }
    all
}

#[test]
fn the_role_allows_exactly_what_is_asked() {
    scenario(|server| async move {
        let owned = |name: &str, kind: &str, owner: &str| {
            json!({"metadata": {"name": name, "ownerReferences": [{"apiVersion": "apps/v1",
                "kind": kind, "name": owner, "uid": format!("uid-{owner}")}]}, "spec": {}})
        };
        server.create("pods", owned("plane-0", "ReplicaSet", "plane-rs"));
        server.create("replicasets", owned("plane-rs", "Deployment", "plane"));
        // A Job that an earlier control plane left.
        let labels = json!({"app": "nanofaas", "nanofaas.io/kind": "job",
            "nanofaas.io/instance": "before"});
        server.create(
            "jobs",
            json!({"metadata": {"name": "fn-old-1", "labels": labels}}),
        );
        let (mut fixture, function) = attempt::with_function(&server).await;
        // Make the registry send each kind of request that it sends to the API server.
        let warm_function = fixture.warm("w").await;
        pass(2.0).await;
        let mut spec = warm("w");
        spec["concurrency"] = json!(9);
        assert!(matches!(
            fixture.register(spec, true).await,
            Reply::Registered { .. }
        ));
        let scale = BridgeRequest::Scale {
            name: "w".into(),
            replicas: 1,
        };
        assert!(matches!(fixture.ask(scale).await, Reply::Scaled { .. }));
        // Make the bridge send the requests that it sends for a warm pod.
        let (pod_id, _) = fixture.running(&warm_function).await;
        fixture.rings.order(Order::Probe { pod: pod_id });
        fixture.up(pod_id).await;
        fixture.rings.order(Order::Stop { pod: pod_id });
        fixture.down(pod_id).await;
        // Make the bridge send the requests that two Jobs need. The pod of the first Job is refused, and the
        // second Job is cancelled.
        server.kubelet().next(Fate::Refused(QUOTA));
        attempt::start(&fixture, &function, attempt::call(1));
        until("its events are read", || {
            server.count(of("list", "events")) == 1
        })
        .await;
        pass(3.0).await;
        attempt::start(&fixture, &function, attempt::call(2));
        until("it has a pod", || server.names("pods").len() == 2).await;
        pass(1.0).await;
        attempt::stop(&fixture, attempt::call(2), None);
        until("it is gone", || server.names("jobs").is_empty()).await;
        let remove = BridgeRequest::Remove { name: "w".into() };
        assert!(matches!(fixture.ask(remove).await, Reply::Removed));
        // Make the bridge send the requests that follow the end or the expiry of a watch, and those that
        // renew and release the Lease.
        pass(15.0).await;
        server.slam(true).await;
        server.compact();
        server.slam(false).await;
        pass(90.0).await;
        fixture.stop().await;
        let asked = server.asked(any()).into_iter();
        let asked: BTreeSet<_> = asked
            .map(|one| (one.verb.to_owned(), one.group, one.resource))
            .collect();
        let granted = granted();
        let refused: Vec<_> = asked.difference(&granted).collect();
        assert!(refused.is_empty(), "the Role does not allow {refused:?}");
        let unused: Vec<_> = granted.difference(&asked).collect();
        assert!(unused.is_empty(), "nobody needs {unused:?}");
    });
}
