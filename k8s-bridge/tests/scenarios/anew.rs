//! Tests of a bridge that is rebuilt around the same work queue and memory, as after a panic. Pods keep their
//! ids, Jobs continue, no pod or Job is created twice, and every client gets an answer.

use std::time::Duration;

use nanofaas_core::event::Order;
use nanofaas_fake_api_server::kubelet::Fate;
use nanofaas_fake_api_server::script::{Fault, of};
use serde_json::json;

use crate::attempt;
use crate::fixture::{ClusterFixture, object, pass, scenario, until, warm};

#[test]
fn running_pods_keep_their_ids_untouched() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        let (first, _) = fixture.running(&function).await;
        let (second, name) = fixture.running(&function).await;
        fixture.end();
        pass(5.0).await;
        fixture.ready().await;
        pass(20.0).await;
        assert!(fixture.is_quiet(), "the scheduler gets no event of it");
        assert!(fixture.rings.adopted.borrow().is_empty());
        assert_eq!(
            (server.ever("pods"), server.count(of("delete", "pods"))),
            (2, 0)
        );
        // The new bridge must still observe the pods.
        server.end(&name, 137, "OOMKilled", "");
        fixture.down(second).await;
        fixture.rings.order(Order::Stop { pod: first });
        fixture.down(first).await;
        until("no pod is left", || server.names("pods").is_empty()).await;
    });
}

#[test]
fn a_starting_pod_comes_up_once() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        server.kubelet().next(Fate::Nothing);
        let pod_id = fixture.start(&function);
        until("it is created", || server.names("pods").len() == 1).await;
        pass(1.0).await;
        fixture.end();
        let name = server.names("pods").remove(0);
        server.runs(&name, true).await;
        fixture.ready().await;
        fixture.up(pod_id).await;
        pass(10.0).await;
        assert!(fixture.is_quiet() && server.names("pods") == [name]);
    });
}

#[test]
fn a_pod_in_creation_is_created_once() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        let late = Fault::DoneLate(Duration::from_secs(2));
        server.script(of("create", "pods"), 1, late);
        let pod_id = fixture.start(&function);
        until("it is asked for", || fixture.created("pods") == 1).await;
        fixture.end();
        fixture.ready().await;
        fixture.up(pod_id).await;
        pass(10.0).await;
        assert_eq!(server.names("pods").len(), 1);
        assert!(fixture.is_quiet());
    });
}

#[test]
fn a_pod_that_ended_meanwhile_is_down() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        // The pods are listed several times before the test's pods start. If a rebuilt bridge counted its
        // listings from zero, its first list would seem older than these pods. It would then not notice a
        // missing pod.
        for _ in 0..3 {
            server.compact();
            server.slam(true).await;
            server.slam(false).await;
            pass(15.0).await;
        }
        let (first, gone) = fixture.running(&function).await;
        fixture.end();
        server.remove("pods", &gone);
        fixture.ready().await;
        fixture.down(first).await;
        fixture.gone(first).await;
        let (second, ended) = fixture.running(&function).await;
        fixture.end();
        server.end(&ended, 1, "Error", "");
        fixture.ready().await;
        fixture.down(second).await;
        until("no pod is left", || server.names("pods").is_empty()).await;
    });
}

#[test]
fn orders_between_two_bridges_are_carried_out() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        let (first, name) = fixture.running(&function).await;
        fixture.end();
        fixture.rings.order(Order::Stop { pod: first });
        let second = fixture.start(&function);
        fixture.ready().await;
        let mut events = Vec::new();
        for _ in 0..2 {
            match fixture.event().await {
                nanofaas_core::event::Event::PodUp(pod) => events.push((pod, true)),
                nanofaas_core::event::Event::PodDown(pod) => events.push((pod, false)),
                _ => panic!("another event"),
            }
        }
        assert!(events.contains(&(first, false)) && events.contains(&(second, true)));
        until("one pod is left", || {
            server.names("pods").len() == 1 && !server.names("pods").contains(&name)
        })
        .await;
    });
}

#[test]
fn a_postponed_start_is_not_forgotten() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        fixture.end();
        // The order comes while the second bridge is still beginning, and this bridge is dropped, too.
        server.script(of("list", "functions"), 1, Fault::Hang);
        let before = server.count(of("list", "functions"));
        fixture.begin();
        until("it begins", || {
            server.count(of("list", "functions")) > before
        })
        .await;
        let pod_id = fixture.start(&function);
        pass(1.0).await;
        fixture.end();
        fixture.ready().await;
        fixture.up(pod_id).await;
    });
}

