//! Tests of Jobs: how they are created, how an end without a result is reported, and that no Job is left
//! over.

use std::time::Duration;

use nanofaas_core::message::{Message, ReadyTimestamps};
use nanofaas_core::outcome::ExecutionError;
use nanofaas_fake_api_server::kubelet::Fate;
use nanofaas_fake_api_server::script::{Fault, QUOTA, answer, of, refuse};
use nanofaas_fake_api_server::server::FakeApiServer;
use serde_json::{Value, json};

use crate::attempt::{call, ended, start, start_with, started, stop, with_function};
use crate::fixture::{ClusterFixture, pass, scenario, until};

fn is_quiet(fixture: &ClusterFixture) -> bool {
    let messages = fixture.rings.messages.borrow();
    let is_end = |message: &Message| matches!(message, Message::JobEnded { .. });
    !messages[1].iter().any(is_end)
}

async fn nothing_left(server: &FakeApiServer) {
    until("no Job and no pod is left", || {
        server.names("jobs").is_empty() && server.names("pods").is_empty()
    })
    .await;
}

async fn only_pod(server: &FakeApiServer) -> String {
    until("there is a pod", || server.names("pods").len() == 1).await;
    server.names("pods").remove(0)
}

#[test]
fn a_job_follows_the_contract_and_is_deleted() {
    scenario(|server| async move {
        let (fixture, function) = with_function(&server).await;
        start(&fixture, &function, call(1));
        started(&fixture, call(1)).await;
        let name = server.names("jobs").remove(0);
        assert!(name.starts_with("fn-j-") && name.len() <= 63, "{name}");
        let job = server.get("jobs", &name).expect("there");
        let spec = &job["spec"];
        assert_eq!(spec["backoffLimit"], 0);
        assert_eq!(spec["activeDeadlineSeconds"], 90);
        for metadata in [&job["metadata"], &spec["template"]["metadata"]] {
            let labels = &metadata["labels"];
            assert_eq!(labels["app"], "nanofaas");
            assert_eq!(labels["nanofaas.io/function"], "j");
            assert_eq!(labels["nanofaas.io/kind"], "job");
            assert_eq!(labels["nanofaas.io/execution"], "0e");
            assert!(labels["nanofaas.io/instance"].is_string());
            assert_eq!(metadata["annotations"]["nanofaas.io/trace-id"], "t1");
        }
        let owner = &job["metadata"]["ownerReferences"][0];
        assert_eq!(
            (&owner["kind"], &owner["uid"]),
            (&json!("Pod"), &json!("plane-uid"))
        );
        let pod = &spec["template"]["spec"];
        assert_eq!(pod["restartPolicy"], "Never");
        assert_eq!(pod["automountServiceAccountToken"], false);
        let env = pod["containers"][0]["env"].as_array().expect("a list");
        let value = |name: &str| -> &Value {
            let found = env.iter().find(|one| one["name"] == name);
            &found.unwrap_or_else(|| panic!("there is no {name}"))["value"]
        };
        assert_eq!(value("EXECUTION_ID"), "0e");
        assert_eq!(value("INVOCATION_PAYLOAD"), "{\"input\":1}");
        let callback = "http://127.0.0.1:1/v1/internal/1.abc/executions";
        assert_eq!(value("CALLBACK_URL"), callback);
        assert_eq!(value("INVOCATION_TIMEOUT_MS"), "30000");
        stop(&fixture, call(1), None);
        nothing_left(&server).await;
        let deleted = server.asked(of("delete", "jobs"));
        assert_eq!(deleted.len(), 1);
        assert_eq!(deleted[0].body["propagationPolicy"], "Background");
        assert!(is_quiet(&fixture));
    });
}

#[test]
fn an_unanswered_creation_makes_one_job() {
    scenario(|server| async move {
        let (fixture, function) = with_function(&server).await;
        server.script(of("create", "jobs"), 1, Fault::LoseAnswer);
        start(&fixture, &function, call(1));
        started(&fixture, call(1)).await;
        pass(3.0).await;
        assert_eq!(server.names("jobs").len(), 1);
        assert_eq!(server.names("pods").len(), 1);
        stop(&fixture, call(1), None);
        nothing_left(&server).await;
    });
}

