//! Tests of which pods are started and ended. As many pods are kept as the calls and the floor need. After a
//! failed start, the scheduler waits and then starts one pod at a time.

use std::sync::atomic::Ordering;

use nanofaas_core::event::{Event, LanePlan, Notice, Order, PodPlan};
use nanofaas_core::limits::{CRASH_LOOP_STARTS, START_BACKOFF, START_BACKOFF_MAX};
use nanofaas_core::outcome::StartTrouble;
use nanofaas_core::ticket::{Class, LaneId, PodId, PodVerdict};
use nanofaas_core::time::Nanos;

use crate::plane::{LANE, MS, SECOND, SteppedScheduler, pod_of, warm};

#[test]
fn a_cold_burst_starts_exactly_what_it_needs() {
    let pods = PodPlan {
        min: 0,
        max: 4,
        cap: 2,
        idle_timeout: SECOND,
    };
    let mut plane = SteppedScheduler::with(LanePlan {
        pods: Some(pods),
        ..warm(6, 0)
    });
    assert!(plane.orders().is_empty(), "nobody calls yet");
    let calls = plane.calls(0, Class::Sync, 10);
    // Six calls may run at once, two in each pod. The other four calls order no pods, because they wait for a
    // slot.
    let started = plane.starts();
    assert_eq!(started.len(), 3);
    assert!(plane.grants().is_empty(), "no pod is up");
    plane.now += 300 * MS;
    plane.up(&started[..1]);
    let first = plane.grants();
    assert_eq!(first.len(), 2);
    assert!(first.iter().all(|grant| pod_of(grant) == started[0]));
    assert!(first.iter().all(|grant| grant.start == 300 * MS));
    plane.up(&started[1..]);
    assert_eq!(plane.grants().len(), 4);
    assert!(plane.orders().is_empty(), "no pod too many");
    plane.done(&first[0], PodVerdict::Healthy);
    let next = plane.grants();
    assert_eq!((next.len(), next[0].call), (1, calls[6]));
}

#[test]
fn the_floor_needs_no_call_and_follows_edits() {
    let mut plane = SteppedScheduler::with(warm(5, 2));
    let first = plane.started();
    assert_eq!(first.len(), 2);
    let change = |plane: &mut SteppedScheduler, min| {
        plane.on_event(Event::LaneChanged {
            lane: LANE,
            plan: warm(5, min),
            reshaped: false,
        });
    };
    change(&mut plane, 4);
    let more = plane.started();
    assert_eq!(more.len(), 2);
    change(&mut plane, 1);
    assert!(plane.orders().is_empty(), "idle ones have their time first");
    plane.pass(2 * SECOND);
    assert_eq!(plane.stops().len(), 3, "no call was needed to see it");
}

#[test]
fn idle_pods_go_latest_first_to_the_floor() {
    let mut plane = SteppedScheduler::with(warm(3, 1));
    let mut pods = plane.started();
    plane.calls(0, Class::Sync, 3);
    pods.extend(plane.started());
    let grants = plane.grants();
    assert_eq!(grants.len(), 3);
    plane.pass(5 * SECOND);
    assert!(plane.orders().is_empty(), "a pod with a call is not idle");
    for grant in &grants {
        plane.done(grant, PodVerdict::Healthy);
    }
    plane.pass(SECOND / 2);
    assert!(plane.orders().is_empty(), "not idle for long enough");
    plane.pass(2 * SECOND);
    assert_eq!(plane.stops(), [pods[2], pods[1]]);
    plane.down(&pods[1..]);
    plane.pass(60 * SECOND);
    assert!(plane.orders().is_empty(), "the floor stays");
}

#[test]
fn a_function_scales_to_zero_and_back() {
    let mut plane = SteppedScheduler::with(warm(2, 0));
    plane.call(0, Class::Sync);
    let pods = plane.started();
    let grants = plane.grants();
    plane.done(&grants[0], PodVerdict::Healthy);
    plane.pass(3 * SECOND);
    assert_eq!(plane.stops(), pods);
    let second = plane.call(0, Class::Sync);
    assert!(
        plane.grants().is_empty(),
        "no call for a pod that goes away"
    );
    let fresh = plane.started();
    assert_ne!(fresh, pods);
    assert_eq!(plane.granted(), [second]);
    plane.down(&pods);
    assert!(plane.orders().is_empty());
}

