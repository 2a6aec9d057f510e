//! Tests how the bridge begins: the order of its requests, the objects of earlier control planes that it
//! deletes, and the conditions for which it waits.

use nanofaas_core::message::Reply;
use nanofaas_fake_api_server::name_of;
use nanofaas_fake_api_server::script::{answer, any, of};
use serde_json::json;

use crate::attempt::{call, start, started, stop};
use crate::fixture::{ClusterFixture, object, pass, scenario, until, warm};

#[test]
fn pods_are_listed_and_watched_before_functions_are() {
    scenario(|server| async move {
        server.create("functions", object(warm("f")));
        let fixture = ClusterFixture::acting(&server).await;
        assert!(fixture.knows("f", "i:1"));
        let pods = server.asked(of("list", "pods"))[0].clone();
        let functions = server.asked(of("list", "functions"))[0].clone();
        assert!(pods.at <= functions.at);
        assert!(
            pods.query.contains("labelSelector=app=nanofaas"),
            "{}",
            pods.query
        );
        let all = server.asked(any());
        let at = |resource: &str| {
            all.iter()
                .position(|one| one.resource == resource && one.verb == "list")
        };
        assert!(at("pods") < at("functions"));
        until("both are watched", || server.watched().len() == 2).await;
    });
}

#[test]
fn jobs_of_other_instances_go_with_their_pods() {
    scenario(|server| async move {
        let labels = json!({"app": "nanofaas", "nanofaas.io/kind": "job",
            "nanofaas.io/job": "fn-f-1", "nanofaas.io/instance": "before"});
        let template = json!({"metadata": {"labels": labels}, "spec": {"containers": []}});
        server.create(
            "jobs",
            json!({"metadata": {"name": "fn-f-1", "labels": labels},
            "spec": {"template": template}}),
        );
        let mut pod = template.clone();
        pod["metadata"]["name"] = json!("fn-f-1-x");
        pod["metadata"]["labels"]["job-name"] = json!("fn-f-1");
        server.create("pods", pod);
        server.create("jobs", json!({"metadata": {"name": "mine"}, "spec": {}}));
        let _bench = ClusterFixture::acting(&server).await;
        until("it is gone", || server.names("jobs") == ["mine"]).await;
        until("its pod is, too", || server.names("pods").is_empty()).await;
        let deleted = server.asked(of("delete", "jobs")).remove(0);
        assert_eq!(deleted.body["propagationPolicy"], "Background");
        assert_eq!(
            server.count(of("delete", "pods")),
            0,
            "that is the collector's"
        );
    });
}

#[test]
fn a_late_found_old_job_is_deleted() {
    scenario(|server| async move {
        let fixture = ClusterFixture::acting(&server).await;
        pass(5.0).await;
        let labels = json!({"app": "nanofaas", "nanofaas.io/kind": "job",
            "nanofaas.io/job": "fn-f-1", "nanofaas.io/instance": "before"});
        let template = json!({"metadata": {"labels": labels}, "spec": {"containers": []}});
        server.create(
            "jobs",
            json!({"metadata": {"name": "fn-f-1", "labels": labels}, "spec": {}}),
        );
        let mut pod = template.clone();
        pod["metadata"]["name"] = json!("fn-f-1-x");
        pod["metadata"]["labels"]["job-name"] = json!("fn-f-1");
        server.create("pods", pod);
        until("both are gone", || {
            server.names("jobs").is_empty() && server.names("pods").is_empty()
        })
        .await;
        assert!(fixture.is_ready());
    });
}

#[test]
fn a_cluster_without_the_crd_is_waited_for() {
    scenario(|server| async move {
        for code in [404, 403] {
            server.script(of("list", "functions"), usize::MAX, answer(code));
            let mut fixture = ClusterFixture::new(&server);
            fixture.begin();
            pass(60.0).await;
            assert!(!fixture.is_ready());
            let count = server.count(of("list", "functions"));
            assert!((5..=20).contains(&count), "{count} lists in 60 s");
            server.mend();
            until("it is ready", || fixture.is_ready()).await;
            fixture.stop().await;
            server.forget_asked();
        }
    });
}