#[test]
fn an_unpullable_image_ends_the_call_early() {
    scenario(|server| async move {
        let (fixture, function) = with_function(&server).await;
        server
            .kubelet()
            .next(Fate::Waits("ErrImagePull", "manifest unknown"));
        let began = tokio::time::Instant::now();
        start(&fixture, &function, call(1));
        let (failure, oom) = ended(&fixture, call(1)).await;
        assert!(began.elapsed() < Duration::from_secs(5) && !oom);
        let why = "ErrImagePull: manifest unknown".into();
        assert_eq!(failure, ExecutionError::ColdStart(why));
        nothing_left(&server).await;
    });
}

#[test]
fn a_retried_pull_is_reported_and_ends_nothing() {
    scenario(|server| async move {
        let (fixture, function) = with_function(&server).await;
        let refused = "dial tcp 10.0.0.1:443: connect: connection refused";
        server.kubelet().next(Fate::Waits("ErrImagePull", refused));
        start(&fixture, &function, call(1));
        let told = loop {
            match fixture.message(1).await {
                Message::JobStarting {
                    held_up: Some(why), ..
                } => break why,
                Message::JobStarting { .. } => {}
                _ => panic!("another message than a start"),
            }
        };
        assert_eq!(*told, format!("ErrImagePull: {refused}"));
        let pod = only_pod(&server).await;
        // `ImagePullBackOff` is only the pause before the next pull. The bridge keeps the reason of the
        // failed pull, so the io thread gets no second report.
        server.waits(&pod, "ImagePullBackOff", "Back-off pulling image \"i\"");
        pass(10.0).await;
        let quiet = |message: &Message| {
            matches!(
                message,
                Message::JobStarting {
                    held_up: Some(_),
                    ..
                }
            )
        };
        assert!(!fixture.rings.messages.borrow()[1].iter().any(quiet) && is_quiet(&fixture));
        server.runs(&pod, true).await;
        started(&fixture, call(1)).await;
        stop(&fixture, call(1), None);
        nothing_left(&server).await;
    });
}

#[test]
fn an_endless_pull_ends_at_the_start_deadline() {
    scenario(|server| async move {
        let (fixture, function) = with_function(&server).await;
        server
            .kubelet()
            .next(Fate::Waits("ErrImagePull", "connection refused"));
        let began = tokio::time::Instant::now();
        start(&fixture, &function, call(1));
        let (failure, _) = ended(&fixture, call(1)).await;
        assert!(began.elapsed() >= crate::fixture::START_TIMEOUT);
        let said = "within 20000 ms: ErrImagePull: connection refused";
        assert!(
            matches!(&failure, ExecutionError::ColdStart(why) if why.ends_with(said)),
            "{failure:?}"
        );
        nothing_left(&server).await;
    });
}

#[test]
fn an_end_without_callback_has_cluster_words() {
    scenario(|server| async move {
        let (fixture, function) = with_function(&server).await;
        for (index, exit, reason, words, is_oom) in [
            (1, 137, "OOMKilled", "OOMKilled", true),
            (2, 3, "Error", "status 3", false),
            (3, 0, "Completed", "status 0", false),
        ] {
            start(&fixture, &function, call(index));
            started(&fixture, call(index)).await;
            let pod = only_pod(&server).await;
            server.end(&pod, exit, reason, "");
            let (failure, oom) = ended(&fixture, call(index)).await;
            assert_eq!(oom, is_oom);
            assert!(
                matches!(&failure, ExecutionError::PodLost(why) if why.contains(words)),
                "{failure:?}"
            );
            nothing_left(&server).await;
        }
        start(&fixture, &function, call(4));
        started(&fixture, call(4)).await;
        let pod = only_pod(&server).await;
        server.evict(&pod);
        let (failure, _) = ended(&fixture, call(4)).await;
        assert!(matches!(&failure, ExecutionError::PodLost(why) if why.contains("Evicted")));
        nothing_left(&server).await;
        start(&fixture, &function, call(5));
        started(&fixture, call(5)).await;
        let pod = only_pod(&server).await;
        server.remove("pods", &pod);
        let (failure, _) = ended(&fixture, call(5)).await;
        assert!(
            matches!(&failure, ExecutionError::PodLost(_)),
            "{failure:?}"
        );
        nothing_left(&server).await;
    });
}

