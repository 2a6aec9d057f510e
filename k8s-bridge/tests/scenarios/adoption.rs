//! Tests what happens to pods that an earlier control plane left: the new control plane adopts, replaces or
//! deletes them.

use nanofaas_core::event::Order;
use nanofaas_fake_api_server::kubelet::Fate;
use nanofaas_fake_api_server::script::{answer, of};
use nanofaas_fake_api_server::server::FakeApiServer;
use serde_json::{Value, json};

use crate::fixture::{ClusterFixture, object, pass, scenario, until, warm};

fn wanting(name: &str, pods: u32) -> Value {
    let mut spec = warm(name);
    spec["scalingConfig"]["minReplicas"] = json!(pods);
    spec
}

/// Lets an earlier control plane start `count` pods of a function; returns their names.
async fn pods_of_before(server: &FakeApiServer, name: &str, count: u32) -> Vec<String> {
    server.create("functions", object(wanting(name, count)));
    let mut before = ClusterFixture::scheduled(server);
    before.ready().await;
    until("they are up", || {
        ready_pods(server, name) == u64::from(count)
    })
    .await;
    before.end();
    server.names("pods")
}

fn ready_pods(server: &FakeApiServer, name: &str) -> u64 {
    let function = server.get("functions", name);
    function.unwrap_or_default()["status"]["readyPods"]
        .as_u64()
        .unwrap_or_default()
}

fn adopted(fixture: &ClusterFixture) -> usize {
    let orders = fixture.rings.orders.borrow();
    let adopted = orders
        .iter()
        .filter(|order| matches!(order, Order::Adopted { pod, .. } if pod.is_some()));
    adopted.count()
}

#[test]
fn running_pods_are_adopted_untouched() {
    scenario(|server| async move {
        let pods = pods_of_before(&server, "f", 3).await;
        assert_eq!(pods.len(), 3);
        let versions = |server: &FakeApiServer| -> Vec<Value> {
            let of = |pod: &Value| pod["metadata"]["resourceVersion"].clone();
            server.objects("pods").iter().map(of).collect()
        };
        let before = versions(&server);
        server.forget_asked();
        let mut fixture = ClusterFixture::scheduled(&server);
        fixture.ready().await;
        pass(30.0).await;
        assert_eq!(server.names("pods"), pods);
        assert_eq!(versions(&server), before);
        let touched = server.changes();
        let touched: Vec<_> = touched
            .iter()
            .filter(|one| one.resource == "pods")
            .collect();
        assert!(touched.is_empty(), "{touched:?}");
        assert_eq!(adopted(&fixture), 3);
    });
}

#[test]
fn only_pods_of_another_shape_are_stale() {
    scenario(|server| async move {
        pods_of_before(&server, "f", 1).await;
        server.edit("functions", "f", |function| {
            function["spec"]["concurrency"] = json!(9);
        });
        let mut fixture = ClusterFixture::acting(&server).await;
        assert!(!fixture.rings.adopted.borrow()[0].stale, "it shapes no pod");
        fixture.end();
        server.edit("functions", "f", |function| {
            function["spec"]["image"] = json!("i:2")
        });
        let fixture = ClusterFixture::acting(&server).await;
        assert_eq!(fixture.rings.adopted.borrow().len(), 1);
        assert!(fixture.rings.adopted.borrow()[0].stale);
    });
}

#[test]
fn a_stale_pod_is_replaced_new_one_first() {
    scenario(|server| async move {
        let old = pods_of_before(&server, "f", 1).await.remove(0);
        server.edit("functions", "f", |function| {
            function["spec"]["image"] = json!("i:2")
        });
        server.forget_asked();
        let mut fixture = ClusterFixture::scheduled(&server);
        fixture.ready().await;
        until("the old one is gone", || {
            !server.names("pods").contains(&old)
        })
        .await;
        pass(5.0).await;
        let pods = server.objects("pods");
        assert_eq!(pods.len(), 1);
        assert_eq!(pods[0]["spec"]["containers"][0]["image"], "i:2");
        let changes = server.changes();
        let of_pods = changes.iter().filter(|one| one.resource == "pods");
        let verbs: Vec<_> = of_pods.map(|one| one.verb).collect();
        assert_eq!(verbs, ["create", "delete"]);
    });
}

