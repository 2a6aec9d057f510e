//! Tests of Events on functions: they report what happened, count repetitions, and cost few writes.

use std::time::Duration;

use nanofaas_core::event::Order;
use nanofaas_fake_api_server::kubelet::Fate;
use nanofaas_fake_api_server::script::{Fault, of};
use nanofaas_fake_api_server::server::FakeApiServer;
use serde_json::{Value, json};

use crate::fixture::{ClusterFixture, object, pass, scenario, until, warm};
use crate::ready::{is_ready, wanting};

fn events(server: &FakeApiServer, function: &str, reason: &str) -> Vec<Value> {
    let all = server.objects("events").into_iter();
    let of = all
        .filter(|event| event["involvedObject"]["name"] == function && event["reason"] == reason);
    of.collect()
}

async fn event(server: &FakeApiServer, function: &str, reason: &str) -> Value {
    until(&format!("{function} has an Event {reason}"), || {
        !events(server, function, reason).is_empty()
    })
    .await;
    events(server, function, reason).remove(0)
}

#[test]
fn a_functions_events_are_on_its_object() {
    scenario(|server| async move {
        server.create("functions", object(wanting("f", 1)));
        let mut fixture = ClusterFixture::scheduled(&server);
        fixture.ready().await;
        let accepted = event(&server, "f", "Accepted").await;
        assert_eq!(accepted["type"], "Normal");
        let of = &accepted["involvedObject"];
        let function = server.get("functions", "f").expect("there");
        // `kubectl describe` selects Events by these fields.
        assert_eq!(of["kind"], "Function");
        assert_eq!(of["apiVersion"], "nanofaas.io/v1");
        assert_eq!(of["uid"], function["metadata"]["uid"]);
        assert_eq!(of["namespace"], "test");
        assert_eq!(accepted["source"]["component"], "nanofaas");
        event(&server, "f", "Ready").await;
        let pod = server.names("pods").remove(0);
        server.end(&pod, 137, "OOMKilled", "");
        let oom = event(&server, "f", "OOMKilled").await;
        assert_eq!(oom["type"], "Warning");
        let message = oom["message"].as_str().unwrap_or_default();
        assert!(message.starts_with(&pod), "{message}");
        until("another is up", || is_ready(&server, "f")).await;
        let pods = server.names("pods").into_iter();
        let pod = pods.clone().find(|name| *name != pod).expect("another");
        server.evict(&pod);
        let lost = event(&server, "f", "PodLost").await;
        let message = lost["message"].as_str().unwrap_or_default();
        assert!(message.contains("Evicted"), "{message}");
        server.edit("functions", "f", |there| {
            there["spec"]["scalingConfig"]["minReplicas"] = json!(2);
        });
        let scaled = event(&server, "f", "Scaled").await;
        assert_eq!(scaled["message"], "from 1 to 2 wanted pods");
        server.edit("functions", "f", |there| {
            there["spec"]["env"] = json!({"PORT": "1"});
        });
        let rejected = event(&server, "f", "Rejected").await;
        assert_eq!(rejected["type"], "Warning");
        let message = rejected["message"].as_str().unwrap_or_default();
        assert!(message.contains("PORT"), "{message}");
    });
}

#[test]
fn a_pod_that_is_stopped_is_not_lost() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        let (pod, _) = fixture.running(&function).await;
        event(&server, "f", "Accepted").await;
        fixture.rings.order(Order::Stop { pod });
        fixture.down(pod).await;
        pass(30.0).await;
        assert_eq!(events(&server, "f", "PodLost"), [] as [Value; 0]);
    });
}

#[test]
fn a_crash_loop_is_one_event_that_counts() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        server
            .kubelet()
            .otherwise(Fate::Waits("ErrImagePull", "manifest unknown"));
        for _ in 0..300 {
            let pod = fixture.start(&function);
            fixture.failure(pod).await;
            pass(0.3).await;
        }
        pass(20.0).await;
        let failed = events(&server, "f", "StartFailed");
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0]["count"], 300);
        let message = failed[0]["message"].as_str().unwrap_or_default();
        assert!(
            message.contains("ErrImagePull: manifest unknown"),
            "{message}"
        );
        let writes = server.asked(of("patch", "events"));
        for pair in writes.windows(2) {
            let between = pair[1].at - pair[0].at;
            let is_other = pair[0].name != pair[1].name;
            assert!(
                is_other || between >= Duration::from_secs(10),
                "{between:?}"
            );
        }
        // A cluster removes Events after an hour or less. The next repetition must then create a new Event.
        server.remove(
            "events",
            failed[0]["metadata"]["name"].as_str().expect("a name"),
        );
        let pod = fixture.start(&function);
        fixture.failure(pod).await;
        let again = event(&server, "f", "StartFailed").await;
        assert_eq!(again["count"], 1);
    });
}

#[test]
fn refused_events_delay_nothing_else() {
    scenario(|server| async move {
        server.script(of("create", "events"), usize::MAX, Fault::Hang);
        let mut fixture = ClusterFixture::acting(&server).await;
        for number in 0..400 {
            server.create("functions", object(warm(&format!("f{number}"))));
        }
        let begun = tokio::time::Instant::now();
        until("all are ready", || {
            (0..400).all(|number| is_ready(&server, &format!("f{number}")))
        })
        .await;
        assert!(begun.elapsed() < Duration::from_secs(10));
        let function = fixture.warm("g").await;
        fixture.running(&function).await;
        assert!(server.names("events").is_empty());
        // Too many Events waited, so some were dropped. As soon as the server accepts Events again, later
        // ones are written.
        server.mend();
        let function = fixture.warm("h").await;
        until("what was full is empty", || {
            server.names("events").len() >= 200
        })
        .await;
        pass(60.0).await;
        assert!(server.names("events").len() <= 260);
        server
            .kubelet()
            .next(Fate::Waits("ErrImagePull", "unknown"));
        let pod = fixture.start(&function);
        fixture.failure(pod).await;
        event(&server, "h", "StartFailed").await;
    });
}
