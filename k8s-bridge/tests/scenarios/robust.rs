//! An API server in trouble: expiry, drops, slowness, errors, absence. Afterwards table and pods
//! agree, and on the way nobody is asked in a loop.

use std::time::Duration;

use nanofaas_core::event::Order;
use nanofaas_core::message::Reply;
use serde_json::{Value, json};

use crate::bench::{Bench, object, pass, scenario, until, warm};
use crate::script::{Fault, Which, answer, any, of, too_many};
use crate::server::Server;
use crate::store::name_of;

const WATCHES: Which = Which {
    verb: Some("watch"),
    resource: None,
};
const LISTS: Which = Which {
    verb: Some("list"),
    resource: None,
};

fn wanting(name: &str, pods: u32) -> Value {
    let mut spec = warm(name);
    spec["scalingConfig"]["minReplicas"] = json!(pods);
    spec
}

fn pods_of(server: &Server, function: &str) -> Vec<Value> {
    let store = server.0.store.borrow();
    let all = store.all("pods").into_iter();
    let of = all.filter(|pod| pod["metadata"]["labels"]["nanofaas.io/function"] == function);
    of.cloned().collect()
}

/// A plane with three functions, of which `a` has one pod and `b` two.
async fn busy(server: &Server) -> Bench {
    for spec in [wanting("a", 1), wanting("b", 2), warm("c")] {
        server.create("functions", object(spec));
    }
    let mut bench = Bench::scheduled(server);
    bench.ready().await;
    agree(&bench, &[("a", 1), ("b", 2), ("c", 0)]).await;
    bench
}

/// Whether the table has the cluster's functions, and each its pods, running.
fn is_agreed(bench: &Bench, wanted: &[(&str, usize)]) -> bool {
    let server = &bench.server;
    let store = server.0.store.borrow();
    let functions = store.all("functions");
    let there: Vec<(String, String)> = functions
        .iter()
        .map(|one| {
            let image = one["spec"]["image"].as_str().unwrap_or_default();
            (name_of(one).to_owned(), image.to_owned())
        })
        .collect();
    drop(store);
    let names: Vec<&str> = there.iter().map(|(name, _)| &**name).collect();
    let wanted_names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
    let has_pods = wanted.iter().all(|(name, count)| {
        let pods = pods_of(server, name);
        let image = there
            .iter()
            .find(|(of, _)| of == name)
            .map(|(_, image)| &**image);
        let is_sound = |pod: &Value| {
            pod["status"]["phase"] == "Running"
                && pod["metadata"]["deletionTimestamp"].is_null()
                && pod["spec"]["containers"][0]["image"].as_str() == image
        };
        pods.len() == *count && pods.iter().all(is_sound)
    });
    let count = wanted.iter().map(|(_, count)| count).sum::<usize>();
    has_pods
        && names == wanted_names
        && bench.table() == there
        && server.names("pods").len() == count
}

/// They agree, and go on to.
async fn agree(bench: &Bench, wanted: &[(&str, usize)]) {
    until("table and cluster agree", || is_agreed(bench, wanted)).await;
    for _ in 0..20 {
        pass(0.5).await;
        assert!(is_agreed(bench, wanted), "they agree no more");
    }
}

/// Things that happen while the plane cannot see them.
async fn meanwhile(server: &Server) {
    server.remove("functions", "c");
    server.create("functions", object(wanting("d", 1)));
    server.edit("functions", "a", |there| {
        there["spec"]["image"] = json!("i:2")
    });
    let pods = pods_of(server, "b");
    server.remove("pods", name_of(&pods[0]));
    pass(0.1).await;
}

const AFTERWARDS: [(&str, usize); 3] = [("a", 1), ("b", 2), ("d", 1)];

#[test]
fn watches_that_have_expired_are_listed_anew() {
    scenario(|server| async move {
        let bench = busy(&server).await;
        server.slam(true).await;
        meanwhile(&server).await;
        server.compact();
        server.forget_asked();
        server.slam(false).await;
        agree(&bench, &AFTERWARDS).await;
        assert_eq!(server.count(of("list", "pods")), 1);
        assert_eq!(server.count(of("list", "functions")), 1);
    });
}

#[test]
fn watches_that_expire_by_an_event_are_listed_anew_and_not_in_a_loop() {
    scenario(|server| async move {
        let bench = busy(&server).await;
        server.script(WATCHES, usize::MAX, Fault::ExpireByEvent);
        server.slam(true).await;
        server.slam(false).await;
        server.forget_asked();
        pass(20.0).await;
        for which in [LISTS, WATCHES] {
            let count = server.count(which);
            assert!((2..=32).contains(&count), "{count} in 20 s for two kinds");
        }
        meanwhile(&server).await;
        server.mend();
        agree(&bench, &AFTERWARDS).await;
    });
}

