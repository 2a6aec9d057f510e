//! Tests of how a function is removed, and how a new function of the same name gets its lane while calls and
//! messages of the old function are in flight.

use std::sync::Arc;

use nanofaas_core::event::{Event, Order};
use nanofaas_core::queue_stats::QueueStats;
use nanofaas_core::ticket::{Class, PodVerdict, Ticket};

use crate::plane::{LANE, SECOND, SteppedScheduler, pod_of, podless, warm};

const GONE: Order = Order::LaneGone { lane: LANE };

fn remove(plane: &mut SteppedScheduler) {
    let lane = plane.id(0);
    plane.on_event(Event::LaneRemoved { lane });
}

#[test]
fn a_lane_goes_after_its_last_call() {
    let mut plane = SteppedScheduler::with(warm(2, 2));
    let pods = plane.started();
    plane.call(0, Class::Sync);
    let running = plane.grants();
    remove(&mut plane);
    let idle = plane.stops();
    assert_eq!(idle.len(), 1);
    plane.down(&idle);
    assert!(plane.orders().is_empty(), "a call runs");
    plane.done(&running[0], PodVerdict::Healthy);
    assert_eq!(plane.stops(), [pod_of(&running[0])]);
    plane.down(&pods);
    assert_eq!(plane.orders(), [GONE]);
    assert!(!plane.scheduler.knows(0));
    plane.up(&pods);
    plane.collect(0);
    plane.pass(60 * SECOND);
    assert!(plane.orders().is_empty());
}

#[test]
fn a_lane_waits_for_leaving_calls() {
    let mut plane = SteppedScheduler::with(podless(1));
    let calls = plane.calls(0, Class::Sync, 2);
    let running = plane.grants();
    remove(&mut plane);
    plane.done(&running[0], PodVerdict::Healthy);
    assert!(
        plane.grants().is_empty(),
        "no call begins in a removed function"
    );
    assert!(plane.orders().is_empty());
    plane.leave(0, calls[1]);
    plane.pass(SECOND);
    assert_eq!(plane.orders(), [GONE]);
}

#[test]
fn a_remade_function_takes_over_the_lanes_counts() {
    let mut plane = SteppedScheduler::with(podless(2));
    plane.calls(0, Class::Sync, 2);
    let running = plane.grants();
    remove(&mut plane);
    let stats = plane.stats(0);
    plane.open_with(0, stats, podless(3));
    plane.calls(0, Class::Sync, 3);
    assert_eq!(plane.grants().len(), 1, "two old calls still run");
    plane.done(&running[0], PodVerdict::Healthy);
    plane.done(&running[1], PodVerdict::Healthy);
    assert_eq!(plane.grants().len(), 2);
    assert!(plane.orders().is_empty(), "the lane did not go");
}

/// The scheduler forgets the lane before it receives the registration of the new function. The registry has
/// kept the old stats for the new function.
#[test]
fn a_mailbox_outlives_a_lane_without_a_successor() {
    let mut plane = SteppedScheduler::with(podless(1));
    let stats = plane.stats(0);
    let post = |plane: &mut SteppedScheduler, stats: &Arc<QueueStats>| {
        let ticket = plane.ticket(0, Class::Sync);
        assert!(stats.post(ticket).is_ok());
        ticket.call()
    };
    let first = post(&mut plane, &stats);
    plane.collect(0);
    let grants = plane.grants();
    assert_eq!(grants[0].call, first);
    plane.done(&grants[0], PodVerdict::Healthy);
    remove(&mut plane);
    assert_eq!(plane.orders(), [GONE]);
    plane.open_with(0, stats.clone(), podless(1));
    let second = post(&mut plane, &stats);
    plane.collect(0);
    assert_eq!(plane.granted(), [second]);
}

fn successors_ticket(plane: &mut SteppedScheduler) -> Ticket {
    let mut ticket = plane.ticket(0, Class::Sync);
    ticket.lane.epoch += 1;
    ticket
}

/// The scheduler can take the bit of a lane before the event that opens the lane arrives.
#[test]
fn a_ticket_before_its_lane_is_found() {
    let mut plane = SteppedScheduler::with(podless(1));
    let stats = plane.stats(0);
    remove(&mut plane);
    assert_eq!(plane.orders(), [GONE]);
    let ticket = successors_ticket(&mut plane);
    assert!(stats.post(ticket).is_ok());
    plane.collect(0);
    plane.open_with(0, stats, podless(1));
    assert_eq!(plane.granted(), [ticket.call()]);
}

/// A ticket of the new function can even arrive before the event that removes the old function.
#[test]
fn a_ticket_before_the_removal_is_kept() {
    let mut plane = SteppedScheduler::with(podless(1));
    let stats = plane.stats(0);
    let ticket = successors_ticket(&mut plane);
    assert!(stats.post(ticket).is_ok());
    plane.collect(0);
    assert!(plane.grants().is_empty(), "the old plan is not its own");
    remove(&mut plane);
    assert!(plane.orders().is_empty(), "a call waits for the successor");
    plane.open_with(0, stats, podless(1));
    assert_eq!(plane.granted(), [ticket.call()]);
}

#[test]
fn a_reused_lane_is_queued_once() {
    let mut plane = SteppedScheduler::with(podless(8));
    let gone = plane.calls(0, Class::Sync, 1);
    plane.leave(0, gone[0]);
    // The lane is in the list of ready lanes when it is removed.
    remove(&mut plane);
    assert_eq!(plane.orders(), [GONE]);
    plane.open(0, podless(1000));
    plane.open(1, podless(1000));
    plane.calls(0, Class::Sync, 64);
    plane.calls(1, Class::Sync, 64);
    let lanes: Vec<_> = plane.grants().iter().map(|grant| grant.lane).collect();
    let half = lanes[..64].iter().filter(|lane| lane.index == 0).count();
    assert_eq!(half, 32, "no lane has two places in the line");
}
