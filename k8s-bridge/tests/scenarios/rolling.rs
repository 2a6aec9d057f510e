//! Tests of changes of functions while their pods run, with a real scheduler: new specs, other modes,
//! deletions, and functions that are created again.

use nanofaas_core::message::{BridgeRequest, Reply};
use nanofaas_fake_api_server::script::of;
use nanofaas_fake_api_server::server::FakeApiServer;
use serde_json::{Value, json};

use crate::fixture::{ClusterFixture, object, pass, scenario, until, warm};

async fn with_pods(server: &FakeApiServer, count: u32) -> ClusterFixture {
    let mut spec = warm("f");
    spec["scalingConfig"]["minReplicas"] = json!(count);
    server.create("functions", object(spec));
    let mut fixture = ClusterFixture::scheduled(server);
    fixture.ready().await;
    until("its pods run", || running(server, "i:1") == count as usize).await;
    pass(1.0).await;
    fixture
}

/// Returns the number of pods with this image that run and are not being deleted.
fn running(server: &FakeApiServer, image: &str) -> usize {
    let all = server.objects("pods").into_iter();
    let is_one = |pod: &Value| {
        pod["status"]["phase"] == "Running"
            && pod["metadata"]["deletionTimestamp"].is_null()
            && pod["spec"]["containers"][0]["image"] == image
    };
    all.filter(is_one).count()
}

#[test]
fn new_pods_come_first_one_by_one() {
    scenario(|server| async move {
        let _bench = with_pods(&server, 3).await;
        server.edit("functions", "f", |there| {
            there["spec"]["image"] = json!("i:2")
        });
        until("all are new", || {
            let (old, new) = (running(&server, "i:1"), running(&server, "i:2"));
            assert!(old + new >= 3, "{old} old ones and {new} new ones");
            assert!(server.names("pods").len() <= 5, "one by one");
            old == 0 && new == 3
        })
        .await;
        pass(5.0).await;
        assert_eq!(server.names("pods").len(), 3);
        assert_eq!(server.ever("pods"), 6);
    });
}

#[test]
fn a_spec_that_shapes_no_pod_touches_none() {
    scenario(|server| async move {
        let fixture = with_pods(&server, 2).await;
        server.edit("functions", "f", |there| {
            there["spec"]["concurrency"] = json!(7)
        });
        until("it is known", || {
            fixture.function("f").spec.concurrency == 7
        })
        .await;
        pass(10.0).await;
        assert_eq!(
            (server.ever("pods"), server.count(of("delete", "pods"))),
            (2, 0)
        );
    });
}

#[test]
fn a_function_no_longer_warm_loses_its_pods() {
    scenario(|server| async move {
        let _bench = with_pods(&server, 2).await;
        server.edit("functions", "f", |there| {
            there["spec"]["executionMode"] = json!("JOB");
        });
        until("they are gone", || server.names("pods").is_empty()).await;
    });
}

#[test]
fn a_deleted_functions_pods_go_before_its_namesake() {
    scenario(|server| async move {
        let mut fixture = with_pods(&server, 2).await;
        let before = server.names("pods");
        let remove = BridgeRequest::Remove { name: "f".into() };
        assert!(matches!(fixture.ask(remove).await, Reply::Removed));
        until("they are gone", || server.names("pods").is_empty()).await;
        let mut spec = warm("f");
        spec["scalingConfig"]["minReplicas"] = json!(2);
        assert!(matches!(
            fixture.register(spec.clone(), false).await,
            Reply::Registered { .. }
        ));
        until("new ones run", || running(&server, "i:1") == 2).await;
        assert!(
            server
                .names("pods")
                .iter()
                .all(|name| !before.contains(name))
        );
        // Another client may delete a function and create it again at once.
        server.remove("functions", "f");
        server.create("functions", object(spec));
        pass(20.0).await;
        assert_eq!(
            (running(&server, "i:1"), server.names("pods").len()),
            (2, 2)
        );
    });
}

#[test]
fn the_floor_decides_how_many_pods() {
    scenario(|server| async move {
        let mut fixture = with_pods(&server, 1).await;
        for (replicas, count) in [(4, 4), (2, 4)] {
            let scale = BridgeRequest::Scale {
                name: "f".into(),
                replicas,
            };
            assert!(matches!(fixture.ask(scale).await, Reply::Scaled { .. }));
            until("they run", || running(&server, "i:1") == count).await;
        }
        // Pods above `minReplicas` are stopped after this idle time.
        server.edit("functions", "f", |there| {
            there["spec"]["scalingConfig"]["idleTimeoutMs"] = json!(1000);
        });
        until("the rest goes", || server.names("pods").len() == 2).await;
        pass(5.0).await;
        assert_eq!(running(&server, "i:1"), 2);
    });
}
