//! Tests of the Lease: which control plane may act, and when no control plane may act.

use std::time::Duration;

use nanofaas_core::event::{Event, Order};
use nanofaas_core::message::{BridgeError, Reply};
use nanofaas_fake_api_server::script::{Fault, answer, any, of};
use nanofaas_fake_api_server::server::FakeApiServer;
use serde_json::json;

use crate::fixture::{ClusterFixture, pass, registration, scenario, until, warm};

fn held_by(server: &FakeApiServer, holder: &str) {
    let lease = json!({"metadata": {"name": "nanofaas"}, "spec": {"holderIdentity": holder,
        "leaseDurationSeconds": 15, "leaseTransitions": 3,
        "renewTime": "2020-01-01T00:00:00.000000Z", "acquireTime": "2020-01-01T00:00:00.000000Z"}});
    server.create("leases", lease);
}

fn holder(server: &FakeApiServer) -> String {
    let lease = server.get("leases", "nanofaas");
    let lease = lease.unwrap_or_default();
    lease["spec"]["holderIdentity"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_free_lease_is_taken_first() {
    scenario(|server| async move {
        let _bench = ClusterFixture::acting(&server).await;
        assert_eq!(holder(&server), "plane-uid");
        let first = server.changes().into_iter().next().expect("a change");
        assert_eq!((first.verb, &*first.resource), ("create", "leases"));
        let listed = &server.asked(of("list", "pods"))[0];
        assert!(listed.at >= first.at);
    });
}

#[test]
fn a_restarted_container_retakes_its_lease_at_once() {
    scenario(|server| async move {
        held_by(&server, "plane-uid");
        let began = tokio::time::Instant::now();
        let _bench = ClusterFixture::acting(&server).await;
        assert!(began.elapsed().as_secs() < 5);
        assert_eq!(holder(&server), "plane-uid");
        let lease = server.get("leases", "nanofaas").expect("there");
        assert_eq!(lease["spec"]["leaseTransitions"], 3);
        assert_eq!(lease["spec"]["acquireTime"], "2020-01-01T00:00:00.000000Z");
    });
}

#[test]
fn anothers_lease_is_waited_for_until_stale() {
    scenario(|server| async move {
        held_by(&server, "other");
        let mut fixture = ClusterFixture::new(&server);
        fixture.begin();
        // This timestamp comes from the clock of another machine, so its age does not make the Lease stale.
        pass(8.0).await;
        server.edit("leases", "nanofaas", |lease| {
            lease["spec"]["renewTime"] = json!("2020-01-01T00:00:08.000000Z");
        });
        pass(13.0).await;
        assert_eq!(holder(&server), "other");
        assert!(server.changes().is_empty() && !fixture.is_ready());
        until("it is ready", || fixture.is_ready()).await;
        assert_eq!(holder(&server), "plane-uid");
        let lease = server.get("leases", "nanofaas").expect("there");
        assert_eq!(lease["spec"]["leaseTransitions"], 4);
    });
}

#[test]
fn a_returned_lease_is_taken_at_once() {
    scenario(|server| async move {
        let mut first = ClusterFixture::new(&server);
        first.ready().await;
        let mut second = ClusterFixture::new(&server).named("second");
        second.begin();
        pass(30.0).await;
        assert!(!second.is_ready() && holder(&server) == "plane-uid");
        first.stop().await;
        first.end();
        let began = tokio::time::Instant::now();
        until("the second acts", || second.is_ready()).await;
        assert!(began.elapsed().as_secs() < 5);
        assert_eq!(holder(&server), "second");
    });
}

#[test]
fn without_its_lease_it_changes_nothing() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        let (pod, _) = fixture.running(&function).await;
        server.script(of("update", "leases"), usize::MAX, answer(500));
        // No renewal succeeds. The control plane may act for only 10 s after its last renewal (`TENURE`), so
        // it may not act any more after these 16 s.
        pass(16.0).await;
        server.forget_asked();
        let second = fixture.start(&function);
        let token = fixture.request(registration(warm("g"), false));
        pass(10.0).await;
        let changes: Vec<_> = server.changes();
        let others = changes.iter().filter(|one| one.resource != "leases");
        assert_eq!(others.count(), 0, "{changes:?}");
        assert!(!fixture.is_deposed() && fixture.is_ready());
        assert!(fixture.is_quiet(), "pods are not touched");
        match fixture.reply(token).await {
            Reply::Refused(BridgeError::Unavailable(_)) => {}
            _ => panic!("nobody may change anything"),
        }
        server.mend();
        match fixture.event().await {
            Event::PodUp(up) => assert_eq!(up, second),
            _ => panic!("the pod that waited is started"),
        }
        assert_ne!(pod, second);
    });
}