#[test]
fn a_server_that_ends_each_watch_at_once_is_not_asked_in_a_loop() {
    scenario(|server| async move {
        let bench = busy(&server).await;
        server.script(WATCHES, usize::MAX, Fault::EndAtOnce);
        server.slam(true).await;
        server.slam(false).await;
        server.forget_asked();
        pass(2.0).await;
        let count = server.count(WATCHES);
        assert!(count <= 14, "{count} in 2 s for two kinds");
        pass(28.0).await;
        let count = server.count(WATCHES);
        assert!(count <= 30, "{count} in 30 s for two kinds");
        server.mend();
        meanwhile(&server).await;
        agree(&bench, &AFTERWARDS).await;
    });
}

#[test]
fn a_watch_that_breaks_within_a_line_loses_nothing() {
    scenario(|server| async move {
        let bench = busy(&server).await;
        server.script(WATCHES, 6, Fault::CutLine);
        server.slam(true).await;
        server.slam(false).await;
        meanwhile(&server).await;
        agree(&bench, &AFTERWARDS).await;
        assert_eq!(
            server.count(LISTS),
            3,
            "it went on from where it was: {:?}",
            server.asked(LISTS)
        );
    });
}

#[test]
fn a_watch_that_says_nothing_is_given_up() {
    scenario(|server| async move {
        let bench = busy(&server).await;
        server.script(WATCHES, 2, Fault::Mute);
        server.slam(true).await;
        server.slam(false).await;
        until("both are mute", || server.count(WATCHES) >= 4).await;
        meanwhile(&server).await;
        agree(&bench, &AFTERWARDS).await;
    });
}

#[test]
fn a_watch_that_is_not_answered_is_given_up() {
    scenario(|server| async move {
        let bench = busy(&server).await;
        server.script(WATCHES, 2, Fault::Hang);
        server.slam(true).await;
        server.slam(false).await;
        meanwhile(&server).await;
        agree(&bench, &AFTERWARDS).await;
    });
}

#[test]
fn slow_watches_double_no_pod_and_lose_no_function() {
    scenario(|server| async move {
        let bench = busy(&server).await;
        server.0.watch_delay.set(Duration::from_secs(7));
        meanwhile(&server).await;
        agree(&bench, &AFTERWARDS).await;
        server.edit("functions", "b", |there| {
            there["spec"]["scalingConfig"]["minReplicas"] = json!(4);
        });
        agree(&bench, &[("a", 1), ("b", 4), ("d", 1)]).await;
    });
}

#[test]
fn errors_for_a_while_are_outlived() {
    scenario(|server| async move {
        let mut bench = busy(&server).await;
        for code in [500, 503, 504, 429] {
            server.script(any(), usize::MAX, answer(code));
            server.slam(true).await;
            server.slam(false).await;
            server.forget_asked();
            pass(30.0).await;
            let count = server.count(any());
            assert!(count <= 160, "{count} requests in 30 s of {code}");
            server.mend();
            agree(&bench, &[("a", 1), ("b", 2), ("c", 0)]).await;
        }
        assert_eq!(server.ever("pods"), 3);
        let made = bench.register(warm("e"), false).await;
        assert!(matches!(made, Reply::Registered { .. }));
    });
}

#[test]
fn a_server_that_asks_for_patience_gets_it() {
    scenario(|server| async move {
        let bench = busy(&server).await;
        server.script(any(), usize::MAX, too_many(5));
        server.slam(true).await;
        server.slam(false).await;
        server.forget_asked();
        pass(30.0).await;
        // Two watches and the Lease, each every 5 s.
        let count = server.count(any());
        assert!(count <= 24, "{count} requests in 30 s");
        server.mend();
        agree(&bench, &[("a", 1), ("b", 2), ("c", 0)]).await;
    });
}

#[test]
fn a_server_that_is_gone_is_not_called_in_a_loop_and_no_pod_is_given_up() {
    scenario(|server| async move {
        let bench = busy(&server).await;
        let orders = bench.rings.orders.borrow().len();
        let before = server.accepted();
        server.slam(true).await;
        pass(3.0).await;
        let calls = server.accepted() - before;
        assert!(calls <= 40, "{calls} connections in 3 s");
        pass(57.0).await;
        let calls = server.accepted() - before;
        assert!(calls <= 150, "{calls} connections in 60 s");
        assert_eq!(
            bench.rings.orders.borrow().len(),
            orders,
            "its pods serve on"
        );
        assert!(bench.is_ready() && !bench.is_deposed());
        server.slam(false).await;
        agree(&bench, &[("a", 1), ("b", 2), ("c", 0)]).await;
        assert_eq!(server.ever("pods"), 3, "no pod was doubled");
    });
}