#[test]
fn pods_of_removed_functions_are_deleted() {
    scenario(|server| async move {
        let pods = pods_of_before(&server, "f", 2).await;
        server.remove("functions", "f");
        let mut other = json!({"metadata": {"name": "mine", "labels": {"app": "mine"}}});
        other["spec"] = json!({"containers": []});
        server.create("pods", other);
        server.create("functions", object(warm("g")));
        let _bench = ClusterFixture::acting(&server).await;
        until("they are gone", || server.names("pods") == ["mine"]).await;
        let deleted = server.asked(of("delete", "pods"));
        assert_eq!(deleted.len(), pods.len());
    });
}

#[test]
fn pods_of_functions_no_longer_warm_are_deleted() {
    scenario(|server| async move {
        pods_of_before(&server, "f", 1).await;
        server.edit("functions", "f", |function| {
            function["spec"]["executionMode"] = json!("JOB");
        });
        let _bench = ClusterFixture::acting(&server).await;
        until("it is gone", || server.names("pods").is_empty()).await;
    });
}

#[test]
fn ended_pods_are_deleted_and_leaving_ones_left() {
    scenario(|server| async move {
        let pods = pods_of_before(&server, "f", 2).await;
        server.end(&pods[0], 1, "Error", "");
        server
            .kubelet()
            .lingering
            .set(std::time::Duration::from_secs(20));
        server.delete_pod(&pods[1]);
        server.edit("functions", "f", |function| {
            function["spec"]["scalingConfig"]["minReplicas"] = json!(0);
        });
        server.forget_asked();
        let fixture = ClusterFixture::acting(&server).await;
        until("both are gone", || server.names("pods").is_empty()).await;
        let deleted = server.asked(of("delete", "pods"));
        let names: Vec<_> = deleted.iter().map(|one| &one.name).collect();
        assert_eq!(names, [&pods[0]]);
        assert!(fixture.rings.adopted.borrow().is_empty());
    });
}

#[test]
fn an_unanswering_pod_is_replaced() {
    scenario(|server| async move {
        let pods = pods_of_before(&server, "f", 2).await;
        server.set_well(&pods[0], false);
        let mut fixture = ClusterFixture::scheduled(&server);
        let began = tokio::time::Instant::now();
        fixture.ready().await;
        assert!(
            began.elapsed().as_secs() < 4,
            "it is not waited for: {:?}",
            began.elapsed()
        );
        until("it is replaced", || {
            let now = server.names("pods");
            now.len() == 2 && !now.contains(&pods[0]) && now.contains(&pods[1])
        })
        .await;
    });
}

#[test]
fn a_busy_pod_is_left_alone_and_returns() {
    scenario(|server| async move {
        let pods = pods_of_before(&server, "f", 1).await;
        server.set_busy(&pods[0], true);
        let mut fixture = ClusterFixture::scheduled(&server);
        fixture.ready().await;
        server.forget_asked();
        until("another pod takes its place", || {
            server.names("pods").len() == 2
        })
        .await;
        pass(4.0).await;
        assert_eq!(server.count(of("delete", "pods")), 0, "it may run a call");
        let count = adopted(&fixture);
        server.set_busy(&pods[0], false);
        until("it is adopted again", || adopted(&fixture) == count + 1).await;
        until("both are ready", || ready_pods(&server, "f") == 2).await;
        assert_eq!(server.count(of("delete", "pods")), 0);
    });
}

#[test]
fn a_busy_answering_pod_survives_an_api_outage() {
    scenario(|server| async move {
        let pods = pods_of_before(&server, "f", 1).await;
        server.set_busy(&pods[0], true);
        let mut fixture = ClusterFixture::scheduled(&server);
        fixture.ready().await;
        until("another pod takes its place", || {
            server.names("pods").len() == 2
        })
        .await;
        server.forget_asked();
        server.script(of("get", "pods"), usize::MAX, answer(500));
        server.set_busy(&pods[0], false);
        pass(60.0).await;
        assert_eq!(server.count(of("delete", "pods")), 0, "it is well");
        let count = server.count(of("get", "pods"));
        assert!((2..60).contains(&count), "{count} requests in 60 s");
        server.mend();
        until("both are ready", || ready_pods(&server, "f") == 2).await;
        assert_eq!(server.count(of("delete", "pods")), 0);
    });
}

