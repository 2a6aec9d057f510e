//! Tests of starts of warm pods: how the pods are created and become ready, and why a start fails.

use std::time::Duration;

use nanofaas_core::message::{BridgeError, BridgeRequest, ReadyTimestamps, Reply};
use nanofaas_fake_api_server::kubelet::Fate;
use nanofaas_fake_api_server::script::{Fault, QUOTA, answer, of, refuse, too_many};
use nanofaas_fake_api_server::server::FakeApiServer;
use serde_json::{Value, json};

use crate::fixture::{ClusterFixture, pass, scenario, until, warm};

fn env<'a>(pod: &'a Value, name: &str) -> &'a str {
    let env = pod["spec"]["containers"][0]["env"]
        .as_array()
        .expect("a list");
    let found = env.iter().find(|one| one["name"] == name);
    let found = found.unwrap_or_else(|| panic!("there is no {name}"));
    found["value"].as_str().unwrap_or_default()
}

fn token(server: &FakeApiServer, pod: &str) -> String {
    let pod = server.get("pods", pod).expect("there");
    let url = env(&pod, "NANOFAAS_READY_URL");
    let (_, rest) = url.split_once("/v1/internal/").expect("our path");
    rest.split('/').next().expect("a token").to_owned()
}

fn word(token: &str, pod: &str, address: Option<&str>) -> BridgeRequest {
    BridgeRequest::PodReady {
        token: token.into(),
        pod: pod.into(),
        address: address.map(|text| text.parse().expect("an address")),
        timestamps: ReadyTimestamps::default(),
    }
}

async fn only_pod(server: &FakeApiServer) -> String {
    until("there is a pod", || server.names("pods").len() == 1).await;
    server.names("pods").remove(0)
}

async fn no_pod(server: &FakeApiServer) {
    until("no pod is left", || server.names("pods").is_empty()).await;
}

#[test]
fn a_pod_follows_the_contract_until_it_answers() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        let pod_id = fixture.start(&function);
        fixture.up(pod_id).await;
        let name = only_pod(&server).await;
        assert_eq!(
            fixture.address(pod_id).await,
            format!("{}:8080", server.address(&name))
        );
        assert!(
            name.starts_with("fn-f-") && name.len() == "fn-f-".len() + 5,
            "{name}"
        );
        let pod = server.get("pods", &name).expect("there");
        let labels = json!({"app": "nanofaas", "nanofaas.io/function": "f",
            "nanofaas.io/kind": "warm"});
        assert_eq!(pod["metadata"]["labels"], labels);
        assert!(pod["metadata"]["annotations"]["nanofaas.io/shape"].is_string());
        assert_eq!(pod["spec"]["restartPolicy"], "Never");
        assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 11);
        assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
        assert_eq!(env(&pod, "PORT"), "8080");
        assert_eq!(env(&pod, "FUNCTION_NAME"), "f");
        assert_eq!(env(&pod, "TIMEOUT_MS"), "1000");
        let url = env(&pod, "NANOFAAS_READY_URL");
        let end = format!("/pods/{name}:ready?address=$(NANOFAAS_POD_IP)");
        assert!(url.starts_with("http://127.0.0.1:1/v1/internal/") && url.ends_with(&end));
        let reply = fixture
            .ask(BridgeRequest::ColdStarts { name: "f".into() })
            .await;
        let Reply::ColdStarts(starts) = reply else {
            panic!("no cold starts");
        };
        let phases: Vec<&str> = starts[0].phases.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            phases,
            ["created", "scheduled", "address", "running", "usable"]
        );
    });
}

#[test]
fn only_a_pod_reports_itself_ready() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        server.kubelet().next(Fate::RunsMute);
        let pod_id = fixture.start(&function);
        let name = only_pod(&server).await;
        pass(3.0).await;
        let token = token(&server, &name);
        for (token, name, why) in [
            ("0123", &*name, BridgeError::Forbidden),
            (&*token, "fn-f-00000", BridgeError::NotFound),
        ] {
            let reply = fixture.ask(word(token, name, None)).await;
            assert!(matches!(reply, Reply::Refused(refused) if refused == why));
        }
        assert!(fixture.is_quiet());
        assert!(matches!(
            fixture.ask(word(&token, &name, None)).await,
            Reply::Ready
        ));
        fixture.up(pod_id).await;
    });
}

#[test]
fn a_pods_report_suffices_without_the_clusters() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        server.delay_watches(Duration::from_secs(15));
        server.kubelet().next(Fate::RunsMute);
        let pod_id = fixture.start(&function);
        let name = only_pod(&server).await;
        let token = token(&server, &name);
        let said = fixture.ask(word(&token, &name, Some("127.9.9.9"))).await;
        assert!(matches!(said, Reply::Ready));
        fixture.up(pod_id).await;
        assert_eq!(fixture.address(pod_id).await, "127.9.9.9:8080");
        pass(40.0).await;
        assert!(fixture.is_quiet() && server.names("pods") == [name]);
    });
}

#[test]
fn an_unpullable_image_is_a_permanent_failure() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        server
            .kubelet()
            .next(Fate::Waits("ErrImagePull", "manifest unknown"));
        let pod_id = fixture.start(&function);
        let failure = fixture.failure(pod_id).await;
        assert!(failure.permanent, "{failure:?}");
        assert_eq!(&*failure.message, "ErrImagePull: manifest unknown");
        no_pod(&server).await;
    });
}

