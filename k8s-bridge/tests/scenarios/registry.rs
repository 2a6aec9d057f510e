//! Tests of functions that are changed through the API. A change is written to the cluster first and then
//! made in the function table. If the write fails, the client gets the reason.

use std::time::Duration;

use nanofaas_core::message::{BridgeError, BridgeRequest, Reply};
use nanofaas_core::spec::ExecutionMode;
use nanofaas_fake_api_server::script::{Fault, answer, any, of, refuse, too_many};
use nanofaas_fake_api_server::server::FakeApiServer;
use serde_json::{Value, json};

use crate::fixture::{ClusterFixture, object, pass, registration, scenario, until, warm};

pub(crate) fn of_image(name: &str, image: &str) -> Value {
    let mut spec = warm(name);
    spec["image"] = json!(image);
    spec
}

pub(crate) fn image_there(server: &FakeApiServer, name: &str) -> Option<Value> {
    server
        .get("functions", name)
        .map(|there| there["spec"]["image"].clone())
}

pub(crate) fn remove(name: &str) -> BridgeRequest {
    BridgeRequest::Remove { name: name.into() }
}

pub(crate) fn scale(name: &str, replicas: u32) -> BridgeRequest {
    BridgeRequest::Scale {
        name: name.into(),
        replicas,
    }
}

pub(crate) fn is_created(reply: &Reply) -> Option<bool> {
    match reply {
        Reply::Registered { created, .. } => Some(*created),
        _ => None,
    }
}

#[test]
fn the_api_writes_first_and_applies_then() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        server.script(
            of("create", "functions"),
            1,
            Fault::Late(Duration::from_secs(3)),
        );
        let token = fixture.request(registration(warm("f"), false));
        pass(2.0).await;
        assert!(fixture.table().is_empty() && fixture.try_reply(token).is_none());
        assert_eq!(is_created(&fixture.reply(token).await), Some(true));
        assert_eq!(image_there(&server, "f"), Some(json!("i:1")));
        assert!(fixture.knows("f", "i:1"));
    });
}

#[test]
fn a_replacement_says_whether_it_made_anew() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let made = fixture.register(warm("f"), true).await;
        assert_eq!(is_created(&made), Some(true));
        let replaced = fixture.register(of_image("f", "i:2"), true).await;
        assert_eq!(is_created(&replaced), Some(false));
        assert!(fixture.knows("f", "i:2"));
        assert_eq!(image_there(&server, "f"), Some(json!("i:2")));
    });
}

#[test]
fn what_is_there_already_is_not_registered_again() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        fixture.warm("f").await;
        let again = fixture.register(warm("f"), false).await;
        assert!(matches!(again, Reply::Refused(BridgeError::Exists)));
        // With this delay, the watch shows the function `g` only after the attempt to register `g`.
        server.delay_watches(Duration::from_secs(30));
        server.create("functions", object(of_image("g", "i:7")));
        let again = fixture.register(warm("g"), false).await;
        assert!(matches!(again, Reply::Refused(BridgeError::Exists)));
        assert_eq!(image_there(&server, "g"), Some(json!("i:7")));
    });
}

#[test]
fn scaling_writes_the_floor_alone() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        fixture.warm("f").await;
        let scaled = fixture.ask(scale("f", 3)).await;
        assert!(matches!(scaled, Reply::Scaled { replicas: 3, .. }));
        let there = server.get("functions", "f").expect("there");
        let scaling = json!({"minReplicas": 3, "maxReplicas": 4});
        assert_eq!(there["spec"]["scalingConfig"], scaling);
        assert_eq!(fixture.function("f").spec.scaling_config.min_replicas, 3);
        assert!(matches!(
            fixture.ask(scale("f", 5)).await,
            Reply::Refused(BridgeError::Invalid(_))
        ));
    });
}

#[test]
fn modes_without_pods_have_no_floor_either() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let mut job = warm("j");
        job["executionMode"] = json!("REMOTE");
        fixture.register(job, false).await;
        let Reply::Refused(refused) = fixture.ask(scale("j", 3)).await else {
            panic!("it has a floor");
        };
        assert_eq!(refused, BridgeError::NotWarm(ExecutionMode::Job));
        assert_eq!(server.count(of("patch", "functions")), 0);
    });
}

#[test]
fn a_mode_is_stored_as_it_was_given() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let mut spec = warm("f");
        spec["executionMode"] = json!("DEPLOYMENT");
        spec["effectiveExecutionMode"] = json!("WARM");
        let Reply::Registered { function, .. } = fixture.register(spec, false).await else {
            panic!("it is not taken");
        };
        let there = server.get("functions", "f").expect("there");
        assert_eq!(there["spec"]["executionMode"], "DEPLOYMENT");
        assert_eq!(there["spec"].get("effectiveExecutionMode"), None);
        let shown = serde_json::to_value(&function.spec).expect("JSON");
        assert_eq!(shown["executionMode"], "DEPLOYMENT");
        assert_eq!(shown["effectiveExecutionMode"], "WARM");
    });
}

#[test]
fn a_deletion_is_made_in_the_cluster_first() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        fixture.warm("f").await;
        assert!(matches!(fixture.ask(remove("f")).await, Reply::Removed));
        assert!(fixture.table().is_empty() && server.names("functions").is_empty());
        let again = fixture.ask(remove("f")).await;
        assert!(matches!(again, Reply::Refused(BridgeError::NotFound)));
        // The report of the deletion may be late. It must not remove a new function with the same name.
        fixture.warm("f").await;
        pass(2.0).await;
        assert!(fixture.knows("f", "i:1"));
    });
}

