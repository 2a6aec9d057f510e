//! Tests how warm pods end: another client deletes them, the scheduler stops them, they exit, they are found
//! unhealthy, or the scheduler did not order them.

use std::time::Duration;

use nanofaas_core::event::Order;
use nanofaas_fake_api_server::script::{Fault, of};
use nanofaas_fake_api_server::server::FakeApiServer;
use serde_json::{Value, json};

use crate::fixture::{ClusterFixture, pass, scenario, until};

async fn no_pod(server: &FakeApiServer) {
    until("no pod is left", || server.names("pods").is_empty()).await;
}

#[test]
fn a_deleted_pod_gets_no_call_and_goes() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        let (pod_id, name) = fixture.running(&function).await;
        server.kubelet().lingering.set(Duration::from_secs(5));
        server.delete_pod(&name);
        fixture.leaving(pod_id).await;
        pass(3.0).await;
        assert!(fixture.is_quiet(), "calls may still run in it");
        fixture.down(pod_id).await;
        assert!(!fixture.gone(pod_id).await.oom);
    });
}

#[test]
fn a_stopped_pod_is_down_once_deleted() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        let (pod_id, name) = fixture.running(&function).await;
        let (_, other) = fixture.running(&function).await;
        server.kubelet().lingering.set(Duration::from_secs(3));
        fixture.rings.order(Order::Stop { pod: pod_id });
        pass(2.0).await;
        assert!(fixture.is_quiet());
        fixture.down(pod_id).await;
        fixture.gone(pod_id).await;
        let deleted = server.asked(of("delete", "pods"));
        assert_eq!(deleted.len(), 1);
        assert_eq!(deleted[0].name, name);
        assert_eq!(deleted[0].body["gracePeriodSeconds"], Value::Null);
        assert_eq!(server.names("pods"), [other]);
        // The bridge answers an order for a pod that is gone with `PodDown`.
        for order in [Order::Stop { pod: pod_id }, Order::Probe { pod: pod_id }] {
            fixture.rings.order(order);
            fixture.down(pod_id).await;
        }
    });
}

#[test]
fn a_pod_may_be_stopped_during_creation() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        server.script(of("create", "pods"), 1, Fault::Late(Duration::from_secs(3)));
        let pod_id = fixture.start(&function);
        pass(1.0).await;
        fixture.rings.order(Order::Stop { pod: pod_id });
        fixture.down(pod_id).await;
        pass(10.0).await;
        no_pod(&server).await;
        assert!(fixture.is_quiet());
    });
}

#[test]
fn ends_reach_io_threads_first_with_cluster_words() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        let (pod_id, name) = fixture.running(&function).await;
        server.end(&name, 137, "OOMKilled", "");
        fixture.down(pod_id).await;
        assert!(fixture.gone(pod_id).await.oom);
        let (pod_id, name) = fixture.running(&function).await;
        server.end(&name, 1, "Error", "last words");
        fixture.down(pod_id).await;
        let end = fixture.gone(pod_id).await;
        assert!(!end.oom && end.message.contains("last words"), "{end:?}");
        let (pod_id, name) = fixture.running(&function).await;
        server.evict(&name);
        fixture.down(pod_id).await;
        let end = fixture.gone(pod_id).await;
        assert!(end.message.contains("Evicted"), "{end:?}");
        let (pod_id, name) = fixture.running(&function).await;
        server.remove("pods", &name);
        fixture.down(pod_id).await;
        fixture.gone(pod_id).await;
        no_pod(&server).await;
    });
}

#[test]
fn an_unordered_pod_is_deleted_a_foreign_not() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        fixture.warm("f").await;
        let labels = json!({"app": "nanofaas", "nanofaas.io/kind": "warm",
            "nanofaas.io/function": "f"});
        let spec = json!({"containers": []});
        server.create(
            "pods",
            json!({"metadata": {"name": "fn-f-xxxxx", "labels": labels},
            "spec": spec}),
        );
        server.create(
            "pods",
            json!({"metadata": {"name": "mine", "labels": {"app": "nanofaas"}},
            "spec": spec}),
        );
        until("it is gone", || server.names("pods") == ["mine"]).await;
        pass(5.0).await;
        assert_eq!(server.count(of("delete", "pods")), 1);
    });
}

#[test]
fn a_well_pod_returns_a_sick_one_goes() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        let (pod_id, name) = fixture.running(&function).await;
        for _ in 0..3 {
            fixture.rings.order(Order::Probe { pod: pod_id });
            fixture.up(pod_id).await;
        }
        server.set_well(&name, false);
        fixture.rings.order(Order::Probe { pod: pod_id });
        pass(3.0).await;
        assert!(fixture.is_quiet(), "it has 5 s");
        server.set_well(&name, true);
        fixture.up(pod_id).await;
        server.set_well(&name, false);
        let began = tokio::time::Instant::now();
        fixture.rings.order(Order::Probe { pod: pod_id });
        fixture.down(pod_id).await;
        assert!(began.elapsed() >= Duration::from_secs(5));
        fixture.gone(pod_id).await;
        no_pod(&server).await;
    });
}

#[test]
fn a_pod_is_stopped_once_the_server_returns() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        let (pod_id, _) = fixture.running(&function).await;
        server.leave();
        fixture.rings.order(Order::Stop { pod: pod_id });
        pass(20.0).await;
        assert!(fixture.is_quiet());
        server.come_back().await;
        fixture.down(pod_id).await;
        no_pod(&server).await;
    });
}

#[test]
fn a_pod_that_stays_is_dropped_after_grace() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        let (pod_id, _) = fixture.running(&function).await;
        // The deleted pod stays for a long time, as a pod does when its node is lost.
        server.kubelet().lingering.set(Duration::from_secs(150));
        let began = tokio::time::Instant::now();
        fixture.rings.order(Order::Stop { pod: pod_id });
        fixture.down(pod_id).await;
        let took = began.elapsed();
        assert!(
            took > Duration::from_secs(11) && took < Duration::from_secs(60),
            "{took:?}"
        );
        no_pod(&server).await;
        assert!(fixture.is_quiet());
    });
}