#[test]
fn a_pod_that_no_call_needs_goes_again() {
    let mut plane = SteppedScheduler::with(warm(2, 0));
    let call = plane.call(0, Class::Sync);
    let pods = plane.starts();
    plane.leave(0, call);
    plane.up(&pods);
    plane.pass(2 * SECOND);
    assert_eq!(plane.stops(), pods);
}

#[test]
fn a_crash_loop_backs_off_and_ends_waits() {
    let mut plane = SteppedScheduler::with(warm(3, 0));
    plane.call(0, Class::Sync);
    let mut backoff = START_BACKOFF;
    for failed in 1..=CRASH_LOOP_STARTS {
        let pods = plane.starts();
        assert_eq!(pods.len(), 1);
        assert!(plane.notices().is_empty(), "it may mend yet");
        plane.start_fails(pods[0], false);
        if failed < CRASH_LOOP_STARTS {
            plane.pass(backoff - Nanos::from_ns(1));
            assert!(plane.orders().is_empty(), "a start before its time");
            plane.pass(Nanos::from_ns(1));
            backoff = 2 * backoff;
        }
    }
    let notices = plane.notices();
    let [Notice::StartsFail { lane: LANE, why }] = &notices[..] else {
        panic!("one notice for all calls that wait: {notices:?}");
    };
    assert_eq!(&**why, "no such program");
    plane.call(0, Class::Sync);
    assert_eq!((plane.notices().len(), plane.orders().len()), (1, 0));
    // After the back-off, the scheduler tries one start. A call that succeeds in this pod lifts the limit on
    // starts.
    plane.calls(0, Class::Sync, 5);
    plane.notices();
    plane.pass(backoff);
    let pods = plane.started();
    assert_eq!(pods.len(), 1);
    let grants = plane.grants();
    assert_eq!(grants.len(), 1);
    plane.orders();
    plane.done(&grants[0], PodVerdict::Healthy);
    plane.call(0, Class::Sync);
    assert!(plane.notices().is_empty());
}

#[test]
fn starts_failing_together_count_as_one_failure() {
    let mut plane = SteppedScheduler::with(warm(8, 0));
    plane.calls(0, Class::Sync, 8);
    let pods = plane.starts();
    assert_eq!(pods.len(), 8);
    plane.now += SECOND;
    for pod in pods {
        plane.start_fails(pod, false);
        plane.now += MS;
    }
    assert!(
        plane.notices().is_empty(),
        "one bad moment is no crash loop"
    );
    plane.pass(START_BACKOFF);
    let one = plane.started();
    assert_eq!(one.len(), 1, "one start shows whether it mended");
    assert_eq!(plane.grants().len(), 1);
}

#[test]
fn start_back_off_ends_at_a_minute() {
    let mut plane = SteppedScheduler::with(warm(1, 1));
    for _ in 0..40 {
        let pods = plane.starts();
        assert_eq!(pods.len(), 1);
        plane.start_fails(pods[0], false);
        plane.pass(START_BACKOFF_MAX);
    }
}

#[test]
fn a_permanent_failure_ends_the_wait_at_once() {
    let mut plane = SteppedScheduler::with(warm(3, 0));
    plane.call(0, Class::Sync);
    let pods = plane.starts();
    plane.start_fails(pods[0], true);
    assert_eq!(plane.notices().len(), 1);
    // A new spec resets the count of failed starts.
    plane.on_event(Event::LaneChanged {
        lane: LANE,
        plan: warm(3, 0),
        reshaped: true,
    });
    assert_eq!(plane.starts().len(), 1);
}

