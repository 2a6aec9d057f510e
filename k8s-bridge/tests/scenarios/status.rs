//! Each function's status in the cluster: written where it changed, and not too often.

use std::time::Duration;

use nanofaas_core::event::Order;
use serde_json::{Value, json};

use crate::bench::{Bench, object, pass, scenario, until, warm};
use crate::script::{answer, of};
use crate::server::Server;

fn status(server: &Server, name: &str) -> Value {
    server.get("functions", name).unwrap_or_default()["status"].clone()
}

#[test]
fn a_status_is_written_once_and_not_again_while_nothing_changes() {
    scenario(|server| async move {
        server.create("functions", object(warm("f")));
        let mut bench = Bench::acting(&server).await;
        until("it is written", || status(&server, "f")["readyPods"] == 0).await;
        let written = status(&server, "f");
        assert_eq!(written["conditions"][0]["type"], "Accepted");
        assert_eq!(written["conditions"][0]["status"], "True");
        assert_eq!(written["observedGeneration"], 1);
        pass(60.0).await;
        assert_eq!(server.count(of("patch", "functions/status")), 1);
        // Another plane has nothing to add.
        bench.end();
        let _bench = Bench::acting(&server).await;
        pass(30.0).await;
        assert_eq!(server.count(of("patch", "functions/status")), 1);
    });
}

#[test]
fn many_changes_are_one_write_in_ten_seconds() {
    scenario(|server| async move {
        let mut bench = Bench::acting(&server).await;
        let function = bench.warm("f").await;
        for _ in 0..10 {
            let (pod, _) = bench.running(&function).await;
            bench.rings.order(Order::Stop { pod });
            bench.down(pod).await;
            bench.gone(pod).await;
            pass(1.0).await;
        }
        bench.running(&function).await;
        until("the last is written", || {
            status(&server, "f")["readyPods"] == 1
        })
        .await;
        let writes = server.asked(of("patch", "functions/status"));
        for pair in writes.windows(2) {
            let between = pair[1].at - pair[0].at;
            assert!(between >= Duration::from_secs(10), "{between:?}");
        }
        assert!(writes.len() >= 2);
    });
}

#[test]
fn a_status_that_cannot_be_written_is_tried_again_later() {
    scenario(|server| async move {
        let mut bench = Bench::acting(&server).await;
        server.script(of("patch", "functions/status"), usize::MAX, answer(403));
        bench.warm("f").await;
        pass(45.0).await;
        let count = server.count(of("patch", "functions/status"));
        assert!((2..=6).contains(&count), "{count} tries in 45 s");
        server.mend();
        until("it is written", || status(&server, "f")["readyPods"] == 0).await;
    });
}

#[test]
fn an_edit_that_is_taken_over_shows_in_the_status() {
    scenario(|server| async move {
        let mut bench = Bench::acting(&server).await;
        bench.warm("f").await;
        until("it is written", || status(&server, "f")["readyPods"] == 0).await;
        server.edit("functions", "f", |there| {
            there["spec"]["timeoutMs"] = json!(2000)
        });
        until("it is seen", || {
            status(&server, "f")["observedGeneration"] == 2
        })
        .await;
    });
}
