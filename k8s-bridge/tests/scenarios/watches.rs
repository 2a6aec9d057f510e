//! Tests of lists and watches that fail, expire or send nothing: no change is lost or applied twice, and no
//! watch is begun in a tight loop.

use std::time::Duration;

use nanofaas_core::event::Order;
use nanofaas_fake_api_server::name_of;
use nanofaas_fake_api_server::script::{Fault, answer, of};
use nanofaas_fake_api_server::server::FakeApiServer;
use serde_json::{Value, json};

use crate::agreement::{AFTERWARDS, LISTS, WATCHES, agree, busy, meanwhile, pods_of, wanting};
use crate::fixture::{ClusterFixture, object, pass, scenario, until};

#[test]
fn watches_that_have_expired_are_listed_anew() {
    scenario(|server| async move {
        let fixture = busy(&server).await;
        server.slam(true).await;
        meanwhile(&server).await;
        server.compact();
        server.forget_asked();
        server.slam(false).await;
        agree(&fixture, &AFTERWARDS).await;
        assert_eq!(server.count(of("list", "pods")), 1);
        assert_eq!(server.count(of("list", "functions")), 1);
    });
}

#[test]
fn expired_watches_list_again_but_not_in_loops() {
    scenario(|server| async move {
        let fixture = busy(&server).await;
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
        agree(&fixture, &AFTERWARDS).await;
    });
}

#[test]
fn watches_ended_at_once_do_not_loop() {
    scenario(|server| async move {
        let fixture = busy(&server).await;
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
        agree(&fixture, &AFTERWARDS).await;
    });
}

#[test]
fn a_watch_cut_within_a_line_loses_nothing() {
    scenario(|server| async move {
        let fixture = busy(&server).await;
        server.script(WATCHES, 6, Fault::CutLine);
        server.slam(true).await;
        server.slam(false).await;
        meanwhile(&server).await;
        agree(&fixture, &AFTERWARDS).await;
        assert_eq!(
            server.count(LISTS),
            3,
            "it went on from where it was: {:?}",
            server.asked(LISTS)
        );
    });
}

/// Returns a pod of the platform whose field `status.phase` has a wrong type.
fn odd_pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "nanofaas", "nanofaas.io/kind": "warm",
        "nanofaas.io/function": "a"}}, "spec": {}, "status": {"phase": 3}})
}

#[test]
fn an_unreadable_object_hides_no_other() {
    scenario(|server| async move {
        // The names of the odd objects sort first, so each odd object comes before the others in its list.
        server.create("pods", odd_pod("a-odd"));
        let odd = json!({"metadata": {"name": "a-odd", "labels": 3}, "spec": {"image": "i"}});
        server.create("functions", odd);
        server.create("functions", object(wanting("b", 1)));
        let mut fixture = ClusterFixture::scheduled(&server);
        fixture.ready().await;
        let sound = |server: &FakeApiServer| {
            let mut pods = pods_of(server, "b");
            pods.retain(|pod| pod["status"]["phase"] == "Running");
            pods.first().map(|pod| name_of(pod).to_owned())
        };
        until("a pod of b runs", || sound(&server).is_some()).await;
        server.forget_asked();
        // From here on, the odd objects come in a watch.
        server.create("pods", odd_pod("b-odd"));
        server.edit("pods", "a-odd", |pod| pod["status"]["phase"] = json!(4));
        server.edit("functions", "a-odd", |function| {
            function["spec"]["image"] = json!("j");
        });
        server.create("functions", object(wanting("c", 0)));
        let first = sound(&server).expect("it runs");
        server.remove("pods", &first);
        let is_followed = || {
            let names: Vec<String> = fixture.table().into_iter().map(|(name, _)| name).collect();
            names == ["b", "c"] && sound(&server).is_some_and(|pod| pod != first)
        };
        until("the changes after it are applied", is_followed).await;
        server.remove("pods", "a-odd");
        server.remove("functions", "a-odd");
        server.remove("functions", "c");
        until("its end hides nothing", || fixture.table().len() == 1).await;
        pass(5.0).await;
        assert_eq!(server.count(LISTS), 0, "{:?}", server.asked(LISTS));
        let odd_is_left = server.names("pods").contains(&"b-odd".to_owned());
        assert!(odd_is_left, "what cannot be read is not ours to delete");
    });
}

#[test]
fn a_silent_watch_is_given_up() {
    scenario(|server| async move {
        let fixture = busy(&server).await;
        server.script(WATCHES, 2, Fault::Mute);
        server.slam(true).await;
        server.slam(false).await;
        until("both are mute", || server.count(WATCHES) >= 4).await;
        meanwhile(&server).await;
        agree(&fixture, &AFTERWARDS).await;
    });
}

#[test]
fn an_unanswered_watch_is_given_up() {
    scenario(|server| async move {
        let fixture = busy(&server).await;
        server.script(WATCHES, 2, Fault::Hang);
        server.slam(true).await;
        server.slam(false).await;
        meanwhile(&server).await;
        agree(&fixture, &AFTERWARDS).await;
    });
}

#[test]
fn slow_watches_double_and_lose_nothing() {
    scenario(|server| async move {
        let fixture = busy(&server).await;
        server.delay_watches(Duration::from_secs(7));
        meanwhile(&server).await;
        agree(&fixture, &AFTERWARDS).await;
        server.edit("functions", "b", |there| {
            there["spec"]["scalingConfig"]["minReplicas"] = json!(4);
        });
        agree(&fixture, &[("a", 1), ("b", 4), ("d", 1)]).await;
    });
}

#[test]
fn a_list_failing_between_pages_removes_nothing() {
    scenario(|server| async move {
        let fixture = busy(&server).await;
        server.limit_page(1);
        server.script(of("list", "functions"), 1, Fault::Late(Duration::ZERO));
        server.script(of("list", "functions"), 1, answer(410));
        server.script(of("list", "pods"), 2, Fault::Late(Duration::ZERO));
        server.script(of("list", "pods"), 3, answer(410));
        server.slam(true).await;
        server.compact();
        server.slam(false).await;
        let table = fixture.table();
        for _ in 0..200 {
            pass(0.05).await;
            assert_eq!(fixture.table(), table);
        }
        agree(&fixture, &[("a", 1), ("b", 2), ("c", 0)]).await;
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
        let mut open = server.watched();
        open.sort();
        assert_eq!(open, ["functions", "pods"]);
    });
}

#[test]
fn an_ended_watch_resumes_without_a_list() {
    scenario(|server| async move {
        let fixture = busy(&server).await;
        server.forget_asked();
        pass(200.0).await;
        assert_eq!(server.count(LISTS), 0);
        let count = server.count(WATCHES);
        assert!((4..=8).contains(&count), "{count} watches in 200 s");
        // The watches have continued from the versions of bookmarks, so a server that forgets its history
        // must not cause a list.
        server.forget_history();
        pass(120.0).await;
        assert_eq!(server.count(LISTS), 0);
        let stops = fixture.rings.orders.borrow();
        assert!(
            !stops
                .iter()
                .any(|order| matches!(order, Order::Stop { .. }))
        );
    });
}
