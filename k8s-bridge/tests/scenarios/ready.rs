//! Tests of the condition `Ready`: when a function can serve, and why it cannot.

use nanofaas_core::event::Order;
use nanofaas_fake_api_server::kubelet::Fate;
use nanofaas_fake_api_server::script::{QUOTA, of, refuse};
use nanofaas_fake_api_server::selects;
use nanofaas_fake_api_server::server::FakeApiServer;
use serde_json::{Value, json};

use crate::attempt;
use crate::fixture::{ClusterFixture, object, pass, scenario, until, warm};
use crate::status::status;

pub(crate) fn wanting(name: &str, pods: u32) -> Value {
    let mut spec = warm(name);
    spec["scalingConfig"]["minReplicas"] = json!(pods);
    spec
}

/// Returns null if the status has no such condition.
fn condition(server: &FakeApiServer, name: &str, kind: &str) -> Value {
    let status = status(server, name);
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|one| one["type"] == kind);
    found.unwrap_or_default()
}

/// Returns whether `kubectl wait --for=condition=Ready` would succeed.
pub(crate) fn is_ready(server: &FakeApiServer, name: &str) -> bool {
    let ready = condition(server, name, "Ready");
    let object = server.get("functions", name).unwrap_or_default();
    ready["status"] == "True" && ready["observedGeneration"] == object["metadata"]["generation"]
}

/// Waits until the condition `Ready` is false for this reason; returns the condition's message.
async fn not_ready(server: &FakeApiServer, name: &str, reason: &str) -> String {
    until(&format!("{name} is not ready: {reason}"), || {
        let ready = condition(server, name, "Ready");
        ready["status"] == "False" && ready["reason"] == reason
    })
    .await;
    let ready = condition(server, name, "Ready");
    ready["message"].as_str().unwrap_or_default().to_owned()
}

async fn ready_for(server: &FakeApiServer, name: &str, reason: &str) {
    until(&format!("{name} is ready: {reason}"), || {
        is_ready(server, name) && condition(server, name, "Ready")["reason"] == reason
    })
    .await;
}

#[test]
fn each_spec_is_ready_with_its_first_pod() {
    scenario(|server| async move {
        server.kubelet().next(Fate::Nothing);
        server.create("functions", object(wanting("f", 1)));
        let mut fixture = ClusterFixture::scheduled(&server);
        fixture.ready().await;
        not_ready(&server, "f", "Starting").await;
        assert_eq!(status(&server, "f")["wantedPods"], 1);
        let pods = || server.names("pods");
        until("there is a pod", || pods().len() == 1).await;
        server.runs(&pods()[0], true).await;
        ready_for(&server, "f", "PodsReady").await;
        let since = condition(&server, "f", "Ready")["lastTransitionTime"].clone();
        // A change of `concurrency` does not change the pod, so the function stays ready.
        server.edit("functions", "f", |there| {
            there["spec"]["concurrency"] = json!(9)
        });
        until("the edit is seen", || is_ready(&server, "f")).await;
        assert_eq!(
            condition(&server, "f", "Ready")["lastTransitionTime"],
            since
        );
        let old = pods().remove(0);
        server.kubelet().next(Fate::Nothing);
        server.edit("functions", "f", |there| {
            there["spec"]["image"] = json!("i:2")
        });
        assert!(!is_ready(&server, "f"));
        until("another pod is there", || pods().len() == 2).await;
        for _ in 0..50 {
            pass(0.2).await;
            assert!(!is_ready(&server, "f"), "no pod of the new image is up");
        }
        assert_eq!(condition(&server, "f", "Ready")["observedGeneration"], 3);
        assert_eq!(status(&server, "f")["readyPods"], 1);
        let new = pods().into_iter().find(|name| *name != old);
        server.runs(&new.expect("there"), true).await;
        ready_for(&server, "f", "PodsReady").await;
    });
}

#[test]
fn the_hold_up_is_the_reason_while_waiting() {
    scenario(|server| async move {
        let why = "0/1 nodes are available";
        server.kubelet().next(Fate::Unschedulable(why));
        server.create("functions", object(wanting("f", 1)));
        let mut fixture = ClusterFixture::scheduled(&server);
        fixture.ready().await;
        let message = not_ready(&server, "f", "Unschedulable").await;
        assert!(message.contains(why), "{message}");
        assert!(status(&server, "f")["lastFailedStart"].is_null());
        until("its deadline passes", || {
            status(&server, "f")["lastFailedStart"]["reason"] == "Unschedulable"
        })
        .await;
        ready_for(&server, "f", "PodsReady").await;
        // The status keeps the last failed start, even when the function is ready.
        let message = status(&server, "f")["lastFailedStart"]["message"].clone();
        assert!(message.as_str().is_some_and(|text| text.contains(why)));
    });
}