#[test]
fn pods_dying_young_are_a_crash_loop_too() {
    let mut plane = SteppedScheduler::with(warm(1, 0));
    plane.call(0, Class::Sync);
    for died in 1..=CRASH_LOOP_STARTS {
        let pods = plane.started();
        assert_eq!(pods.len(), 1);
        let grants = plane.grants();
        assert_eq!(grants.len(), 1);
        plane.down(&pods);
        plane.done(&grants[0], PodVerdict::Lost);
        assert!(plane.orders().is_empty(), "no start right after a death");
        plane.call(0, Class::Sync);
        let hopeless = !plane.notices().is_empty();
        assert_eq!(hopeless, died == CRASH_LOOP_STARTS);
        if !hopeless {
            plane.pass(SECOND);
        }
    }
    plane.pass(START_BACKOFF_MAX);
    assert_eq!(plane.starts().len(), 1);
}

#[test]
fn a_lost_pod_is_probed_then_replaced() {
    let mut plane = SteppedScheduler::with(warm(2, 1));
    let pods = plane.started();
    plane.call(0, Class::Sync);
    let grants = plane.grants();
    plane.done(&grants[0], PodVerdict::Lost);
    assert_eq!(plane.orders(), [Order::Probe { pod: pods[0] }]);
    // A slot is free, but the only pod is quarantined.
    let second = plane.call(0, Class::Sync);
    assert!(plane.grants().is_empty());
    plane.up(&pods);
    let grants = plane.grants();
    assert_eq!((grants[0].call, pod_of(&grants[0])), (second, pods[0]));
    plane.done(&grants[0], PodVerdict::CutOff);
    assert_eq!(plane.orders(), [Order::Probe { pod: pods[0] }]);
    plane.pass(5 * SECOND);
    plane.down(&pods);
    plane.pass(SECOND);
    let fresh = plane.started();
    assert_eq!(fresh.len(), 1);
    // This late report is about the earlier pod with this index, so it changes nothing.
    plane.up(&pods);
    let third = plane.call(0, Class::Sync);
    let grants = plane.grants();
    assert_eq!((grants[0].call, pod_of(&grants[0])), (third, fresh[0]));
}

#[test]
fn a_retry_avoids_the_pod_that_failed() {
    let mut plane = SteppedScheduler::with(warm(2, 2));
    let pods = plane.started();
    let mut again = plane.ticket(0, Class::Sync);
    again.avoid = Some(pods[0].index);
    plane.on_event(Event::Ticket(again));
    assert_eq!(plane.grants()[0].pod, Some(pods[1]));
    let mut again = plane.ticket(0, Class::Sync);
    again.avoid = Some(pods[0].index);
    plane.on_event(Event::Ticket(again));
    assert_eq!(
        plane.grants()[0].pod,
        Some(pods[0]),
        "the only one with room"
    );
}

#[test]
fn an_adopted_pod_serves_a_foreign_one_not() {
    let mut plane = SteppedScheduler::with(warm(2, 0));
    let adopt = |lane| Event::Adopt {
        lane,
        token: 7,
        stale: false,
    };
    plane.on_event(adopt(LANE));
    let orders = plane.orders();
    let [
        Order::Adopted {
            lane: LANE,
            token: 7,
            pod: Some(pod),
        },
    ] = orders[..]
    else {
        panic!("not adopted: {orders:?}");
    };
    let call = plane.call(0, Class::Sync);
    assert!(plane.grants().is_empty(), "it was not asked yet");
    assert!(plane.orders().is_empty(), "it counts as one that starts");
    plane.up(&[pod]);
    let grants = plane.grants();
    assert_eq!((grants[0].call, pod_of(&grants[0])), (call, pod));
    // The first adoption names a function that does not exist, the second one a function that is being
    // removed.
    let gone = LaneId { index: 1, epoch: 1 };
    plane.on_event(adopt(gone));
    let refused = Order::Adopted {
        lane: gone,
        token: 7,
        pod: None,
    };
    assert_eq!(plane.orders(), [refused]);
    plane.on_event(Event::LaneRemoved { lane: LANE });
    plane.on_event(adopt(LANE));
    let orders = plane.orders();
    let [
        Order::Adopted {
            pod: Some(late), ..
        },
        Order::Stop { pod: stopped },
    ] = orders[..]
    else {
        panic!("not ended: {orders:?}");
    };
    assert_eq!(late, stopped);
    plane.down(&[late, pod]);
    plane.done(&grants[0], PodVerdict::Healthy);
    assert_eq!(plane.orders(), [Order::LaneGone { lane: LANE }]);
}

