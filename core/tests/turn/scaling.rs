//! Tests of when pods are started and used. A start is ordered if calls wait longer than a start takes, and
//! taken back if it is not needed any more. Calls use no pod that is not needed.

use nanofaas_core::event::{LanePlan, Order, PodPlan};
use nanofaas_core::ticket::{Class, PodVerdict};
use nanofaas_core::time::Nanos;

use crate::plane::{MS, SECOND, SteppedScheduler, warm};

/// Makes a function with measured times of a call and of a start, and one pod, which runs one call at a time.
fn measured(service: Nanos, start: Nanos) -> SteppedScheduler {
    let mut plane = SteppedScheduler::with(warm(10, 1));
    plane.started();
    let stats = plane.stats(0);
    stats.service_time.set(Some(service));
    stats.start_time.set(Some(start));
    plane
}

#[test]
fn a_burst_that_ends_early_starts_no_pod() {
    let mut plane = measured(MS, 60 * MS);
    plane.calls(0, Class::Sync, 10);
    for _ in 0..10 {
        let grants = plane.grants();
        assert_eq!(grants.len(), 1);
        plane.now += MS;
        plane.done(&grants[0], PodVerdict::Healthy);
    }
    plane.pass(SECOND);
    assert!(plane.starts().is_empty());
}

#[test]
fn only_waits_longer_than_a_start_count() {
    let mut plane = measured(10 * MS, 50 * MS);
    // One call runs. The five waiting calls will have begun before a new pod could be up.
    plane.call(0, Class::Sync);
    assert_eq!(plane.grants().len(), 1);
    plane.calls(0, Class::Sync, 5);
    assert!(plane.starts().is_empty());
    plane.calls(0, Class::Sync, 3);
    assert_eq!(plane.starts().len(), 3);
}

#[test]
fn a_wait_as_long_as_a_start_orders() {
    let mut plane = measured(MS, 50 * MS);
    // The measured time of a call is 1 ms, but the first call runs for 50 ms, and the second one waits.
    plane.calls(0, Class::Sync, 2);
    assert_eq!(plane.grants().len(), 1);
    assert!(plane.starts().is_empty());
    plane.pass(49 * MS);
    assert!(plane.starts().is_empty());
    plane.pass(MS);
    assert_eq!(plane.starts().len(), 1);
}

#[test]
fn without_pod_or_measure_each_call_orders_one() {
    let mut plane = SteppedScheduler::with(warm(10, 0));
    plane.stats(0).service_time.set(Some(MS));
    plane.stats(0).start_time.set(Some(SECOND));
    plane.calls(0, Class::Sync, 4);
    assert_eq!(plane.starts().len(), 4);
    let mut plane = measured(MS, MS);
    plane.stats(0).service_time.set(None);
    plane.stats(0).start_time.set(None);
    plane.calls(0, Class::Sync, 4);
    assert_eq!(plane.starts().len(), 3);
}

#[test]
fn an_unneeded_order_is_taken_back() {
    let mut plane = measured(100 * MS, 50 * MS);
    plane.calls(0, Class::Sync, 5);
    let starts = plane.starts();
    assert_eq!(starts.len(), 4);
    // Calls are fast now, so the pod that is up finishes them before the ordered pods are up.
    for left in (0..5).rev() {
        let grants = plane.grants();
        plane.now += MS;
        plane.done(&grants[0], PodVerdict::Healthy);
        if left == 0 {
            assert!(plane.grants().is_empty());
        }
    }
    assert!(plane.orders().is_empty(), "the next calls may come at once");
    plane.pass(2 * SECOND);
    let mut stops = plane.stops();
    stops.reverse();
    assert_eq!(stops, starts);
}

/// Four clients share one pod, and each calls again 1 ms after its answer. During this millisecond one of the
/// three ordered pods is not needed, but it must not be taken back.
#[test]
fn steady_callers_get_the_pods_they_need() {
    let mut plane = measured(20 * MS, 900 * MS);
    plane.calls(0, Class::Sync, 4);
    let mut running = plane.grants();
    let (mut ordered, mut stopped) = (0, 0);
    for _ in 0..200 {
        plane.pass(20 * MS);
        plane.done(&running[0], PodVerdict::Healthy);
        running = plane.grants();
        plane.pass(MS);
        plane.call(0, Class::Sync);
        for order in plane.orders() {
            match order {
                Order::Start { .. } => ordered += 1,
                _ => stopped += 1,
            }
        }
    }
    assert_eq!((ordered, stopped), (3, 0));
}

#[test]
fn the_first_pod_starts_though_callers_left() {
    let mut plane = SteppedScheduler::with(warm(10, 0));
    let calls = plane.calls(0, Class::Sync, 3);
    assert_eq!(plane.starts().len(), 3);
    calls.into_iter().for_each(|call| plane.leave(0, call));
    plane.pass(2 * SECOND);
    assert_eq!(plane.stops().len(), 2);
    plane.pass(60 * SECOND);
    assert!(plane.stops().is_empty());
}

#[test]
fn calls_fill_the_fewest_pods_and_a_spare() {
    let pods = PodPlan {
        min: 4,
        max: 4,
        cap: 8,
        idle_timeout: SECOND,
    };
    let mut plane = SteppedScheduler::with(LanePlan {
        pods: Some(pods),
        ..warm(32, 0)
    });
    let up = plane.started();
    let in_pods = |grants: &[nanofaas_core::ticket::Grant]| {
        let mut counts = [0; 4];
        for grant in grants {
            counts[up
                .iter()
                .position(|pod| Some(*pod) == grant.pod)
                .expect("it is up")] += 1;
        }
        counts
    };
    plane.calls(0, Class::Sync, 4);
    let mut running = plane.grants();
    assert_eq!(in_pods(&running), [2, 2, 0, 0]);
    plane.calls(0, Class::Sync, 28);
    running.extend(plane.grants());
    assert_eq!(in_pods(&running), [8, 8, 8, 8]);
}
