//! Tests of the link to a bridge whose ring is full.

use std::task::Waker;

use nanofaas_core::event::Order;
use nanofaas_core::ticket::PodId;

use super::*;
use crate::shard::fleet::{Fleet, with_fleet};

fn fill_ring(fleet: &Fleet) {
    let pod = PodId::new(1, 1);
    let order = || BridgeMessage::Order(Order::Stop { pod });
    while fleet.threads[0].bridge.send(order()).is_ok() {}
}

/// Takes all messages to the bridge; returns the acknowledged versions.
fn acks(fleet: &Fleet) -> Vec<u64> {
    let mut inbox = fleet.bridge.borrow_mut();
    let messages = std::iter::from_fn(|| inbox.messages.pop());
    let version = |message: BridgeMessage| match message {
        BridgeMessage::Ack { version, .. } => Some(version),
        _ => None,
    };
    messages.filter_map(version).collect()
}

#[test]
fn an_ack_waits_for_a_full_bridge() {
    with_fleet(1, async |fleet: Rc<Fleet>| {
        let thread = &fleet.threads[0];
        assert_eq!(acks(&fleet), [1]);
        fill_ring(&fleet);
        fleet.register(2);
        fleet.register(3);
        fleet.take(0);
        let wakes = thread.alarms.plan(Waker::noop());
        assert!(wakes.is_some_and(|at| at <= thread.now() + OWED));
        pay(thread);
        assert!(acks(&fleet).is_empty());
        pay(thread);
        assert_eq!(acks(&fleet), [3], "it stands for all versions before it");
        pay(thread);
        assert!(acks(&fleet).is_empty());
    });
}