#[test]
fn without_the_server_changes_are_refused_in_time() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        fixture.warm("f").await;
        server.leave();
        for request in [
            registration(warm("g"), false),
            registration(of_image("f", "i:2"), true),
            remove("f"),
        ] {
            let began = tokio::time::Instant::now();
            let reply = fixture.ask(request).await;
            assert!(matches!(reply, Reply::Refused(BridgeError::Unavailable(_))));
            assert!(began.elapsed() < Duration::from_secs(20));
        }
        assert_eq!(fixture.table(), [("f".to_owned(), "i:1".to_owned())]);
        server.come_back().await;
        until("it may be changed again", || fixture.is_ready()).await;
        pass(10.0).await;
        fixture.warm("g").await;
    });
}

#[test]
fn a_hanging_server_is_not_waited_for_longer() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        server.script(any(), usize::MAX, Fault::Hang);
        let began = tokio::time::Instant::now();
        let reply = fixture.register(warm("f"), false).await;
        assert!(matches!(reply, Reply::Refused(BridgeError::Unavailable(_))));
        assert!(began.elapsed() < Duration::from_secs(20));
    });
}

#[test]
fn a_conflict_with_others_is_written_anew() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        fixture.warm("f").await;
        server.script(of("update", "functions"), 2, answer(409));
        let replaced = fixture.register(of_image("f", "i:2"), true).await;
        assert_eq!(is_created(&replaced), Some(false));
        assert_eq!(image_there(&server, "f"), Some(json!("i:2")));
        server.script(of("update", "functions"), usize::MAX, answer(409));
        server.forget_asked();
        let never = fixture.register(of_image("f", "i:3"), true).await;
        assert!(matches!(never, Reply::Refused(BridgeError::Unavailable(_))));
        assert!(server.count(of("update", "functions")) <= 10);
        assert!(fixture.knows("f", "i:2"));
    });
}

#[test]
fn a_creation_with_a_lost_answer_happens_once() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        server.script(of("create", "functions"), 1, Fault::LoseAnswer);
        let made = fixture.register(warm("f"), false).await;
        assert_eq!(is_created(&made), Some(true));
        server.script(of("delete", "functions"), 1, Fault::LoseAnswer);
        assert!(matches!(fixture.ask(remove("f")).await, Reply::Removed));
        assert!(fixture.table().is_empty());
        server.script(of("create", "functions"), 1, Fault::LoseAnswer);
        let made = fixture.register(warm("g"), true).await;
        assert!(is_created(&made).is_some());
        assert!(fixture.knows("g", "i:1"));
    });
}

#[test]
fn an_api_server_refusal_keeps_its_words() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let words = "Function.nanofaas.io \"f\" is invalid: spec.image: too long";
        server.script(of("create", "functions"), 1, refuse(422, "Invalid", words));
        match fixture.register(warm("f"), false).await {
            Reply::Refused(BridgeError::Invalid(faults)) => {
                assert!(faults[0].message.contains("too long"), "{faults:?}");
            }
            _ => panic!("it was taken"),
        }
        assert!(fixture.table().is_empty());
    });
}

#[test]
fn retry_after_is_waited_for() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        server.script(of("create", "functions"), 1, too_many(2));
        let made = fixture.register(warm("f"), false).await;
        assert_eq!(is_created(&made), Some(true));
        let asked = server.asked(of("create", "functions"));
        assert_eq!(asked.len(), 2);
        assert!(asked[1].at - asked[0].at >= Duration::from_secs(2));
    });
}

#[test]
fn changes_are_ordered_by_function_and_concurrent_otherwise() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        fixture.warm("f").await;
        server.script(
            of("update", "functions"),
            1,
            Fault::Late(Duration::from_secs(3)),
        );
        let tokens = [
            fixture.request(registration(of_image("f", "i:2"), true)),
            fixture.request(registration(of_image("f", "i:3"), true)),
            fixture.request(remove("f")),
            fixture.request(registration(of_image("f", "i:4"), true)),
        ];
        let other = fixture.register(warm("g"), false).await;
        assert!(is_created(&other).is_some() && fixture.try_reply(tokens[0]).is_none());
        assert_eq!(is_created(&fixture.reply(tokens[0]).await), Some(false));
        assert_eq!(is_created(&fixture.reply(tokens[1]).await), Some(false));
        assert!(matches!(fixture.reply(tokens[2]).await, Reply::Removed));
        assert_eq!(is_created(&fixture.reply(tokens[3]).await), Some(true));
        pass(2.0).await;
        assert!(fixture.knows("f", "i:4"));
    });
}

#[test]
fn an_uncertain_answer_is_looked_up() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        for code in [500, 504] {
            server.script(of("create", "functions"), 1, Fault::DoneAnswer(code));
            let made = fixture.register(warm("f"), false).await;
            assert_eq!(is_created(&made), Some(true), "{code}");
            server.script(of("update", "functions"), 1, Fault::DoneAnswer(code));
            let replaced = fixture.register(of_image("f", "i:2"), true).await;
            assert_eq!(is_created(&replaced), Some(false), "{code}");
            server.script(of("delete", "functions"), 1, Fault::DoneAnswer(code));
            let removed = fixture.ask(remove("f")).await;
            assert!(matches!(removed, Reply::Removed), "{code}");
            pass(1.0).await;
        }
        assert!(fixture.table().is_empty() && server.names("functions").is_empty());
    });
}
