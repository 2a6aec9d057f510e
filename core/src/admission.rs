//! Decides whether a call may wait. Admission first checks that the lane's queue has room, and then, for a
//! sync call, that the predicted answer comes by the deadline. Admission reads only the lane's `QueueStats`,
//! which a refusal leaves unchanged. `Call::admit` runs this check once for each call.

use crate::limits::ASYNC_SHARE;
use crate::metrics::RejectReason;
use crate::prediction::Prediction;
use crate::queue_stats::QueueStats;
use crate::ticket::Class;
use crate::time::{Nanos, Uptime};

/// Why a call is refused, and after how many seconds the client should try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionError {
    pub reason: RejectReason,
    pub retry_after_s: u64,
}

/// Rounds a wait up to whole seconds for `Retry-After`. The result is at least 1.
pub fn retry_after_s(wait: Nanos) -> u64 {
    wait.as_ns().div_ceil(Nanos::SECOND.as_ns()).max(1)
}

impl AdmissionError {
    pub fn new(reason: RejectReason, wait: Nanos) -> Self {
        Self {
            reason,
            retry_after_s: retry_after_s(wait),
        }
    }
}

/// Predicts how long a call that arrives now would wait for a slot. Returns zero if no call was measured yet.
pub fn predicted_wait(lane: &QueueStats, class: Class, now: Uptime) -> Nanos {
    let Some(service) = lane.service_time.get() else {
        return Nanos::ZERO;
    };
    let calls = u64::from(calls_before(lane, class)) + 1;
    Prediction::new(lane, service, now).wait(calls)
}

/// Counts the waiting calls that get a slot before a new call of this class. For a sync call these are the
/// waiting sync calls, and the async calls that get their share of the grants meanwhile.
fn calls_before(lane: &QueueStats, class: Class) -> u32 {
    let (sync, waits) = (lane.depth_of(Class::Sync), lane.depth_of(Class::Async));
    match class {
        Class::Sync => sync + waits.min(sync / (ASYNC_SHARE - 1) + 1),
        Class::Async => sync + waits,
    }
}

/// Counts the call as waiting in the lane's queue, or returns why the call is refused: the queue is full, or
/// a sync call would be answered after `deadline`. For an async call the deadline is not checked.
pub fn admit(
    lane: &QueueStats,
    queue_size: u32,
    class: Class,
    now: Uptime,
    deadline: Uptime,
) -> Result<(), AdmissionError> {
    let refused = |reason| AdmissionError::new(reason, predicted_wait(lane, class, now));
    // If the queue is full, the reason is `depth`, even if the call would also be too late.
    let has_room = lane.depth_of(class) < queue_size;
    if has_room && class == Class::Sync && is_too_late(lane, now, deadline) {
        return Err(refused(RejectReason::EstWait));
    }
    if lane.enter(class, queue_size) {
        Ok(())
    } else {
        Err(refused(RejectReason::Depth))
    }
}