#[test]
fn each_way_to_fail_has_its_reason() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let long = "no such image ".repeat(200);
        let long: &'static str = long.leak();
        for (name, fate, reason) in [
            ("pull", Fate::Waits("ErrImagePull", long), "ImagePull"),
            (
                "config",
                Fate::Waits("CreateContainerConfigError", "secret \"x\" not found"),
                "Config",
            ),
            ("mute", Fate::RunsMute, "NotReady"),
            ("crash", Fate::RunsMute, "CrashLoop"),
            ("quota", Fate::Runs, "Quota"),
            ("refused", Fate::Runs, "Refused"),
            ("deleted", Fate::Nothing, "Deleted"),
        ] {
            let function = fixture.warm(name).await;
            ready_for(&server, name, "ScaledToZero").await;
            let refusal = match name {
                "quota" => Some(QUOTA),
                "refused" => Some("violates PodSecurity \"baseline\""),
                _ => None,
            };
            match refusal {
                Some(words) => {
                    server.script(of("create", "pods"), 1, refuse(403, "Forbidden", words));
                }
                None => server.kubelet().next(fate),
            }
            let pod = fixture.start(&function);
            if matches!(name, "crash" | "deleted") {
                until("there is a pod", || !server.names("pods").is_empty()).await;
                pass(0.5).await;
                let pod = server.names("pods").remove(0);
                match name {
                    "crash" => server.end(&pod, 3, "Error", "boom"),
                    _ => server.delete_pod(&pod),
                }
            }
            fixture.failure(pod).await;
            let message = not_ready(&server, name, reason).await;
            let last = status(&server, name)["lastFailedStart"].clone();
            assert_eq!(last["reason"], reason);
            assert_eq!(last["message"], message);
            assert!(message.len() <= 1024 && !message.is_empty(), "{message}");
            let prefix = format!("fn-{name}-");
            let pod = last["pod"].as_str().unwrap_or_default();
            assert!(pod.starts_with(&prefix), "{last}");
            until("no pod is left", || server.names("pods").is_empty()).await;
        }
    });
}

#[test]
fn one_good_start_is_ready_at_zero_replicas() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        ready_for(&server, "f", "ScaledToZero").await;
        server
            .kubelet()
            .next(Fate::Waits("ErrImagePull", "unknown"));
        let pod = fixture.start(&function);
        fixture.failure(pod).await;
        not_ready(&server, "f", "ImagePull").await;
        let (pod, _) = fixture.running(&function).await;
        ready_for(&server, "f", "PodsReady").await;
        fixture.rings.order(Order::Stop { pod });
        fixture.down(pod).await;
        ready_for(&server, "f", "ScaledToZero").await;
    });
}

#[test]
fn a_successor_trusts_the_status_and_writes_nothing() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        server
            .kubelet()
            .next(Fate::Waits("ErrImagePull", "unknown"));
        let pod = fixture.start(&function);
        fixture.failure(pod).await;
        not_ready(&server, "f", "ImagePull").await;
        pass(30.0).await;
        let before = status(&server, "f");
        fixture.end();
        server.forget_asked();
        let _successor = ClusterFixture::acting(&server).await;
        pass(30.0).await;
        assert_eq!(status(&server, "f"), before);
        assert_eq!(server.count(of("patch", "functions/status")), 0);
        // Another image may work, so the failure does not count any more.
        server.edit("functions", "f", |there| {
            there["spec"]["image"] = json!("i:2")
        });
        ready_for(&server, "f", "ScaledToZero").await;
        assert_eq!(
            status(&server, "f")["lastFailedStart"]["reason"],
            "ImagePull"
        );
    });
}

#[test]
fn a_job_function_follows_its_last_start() {
    scenario(|server| async move {
        let (fixture, function) = attempt::with_function(&server).await;
        ready_for(&server, "j", "OnDemand").await;
        server.kubelet().next(Fate::Refused(QUOTA));
        attempt::start(&fixture, &function, attempt::call(1));
        attempt::ended(&fixture, attempt::call(1)).await;
        let message = not_ready(&server, "j", "Quota").await;
        assert!(message.contains(QUOTA), "{message}");
        attempt::start(&fixture, &function, attempt::call(2));
        attempt::started(&fixture, attempt::call(2)).await;
        ready_for(&server, "j", "OnDemand").await;
        attempt::stop(&fixture, attempt::call(2), None);
    });
}

#[test]
fn an_invalid_spec_is_unready_though_one_serves() {
    scenario(|server| async move {
        let mut spec = wanting("f", 1);
        server.create("functions", object(spec.clone()));
        let mut fixture = ClusterFixture::scheduled(&server);
        fixture.ready().await;
        ready_for(&server, "f", "PodsReady").await;
        server.edit("functions", "f", |there| {
            there["spec"]["env"] = json!({"PORT": "1"});
        });
        until("it is rejected", || {
            condition(&server, "f", "Accepted")["status"] == "False"
        })
        .await;
        let ready = condition(&server, "f", "Ready");
        assert_eq!(ready["status"], "True");
        assert_eq!(ready["observedGeneration"], 1);
        assert!(!is_ready(&server, "f"));
        spec["name"] = json!("g");
        spec["env"] = json!({"PORT": "1"});
        server.create("functions", object(spec));
        not_ready(&server, "g", "NotAccepted").await;
    });
}

#[test]
fn the_scale_subresources_numbers_follow_an_edit() {
    scenario(|server| async move {
        server.create("functions", object(wanting("f", 1)));
        let mut fixture = ClusterFixture::scheduled(&server);
        fixture.ready().await;
        ready_for(&server, "f", "PodsReady").await;
        // `kubectl scale fn/f --replicas=3` writes this field.
        server.edit("functions", "f", |there| {
            there["spec"]["scalingConfig"]["minReplicas"] = json!(3);
        });
        until("three are up", || {
            let status = status(&server, "f");
            ["readyPods", "wantedPods", "replicas"]
                .iter()
                .all(|field| status[*field] == 3)
        })
        .await;
        let selector = status(&server, "f")["selector"].clone();
        let selector = selector.as_str().expect("a selector").to_owned();
        let selected = server.objects("pods").into_iter();
        let selected = selected.filter(|pod| selects(&selector, pod));
        assert_eq!(selected.count(), 3);
    });
}
