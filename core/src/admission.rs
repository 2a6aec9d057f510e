//! Whether a call may wait: the queue's depth, then the predicted wait. It reads the lane's live
//! counters and nothing else; a refusal leaves no trace. `io` asks it once per call.

use std::sync::atomic::Ordering;

use crate::limits::ASYNC_SHARE;
use crate::metrics::RejectReason;
use crate::ticket::Class;
use crate::view::LaneView;

/// Why not, and when it is worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: RejectReason,
    pub retry_after_s: u64,
}

const SECOND_NS: u64 = 1_000_000_000;

/// Whole seconds for `Retry-After`, at least 1.
pub fn retry_after_s(wait_ns: u64) -> u64 {
    wait_ns.div_ceil(SECOND_NS).max(1)
}

impl Refusal {
    pub fn new(reason: RejectReason, wait_ns: u64) -> Self {
        Self {
            reason,
            retry_after_s: retry_after_s(wait_ns),
        }
    }
}

/// The wait that a call would have now, in nanoseconds: the calls before it at the measured
/// service time on the slots that the function may have, and a start where pods are missing.
pub fn predicted_wait_ns(lane: &LaneView, class: Class) -> u64 {
    let service_ns = lane.service_ns.load(Ordering::Relaxed);
    let slots_max = u64::from(lane.slots_max.load(Ordering::Relaxed)).max(1);
    let slots_now = u64::from(lane.slots_now.load(Ordering::Relaxed));
    let running = u64::from(lane.running.load(Ordering::Relaxed));
    let before = u64::from(calls_before(lane, class));
    // Waves of calls that have to end before this one begins.
    let ahead = (before + running + 1).saturating_sub(slots_max);
    let wait_ns = service_ns.saturating_mul(ahead) / slots_max;
    let pods_missing = slots_now < slots_max && before + running >= slots_now;
    if pods_missing && slots_now == 0 {
        wait_ns.saturating_add(lane.start_ns.load(Ordering::Relaxed))
    } else {
        wait_ns
    }
}

/// Waiting calls whose turn comes first: for a sync call the sync ones, and as many async ones as
/// get a grant among them.
fn calls_before(lane: &LaneView, class: Class) -> u32 {
    let (sync, waits) = (lane.depth_of(Class::Sync), lane.depth_of(Class::Async));
    match class {
        Class::Sync => sync + waits.min(sync / (ASYNC_SHARE - 1) + 1),
        Class::Async => sync + waits,
    }
}

/// Takes a place in the lane's queue, or says why there is none.
///
/// `deadline_ns` is what the call has left; async calls are not predicted.
pub fn admit(
    lane: &LaneView,
    queue_size: u32,
    class: Class,
    deadline_ns: u64,
) -> Result<(), Refusal> {
    let waiting = lane.depth();
    if class == Class::Sync && waiting > 0 && lane.service_ns.load(Ordering::Relaxed) > 0 {
        let wait_ns = predicted_wait_ns(lane, class);
        if wait_ns > deadline_ns && lane.depth_of(class) < queue_size {
            return Err(Refusal::new(RejectReason::EstWait, wait_ns));
        }
    }
    if lane.enter(class, queue_size) {
        Ok(())
    } else {
        Err(Refusal::new(
            RejectReason::Depth,
            predicted_wait_ns(lane, class),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(slots: u32, running: u32, waiting: u32, service_ns: u64) -> LaneView {
        let lane = LaneView::new(1);
        lane.slots_max.store(slots, Ordering::Relaxed);
        lane.slots_now.store(slots, Ordering::Relaxed);
        lane.running.store(running, Ordering::Relaxed);
        lane.service_ns.store(service_ns, Ordering::Relaxed);
        (0..waiting).for_each(|_| lane.reenter(Class::Sync));
        lane
    }

    #[test]
    fn a_full_queue_refuses_and_takes_no_place() {
        let lane = lane(1, 1, 2, 0);
        let refusal = admit(&lane, 2, Class::Sync, SECOND_NS).unwrap_err();
        assert_eq!(
            refusal,
            Refusal {
                reason: RejectReason::Depth,
                retry_after_s: 1
            }
        );
        assert_eq!(lane.depth(), 2);
        assert!(admit(&lane, 3, Class::Sync, SECOND_NS).is_ok());
        assert_eq!(lane.depth(), 3);
    }

    #[test]
    fn a_sync_call_that_would_wait_past_its_deadline_is_refused_at_once() {
        let lane = lane(2, 2, 4, SECOND_NS);
        // Four before it and two running on two slots: two and a half seconds.
        assert_eq!(predicted_wait_ns(&lane, Class::Sync), 5 * SECOND_NS / 2);
        let refusal = admit(&lane, 100, Class::Sync, 2 * SECOND_NS).unwrap_err();
        assert_eq!(
            refusal,
            Refusal {
                reason: RejectReason::EstWait,
                retry_after_s: 3
            }
        );
        assert!(admit(&lane, 100, Class::Sync, 3 * SECOND_NS).is_ok());
        assert!(admit(&lane, 100, Class::Async, 0).is_ok());
    }

    #[test]
    fn without_a_sample_or_with_nothing_waiting_it_is_let_in() {
        assert!(admit(&lane(1, 1, 50, 0), 100, Class::Sync, 1).is_ok());
        assert!(admit(&lane(1, 1, 0, SECOND_NS), 100, Class::Sync, 1).is_ok());
    }

    #[test]
    fn async_calls_that_wait_are_hardly_before_a_sync_one() {
        let lane = lane(1, 1, 7, SECOND_NS);
        (0..50).for_each(|_| lane.reenter(Class::Async));
        // One runs, seven sync ones are before it, and two async ones get a turn among them.
        assert_eq!(predicted_wait_ns(&lane, Class::Sync), 10 * SECOND_NS);
        assert_eq!(predicted_wait_ns(&lane, Class::Async), 58 * SECOND_NS);
    }

    #[test]
    fn a_start_counts_where_no_pod_is_there_yet() {
        let lane = lane(1, 0, 1, 1000);
        lane.slots_now.store(0, Ordering::Relaxed);
        lane.start_ns.store(SECOND_NS, Ordering::Relaxed);
        assert_eq!(predicted_wait_ns(&lane, Class::Sync), SECOND_NS + 1000);
    }
}