#[test]
fn an_adopted_pod_replaces_an_ordered_one() {
    let mut plane = SteppedScheduler::with(warm(2, 2));
    let ordered = plane.starts();
    assert_eq!(ordered.len(), 2);
    let mut adopted = Vec::new();
    for token in 0..2 {
        let stale = false;
        plane.on_event(Event::Adopt {
            lane: LANE,
            token,
            stale,
        });
        let orders = plane.orders();
        let [
            Order::Stop { pod: stopped },
            Order::Adopted { pod: Some(pod), .. },
        ] = orders[..]
        else {
            panic!("nothing is stopped: {orders:?}");
        };
        assert!(ordered.contains(&stopped));
        plane.down(&[stopped]);
        adopted.push(pod);
    }
    // A third adopted pod is one too many, but its adoption stops neither of the other two.
    let stale = false;
    plane.on_event(Event::Adopt {
        lane: LANE,
        token: 2,
        stale,
    });
    assert!(matches!(plane.orders()[..], [Order::Adopted { .. }]));
    plane.up(&adopted);
    assert!(plane.orders().is_empty(), "no pod is missing");
}

#[test]
fn gauges_follow_the_pods() {
    let mut plane = SteppedScheduler::with(warm(3, 3));
    let stats = plane.stats(0);
    let gauges = || {
        stats
            .pods
            .each_ref()
            .map(|gauge| gauge.load(Ordering::Relaxed))
    };
    assert_eq!(gauges(), [0, 3, 0]);
    let pods = plane.started();
    assert_eq!(gauges(), [3, 0, 0]);
    assert_eq!(stats.slots_now.load(Ordering::Relaxed), 3);
    plane.on_event(Event::PodLeaving(pods[0]));
    assert_eq!(gauges(), [2, 1, 1], "one goes, its successor starts");
    plane.down(&pods[..1]);
    assert_eq!(gauges(), [2, 1, 0]);
}

#[test]
fn a_hold_up_is_known_until_start_ends() {
    let mut plane = SteppedScheduler::with(warm(2, 0));
    let _call = plane.call(0, Class::Sync);
    let pods = plane.starts();
    let trouble = |plane: &mut SteppedScheduler| plane.stats(0).capacity.trouble();
    assert_eq!(trouble(&mut plane), None);
    let hold_up = |plane: &mut SteppedScheduler, pod: PodId, why: &str| {
        let why = (!why.is_empty()).then(|| why.into());
        plane.on_event(Event::StartHeldUp { pod, why });
    };
    hold_up(&mut plane, pods[0], "no node");
    let held_up = |why: &str| Some(StartTrouble::HeldUp(why.into()));
    assert_eq!(trouble(&mut plane), held_up("no node"));
    hold_up(&mut plane, pods[0], "no image");
    assert_eq!(trouble(&mut plane), held_up("no image"));
    hold_up(&mut plane, pods[0], "");
    assert_eq!(trouble(&mut plane), None, "it was mended");
    plane.start_fails(pods[0], false);
    let failed = StartTrouble::Failed("no such program".into());
    assert_eq!(trouble(&mut plane), Some(failed.clone()));
    plane.pass(START_BACKOFF);
    let next = plane.starts();
    hold_up(&mut plane, pods[0], "of a pod that is gone");
    assert_eq!(trouble(&mut plane), Some(failed.clone()));
    hold_up(&mut plane, next[0], "no node");
    assert_eq!(trouble(&mut plane), held_up("no node"));
    plane.up(&next);
    assert_eq!(trouble(&mut plane), Some(failed));
}