#[test]
fn what_happened_while_the_server_was_gone_is_found_out() {
    scenario(|server| async move {
        let bench = busy(&server).await;
        server.leave();
        pass(5.0).await;
        meanwhile(&server).await;
        pass(55.0).await;
        server.come_back().await;
        agree(&bench, &AFTERWARDS).await;
    });
}

#[test]
fn pods_that_end_while_the_server_is_gone_are_replaced_when_it_is_back() {
    scenario(|server| async move {
        let bench = busy(&server).await;
        let pods = pods_of(&server, "b");
        server.leave();
        server.end(name_of(&pods[0]), 137, "OOMKilled", "");
        server.evict(name_of(&pods[1]));
        pass(20.0).await;
        server.come_back().await;
        agree(&bench, &[("a", 1), ("b", 2), ("c", 0)]).await;
    });
}

#[test]
fn pods_that_are_wanted_while_the_server_is_gone_come_when_it_is_back() {
    scenario(|server| async move {
        let bench = busy(&server).await;
        let pods = pods_of(&server, "b");
        server.script(of("create", "pods"), usize::MAX, answer(500));
        server.remove("pods", name_of(&pods[0]));
        pass(90.0).await;
        // Failed starts are put off by the scheduler; each asks in bounds.
        let count = server.count(of("create", "pods"));
        assert!(count <= 90, "{count} tries in 90 s");
        server.mend();
        agree(&bench, &[("a", 1), ("b", 2), ("c", 0)]).await;
    });
}

#[test]
fn pods_whose_creations_are_never_answered_are_not_doubled_in_the_end() {
    scenario(|server| async move {
        let bench = busy(&server).await;
        let pods = pods_of(&server, "b");
        for late in [1, 25, 50] {
            let late = Duration::from_secs(late);
            server.script(of("create", "pods"), 1, Fault::DoneLate(late));
        }
        server.remove("pods", name_of(&pods[0]));
        server.remove("pods", name_of(&pods[1]));
        pass(120.0).await;
        agree(&bench, &[("a", 1), ("b", 2), ("c", 0)]).await;
    });
}

#[test]
fn a_list_that_fails_between_two_pages_takes_nothing_away() {
    scenario(|server| async move {
        let bench = busy(&server).await;
        server.0.page.set(1);
        server.script(of("list", "functions"), 1, Fault::Late(Duration::ZERO));
        server.script(of("list", "functions"), 1, answer(410));
        server.script(of("list", "pods"), 2, Fault::Late(Duration::ZERO));
        server.script(of("list", "pods"), 3, answer(410));
        server.slam(true).await;
        server.compact();
        server.slam(false).await;
        let table = bench.table();
        for _ in 0..200 {
            pass(0.05).await;
            assert_eq!(bench.table(), table);
        }
        agree(&bench, &[("a", 1), ("b", 2), ("c", 0)]).await;
        assert_eq!(
            server.ever("pods"),
            0,
            "the history began anew, and nothing was made"
        );
    });
}

#[test]
fn each_kind_has_one_watch_whatever_happened() {
    scenario(|server| async move {
        let _bench = busy(&server).await;
        for fault in [
            Fault::CutLine,
            Fault::EndAtOnce,
            Fault::ExpireByEvent,
            Fault::Hang,
        ] {
            server.script(WATCHES, 3, fault);
            server.slam(true).await;
            server.slam(false).await;
            pass(100.0).await;
        }
        let mut open = server.0.watches.borrow().clone();
        open.sort();
        assert_eq!(open, ["functions", "pods"]);
    });
}

#[test]
fn a_watch_is_begun_anew_where_it_ended_and_lists_nothing() {
    scenario(|server| async move {
        let bench = busy(&server).await;
        server.forget_asked();
        pass(200.0).await;
        assert_eq!(server.count(LISTS), 0);
        let count = server.count(WATCHES);
        assert!((4..=8).contains(&count), "{count} watches in 200 s");
        let stops = bench.rings.orders.borrow();
        assert!(
            !stops
                .iter()
                .any(|order| matches!(order, Order::Stop { .. }))
        );
    });
}
