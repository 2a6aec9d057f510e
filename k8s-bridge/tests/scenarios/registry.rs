//! The registry's home in the cluster: what the API writes, what others write, and what happens
//! when both do.

use std::time::Duration;

use nanofaas_core::message::{Refused, Reply, Request};
use serde_json::{Value, json};

use crate::bench::{Bench, object, pass, registration, scenario, until, warm};
use crate::script::{Fault, answer, any, of, refuse, too_many};
use crate::server::Server;

async fn ready(server: &Server) -> Bench {
    let mut bench = Bench::new(server);
    bench.ready().await;
    bench
}

fn of_image(name: &str, image: &str) -> Value {
    let mut spec = warm(name);
    spec["image"] = json!(image);
    spec
}

fn image_there(server: &Server, name: &str) -> Option<Value> {
    server
        .get("functions", name)
        .map(|there| there["spec"]["image"].clone())
}

fn remove(name: &str) -> Request {
    Request::Remove { name: name.into() }
}

fn is_created(reply: &Reply) -> Option<bool> {
    match reply {
        Reply::Registered { created, .. } => Some(*created),
        _ => None,
    }
}

fn set_image(server: &Server, name: &str, image: &str) {
    server.edit("functions", name, |there| {
        there["spec"]["image"] = json!(image)
    });
}

fn condition(server: &Server, name: &str) -> Value {
    let there = server.get("functions", name).expect("there");
    there["status"]["conditions"][0].clone()
}

#[test]
fn the_api_writes_first_and_applies_then() {
    scenario(|server| async move {
        let mut bench = ready(&server).await;
        server.script(
            of("create", "functions"),
            1,
            Fault::Late(Duration::from_secs(3)),
        );
        let token = bench.request(registration(warm("f"), false));
        pass(2.0).await;
        assert!(bench.table().is_empty() && bench.try_reply(token).is_none());
        assert_eq!(is_created(&bench.reply(token).await), Some(true));
        assert_eq!(image_there(&server, "f"), Some(json!("i:1")));
        assert!(bench.knows("f", "i:1"));
    });
}

#[test]
fn a_replacement_says_whether_it_made_anew() {
    scenario(|server| async move {
        let mut bench = ready(&server).await;
        let made = bench.register(warm("f"), true).await;
        assert_eq!(is_created(&made), Some(true));
        let replaced = bench.register(of_image("f", "i:2"), true).await;
        assert_eq!(is_created(&replaced), Some(false));
        assert!(bench.knows("f", "i:2"));
        assert_eq!(image_there(&server, "f"), Some(json!("i:2")));
    });
}

#[test]
fn what_is_there_already_is_not_registered_again() {
    scenario(|server| async move {
        let mut bench = ready(&server).await;
        bench.warm("f").await;
        let again = bench.register(warm("f"), false).await;
        assert!(matches!(again, Reply::Refused(Refused::Exists)));
        // One that the plane has not heard of yet.
        server.0.watch_delay.set(Duration::from_secs(30));
        server.create("functions", object(of_image("g", "i:7")));
        let again = bench.register(warm("g"), false).await;
        assert!(matches!(again, Reply::Refused(Refused::Exists)));
        assert_eq!(image_there(&server, "g"), Some(json!("i:7")));
    });
}

#[test]
fn scaling_writes_the_floor_alone() {
    scenario(|server| async move {
        let mut bench = ready(&server).await;
        bench.warm("f").await;
        let scale = |replicas| Request::Scale {
            name: "f".into(),
            replicas,
        };
        let scaled = bench.ask(scale(3)).await;
        assert!(matches!(scaled, Reply::Scaled { replicas: 3, .. }));
        let there = server.get("functions", "f").expect("there");
        let scaling = json!({"minReplicas": 3, "maxReplicas": 4});
        assert_eq!(there["spec"]["scalingConfig"], scaling);
        assert_eq!(bench.function("f").spec.scaling_config.min_replicas, 3);
        assert!(matches!(
            bench.ask(scale(5)).await,
            Reply::Refused(Refused::Invalid(_))
        ));
    });
}