#[test]
fn a_job_that_runs_goes_on() {
    scenario(|server| async move {
        let (mut fixture, function) = attempt::with_function(&server).await;
        attempt::start(&fixture, &function, attempt::call(1));
        attempt::started(&fixture, attempt::call(1)).await;
        let pods = server.names("pods");
        fixture.end();
        pass(1.0).await;
        fixture.ready().await;
        pass(20.0).await;
        assert_eq!(server.names("pods"), pods, "nobody ended it");
        assert_eq!(server.count(of("delete", "jobs")), 0);
        attempt::stop(&fixture, attempt::call(1), None);
        until("it is gone", || server.names("jobs").is_empty()).await;
    });
}

#[test]
fn a_job_that_ended_meanwhile_is_reported() {
    scenario(|server| async move {
        let (mut fixture, function) = attempt::with_function(&server).await;
        for (index, is_removed) in [(1, false), (2, true)] {
            attempt::start(&fixture, &function, attempt::call(index));
            attempt::started(&fixture, attempt::call(index)).await;
            fixture.end();
            let pod = server.names("pods").remove(0);
            if is_removed {
                server.remove("pods", &pod);
            } else {
                server.end(&pod, 1, "Error", "");
            }
            fixture.ready().await;
            attempt::ended(&fixture, attempt::call(index)).await;
            until("nothing is left", || {
                server.names("jobs").is_empty() && server.names("pods").is_empty()
            })
            .await;
        }
    });
}

#[test]
fn functions_are_the_clusters_again() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        for name in ["a", "b", "c"] {
            fixture.warm(name).await;
        }
        fixture.end();
        server.remove("functions", "a");
        server.edit("functions", "b", |there| {
            there["spec"]["image"] = json!("i:2")
        });
        server.create("functions", object(warm("d")));
        fixture.ready().await;
        let table = fixture.table();
        let names: Vec<&str> = table.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["b", "c", "d"]);
        assert!(fixture.knows("b", "i:2"));
    });
}

#[test]
fn a_scheduler_of_its_own_sees_no_difference() {
    scenario(|server| async move {
        let mut spec = warm("f");
        spec["scalingConfig"]["minReplicas"] = json!(3);
        server.create("functions", object(spec));
        let mut fixture = ClusterFixture::scheduled(&server);
        fixture.ready().await;
        until("they are there", || server.names("pods").len() == 3).await;
        pass(5.0).await;
        let pods = server.names("pods");
        for _ in 0..5 {
            fixture.end();
            fixture.ready().await;
            pass(5.0).await;
            assert_eq!(server.names("pods"), pods);
        }
        assert_eq!(server.ever("pods"), 3);
    });
}

#[test]
fn a_bridge_that_keeps_failing_leaves_no_orphan() {
    scenario(|server| async move {
        let mut spec = warm("f");
        spec["scalingConfig"]["minReplicas"] = json!(3);
        server.create("functions", object(spec));
        let mut fixture = ClusterFixture::scheduled(&server);
        for step in 0..40 {
            fixture.begin();
            pass(f64::from(step) * 0.004).await;
            fixture.end();
            pass(0.05).await;
        }
        fixture.ready().await;
        until("three pods run", || {
            let pods = server.objects("pods");
            let runs = |pod: &serde_json::Value| pod["status"]["phase"] == "Running";
            pods.len() == 3 && pods.iter().all(runs)
        })
        .await;
        pass(30.0).await;
        assert_eq!(server.names("pods").len(), 3);
    });
}

#[test]
fn a_probe_begins_again() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        let (pod_id, name) = fixture.running(&function).await;
        server.set_well(&name, false);
        fixture.rings.order(Order::Probe { pod: pod_id });
        pass(1.0).await;
        fixture.end();
        server.set_well(&name, true);
        fixture.ready().await;
        fixture.up(pod_id).await;
        server.set_well(&name, false);
        fixture.rings.order(Order::Probe { pod: pod_id });
        pass(1.0).await;
        fixture.end();
        fixture.ready().await;
        fixture.down(pod_id).await;
    });
}

#[test]
fn deletions_that_were_on_their_way_are_made() {
    scenario(|server| async move {
        let (mut fixture, function) = attempt::with_function(&server).await;
        attempt::start(&fixture, &function, attempt::call(1));
        attempt::started(&fixture, attempt::call(1)).await;
        let warm_function = fixture.warm("w").await;
        let pod_id = fixture.start(&warm_function);
        fixture.up(pod_id).await;
        server
            .kubelet()
            .next(Fate::Waits("ErrImagePull", "manifest unknown"));
        let failing = fixture.start(&warm_function);
        server.script(of("delete", "pods"), usize::MAX, Fault::Hang);
        server.script(of("delete", "jobs"), usize::MAX, Fault::Hang);
        fixture.failure(failing).await;
        fixture.rings.order(Order::Stop { pod: pod_id });
        attempt::stop(&fixture, attempt::call(1), None);
        pass(2.0).await;
        fixture.end();
        server.mend();
        fixture.ready().await;
        until("nothing is left", || {
            server.names("jobs").is_empty() && server.names("pods").is_empty()
        })
        .await;
    });
}
