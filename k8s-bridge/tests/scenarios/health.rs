//! Tests when a warm pod is ready and healthy: if it answers 2xx at its function's health path. The answers
//! 404 and 405 also count until the pod has answered 2xx.

use nanofaas_core::event::Order;
use nanofaas_core::message::Reply;
use serde_json::json;

use crate::fixture::{ClusterFixture, pass, scenario, warm};

#[test]
fn a_pod_is_asked_at_its_functions_path() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let mut spec = warm("f");
        spec["healthPath"] = json!("/up?deep=1");
        let Reply::Registered { function, .. } = fixture.register(spec, false).await else {
            panic!("it is not taken");
        };
        // The pod answers 200 at this path only. At other paths it answers 421, which does not count as
        // ready.
        server
            .kubelet()
            .health_path
            .replace("/up?deep=1".to_owned());
        let (pod_id, _) = fixture.running(&function).await;
        fixture.rings.order(Order::Probe { pod: pod_id });
        fixture.up(pod_id).await;
        let kept = server.get("functions", "f").expect("an object");
        assert_eq!(kept["spec"]["healthPath"], "/up?deep=1");
    });
}

#[test]
fn a_404_is_ready_without_a_health_path() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        for status in [404, 405] {
            server.kubelet().health.set(status);
            let function = fixture.warm(&format!("f{status}")).await;
            let (pod_id, name) = fixture.running(&function).await;
            fixture.rings.order(Order::Probe { pod: pod_id });
            fixture.up(pod_id).await;
            server.set_health(&name, 204);
            fixture.rings.order(Order::Probe { pod: pod_id });
            fixture.up(pod_id).await;
            server.set_health(&name, status);
            fixture.rings.order(Order::Probe { pod: pod_id });
            fixture.down(pod_id).await;
            fixture.gone(pod_id).await;
        }
    });
}

#[test]
fn other_statuses_are_named_when_the_start_fails() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        server.kubelet().health.set(503);
        let pod_id = fixture.start(&function);
        let failure = fixture.failure(pod_id).await;
        let message = &*failure.message;
        assert!(
            !failure.permanent && message.contains("its last answer was 503"),
            "{message}"
        );
        assert!(message.contains("GET /health on port 8080"), "{message}");
        pass(1.0).await;
        assert!(fixture.is_quiet());
    });
}