#[test]
fn a_late_callback_after_the_exit_counts() {
    scenario(|server| async move {
        let (fixture, function) = with_function(&server).await;
        start(&fixture, &function, call(1));
        started(&fixture, call(1)).await;
        let pod = only_pod(&server).await;
        server.end(&pod, 0, "Completed", "");
        pass(0.3).await;
        stop(&fixture, call(1), Some(ReadyTimestamps::default()));
        nothing_left(&server).await;
        assert!(is_quiet(&fixture));
    });
}

#[test]
fn an_answered_job_may_exit_before_deletion() {
    scenario(|server| async move {
        let (fixture, function) = with_function(&server).await;
        start(&fixture, &function, call(1));
        started(&fixture, call(1)).await;
        let pod = only_pod(&server).await;
        stop(&fixture, call(1), Some(ReadyTimestamps::default()));
        pass(2.0).await;
        assert_eq!(server.count(of("delete", "jobs")), 0);
        server.end(&pod, 0, "Completed", "");
        nothing_left(&server).await;
        assert_eq!(server.count(of("delete", "pods")), 0);
        // The bridge waits only a few seconds for a container that does not exit.
        start(&fixture, &function, call(2));
        started(&fixture, call(2)).await;
        stop(&fixture, call(2), Some(ReadyTimestamps::default()));
        pass(8.0).await;
        nothing_left(&server).await;
        assert!(is_quiet(&fixture));
    });
}

#[test]
fn a_cancelled_job_is_deleted_wherever_it_is() {
    scenario(|server| async move {
        let (fixture, function) = with_function(&server).await;
        // The stop comes while the Job is being created.
        server.script(of("create", "jobs"), 1, Fault::Late(Duration::from_secs(3)));
        start(&fixture, &function, call(1));
        pass(1.0).await;
        stop(&fixture, call(1), None);
        pass(5.0).await;
        nothing_left(&server).await;
        // The stop comes while the Job's pod waits for a node.
        server.kubelet().next(Fate::Unschedulable("no nodes"));
        start(&fixture, &function, call(2));
        only_pod(&server).await;
        stop(&fixture, call(2), None);
        nothing_left(&server).await;
        // The stop comes before the Job is created.
        start(&fixture, &function, call(3));
        stop(&fixture, call(3), None);
        pass(5.0).await;
        nothing_left(&server).await;
        assert!(is_quiet(&fixture));
    });
}

#[test]
fn a_quota_refusal_is_read_from_events() {
    scenario(|server| async move {
        let (fixture, function) = with_function(&server).await;
        server.kubelet().next(Fate::Refused(QUOTA));
        let began = tokio::time::Instant::now();
        start(&fixture, &function, call(1));
        let (failure, _) = ended(&fixture, call(1)).await;
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(failure, ExecutionError::ColdStart(QUOTA.into()));
        nothing_left(&server).await;
        let asked = server.asked(of("list", "events"));
        assert!(
            asked[0].query.contains("involvedObject.name=fn-j-"),
            "{}",
            asked[0].query
        );
    });
}

#[test]
fn a_quota_that_refuses_the_job_is_reported() {
    scenario(|server| async move {
        let (fixture, function) = with_function(&server).await;
        server.script(of("create", "jobs"), 1, refuse(403, "Forbidden", QUOTA));
        start(&fixture, &function, call(1));
        let (failure, _) = ended(&fixture, call(1)).await;
        assert!(matches!(&failure, ExecutionError::ColdStart(why) if why.contains(QUOTA)));
        nothing_left(&server).await;
    });
}

#[test]
fn a_job_without_a_node_fails_in_time() {
    scenario(|server| async move {
        let (fixture, function) = with_function(&server).await;
        server
            .kubelet()
            .next(Fate::Unschedulable("0/1 nodes are available"));
        start(&fixture, &function, call(1));
        let (failure, _) = ended(&fixture, call(1)).await;
        let has_reason = |why: &str| why.contains("0/1 nodes") && why.contains("20000 ms");
        assert!(
            matches!(&failure, ExecutionError::ColdStart(why) if has_reason(why)),
            "{failure:?}"
        );
        nothing_left(&server).await;
        // If a Job has a pod, its Events are read at most one time.
        assert!(server.count(of("list", "events")) <= 1);
    });
}

