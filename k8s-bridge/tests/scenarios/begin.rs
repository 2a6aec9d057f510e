//! The beginning: what is listed first, what is adopted, what is deleted.

use nanofaas_core::event::Order;
use nanofaas_core::message::Reply;
use serde_json::{Value, json};

use crate::bench::{Bench, object, pass, scenario, until, warm};
use crate::kubelet::Fate;
use crate::script::{answer, of};
use crate::server::Server;
use crate::store::name_of;

/// A WARM function that wants so many pods.
fn wanting(name: &str, pods: u32) -> Value {
    let mut spec = warm(name);
    spec["scalingConfig"]["minReplicas"] = json!(pods);
    spec
}

/// The pods that a plane before made of a function, running.
async fn pods_of_before(server: &Server, name: &str, count: u32) -> Vec<String> {
    server.create("functions", object(wanting(name, count)));
    let mut before = Bench::scheduled(server);
    before.ready().await;
    until("they are up", || {
        ready_pods(server, name) == u64::from(count)
    })
    .await;
    before.end();
    server.names("pods")
}

/// As the function's status says.
fn ready_pods(server: &Server, name: &str) -> u64 {
    let function = server.get("functions", name);
    function.unwrap_or_default()["status"]["readyPods"]
        .as_u64()
        .unwrap_or_default()
}

fn adopted(bench: &Bench) -> usize {
    let orders = bench.rings.orders.borrow();
    let places = orders
        .iter()
        .filter(|order| matches!(order, Order::Adopted { pod, .. } if pod.is_some()));
    places.count()
}

#[test]
fn pods_are_listed_and_watched_before_functions_are() {
    scenario(|server| async move {
        server.create("functions", object(warm("f")));
        let bench = Bench::acting(&server).await;
        assert!(bench.knows("f", "i:1"));
        let pods = server.asked(of("list", "pods"))[0].clone();
        let functions = server.asked(of("list", "functions"))[0].clone();
        assert!(pods.at <= functions.at);
        assert!(
            pods.query.contains("labelSelector=app=nanofaas"),
            "{}",
            pods.query
        );
        let all = server.asked(crate::script::any());
        let at = |resource: &str| {
            all.iter()
                .position(|one| one.resource == resource && one.verb == "list")
        };
        assert!(at("pods") < at("functions"));
        until("both are watched", || server.0.watches.borrow().len() == 2).await;
    });
}

#[test]
fn running_pods_are_adopted_and_none_is_touched_or_made() {
    scenario(|server| async move {
        let pods = pods_of_before(&server, "f", 3).await;
        assert_eq!(pods.len(), 3);
        let versions = |server: &Server| -> Vec<Value> {
            let store = server.0.store.borrow();
            let of = |pod: &&Value| pod["metadata"]["resourceVersion"].clone();
            store.all("pods").iter().map(of).collect()
        };
        let before = versions(&server);
        server.forget_asked();
        let mut bench = Bench::scheduled(&server);
        bench.ready().await;
        pass(30.0).await;
        assert_eq!(server.names("pods"), pods);
        assert_eq!(versions(&server), before);
        let touched = server.changes();
        let touched: Vec<_> = touched
            .iter()
            .filter(|one| one.resource == "pods")
            .collect();
        assert!(touched.is_empty(), "{touched:?}");
        assert_eq!(adopted(&bench), 3);
    });
}

#[test]
fn pods_of_another_shape_are_adopted_as_stale_and_those_of_the_same_are_not() {
    scenario(|server| async move {
        pods_of_before(&server, "f", 1).await;
        server.edit("functions", "f", |function| {
            function["spec"]["concurrency"] = json!(9);
        });
        let mut bench = Bench::acting(&server).await;
        assert!(!bench.rings.adopted.borrow()[0].stale, "it shapes no pod");
        bench.end();
        server.edit("functions", "f", |function| {
            function["spec"]["image"] = json!("i:2")
        });
        let bench = Bench::acting(&server).await;
        assert_eq!(bench.rings.adopted.borrow().len(), 1);
        assert!(bench.rings.adopted.borrow()[0].stale);
    });
}

#[test]
fn a_stale_pod_is_replaced_and_the_new_one_comes_first() {
    scenario(|server| async move {
        let old = pods_of_before(&server, "f", 1).await.remove(0);
        server.edit("functions", "f", |function| {
            function["spec"]["image"] = json!("i:2")
        });
        server.forget_asked();
        let mut bench = Bench::scheduled(&server);
        bench.ready().await;
        until("the old one is gone", || {
            !server.names("pods").contains(&old)
        })
        .await;
        pass(5.0).await;
        let store = server.0.store.borrow();
        let pods = store.all("pods");
        assert_eq!(pods.len(), 1);
        assert_eq!(pods[0]["spec"]["containers"][0]["image"], "i:2");
        let changes = server.changes();
        let of_pods = changes.iter().filter(|one| one.resource == "pods");
        let verbs: Vec<_> = of_pods.map(|one| one.verb).collect();
        assert_eq!(verbs, ["create", "delete"]);
    });
}

#[test]
fn pods_of_functions_that_are_no_more_are_deleted() {
    scenario(|server| async move {
        let pods = pods_of_before(&server, "f", 2).await;
        server.remove("functions", "f");
        let mut other = json!({"metadata": {"name": "mine", "labels": {"app": "mine"}}});
        other["spec"] = json!({"containers": []});
        server.create("pods", other);
        server.create("functions", object(warm("g")));
        let _bench = Bench::acting(&server).await;
        until("they are gone", || server.names("pods") == ["mine"]).await;
        let deleted = server.asked(of("delete", "pods"));
        assert_eq!(deleted.len(), pods.len());
    });
}

