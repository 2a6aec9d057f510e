//! Tests with an API server that is slow, answers with errors, or is gone. The control plane sends no
//! requests in a tight loop. As soon as the server works again, the function table and the pods agree with
//! the cluster.

use std::time::Duration;

use nanofaas_core::message::Reply;
use nanofaas_fake_api_server::name_of;
use nanofaas_fake_api_server::script::{Fault, answer, any, of, too_many};

use crate::agreement::{AFTERWARDS, agree, busy, meanwhile, pods_of};
use crate::fixture::{pass, scenario, warm};

#[test]
fn errors_for_a_while_are_outlived() {
    scenario(|server| async move {
        let mut fixture = busy(&server).await;
        for code in [500, 503, 504, 429] {
            server.script(any(), usize::MAX, answer(code));
            server.slam(true).await;
            server.slam(false).await;
            server.forget_asked();
            pass(30.0).await;
            let count = server.count(any());
            assert!(count <= 160, "{count} requests in 30 s of {code}");
            server.mend();
            agree(&fixture, &[("a", 1), ("b", 2), ("c", 0)]).await;
        }
        assert_eq!(server.ever("pods"), 3);
        let made = fixture.register(warm("e"), false).await;
        assert!(matches!(made, Reply::Registered { .. }));
    });
}

#[test]
fn a_server_that_asks_for_patience_gets_it() {
    scenario(|server| async move {
        let fixture = busy(&server).await;
        server.script(any(), usize::MAX, too_many(5));
        server.slam(true).await;
        server.slam(false).await;
        server.forget_asked();
        pass(30.0).await;
        for kind in ["pods", "functions"] {
            let asked = server.asked(of("watch", kind));
            for pair in asked.windows(2) {
                assert!(pair[1].at - pair[0].at >= Duration::from_secs(5), "{kind}");
            }
        }
        // The Lease must be renewed in time, so some requests come more often than every 5 s.
        let count = server.count(any());
        assert!(count <= 30, "{count} requests in 30 s");
        server.mend();
        agree(&fixture, &[("a", 1), ("b", 2), ("c", 0)]).await;
    });
}

#[test]
fn a_lost_server_gets_few_calls_pods_stay() {
    scenario(|server| async move {
        let fixture = busy(&server).await;
        let orders = fixture.rings.orders.borrow().len();
        let before = server.accepted();
        server.slam(true).await;
        pass(3.0).await;
        let calls = server.accepted() - before;
        assert!(calls <= 40, "{calls} connections in 3 s");
        pass(57.0).await;
        let calls = server.accepted() - before;
        assert!(calls <= 150, "{calls} connections in 60 s");
        assert_eq!(
            fixture.rings.orders.borrow().len(),
            orders,
            "its pods serve on"
        );
        assert!(fixture.is_ready() && !fixture.is_deposed());
        server.slam(false).await;
        agree(&fixture, &[("a", 1), ("b", 2), ("c", 0)]).await;
        assert_eq!(server.ever("pods"), 3, "no pod was doubled");
    });
}

#[test]
fn changes_during_an_outage_are_found_afterwards() {
    scenario(|server| async move {
        let fixture = busy(&server).await;
        server.leave();
        pass(5.0).await;
        meanwhile(&server).await;
        pass(55.0).await;
        server.come_back().await;
        agree(&fixture, &AFTERWARDS).await;
    });
}

#[test]
fn pods_ending_during_an_outage_are_replaced_afterwards() {
    scenario(|server| async move {
        let fixture = busy(&server).await;
        let pods = pods_of(&server, "b");
        server.leave();
        server.end(name_of(&pods[0]), 137, "OOMKilled", "");
        server.evict(name_of(&pods[1]));
        pass(20.0).await;
        server.come_back().await;
        agree(&fixture, &[("a", 1), ("b", 2), ("c", 0)]).await;
    });
}

#[test]
fn pods_wanted_during_an_outage_come_afterwards() {
    scenario(|server| async move {
        let fixture = busy(&server).await;
        let pods = pods_of(&server, "b");
        server.script(of("create", "pods"), usize::MAX, answer(500));
        server.remove("pods", name_of(&pods[0]));
        pass(90.0).await;
        // The scheduler backs off after a failed start, and the number of requests for each start is bounded.
        let count = server.count(of("create", "pods"));
        assert!(count <= 90, "{count} tries in 90 s");
        server.mend();
        agree(&fixture, &[("a", 1), ("b", 2), ("c", 0)]).await;
    });
}

#[test]
fn unanswered_creations_double_no_pod() {
    scenario(|server| async move {
        let fixture = busy(&server).await;
        let pods = pods_of(&server, "b");
        for late in [1, 25, 50] {
            let late = Duration::from_secs(late);
            server.script(of("create", "pods"), 1, Fault::DoneLate(late));
        }
        server.remove("pods", name_of(&pods[0]));
        server.remove("pods", name_of(&pods[1]));
        pass(120.0).await;
        agree(&fixture, &[("a", 1), ("b", 2), ("c", 0)]).await;
    });
}

#[test]
fn a_slow_server_is_worked_with() {
    scenario(|server| async move {
        let slow = Fault::Late(Duration::from_secs(2));
        server.script(any(), usize::MAX, slow);
        let mut fixture = busy(&server).await;
        let made = fixture.register(warm("e"), false).await;
        assert!(matches!(made, Reply::Registered { .. }));
        meanwhile(&server).await;
        let wanted: Vec<_> = AFTERWARDS.into_iter().chain([("e", 0)]).collect();
        agree(&fixture, &wanted).await;
        pass(60.0).await;
        assert!(!fixture.is_deposed());
        assert_eq!(
            server.ever("pods"),
            6,
            "three, one of them anew twice, and one more"
        );
    });
}

#[test]
fn answers_that_break_off_are_asked_for_again() {
    scenario(|server| async move {
        for (verb, resource) in [
            ("get", "leases"),
            ("create", "leases"),
            ("list", "pods"),
            ("list", "functions"),
            ("create", "pods"),
            ("list", "jobs"),
            ("delete", "pods"),
        ] {
            server.script(of(verb, resource), 2, Fault::CutAnswer);
        }
        let fixture = busy(&server).await;
        assert_eq!(server.ever("pods"), 3);
        meanwhile(&server).await;
        agree(&fixture, &AFTERWARDS).await;
    });
}
