//! Tests of each function's status in the cluster. A status is written only if it has changed: a condition at
//! the next poll, and numbers at most every 10 s.

use std::time::Duration;

use nanofaas_core::event::Order;
use nanofaas_fake_api_server::kubelet::Fate;
use nanofaas_fake_api_server::script::{answer, of};
use nanofaas_fake_api_server::server::FakeApiServer;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::fixture::{ClusterFixture, object, pass, scenario, until, warm};

pub(crate) fn status(server: &FakeApiServer, name: &str) -> Value {
    server.get("functions", name).unwrap_or_default()["status"].clone()
}

#[test]
fn an_unchanged_status_is_written_once() {
    scenario(|server| async move {
        server.create("functions", object(warm("f")));
        let mut fixture = ClusterFixture::acting(&server).await;
        until("it is written", || status(&server, "f")["readyPods"] == 0).await;
        let written = status(&server, "f");
        assert_eq!(written["conditions"][0]["type"], "Accepted");
        assert_eq!(written["conditions"][0]["status"], "True");
        assert_eq!(written["observedGeneration"], 1);
        pass(60.0).await;
        assert_eq!(server.count(of("patch", "functions/status")), 1);
        // A second control plane finds the status as it should be, so it writes nothing.
        fixture.end();
        let _bench = ClusterFixture::acting(&server).await;
        pass(30.0).await;
        assert_eq!(server.count(of("patch", "functions/status")), 1);
    });
}

#[test]
fn many_changes_are_one_write_in_ten_seconds() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        for _ in 0..10 {
            let (pod, _) = fixture.running(&function).await;
            fixture.rings.order(Order::Stop { pod });
            fixture.down(pod).await;
            fixture.gone(pod).await;
            pass(1.0).await;
        }
        fixture.running(&function).await;
        until("the last is written", || {
            status(&server, "f")["readyPods"] == 1
        })
        .await;
        let writes = server.asked(of("patch", "functions/status"));
        for pair in writes.windows(2) {
            let between = pair[1].at - pair[0].at;
            assert!(between >= Duration::from_secs(10), "{between:?}");
        }
        assert!(writes.len() >= 2);
    });
}

#[test]
fn a_failed_status_write_is_tried_again_later() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        server.script(of("patch", "functions/status"), usize::MAX, answer(403));
        fixture.warm("f").await;
        pass(45.0).await;
        let count = server.count(of("patch", "functions/status"));
        assert!((2..=6).contains(&count), "{count} tries in 45 s");
        server.mend();
        until("it is written", || status(&server, "f")["readyPods"] == 0).await;
    });
}

#[test]
fn an_accepted_edit_shows_in_the_status() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        fixture.warm("f").await;
        until("it is written", || status(&server, "f")["readyPods"] == 0).await;
        server.edit("functions", "f", |there| {
            there["spec"]["timeoutMs"] = json!(2000)
        });
        until("it is seen", || {
            status(&server, "f")["observedGeneration"] == 2
        })
        .await;
    });
}

/// Returns the largest number of status writes within ten seconds.
fn densest(server: &FakeApiServer) -> usize {
    let writes = server.asked(of("patch", "functions/status"));
    let of = |from: Instant| {
        let within = |at: Instant| at >= from && at < from + Duration::from_secs(10);
        writes.iter().filter(|one| within(one.at)).count()
    };
    writes
        .iter()
        .map(|one| of(one.at))
        .max()
        .unwrap_or_default()
}

#[test]
fn condition_changes_are_written_at_once_in_bounds() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        fixture.warm("f").await;
        until("it is written", || status(&server, "f")["readyPods"] == 0).await;
        pass(20.0).await;
        for generation in 2..5 {
            let begun = Instant::now();
            server.edit("functions", "f", |there| {
                there["spec"]["timeoutMs"] = json!(1000 + generation);
            });
            until("it is seen", || {
                status(&server, "f")["observedGeneration"] == generation
            })
            .await;
            assert!(begun.elapsed() < Duration::from_secs(2));
        }
        for more in 0..100 {
            server.edit("functions", "f", |there| {
                there["spec"]["timeoutMs"] = json!(2000 + more);
            });
            pass(0.4).await;
        }
        until("the last is seen", || {
            status(&server, "f")["observedGeneration"] == 104
        })
        .await;
        assert_eq!(densest(&server), 5);
    });
}

#[test]
fn the_crd_has_every_field_of_a_status() {
    fn visit(value: &Value, schema: &Value, path: &str) {
        for (name, inner) in value.as_object().into_iter().flatten() {
            let known = &schema["properties"][name];
            // The API server drops fields that the schema does not have.
            assert!(known.is_object(), "{path}.{name} is not in the CRD");
            visit(inner, known, &format!("{path}.{name}"));
        }
        for inner in value.as_array().into_iter().flatten() {
            visit(inner, &schema["items"], path);
        }
    }
    scenario(|server| async move {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../k8s/base/crd.yaml");
        let text = std::fs::read_to_string(path).expect("the CRD");
        let crd: Value = serde_saphyr::from_str(&text).expect("YAML");
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let status_schema = &schema["properties"]["status"];
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        server
            .kubelet()
            .next(Fate::Waits("ErrImagePull", "unknown"));
        let pod = fixture.start(&function);
        fixture.failure(pod).await;
        server.edit("functions", "f", |function| {
            function["spec"]["timeoutMs"] = json!(0);
        });
        until("it has everything", || {
            let written = status(&server, "f");
            written["lastFailedStart"].is_object() && written["acceptedSpec"].is_string()
        })
        .await;
        let written = status(&server, "f");
        visit(&written, status_schema, "status");
        let fields = status_schema["properties"].as_object().expect("fields");
        for name in fields.keys() {
            assert!(!written[name].is_null(), "{name} is never written");
        }
    });
}