/// Returns whether a sync call is predicted to be answered after its deadline. Returns false if no call was
/// measured yet, if no call waits, or if the wait cannot be predicted.
fn is_too_late(lane: &QueueStats, now: Uptime, deadline: Uptime) -> bool {
    if lane.depth() == 0 {
        return false;
    }
    let Some(service) = lane.service_time.get() else {
        return false;
    };
    let calls = u64::from(calls_before(lane, Class::Sync)) + 1;
    let prediction = Prediction::new(lane, service, now);
    let begins_by = deadline.saturating_sub(service + prediction.margin(calls));
    // While no pod is up, and starts fail or are overdue, no slot is expected and the wait is unknown. The
    // call is then admitted, because the later error about the failed start tells the client more than a
    // refusal.
    prediction.is_known() && !prediction.can_begin(calls, begins_by)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    const MS: Nanos = Nanos::from_ms(1);
    const SECOND: Nanos = Nanos::SECOND;
    const NOW: Uptime = Uptime::from_ns(1_000_000_000_000);

    /// Makes a lane whose running calls all began at `NOW`.
    fn lane(slots: u32, running: u32, waiting: u32, service: Nanos) -> QueueStats {
        let lane = QueueStats::new(1);
        lane.slots_max.store(slots, Ordering::Relaxed);
        lane.slots_now.store(slots, Ordering::Relaxed);
        lane.running.store(running, Ordering::Relaxed);
        lane.service_time
            .set(Some(service).filter(|time| !time.is_zero()));
        (0..running).for_each(|slot| lane.capacity.hold(slot as u16, NOW));
        (0..waiting).for_each(|_| lane.reenter(Class::Sync));
        lane
    }

    fn admitted(lane: &QueueStats, class: Class, left: Nanos) -> Result<(), AdmissionError> {
        admit(lane, 100, class, NOW, NOW + left)
    }

    #[track_caller]
    fn expect_wait(lane: &QueueStats, class: Class, wait: Nanos) {
        assert_eq!(predicted_wait(lane, class, NOW), wait);
    }

    #[test]
    fn a_full_queue_refuses_and_takes_no_place() {
        let lane = lane(1, 1, 2, Nanos::ZERO);
        let refusal = admit(&lane, 2, Class::Sync, NOW, NOW + SECOND).unwrap_err();
        assert_eq!(
            refusal,
            AdmissionError::new(RejectReason::Depth, Nanos::ZERO)
        );
        assert_eq!((refusal.retry_after_s, lane.depth()), (1, 2));
        assert!(admit(&lane, 2, Class::Async, NOW, NOW + SECOND).is_ok());
        assert!(admit(&lane, 3, Class::Sync, NOW, NOW + SECOND).is_ok());
        assert_eq!(lane.depth(), 4);
    }

    #[test]
    fn a_call_predicted_past_its_deadline_is_refused() {
        let lane = lane(2, 2, 4, SECOND);
        // On the two slots, the running calls take the first second, and the four waiting calls the next two
        // seconds.
        expect_wait(&lane, Class::Sync, 3 * SECOND);
        let refusal = admitted(&lane, Class::Sync, 4 * SECOND - MS).unwrap_err();
        assert_eq!(refusal.reason, RejectReason::EstWait);
        assert_eq!(refusal.retry_after_s, 3);
        assert!(admitted(&lane, Class::Sync, 4 * SECOND).is_ok());
        assert!(admitted(&lane, Class::Async, Nanos::ZERO).is_ok());
    }

    #[test]
    fn a_running_call_counts_with_its_remaining_time() {
        let lane = lane(1, 1, 1, SECOND);
        lane.capacity.hold(0, NOW - 900 * MS);
        expect_wait(&lane, Class::Sync, 1100 * MS);
        // A call that has run four seconds longer than the mean time is expected to run for another four
        // seconds.
        lane.capacity.hold(0, NOW - 5 * SECOND);
        expect_wait(&lane, Class::Sync, 5 * SECOND);
    }

    #[test]
    fn nothing_is_refused_without_sample_or_queue() {
        assert!(admitted(&lane(1, 1, 50, Nanos::ZERO), Class::Sync, MS).is_ok());
        assert!(admitted(&lane(1, 1, 0, SECOND), Class::Sync, MS).is_ok());
    }

    #[test]
    fn waiting_async_calls_hardly_delay_a_sync_one() {
        let lane = lane(1, 1, 7, SECOND);
        (0..50).for_each(|_| lane.reenter(Class::Async));
        // One call runs. Seven sync calls and two of the async calls get the slot before a new sync call.
        expect_wait(&lane, Class::Sync, 10 * SECOND);
        expect_wait(&lane, Class::Async, 58 * SECOND);
    }

    /// Makes a lane of ten slots, of which one is in a pod that is up. A start takes two seconds.
    fn starting(ordered: &[(Uptime, u32)], starts_fail: bool) -> QueueStats {
        let lane = lane(10, 1, 4, 10 * SECOND);
        lane.slots_now.store(1, Ordering::Relaxed);
        lane.start_time.set(Some(2 * SECOND));
        lane.capacity
            .set_coming(ordered.iter().copied(), starts_fail);
        lane
    }

    #[test]
    fn an_ordered_pod_counts_with_its_remaining_start() {
        let lane = starting(&[(NOW - SECOND, 9)], false);
        expect_wait(&lane, Class::Sync, SECOND);
        let late = starting(&[(NOW - 3 * SECOND, 9)], false);
        expect_wait(&late, Class::Sync, Nanos::ZERO);
    }

    #[test]
    fn an_unordered_pod_takes_a_whole_start() {
        expect_wait(&starting(&[], false), Class::Sync, 2 * SECOND);
        // Two slots are expected after one second, and the other seven after two seconds.
        let some = starting(&[(NOW - SECOND, 2)], false);
        expect_wait(&some, Class::Sync, 2 * SECOND);
    }

    #[test]
    fn overdue_and_failing_pods_do_not_count() {
        let alone = 50 * SECOND;
        let overdue = starting(&[(NOW - 4 * SECOND, 9)], false);
        expect_wait(&overdue, Class::Sync, alone);
        expect_wait(&starting(&[], true), Class::Sync, alone);
        expect_wait(&starting(&[(NOW, 9)], true), Class::Sync, alone);
        assert!(admitted(&overdue, Class::Sync, 30 * SECOND).is_err());
        let none = starting(&[], true);
        none.capacity.release(0);
        none.running.store(0, Ordering::Relaxed);
        none.slots_now.store(0, Ordering::Relaxed);
        assert!(admitted(&none, Class::Sync, 30 * SECOND).is_ok());
        expect_wait(&none, Class::Sync, 60 * SECOND);
    }
}
