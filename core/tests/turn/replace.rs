//! Tests of how pods are replaced after a change of the spec: one by one, each new pod before its old pod
//! ends, and never with more than one pod above the need.

use nanofaas_core::event::{Event, LanePlan, Order, PodPlan};
use nanofaas_core::ticket::{Class, LaneId, PodId, PodVerdict, Ticket};

use crate::plane::{LANE, SECOND, SteppedScheduler, pod_of, podless, warm};

fn change(plane: &mut SteppedScheduler, plan: LanePlan, reshaped: bool) {
    plane.on_event(Event::LaneChanged {
        lane: LANE,
        plan,
        reshaped,
    });
}

/// Obeys orders until there are none left, and returns the pods that are up at the end. After each order,
/// `check` gets the number of pods that are up.
fn obey(
    plane: &mut SteppedScheduler,
    mut serving: Vec<PodId>,
    check: impl Fn(usize),
) -> Vec<PodId> {
    loop {
        let orders = plane.orders();
        if orders.is_empty() {
            return serving;
        }
        let starts = orders.iter();
        let starts = starts.filter(|order| matches!(order, Order::Start { .. }));
        assert!(starts.count() <= 1, "more than one at a time: {orders:?}");
        for order in orders {
            match order {
                Order::Start { pod, .. } => {
                    serving.push(pod);
                    plane.up(&[pod]);
                }
                Order::Stop { pod } => {
                    let at = serving.iter().position(|other| *other == pod);
                    serving.remove(at.expect("a pod that serves"));
                    plane.down(&[pod]);
                }
                other => panic!("{other:?}"),
            }
            check(serving.len());
        }
    }
}

#[test]
fn new_pods_replace_old_ones_one_by_one() {
    let mut plane = SteppedScheduler::with(warm(3, 3));
    let old = plane.started();
    change(&mut plane, warm(3, 3), true);
    let fresh = obey(&mut plane, old.clone(), |serving| {
        assert!((3..=4).contains(&serving), "{serving} of three");
    });
    assert_eq!(fresh.len(), 3);
    assert!(fresh.iter().all(|pod| !old.contains(pod)));
    plane.calls(0, Class::Sync, 3);
    assert_eq!(plane.grants().len(), 3);
}

#[test]
fn an_edit_of_numbers_touches_no_pod() {
    let mut plane = SteppedScheduler::with(warm(3, 3));
    plane.started();
    let plan = LanePlan {
        queue_size: 7,
        concurrency: 9,
        ..warm(3, 3)
    };
    change(&mut plane, plan, false);
    assert!(plane.orders().is_empty());
}

#[test]
fn an_old_pod_only_ends_its_calls() {
    let mut plane = SteppedScheduler::with(warm(1, 1));
    let old = plane.started();
    plane.call(0, Class::Sync);
    let running = plane.grants();
    change(&mut plane, warm(1, 1), true);
    let fresh = plane.starts();
    // The old pod is the only one that is up, so it keeps serving until the new pod is up.
    plane.done(&running[0], PodVerdict::Healthy);
    plane.call(0, Class::Sync);
    let running = plane.grants();
    assert_eq!(pod_of(&running[0]), old[0]);
    plane.up(&fresh);
    assert!(plane.orders().is_empty(), "it has a call");
    plane.done(&running[0], PodVerdict::Healthy);
    assert_eq!(plane.stops(), old);
    plane.call(0, Class::Sync);
    assert_eq!(pod_of(&plane.grants()[0]), fresh[0]);
}

#[test]
fn old_pods_serve_while_no_new_one_starts() {
    let mut plane = SteppedScheduler::with(warm(2, 2));
    let old = plane.started();
    change(&mut plane, warm(2, 2), true);
    for _ in 0..5 {
        let fresh = plane.starts();
        assert_eq!(fresh.len(), 1);
        plane.start_fails(fresh[0], true);
        assert!(plane.notices().is_empty(), "nobody waits in vain");
        plane.call(0, Class::Sync);
        let grants = plane.grants();
        assert!(old.contains(&pod_of(&grants[0])));
        plane.done(&grants[0], PodVerdict::Healthy);
        plane.pass(60 * SECOND);
    }
}

#[test]
fn surplus_old_pods_await_the_first_new_one() {
    let mut plane = SteppedScheduler::with(warm(3, 1));
    plane.started();
    plane.calls(0, Class::Sync, 3);
    plane.started();
    let busy = plane.grants();
    plane.done(&busy[0], PodVerdict::Healthy);
    plane.done(&busy[1], PodVerdict::Healthy);
    change(&mut plane, warm(3, 1), true);
    let fresh = plane.starts();
    assert_eq!(fresh.len(), 1);
    plane.up(&fresh);
    assert_eq!(plane.stops().len(), 2, "the idle ones");
    plane.done(&busy[2], PodVerdict::Healthy);
    assert_eq!(plane.stops(), [pod_of(&busy[2])]);
}