#[test]
fn a_deletion_is_made_in_the_cluster_first() {
    scenario(|server| async move {
        let mut bench = ready(&server).await;
        bench.warm("f").await;
        assert!(matches!(bench.ask(remove("f")).await, Reply::Removed));
        assert!(bench.table().is_empty() && server.names("functions").is_empty());
        let again = bench.ask(remove("f")).await;
        assert!(matches!(again, Reply::Refused(Refused::NotFound)));
        // The same name anew is another function.
        bench.warm("f").await;
        pass(2.0).await;
        assert!(bench.knows("f", "i:1"));
    });
}

#[test]
fn with_the_server_gone_changes_are_refused_in_time_and_the_table_stays() {
    scenario(|server| async move {
        let mut bench = ready(&server).await;
        bench.warm("f").await;
        server.leave();
        for request in [
            registration(warm("g"), false),
            registration(of_image("f", "i:2"), true),
            remove("f"),
        ] {
            let began = tokio::time::Instant::now();
            let reply = bench.ask(request).await;
            assert!(matches!(reply, Reply::Refused(Refused::Unavailable(_))));
            assert!(began.elapsed() < Duration::from_secs(20));
        }
        assert_eq!(bench.table(), [("f".to_owned(), "i:1".to_owned())]);
        server.come_back().await;
        until("it may be changed again", || bench.is_ready()).await;
        pass(10.0).await;
        bench.warm("g").await;
    });
}

#[test]
fn a_server_that_hangs_is_not_waited_for_longer() {
    scenario(|server| async move {
        let mut bench = ready(&server).await;
        server.script(any(), usize::MAX, Fault::Hang);
        let began = tokio::time::Instant::now();
        let reply = bench.register(warm("f"), false).await;
        assert!(matches!(reply, Reply::Refused(Refused::Unavailable(_))));
        assert!(began.elapsed() < Duration::from_secs(20));
    });
}

#[test]
fn what_others_write_is_followed() {
    scenario(|server| async move {
        let bench = ready(&server).await;
        server.create("functions", object(warm("f")));
        until("it is there", || bench.knows("f", "i:1")).await;
        set_image(&server, "f", "i:2");
        until("it is edited", || bench.knows("f", "i:2")).await;
        server.remove("functions", "f");
        until("it is gone", || bench.table().is_empty()).await;
    });
}

#[test]
fn an_invalid_edit_leaves_the_last_accepted_spec_and_the_status_says_why() {
    scenario(|server| async move {
        let mut bench = ready(&server).await;
        bench.warm("f").await;
        until("it is accepted", || {
            condition(&server, "f")["status"] == "True"
        })
        .await;
        server.edit("functions", "f", |there| {
            there["spec"]["concurrency"] = json!(0);
            there["spec"]["image"] = json!("i:2");
        });
        until("it is rejected", || {
            condition(&server, "f")["status"] == "False"
        })
        .await;
        let why = condition(&server, "f")["message"].to_string();
        assert!(why.contains("concurrency"), "{why}");
        assert!(bench.knows("f", "i:1"));
        server.edit("functions", "f", |there| {
            there["spec"]["concurrency"] = json!(1)
        });
        until("it is accepted", || {
            condition(&server, "f")["status"] == "True"
        })
        .await;
        assert!(bench.knows("f", "i:2"));
        // A wrong one that was never accepted can be deleted through the API, too.
        server.create(
            "functions",
            object(json!({"name": "g", "executionMode": "WARM"})),
        );
        until("it is rejected", || {
            condition(&server, "g")["status"] == "False"
        })
        .await;
        assert!(matches!(bench.ask(remove("g")).await, Reply::Removed));
        assert_eq!(server.names("functions"), ["f"]);
    });
}

#[test]
fn an_older_event_after_a_newer_write_is_ignored() {
    scenario(|server| async move {
        let mut bench = ready(&server).await;
        bench.warm("f").await;
        pass(1.0).await;
        server.0.watch_delay.set(Duration::from_secs(5));
        set_image(&server, "f", "i:2");
        let replaced = bench.register(of_image("f", "i:3"), true).await;
        assert_eq!(is_created(&replaced), Some(false));
        for _ in 0..200 {
            pass(0.05).await;
            assert!(bench.knows("f", "i:3"), "{:?}", bench.table());
        }
        assert_eq!(image_there(&server, "f"), Some(json!("i:3")));
    });
}