#[test]
fn a_failed_container_creation_is_waited_for() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        let late = "failed to sync secret cache: timed out waiting for the condition";
        server
            .kubelet()
            .next(Fate::Waits("CreateContainerConfigError", late));
        let pod_id = fixture.start(&function);
        let why = fixture.held_up(pod_id).await;
        assert_eq!(why, format!("CreateContainerConfigError: {late}"));
        pass(10.0).await;
        let pod = server.names("pods").remove(0);
        server.runs(&pod, true).await;
        fixture.up(pod_id).await;
    });
}

#[test]
fn a_quota_failure_keeps_its_words() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        server.script(
            of("create", "pods"),
            usize::MAX,
            refuse(403, "Forbidden", QUOTA),
        );
        let pod_id = fixture.start(&function);
        let failure = fixture.failure(pod_id).await;
        assert!(failure.message.contains(QUOTA), "{failure:?}");
        assert_eq!(fixture.created("pods"), 1);
    });
}

#[test]
fn a_contended_quota_is_asked_again() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        server.script(of("create", "pods"), 2, answer(409));
        let pod_id = fixture.start(&function);
        fixture.up(pod_id).await;
        assert_eq!(fixture.created("pods"), 3);
    });
}

#[test]
fn an_unschedulable_pod_fails_with_the_reason() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        server
            .kubelet()
            .next(Fate::Unschedulable("0/1 nodes are available"));
        let began = tokio::time::Instant::now();
        let pod_id = fixture.start(&function);
        let why = fixture.held_up(pod_id).await;
        assert_eq!(why, "Unschedulable: 0/1 nodes are available");
        let failure = fixture.failure(pod_id).await;
        assert!(began.elapsed() >= fixture.start_timeout);
        assert!(!failure.permanent);
        assert!(
            failure.message.contains("0/1 nodes are available"),
            "{failure:?}"
        );
        assert!(failure.message.contains("20000 ms"), "{failure:?}");
        no_pod(&server).await;
    });
}

#[test]
fn an_early_exit_reports_its_last_output() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        server.kubelet().next(Fate::RunsMute);
        let pod_id = fixture.start(&function);
        let name = only_pod(&server).await;
        pass(0.5).await;
        server.end(&name, 3, "Error", "Traceback\nboom");
        let failure = fixture.failure(pod_id).await;
        assert!(!failure.permanent);
        assert!(failure.message.contains("status 3") && failure.message.ends_with("boom"));
        no_pod(&server).await;
    });
}

#[test]
fn a_pod_deleted_in_its_start_failed() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        server.kubelet().next(Fate::RunsMute);
        let pod_id = fixture.start(&function);
        let name = only_pod(&server).await;
        pass(0.5).await;
        server.delete_pod(&name);
        assert!(!fixture.failure(pod_id).await.permanent);
        no_pod(&server).await;
    });
}

#[test]
fn an_unanswered_creation_makes_one_pod() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        server.script(of("create", "pods"), 1, Fault::LoseAnswer);
        let pod_id = fixture.start(&function);
        fixture.up(pod_id).await;
        pass(5.0).await;
        assert_eq!(server.names("pods").len(), 1);
        assert_eq!(server.count(of("delete", "pods")), 0);
    });
}

#[test]
fn a_pod_created_without_an_answer_is_deleted() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        server.script(of("create", "pods"), 1, Fault::LoseAnswer);
        server.script(of("create", "pods"), usize::MAX, Fault::Close);
        let pod_id = fixture.start(&function);
        let failure = fixture.failure(pod_id).await;
        assert!(!failure.permanent, "{failure:?}");
        no_pod(&server).await;
        // Now the server creates the pod long after the control plane has stopped waiting for the answer.
        server.mend();
        server.script(
            of("create", "pods"),
            1,
            Fault::DoneLate(Duration::from_secs(40)),
        );
        server.script(of("create", "pods"), usize::MAX, answer(500));
        let pod_id = fixture.start(&function);
        fixture.failure(pod_id).await;
        until("it comes", || server.ever("pods") == 2).await;
        no_pod(&server).await;
        assert!(fixture.is_quiet());
    });
}

#[test]
fn retry_after_is_kept_and_errors_retried_bounded() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        server.script(of("create", "pods"), 1, too_many(2));
        let pod_id = fixture.start(&function);
        fixture.up(pod_id).await;
        let asked = server.asked(of("create", "pods"));
        assert_eq!(asked.len(), 2);
        assert!(asked[1].at - asked[0].at >= Duration::from_secs(2));
        server.forget_asked();
        server.script(of("create", "pods"), usize::MAX, answer(500));
        let pod_id = fixture.start(&function);
        fixture.failure(pod_id).await;
        let count = fixture.created("pods");
        assert!(count <= 20, "{count} tries in 20 s");
    });
}

#[test]
fn a_template_without_a_pod_fails_permanently() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let mut spec = warm("f");
        spec["podTemplate"] = json!({"spec": {"nodeSelector": ["no", "map"]}});
        let Reply::Registered { function, .. } = fixture.register(spec, false).await else {
            return;
        };
        let pod_id = fixture.start(&function);
        let failure = fixture.failure(pod_id).await;
        assert!(failure.permanent && failure.message.contains("podTemplate"));
        assert_eq!(fixture.created("pods"), 0);
    });
}

#[test]
fn many_pods_at_once_are_all_up() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        let pod_ids: Vec<_> = (0..60).map(|_| fixture.start(&function)).collect();
        let mut up = Vec::new();
        for _ in &pod_ids {
            match fixture.event().await {
                nanofaas_core::event::Event::PodUp(pod) => up.push(pod.index),
                _ => panic!("another event"),
            }
        }
        up.sort_unstable();
        let wanted: Vec<_> = pod_ids.iter().map(|pod| pod.index).collect();
        assert_eq!(up, wanted);
        assert_eq!(fixture.created("pods"), 60);
    });
}
