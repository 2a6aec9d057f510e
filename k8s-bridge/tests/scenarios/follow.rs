//! Tests of functions that other clients change in the cluster. The function table follows, even if updates
//! are late, repeated, or older than a change through the API.

use std::time::Duration;

use nanofaas_core::message::Reply;
use nanofaas_fake_api_server::script::{Fault, of};
use nanofaas_fake_api_server::server::FakeApiServer;
use serde_json::{Value, json};

use crate::fixture::{ClusterFixture, object, pass, registration, scenario, until, warm};
use crate::registry::{image_there, is_created, of_image, remove, scale};

fn set_image(server: &FakeApiServer, name: &str, image: &str) {
    server.edit("functions", name, |there| {
        there["spec"]["image"] = json!(image)
    });
}

fn condition(server: &FakeApiServer, name: &str) -> Value {
    let there = server.get("functions", name).expect("there");
    there["status"]["conditions"][0].clone()
}

#[test]
fn what_others_write_is_followed() {
    scenario(|server| async move {
        let fixture = ClusterFixture::acting(&server).await;
        server.create("functions", object(warm("f")));
        until("it is there", || fixture.knows("f", "i:1")).await;
        set_image(&server, "f", "i:2");
        until("it is edited", || fixture.knows("f", "i:2")).await;
        server.remove("functions", "f");
        until("it is gone", || fixture.table().is_empty()).await;
    });
}

#[test]
fn an_invalid_edit_keeps_the_last_accepted_spec() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        fixture.warm("f").await;
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
        assert!(fixture.knows("f", "i:1"));
        server.edit("functions", "f", |there| {
            there["spec"]["concurrency"] = json!(1)
        });
        until("it is accepted", || {
            condition(&server, "f")["status"] == "True"
        })
        .await;
        assert!(fixture.knows("f", "i:2"));
        // The API can also delete an invalid function that was never accepted.
        server.create(
            "functions",
            object(json!({"name": "g", "executionMode": "WARM"})),
        );
        until("it is rejected", || {
            condition(&server, "g")["status"] == "False"
        })
        .await;
        assert!(matches!(fixture.ask(remove("g")).await, Reply::Removed));
        assert_eq!(server.names("functions"), ["f"]);
    });
}

#[test]
fn an_older_event_is_ignored_after_a_write() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        fixture.warm("f").await;
        pass(1.0).await;
        server.delay_watches(Duration::from_secs(5));
        set_image(&server, "f", "i:2");
        let replaced = fixture.register(of_image("f", "i:3"), true).await;
        assert_eq!(is_created(&replaced), Some(false));
        for _ in 0..200 {
            pass(0.05).await;
            assert!(fixture.knows("f", "i:3"), "{:?}", fixture.table());
        }
        assert_eq!(image_there(&server, "f"), Some(json!("i:3")));
    });
}

#[test]
fn an_edit_during_a_write_is_applied_afterwards() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        fixture.warm("f").await;
        server.script(of("update", "functions"), 1, Fault::LoseAnswer);
        server.script(
            of("get", "functions"),
            1,
            Fault::Late(Duration::from_millis(100)),
        );
        let token = fixture.request(registration(of_image("f", "i:2"), true));
        fixture.reply(token).await;
        set_image(&server, "f", "i:3");
        until("it is applied", || fixture.knows("f", "i:3")).await;
    });
}

#[test]
fn a_late_event_revives_no_deleted_function() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        fixture.warm("f").await;
        pass(1.0).await;
        server.delay_watches(Duration::from_secs(5));
        set_image(&server, "f", "i:2");
        assert!(matches!(fixture.ask(remove("f")).await, Reply::Removed));
        for _ in 0..200 {
            pass(0.05).await;
            assert!(fixture.table().is_empty(), "{:?}", fixture.table());
        }
    });
}

#[test]
fn a_remade_function_outlives_the_old_deletion() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        fixture.warm("f").await;
        pass(1.0).await;
        server.delay_watches(Duration::from_secs(5));
        assert!(matches!(fixture.ask(remove("f")).await, Reply::Removed));
        let again = fixture.register(of_image("f", "i:2"), false).await;
        assert_eq!(is_created(&again), Some(true));
        for _ in 0..200 {
            pass(0.05).await;
            assert!(fixture.knows("f", "i:2"), "{:?}", fixture.table());
        }
    });
}

#[test]
fn a_function_others_remade_is_the_new_one() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        fixture.warm("f").await;
        pass(1.0).await;
        // The cluster changes while no watch is open, so the control plane sees only the next list.
        server.slam(true).await;
        server.remove("functions", "f");
        server.create("functions", object(of_image("f", "i:2")));
        server.compact();
        server.slam(false).await;
        until("it is the new one", || fixture.knows("f", "i:2")).await;
        assert!(matches!(fixture.ask(remove("f")).await, Reply::Removed));
        pass(5.0).await;
        assert!(fixture.table().is_empty());
    });
}

#[test]
fn a_list_that_misses_a_function_removes_it() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        fixture.warm("f").await;
        fixture.warm("g").await;
        pass(1.0).await;
        server.slam(true).await;
        server.remove("functions", "f");
        server.compact();
        server.slam(false).await;
        until("it is gone", || fixture.table().len() == 1).await;
        assert!(fixture.knows("g", "i:1"));
    });
}

#[test]
fn a_function_made_during_a_list_survives() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        fixture.warm("f").await;
        pass(1.0).await;
        server.limit_page(1);
        for number in 0..3 {
            server.create("functions", object(warm(&format!("m{number}"))));
        }
        // The second page is sent 3 s late. A function that is registered in between may be missing from the
        // list.
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
        fixture.warm("a").await;
        let mut was_there = true;
        until("the list is over", || {
            was_there &= fixture.knows("a", "i:1");
            server.count(of("watch", "functions")) > 0
        })
        .await;
        pass(5.0).await;
        assert!(was_there && fixture.knows("a", "i:1"));
        assert_eq!(fixture.table().len(), 5);
    });
}

#[test]
fn an_edit_survives_a_scaling_right_after_it() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        fixture.warm("f").await;
        pass(1.0).await;
        server.delay_watches(Duration::from_secs(3));
        set_image(&server, "f", "i:2");
        let scaled = fixture.ask(scale("f", 2)).await;
        assert!(matches!(scaled, Reply::Scaled { replicas: 2, .. }));
        pass(10.0).await;
        assert!(fixture.knows("f", "i:2"), "{:?}", fixture.table());
        let floor = fixture.function("f").spec.scaling_config.min_replicas;
        assert_eq!(floor, 2);
    });
}

#[test]
fn scaling_makes_no_wrong_spec_an_accepted_one() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        fixture.warm("f").await;
        server.edit("functions", "f", |there| {
            there["spec"]["concurrency"] = json!(0)
        });
        until("it is rejected", || {
            condition(&server, "f")["status"] == "False"
        })
        .await;
        fixture.ask(scale("f", 2)).await;
        pass(30.0).await;
        let condition = condition(&server, "f");
        assert_eq!(condition["status"], "False", "{condition}");
    });
}