#[test]
fn an_unreadable_lease_is_polled_in_bounds() {
    scenario(|server| async move {
        server.script(any(), usize::MAX, answer(500));
        let mut fixture = ClusterFixture::new(&server).outside();
        fixture.begin();
        pass(30.0).await;
        let count = server.count(any());
        assert!(count < 60, "{count} requests in 30 s");
        server.mend();
        until("it is ready", || fixture.is_ready()).await;
    });
}

#[test]
fn another_holder_deposes_it_for_good() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        server.edit("leases", "nanofaas", |lease| {
            lease["spec"]["holderIdentity"] = json!("other");
        });
        until("it is deposed", || fixture.is_deposed()).await;
        server.forget_asked();
        fixture.start(&function);
        pass(10.0).await;
        assert_eq!(server.changes().len(), 0);
        assert_eq!(holder(&server), "other");
    });
}

#[test]
fn of_two_that_begin_one_acts() {
    scenario(|server| async move {
        let mut first = ClusterFixture::new(&server).outside();
        let mut second = ClusterFixture::new(&server).outside();
        first.begin();
        second.begin();
        until("one is ready", || first.is_ready() || second.is_ready()).await;
        pass(30.0).await;
        assert!(first.is_ready() != second.is_ready());
        assert!(!first.is_deposed() && !second.is_deposed());
    });
}

#[test]
fn a_lease_that_somebody_deleted_is_made_again() {
    scenario(|server| async move {
        let fixture = ClusterFixture::acting(&server).await;
        server.remove("leases", "nanofaas");
        until("it is there", || holder(&server) == "plane-uid").await;
        assert!(!fixture.is_deposed());
    });
}

#[test]
fn retries_end_with_the_tenure() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        let (pod, _) = fixture.running(&function).await;
        server.script(of("update", "leases"), usize::MAX, answer(500));
        server.script(of("delete", "pods"), usize::MAX, answer(500));
        fixture.rings.order(Order::Stop { pod });
        pass(5.0).await;
        assert!(server.count(of("delete", "pods")) > 1, "it is tried");
        pass(12.0).await;
        server.forget_asked();
        pass(20.0).await;
        assert_eq!(server.count(of("delete", "pods")), 0, "nobody may now");
        server.mend();
        fixture.down(pod).await;
    });
}

#[test]
fn a_change_in_flight_ends_with_the_tenure() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        server.forget_asked();
        until("it is renewed", || server.count(of("update", "leases")) > 0).await;
        let renewed = tokio::time::Instant::now();
        server.script(of("update", "leases"), usize::MAX, answer(500));
        server.script(of("create", "pods"), usize::MAX, Fault::Hang);
        pass(8.0).await;
        fixture.start(&function);
        pass(1.0).await;
        assert_eq!(server.count(of("create", "pods")), 1, "it still may");
        until("it is given up", || {
            !server.given_up(of("create", "pods")).is_empty()
        })
        .await;
        // Other control planes can take the Lease 15 s after the last renewal, so this control plane must
        // drop its request earlier.
        let after = server.given_up(of("create", "pods"))[0] - renewed;
        assert!(after < Duration::from_secs(11), "{after:?}");
        pass(10.0).await;
        assert_eq!(server.count(of("create", "pods")), 1, "nobody may now");
    });
}

#[test]
fn the_lease_is_renewed_however_slow_the_server() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        // Creations of pods hang, as they do when an admission webhook does not answer.
        server.script(of("create", "pods"), usize::MAX, Fault::Hang);
        for _ in 0..50 {
            fixture.start(&function);
        }
        pass(2.0).await;
        server.forget_asked();
        pass(18.0).await;
        let renewals = server.count(of("update", "leases"));
        assert!(renewals >= 4, "{renewals} renewals in 18 s");
    });
}

#[test]
fn it_stops_in_time_without_the_server() {
    scenario(|server| async move {
        let fixture = ClusterFixture::acting(&server).await;
        server.leave();
        let began = tokio::time::Instant::now();
        fixture.stop().await;
        assert!(began.elapsed() <= Duration::from_secs(5));
        server.come_back().await;
        server.script(any(), usize::MAX, Fault::Hang);
        let began = tokio::time::Instant::now();
        fixture.stop().await;
        assert!(began.elapsed() <= Duration::from_secs(5));
    });
}

#[test]
fn one_hanging_renewal_keeps_the_lease() {
    scenario(|server| async move {
        let first = ClusterFixture::acting(&server).await;
        let mut second = ClusterFixture::new(&server).named("second");
        second.begin();
        pass(10.0).await;
        for _ in 0..4 {
            server.script(of("update", "leases"), 1, Fault::Hang);
            pass(30.0).await;
            assert!(!first.is_deposed() && !second.is_ready());
            assert_eq!(holder(&server), "plane-uid");
        }
    });
}