#[test]
fn a_silent_pod_is_deleted_after_its_calls() {
    scenario(|server| async move {
        let pods = pods_of_before(&server, "f", 1).await;
        server.set_busy(&pods[0], true);
        let mut fixture = ClusterFixture::scheduled(&server);
        fixture.ready().await;
        let began = tokio::time::Instant::now();
        until("it is deleted", || !server.names("pods").contains(&pods[0])).await;
        // The pod has 5 s for the first answer. Then it is probed for the grace period: the function's
        // timeoutMs (1 s) and 10 s.
        let took = began.elapsed().as_secs();
        assert!((15..20).contains(&took), "{took} s");
        // Now a busy pod is removed while it is probed. The pod that replaces it must stay the only one.
        let pods = server.names("pods");
        server.set_busy(&pods[0], true);
        fixture.end();
        let mut next = ClusterFixture::scheduled(&server);
        next.ready().await;
        until("another takes its place", || {
            server.names("pods").len() == 2
        })
        .await;
        server.remove("pods", &pods[0]);
        pass(60.0).await;
        assert_eq!(server.names("pods").len(), 1);
        assert_eq!(ready_pods(&server, "f"), 1);
    });
}

#[test]
fn an_unschedulable_old_pod_delays_no_start() {
    scenario(|server| async move {
        let pods = pods_of_before(&server, "f", 1).await;
        server.edit("functions", "f", |function| {
            function["spec"]["scalingConfig"]["minReplicas"] = json!(2);
        });
        server.kubelet().otherwise(Fate::Unschedulable("no nodes"));
        let mut before = ClusterFixture::scheduled(&server);
        before.ready().await;
        until("the second is made", || server.names("pods").len() == 2).await;
        pass(1.0).await;
        before.end();
        let mut fixture = ClusterFixture::scheduled(&server);
        let began = tokio::time::Instant::now();
        fixture.ready().await;
        assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
        assert!(server.names("pods").contains(&pods[0]));
    });
}

#[test]
fn an_adopted_pod_keeps_its_id() {
    scenario(|server| async move {
        let name = pods_of_before(&server, "f", 1).await.remove(0);
        let fixture = ClusterFixture::acting(&server).await;
        let pod = fixture.rings.adopted.borrow()[0].pod;
        fixture.up(pod).await;
        let address = format!("{}:8080", server.address(&name));
        assert_eq!(fixture.address(pod).await, address);
        fixture.rings.order(Order::Stop { pod });
        fixture.down(pod).await;
        assert!(server.names("pods").is_empty());
    });
}

#[test]
fn a_rejected_edit_keeps_the_accepted_spec_afterwards() {
    scenario(|server| async move {
        let pods = pods_of_before(&server, "f", 2).await;
        let mut first = ClusterFixture::scheduled(&server);
        first.ready().await;
        // `minReplicas` above `maxReplicas` makes the spec invalid.
        server.edit("functions", "f", |function| {
            function["spec"]["scalingConfig"]["minReplicas"] = json!(99);
        });
        until("it is rejected, and what holds is kept", || {
            let object = server.get("functions", "f").expect("there");
            object["status"]["acceptedSpec"].is_string()
        })
        .await;
        first.end();
        let mut second = ClusterFixture::scheduled(&server);
        second.ready().await;
        pass(20.0).await;
        assert_eq!(server.names("pods"), pods, "no pod was touched");
        assert_eq!(second.table().len(), 1);
        let object = server.get("functions", "f").expect("there");
        let conditions = &object["status"]["conditions"];
        assert_eq!(
            (&conditions[0]["status"], &conditions[1]["status"]),
            (&json!("False"), &json!("True"))
        );
        assert_eq!(conditions[1]["observedGeneration"], 1);
        // When the spec is valid again, the status must have no `acceptedSpec`.
        server.edit("functions", "f", |function| {
            function["spec"]["scalingConfig"]["minReplicas"] = json!(1);
        });
        until("it is accepted", || {
            let object = server.get("functions", "f").expect("there");
            object["status"]["acceptedSpec"].is_null()
                && object["status"]["conditions"][0]["status"] == "True"
        })
        .await;
    });
}

#[test]
fn a_ceiling_lowered_in_between_is_kept_to() {
    scenario(|server| async move {
        let pods = pods_of_before(&server, "f", 4).await;
        assert_eq!(pods.len(), 4);
        server.edit("functions", "f", |function| {
            function["spec"]["scalingConfig"]["minReplicas"] = json!(1);
            function["spec"]["scalingConfig"]["maxReplicas"] = json!(1);
        });
        let mut fixture = ClusterFixture::scheduled(&server);
        fixture.ready().await;
        until("one is left", || server.names("pods").len() == 1).await;
        pass(20.0).await;
        assert_eq!(ready_pods(&server, "f"), 1);
        assert_eq!(server.ever("pods"), 4, "none was made");
    });
}