#[test]
fn a_list_of_many_pages_is_read_whole() {
    scenario(|server| async move {
        for number in 0..7 {
            server.create("functions", object(warm(&format!("f{number}"))));
        }
        server.limit_page(2);
        let fixture = ClusterFixture::acting(&server).await;
        assert_eq!(fixture.table().len(), 7);
        assert_eq!(server.count(of("list", "functions")), 4);
    });
}

#[test]
fn file_functions_are_written_where_missing() {
    scenario(|server| async move {
        server.create("functions", object(warm("there")));
        let mut fixture = ClusterFixture::new(&server);
        fixture.seeds = vec![warm("there"), warm("new")];
        fixture.seeds[0]["image"] = json!("i:2");
        fixture.ready().await;
        assert!(fixture.knows("there", "i:1") && fixture.knows("new", "i:1"));
        assert_eq!(fixture.created("functions"), 1);
        let made = server.get("functions", "new").expect("there");
        assert_eq!(name_of(&made), "new");
    });
}

#[test]
fn nothing_changes_before_the_cluster_is_known() {
    scenario(|server| async move {
        server.script(of("list", "functions"), 5, answer(500));
        let mut fixture = ClusterFixture::new(&server);
        fixture.begin();
        until("it was refused", || {
            server.count(of("list", "functions")) == 2
        })
        .await;
        let reply = fixture.register(warm("f"), false).await;
        assert!(matches!(reply, Reply::Refused(_)));
        until("it is ready", || fixture.is_ready()).await;
        assert!(fixture.warm("f").await.lane.index == 0);
    });
}

#[test]
fn warm_pods_are_owned_by_the_planes_deployment() {
    scenario(|server| async move {
        let owned = |name: &str, kind: &str, owner: &str| {
            json!({"metadata": {"name": name, "ownerReferences": [{"apiVersion": "apps/v1",
                "kind": kind, "name": owner, "uid": format!("uid-{owner}"), "controller": true}]}})
        };
        let mut pod = owned("plane-0", "ReplicaSet", "plane-rs");
        pod["spec"] = json!({"containers": []});
        server.create("pods", pod);
        server.create("replicasets", owned("plane-rs", "Deployment", "plane"));
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        let (_, name) = fixture.running(&function).await;
        let pod = server.get("pods", &name).expect("there");
        let owner = &pod["metadata"]["ownerReferences"][0];
        assert_eq!(owner["kind"], "Deployment");
        assert_eq!(owner["uid"], "uid-plane");
        // `kubectl drain` refuses to evict a pod without a controller, so the owner must be the controller.
        assert_eq!(owner["controller"], true);
    });
}

/// The garbage collector looks for an owner in the namespace of the dependent object. It would not find an
/// owner in another namespace, and would delete the object.
#[test]
fn nothing_is_owned_from_another_namespace() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::new(&server).at_home_in("another");
        fixture.ready().await;
        let function = fixture.warm("f").await;
        let (_, name) = fixture.running(&function).await;
        let object = server.get("pods", &name).expect("there");
        assert_eq!(object["metadata"]["ownerReferences"], json!(null));
        start(&fixture, &function, call(1));
        started(&fixture, call(1)).await;
        let job = server.names("jobs").remove(0);
        let object = server.get("jobs", &job).expect("there");
        assert_eq!(object["metadata"]["ownerReferences"], json!(null));
        stop(&fixture, call(1), None);
    });
}

#[test]
fn hundreds_of_functions_are_taken_with_their_status() {
    scenario(|server| async move {
        for number in 0..600 {
            server.create("functions", object(warm(&format!("f{number}"))));
        }
        let fixture = ClusterFixture::acting(&server).await;
        assert_eq!(fixture.table().len(), 600);
        until("all are written", || {
            server.count(of("patch", "functions/status")) >= 600
        })
        .await;
        pass(30.0).await;
        assert_eq!(server.count(of("patch", "functions/status")), 600);
    });
}
