//! Tests of the order of grants: within a class, between the two classes, and between lanes.

use nanofaas_core::limits::{ASYNC_SHARE, GRANTS_PER_LANE, GRANTS_PER_TURN};
use nanofaas_core::scheduler::Turn;
use nanofaas_core::ticket::{Class, PodVerdict};

use crate::plane::{LANE, SteppedScheduler, podless};

#[test]
fn a_class_is_fifo_and_skips_leavers() {
    let mut plane = SteppedScheduler::with(podless(8));
    let calls = plane.calls(0, Class::Sync, 6);
    plane.leave(0, calls[0]);
    plane.leave(0, calls[3]);
    let left = vec![calls[1], calls[2], calls[4], calls[5]];
    assert_eq!(plane.granted(), left);
    assert_eq!(plane.stats(0).depth(), 0);
    assert_eq!(plane.scheduler.held(), 4);
}

#[test]
fn sync_goes_first_but_one_in_eight() {
    let mut plane = SteppedScheduler::with(podless(100));
    let later = plane.calls(0, Class::Async, 4);
    let first = plane.calls(0, Class::Sync, 30);
    let share = ASYNC_SHARE as usize;
    let mut expected = Vec::new();
    let (mut sync, mut queued) = (first.into_iter(), later.into_iter());
    while expected.len() < 34 {
        let turn_of_async = expected.len() % share == share - 1;
        let next = turn_of_async.then(|| queued.next()).flatten();
        expected.extend(next.or_else(|| sync.next()).or_else(|| queued.next()));
    }
    assert_eq!(plane.granted(), expected);
}

#[test]
fn a_short_sync_queue_does_not_starve_async() {
    let mut plane = SteppedScheduler::with(podless(1));
    // Two sync clients call in a loop: one call runs, and the other one waits.
    plane.call(0, Class::Sync);
    let mut running = plane.grants();
    let waiting = plane.calls(0, Class::Async, 2);
    plane.call(0, Class::Sync);
    let mut granted = Vec::new();
    for _ in 0..2 * ASYNC_SHARE {
        plane.done(&running[0], PodVerdict::Healthy);
        running = plane.grants();
        assert_eq!(running.len(), 1, "one slot, one grant");
        let call = running[0].call;
        granted.push(call);
        if !waiting.contains(&call) {
            plane.call(0, Class::Sync);
        }
    }
    let share = ASYNC_SHARE as usize;
    let turns = [granted[share - 1], granted[2 * share - 1]];
    assert_eq!(turns[..], waiting[..]);
}

#[test]
fn concurrency_holds_before_and_after_an_edit() {
    let mut plane = SteppedScheduler::with(podless(3));
    plane.calls(0, Class::Sync, 10);
    let running = plane.grants();
    assert_eq!(running.len(), 3);
    let change = |plane: &mut SteppedScheduler, concurrency| {
        plane.on_event(nanofaas_core::event::Event::LaneChanged {
            lane: LANE,
            plan: podless(concurrency),
            reshaped: false,
        });
    };
    change(&mut plane, 1);
    plane.done(&running[0], PodVerdict::Healthy);
    plane.done(&running[1], PodVerdict::Healthy);
    assert!(plane.grants().is_empty(), "the last slot is still held");
    plane.done(&running[2], PodVerdict::Healthy);
    assert_eq!(plane.grants().len(), 1);
    change(&mut plane, 5);
    assert_eq!(plane.grants().len(), 4, "an edit alone frees slots");
    assert_eq!(plane.scheduler.held(), 5);
}

#[test]
fn a_saturated_lane_delays_others_by_its_share() {
    let mut plane = SteppedScheduler::new();
    for lane in 0..3 {
        plane.open(lane, podless(1024));
    }
    plane.calls(0, Class::Sync, 900);
    plane.calls(1, Class::Sync, 30);
    plane.call(2, Class::Sync);
    let lanes: Vec<_> = plane
        .grants()
        .iter()
        .map(|grant| grant.lane.index)
        .collect();
    assert_eq!(lanes.len(), 931);
    let last_of = |lane| lanes.iter().rposition(|other| *other == lane).unwrap();
    assert!(last_of(2) <= 2 * GRANTS_PER_LANE, "two others were before");
    // In one visit the scheduler grants at most `GRANTS_PER_LANE` slots of a lane, so lane 1 needs four
    // visits. Before each of them, lane 0 has one visit.
    assert!(last_of(1) <= 30 + 4 * GRANTS_PER_LANE + 1);
    // A call that arrives while lane 3 has calls for many visits has to wait for at most one of them.
    plane.open(3, podless(1024));
    plane.open(4, podless(1024));
    plane.calls(3, Class::Sync, 1000);
    plane.turn();
    let late = plane.call(4, Class::Sync);
    let place = plane.granted().iter().position(|call| *call == late);
    assert!(place.unwrap() <= GRANTS_PER_LANE, "{place:?}");
}

#[test]
fn a_bounded_turn_reports_work_left() {
    let mut plane = SteppedScheduler::new();
    let lanes = 2000;
    for lane in 0..lanes {
        plane.open(lane, podless(4));
        plane.calls(lane, Class::Sync, 3);
    }
    let mut granted = 0;
    loop {
        let (turn, grants) = plane.turn();
        assert!(grants.len() <= GRANTS_PER_TURN);
        granted += grants.len();
        if turn == Turn::Idle {
            break;
        }
        assert_eq!(grants.len(), GRANTS_PER_TURN, "a busy turn was a full one");
    }
    assert_eq!(granted, 3 * lanes as usize);
}

#[test]
fn tickets_of_calls_that_left_count() {
    let mut plane = SteppedScheduler::with(podless(8));
    let gone = plane.calls(0, Class::Sync, 4 * GRANTS_PER_TURN);
    for call in gone {
        plane.leave(0, call);
    }
    let last = plane.call(0, Class::Sync);
    let (turn, grants) = plane.turn();
    assert_eq!((turn, grants.len()), (Turn::Busy, 0));
    assert_eq!(plane.granted(), [last]);
}

#[test]
fn dead_tickets_take_no_room_from_live_ones() {
    let mut plane = SteppedScheduler::with(podless(1));
    plane.call(0, Class::Sync);
    assert_eq!(plane.grants().len(), 1);
    // The slot stays held, and more calls arrive and leave than the queue has places.
    for _ in 0..12_000 {
        let call = plane.call(0, Class::Sync);
        plane.leave(0, call);
        plane.entries.free(call);
    }
    assert_eq!(plane.stats(0).depth(), 0);
    assert!(plane.grants().is_empty());
}