#[test]
fn a_pod_of_a_function_that_is_not_warm_any_more_is_deleted() {
    scenario(|server| async move {
        pods_of_before(&server, "f", 1).await;
        server.edit("functions", "f", |function| {
            function["spec"]["executionMode"] = json!("JOB");
        });
        let _bench = Bench::acting(&server).await;
        until("it is gone", || server.names("pods").is_empty()).await;
    });
}

#[test]
fn an_ended_pod_of_before_is_deleted_and_a_leaving_one_left_alone() {
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
        let bench = Bench::acting(&server).await;
        until("both are gone", || server.names("pods").is_empty()).await;
        let deleted = server.asked(of("delete", "pods"));
        let names: Vec<_> = deleted.iter().map(|one| &one.name).collect();
        assert_eq!(names, [&pods[0]]);
        assert!(bench.rings.adopted.borrow().is_empty());
    });
}

#[test]
fn jobs_of_other_instances_are_deleted_with_their_pods() {
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
        let _bench = Bench::acting(&server).await;
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
fn a_list_of_many_pages_is_read_whole() {
    scenario(|server| async move {
        for number in 0..7 {
            server.create("functions", object(warm(&format!("f{number}"))));
        }
        server.0.page.set(2);
        let bench = Bench::acting(&server).await;
        assert_eq!(bench.table().len(), 7);
        assert_eq!(server.count(of("list", "functions")), 4);
    });
}

#[test]
fn functions_of_files_are_written_where_the_cluster_has_none_of_the_name() {
    scenario(|server| async move {
        server.create("functions", object(warm("there")));
        let mut bench = Bench::new(&server);
        bench.seeds = vec![warm("there"), warm("new")];
        bench.seeds[0]["image"] = json!("i:2");
        bench.ready().await;
        assert!(bench.knows("there", "i:1") && bench.knows("new", "i:1"));
        assert_eq!(bench.created("functions"), 1);
        let made = server.get("functions", "new").expect("there");
        assert_eq!(name_of(&made), "new");
    });
}

#[test]
fn an_adopted_pod_that_does_not_answer_is_replaced_and_the_plane_begins_all_the_same() {
    scenario(|server| async move {
        let pods = pods_of_before(&server, "f", 2).await;
        server.set_well(&pods[0], false);
        let mut bench = Bench::scheduled(&server);
        let began = tokio::time::Instant::now();
        bench.ready().await;
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
fn nothing_is_changed_before_the_plane_knows_what_there_is() {
    scenario(|server| async move {
        server.script(of("list", "functions"), 5, answer(500));
        let mut bench = Bench::new(&server);
        bench.begin();
        until("it was refused", || {
            server.count(of("list", "functions")) == 2
        })
        .await;
        let reply = bench.register(warm("f"), false).await;
        assert!(matches!(reply, Reply::Refused(_)));
        until("it is ready", || bench.is_ready()).await;
        assert!(bench.warm("f").await.lane == 0);
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
        let mut bench = Bench::acting(&server).await;
        let function = bench.warm("f").await;
        let (_, name) = bench.running(&function).await;
        let pod = server.get("pods", &name).expect("there");
        let owner = &pod["metadata"]["ownerReferences"][0];
        assert_eq!(owner["kind"], "Deployment");
        assert_eq!(owner["uid"], "uid-plane");
        assert_eq!(owner["controller"], false);
    });
}

#[test]
fn a_pod_of_before_that_finds_no_node_does_not_keep_the_plane_from_beginning() {
    scenario(|server| async move {
        let pods = pods_of_before(&server, "f", 1).await;
        server.edit("functions", "f", |function| {
            function["spec"]["scalingConfig"]["minReplicas"] = json!(2);
        });
        server.kubelet().otherwise(Fate::Unschedulable("no nodes"));
        let mut before = Bench::scheduled(&server);
        before.ready().await;
        until("the second is made", || server.names("pods").len() == 2).await;
        pass(1.0).await;
        before.end();
        let mut bench = Bench::scheduled(&server);
        let began = tokio::time::Instant::now();
        bench.ready().await;
        assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
        assert!(server.names("pods").contains(&pods[0]));
    });
}

#[test]
fn an_adopted_pod_is_up_at_its_place_and_stopped_there() {
    scenario(|server| async move {
        let name = pods_of_before(&server, "f", 1).await.remove(0);
        let bench = Bench::acting(&server).await;
        let pod = bench.rings.adopted.borrow()[0].pod;
        bench.up(pod).await;
        let address = format!("{}:8080", server.address(&name));
        assert_eq!(bench.address(pod).await, address);
        bench.rings.order(Order::Stop { pod });
        bench.down(pod).await;
        assert!(server.names("pods").is_empty());
    });
}

#[test]
fn hundreds_of_functions_are_all_taken_over_and_their_status_written() {
    scenario(|server| async move {
        for number in 0..600 {
            server.create("functions", object(warm(&format!("f{number}"))));
        }
        let bench = Bench::acting(&server).await;
        assert_eq!(bench.table().len(), 600);
        until("all are written", || {
            server.count(of("patch", "functions/status")) >= 600
        })
        .await;
        pass(30.0).await;
        assert_eq!(server.count(of("patch", "functions/status")), 600);
    });
}