#[test]
fn an_edit_by_others_while_the_api_writes_is_heard_afterwards() {
    scenario(|server| async move {
        let mut bench = ready(&server).await;
        bench.warm("f").await;
        server.script(of("update", "functions"), 1, Fault::LoseAnswer);
        server.script(
            of("get", "functions"),
            1,
            Fault::Late(Duration::from_millis(100)),
        );
        let token = bench.request(registration(of_image("f", "i:2"), true));
        bench.reply(token).await;
        set_image(&server, "f", "i:3");
        until("it is heard", || bench.knows("f", "i:3")).await;
    });
}

#[test]
fn a_late_event_does_not_bring_a_deleted_function_back() {
    scenario(|server| async move {
        let mut bench = ready(&server).await;
        bench.warm("f").await;
        pass(1.0).await;
        server.0.watch_delay.set(Duration::from_secs(5));
        set_image(&server, "f", "i:2");
        assert!(matches!(bench.ask(remove("f")).await, Reply::Removed));
        for _ in 0..200 {
            pass(0.05).await;
            assert!(bench.table().is_empty(), "{:?}", bench.table());
        }
    });
}

#[test]
fn a_function_made_again_at_once_outlives_the_news_of_its_deletion() {
    scenario(|server| async move {
        let mut bench = ready(&server).await;
        bench.warm("f").await;
        pass(1.0).await;
        server.0.watch_delay.set(Duration::from_secs(5));
        assert!(matches!(bench.ask(remove("f")).await, Reply::Removed));
        let again = bench.register(of_image("f", "i:2"), false).await;
        assert_eq!(is_created(&again), Some(true));
        for _ in 0..200 {
            pass(0.05).await;
            assert!(bench.knows("f", "i:2"), "{:?}", bench.table());
        }
    });
}

#[test]
fn a_function_that_others_deleted_and_made_again_is_the_new_one() {
    scenario(|server| async move {
        let mut bench = ready(&server).await;
        bench.warm("f").await;
        pass(1.0).await;
        // Between two watches, so that one list is all that the plane sees of it.
        server.slam(true).await;
        server.remove("functions", "f");
        server.create("functions", object(of_image("f", "i:2")));
        server.compact();
        server.slam(false).await;
        until("it is the new one", || bench.knows("f", "i:2")).await;
        assert!(matches!(bench.ask(remove("f")).await, Reply::Removed));
        pass(5.0).await;
        assert!(bench.table().is_empty());
    });
}

#[test]
fn a_list_that_misses_a_function_removes_it() {
    scenario(|server| async move {
        let mut bench = ready(&server).await;
        bench.warm("f").await;
        bench.warm("g").await;
        pass(1.0).await;
        server.slam(true).await;
        server.remove("functions", "f");
        server.compact();
        server.slam(false).await;
        until("it is gone", || bench.table().len() == 1).await;
        assert!(bench.knows("g", "i:1"));
    });
}

#[test]
fn a_function_that_is_made_during_a_list_survives_it() {
    scenario(|server| async move {
        let mut bench = ready(&server).await;
        bench.warm("f").await;
        pass(1.0).await;
        server.0.page.set(1);
        for number in 0..3 {
            server.create("functions", object(warm(&format!("m{number}"))));
        }
        // The second page comes late: what is created before it is in none, or may not be.
        server.script(of("list", "functions"), 1, Fault::Late(Duration::ZERO));
        server.script(
            of("list", "functions"),
            1,
            Fault::Late(Duration::from_secs(3)),
        );
        server.slam(true).await;
        server.compact();
        server.slam(false).await;
        server.forget_asked();
        until("the second page is asked for", || {
            server.count(of("list", "functions")) == 2
        })
        .await;
        bench.warm("a").await;
        let mut was_there = true;
        until("the list is over", || {
            was_there &= bench.knows("a", "i:1");
            server.count(of("watch", "functions")) > 0
        })
        .await;
        pass(5.0).await;
        assert!(was_there && bench.knows("a", "i:1"));
        assert_eq!(bench.table().len(), 5);
    });
}