#[test]
fn old_pods_that_nobody_needs_go_at_once() {
    let mut plane = SteppedScheduler::with(warm(2, 0));
    plane.calls(0, Class::Sync, 2);
    let mut old = plane.started();
    for grant in plane.grants() {
        plane.done(&grant, PodVerdict::Healthy);
    }
    change(&mut plane, warm(2, 0), true);
    let mut stopped = plane.stops();
    stopped.sort_by_key(|pod| pod.index);
    old.sort_by_key(|pod| pod.index);
    assert_eq!(stopped, old);
}

#[test]
fn an_adopted_old_pod_waits_for_its_successor() {
    let mut plane = SteppedScheduler::with(warm(3, 0));
    let adopted: Vec<_> = (0..3)
        .map(|token| {
            plane.on_event(Event::Adopt {
                lane: LANE,
                token,
                stale: true,
            });
            match plane.orders()[..] {
                [Order::Adopted { pod: Some(pod), .. }] => pod,
                ref orders => panic!("not adopted: {orders:?}"),
            }
        })
        .collect();
    plane.calls(0, Class::Sync, 3);
    assert!(plane.orders().is_empty(), "three are expected");
    let mut stopped = 0;
    for pod in &adopted {
        plane.up(&[*pod]);
        let orders = plane.orders().into_iter();
        stopped += orders
            .filter(|order| matches!(order, Order::Stop { .. }))
            .count();
    }
    assert_eq!(stopped, 0, "an old pod coming up is no successor");
    assert_eq!(plane.grants().len(), 3);
}

#[test]
fn a_lowered_ceiling_drains_surplus_pods() {
    let mut plane = SteppedScheduler::with(warm(4, 4));
    plane.started();
    plane.call(0, Class::Sync);
    let busy = plane.grants();
    let pods_at_most = |max| {
        let plan = PodPlan {
            min: 0,
            max,
            cap: 1,
            idle_timeout: SECOND,
        };
        LanePlan {
            pods: Some(plan),
            ..warm(4, 0)
        }
    };
    change(&mut plane, pods_at_most(2), false);
    let stopped = plane.stops();
    assert_eq!(stopped.len(), 2);
    assert!(!stopped.contains(&pod_of(&busy[0])), "idle ones go first");
    plane.calls(0, Class::Sync, 4);
    let grants = plane.grants();
    assert_eq!(grants.len(), 1, "two pods, one of them busy");
    assert!(!stopped.contains(&pod_of(&grants[0])));
    change(&mut plane, pods_at_most(1), false);
    assert!(plane.orders().is_empty(), "both have a call");
    plane.done(&busy[0], PodVerdict::Healthy);
    plane.done(&grants[0], PodVerdict::Healthy);
    let left = plane.grants();
    assert_eq!(left.len(), 1, "one pod is left");
    let last = plane.stops();
    assert_eq!(last.len(), 1);
    assert_ne!(last[0], pod_of(&left[0]));
}

#[test]
fn another_mode_drains_every_pod_and_needs_none() {
    let mut plane = SteppedScheduler::with(warm(2, 2));
    let pods = plane.started();
    plane.call(0, Class::Sync);
    let running = plane.grants();
    change(&mut plane, podless(2), true);
    assert_eq!(plane.stops().len(), 1, "the idle one");
    plane.call(0, Class::Sync);
    let grants = plane.grants();
    assert!(grants[0].pod.is_none());
    plane.done(&running[0], PodVerdict::Healthy);
    assert_eq!(plane.stops(), [pod_of(&running[0])]);
    plane.down(&pods);
    assert_eq!(plane.scheduler.held(), 1);
}

/// Io threads may receive a registration, and even the next one, before the scheduler receives either.
#[test]
fn a_call_two_registrations_ahead_waits() {
    let mut plane = SteppedScheduler::with(podless(1));
    let stats = plane.stats(0);
    plane.call(0, Class::Sync);
    let running = plane.grants();
    let early = plane.ticket(0, Class::Sync);
    let early = Ticket {
        lane: LaneId {
            epoch: 3,
            ..early.lane
        },
        ..early
    };
    plane.on_ticket(early);
    for _ in 0..2 {
        let lane = plane.id(0);
        plane.on_event(Event::LaneRemoved { lane });
        plane.open_with(0, stats.clone(), podless(2));
        let granted = plane.granted();
        let expected: &[_] = if plane.id(0).epoch == 3 {
            &[early.call()]
        } else {
            &[]
        };
        assert_eq!(granted, expected);
    }
    plane.done(&running[0], PodVerdict::Healthy);
}
