//! Tests of the link to a pinned scheduler whose ring is full.

use std::iter::from_fn;
use std::rc::Rc;

use nanofaas_core::limits::{EVENTS_FROM_BRIDGE, EVENTS_PER_IO_THREAD};
use nanofaas_core::ticket::PodId;

use super::*;
use crate::links::bridge;
use crate::shard::fleet::{Fleet, with_fleet};

/// A number of events for which the ring of a fleet with one io thread has no room.
const EVENTS: u32 = 2 * (EVENTS_PER_IO_THREAD + EVENTS_FROM_BRIDGE) as u32;

fn taken(fleet: &Fleet) -> Vec<usize> {
    let mut inbox = fleet.scheduler.borrow_mut();
    let number = |event| match event {
        Event::PodUp(pod) => pod.index.get(),
        _ => panic!("another event"),
    };
    from_fn(|| inbox.events.pop()).map(number).collect()
}

#[test]
fn events_wait_for_a_full_ring_in_order() {
    with_fleet(1, async |fleet: Rc<Fleet>| {
        let thread = &fleet.threads[0];
        for number in 0..EVENTS {
            let up = Event::PodUp(PodId::new(number, 1));
            thread.schedule(up, thread.now());
        }
        let mut all = taken(&fleet);
        assert!(all.len() < EVENTS as usize, "the ring was never full");
        while !thread.pay_events() {
            all.extend(taken(&fleet));
        }
        all.extend(taken(&fleet));
        assert!(all.into_iter().eq(0..EVENTS as usize));
    });
}

#[test]
fn an_ack_does_not_overtake_an_event() {
    with_fleet(1, async |fleet: Rc<Fleet>| {
        let thread = &fleet.threads[0];
        let acks = || from_fn(|| fleet.bridge.borrow_mut().messages.pop()).count();
        assert_eq!(acks(), 1);
        for _ in 0..EVENTS {
            thread.schedule(Event::PodUp(PodId::new(0, 1)), thread.now());
        }
        fleet.register(2);
        fleet.take(0);
        assert_eq!(acks(), 0);
        while !thread.pay_events() {
            taken(&fleet);
        }
        bridge::pay(thread);
        assert_eq!(acks(), 1);
    });
}