#[test]
fn a_conflict_with_others_is_written_anew() {
    scenario(|server| async move {
        let mut bench = ready(&server).await;
        bench.warm("f").await;
        server.script(of("update", "functions"), 2, answer(409));
        let replaced = bench.register(of_image("f", "i:2"), true).await;
        assert_eq!(is_created(&replaced), Some(false));
        assert_eq!(image_there(&server, "f"), Some(json!("i:2")));
        server.script(of("update", "functions"), usize::MAX, answer(409));
        server.forget_asked();
        let never = bench.register(of_image("f", "i:3"), true).await;
        assert!(matches!(never, Reply::Refused(Refused::Unavailable(_))));
        assert!(server.count(of("update", "functions")) <= 10);
        assert!(bench.knows("f", "i:2"));
    });
}

#[test]
fn a_creation_whose_answer_is_lost_is_made_once() {
    scenario(|server| async move {
        let mut bench = ready(&server).await;
        server.script(of("create", "functions"), 1, Fault::LoseAnswer);
        let made = bench.register(warm("f"), false).await;
        assert_eq!(is_created(&made), Some(true));
        server.script(of("delete", "functions"), 1, Fault::LoseAnswer);
        assert!(matches!(bench.ask(remove("f")).await, Reply::Removed));
        assert!(bench.table().is_empty());
        server.script(of("create", "functions"), 1, Fault::LoseAnswer);
        let made = bench.register(warm("g"), true).await;
        assert!(is_created(&made).is_some());
        assert!(bench.knows("g", "i:1"));
    });
}

#[test]
fn what_the_api_server_finds_wrong_is_told_in_its_words() {
    scenario(|server| async move {
        let mut bench = ready(&server).await;
        let words = "Function.nanofaas.io \"f\" is invalid: spec.image: too long";
        server.script(of("create", "functions"), 1, refuse(422, "Invalid", words));
        match bench.register(warm("f"), false).await {
            Reply::Refused(Refused::Invalid(faults)) => {
                assert!(faults[0].message.contains("too long"), "{faults:?}");
            }
            _ => panic!("it was taken"),
        }
        assert!(bench.table().is_empty());
    });
}

#[test]
fn retry_after_is_waited_for() {
    scenario(|server| async move {
        let mut bench = ready(&server).await;
        server.script(of("create", "functions"), 1, too_many(2));
        let made = bench.register(warm("f"), false).await;
        assert_eq!(is_created(&made), Some(true));
        let asked = server.asked(of("create", "functions"));
        assert_eq!(asked.len(), 2);
        assert!(asked[1].at - asked[0].at >= Duration::from_secs(2));
    });
}

#[test]
fn changes_of_one_function_are_made_in_order_and_those_of_others_beside_them() {
    scenario(|server| async move {
        let mut bench = ready(&server).await;
        bench.warm("f").await;
        server.script(
            of("update", "functions"),
            1,
            Fault::Late(Duration::from_secs(3)),
        );
        let tokens = [
            bench.request(registration(of_image("f", "i:2"), true)),
            bench.request(registration(of_image("f", "i:3"), true)),
            bench.request(remove("f")),
            bench.request(registration(of_image("f", "i:4"), true)),
        ];
        let other = bench.register(warm("g"), false).await;
        assert!(is_created(&other).is_some() && bench.try_reply(tokens[0]).is_none());
        assert_eq!(is_created(&bench.reply(tokens[0]).await), Some(false));
        assert_eq!(is_created(&bench.reply(tokens[1]).await), Some(false));
        assert!(matches!(bench.reply(tokens[2]).await, Reply::Removed));
        assert_eq!(is_created(&bench.reply(tokens[3]).await), Some(true));
        pass(2.0).await;
        assert!(bench.knows("f", "i:4"));
    });
}