#[test]
fn a_job_without_pods_is_polled_in_bounds() {
    scenario(|server| async move {
        let (fixture, function) = with_function(&server).await;
        server.delay_watches(Duration::from_secs(3600));
        start(&fixture, &function, call(1));
        let (failure, _) = ended(&fixture, call(1)).await;
        assert!(
            matches!(&failure, ExecutionError::ColdStart(_)),
            "{failure:?}"
        );
        let count = server.count(of("list", "events"));
        assert!((1..=6).contains(&count), "{count} looks in 20 s");
        nothing_left(&server).await;
    });
}

#[test]
fn a_lost_servers_job_fails_and_is_deleted() {
    scenario(|server| async move {
        let (fixture, function) = with_function(&server).await;
        server.script(of("create", "jobs"), 1, Fault::LoseAnswer);
        server.script(of("create", "jobs"), usize::MAX, Fault::Close);
        let began = tokio::time::Instant::now();
        start_with(&fixture, &function, call(1), 5000);
        let (failure, _) = ended(&fixture, call(1)).await;
        assert!(began.elapsed() <= Duration::from_millis(5500));
        assert!(
            matches!(&failure, ExecutionError::ColdStart(_)),
            "{failure:?}"
        );
        nothing_left(&server).await;
    });
}

#[test]
fn stopping_deletes_jobs_and_leaves_pods() {
    scenario(|server| async move {
        let (mut fixture, function) = with_function(&server).await;
        let warm = fixture.warm("w").await;
        let (_, pod) = fixture.running(&warm).await;
        start(&fixture, &function, call(1));
        until("its pod runs", || server.names("pods").len() == 2).await;
        fixture.stop().await;
        fixture.end();
        until("the Job's pod is gone", || {
            server.names("pods") == [pod.clone()]
        })
        .await;
        assert!(server.names("jobs").is_empty());
    });
}

#[test]
fn stopping_many_jobs_returns_the_lease_in_time() {
    scenario(|server| async move {
        let (mut fixture, function) = with_function(&server).await;
        for index in 0..30 {
            start(&fixture, &function, call(index));
        }
        until("they run", || server.names("pods").len() == 30).await;
        pass(2.0).await;
        let slow = Fault::Late(Duration::from_millis(200));
        server.script(of("delete", "jobs"), usize::MAX, slow);
        fixture.stop().await;
        fixture.end();
        assert_eq!(server.names("jobs").len(), 0);
        let lease = server.get("leases", "nanofaas").expect("there");
        assert_eq!(lease["spec"]["holderIdentity"], "");
    });
}

#[test]
fn the_lease_is_returned_despite_an_undeletable_job() {
    scenario(|server| async move {
        let (mut fixture, function) = with_function(&server).await;
        start(&fixture, &function, call(1));
        started(&fixture, call(1)).await;
        server.script(of("delete", "jobs"), usize::MAX, Fault::Hang);
        fixture.stop().await;
        fixture.end();
        let lease = server.get("leases", "nanofaas").expect("there");
        assert_eq!(lease["spec"]["holderIdentity"], "");
    });
}

#[test]
fn fifty_jobs_are_each_reported_and_none_left() {
    scenario(|server| async move {
        let (fixture, function) = with_function(&server).await;
        for index in 0..50 {
            start(&fixture, &function, call(index));
        }
        let mut started = 0;
        while started < 50 {
            match fixture.message(1).await {
                Message::JobStarting {
                    call,
                    running_since,
                    ..
                } => {
                    if running_since.is_some() {
                        started += 1;
                        stop(&fixture, call, None);
                    }
                }
                Message::JobEnded { failure, .. } => panic!("{failure:?}"),
                _ => panic!("another message"),
            }
        }
        nothing_left(&server).await;
        assert_eq!(fixture.created("jobs"), 50);
        assert!(is_quiet(&fixture));
    });
}

#[test]
fn a_refused_deletion_is_retried_until_done() {
    scenario(|server| async move {
        let (fixture, function) = with_function(&server).await;
        start(&fixture, &function, call(1));
        started(&fixture, call(1)).await;
        server.script(of("delete", "jobs"), usize::MAX, answer(500));
        stop(&fixture, call(1), None);
        pass(60.0).await;
        let count = server.count(of("delete", "jobs"));
        assert!((5..=40).contains(&count), "{count} tries in 60 s");
        server.mend();
        nothing_left(&server).await;
    });
}
