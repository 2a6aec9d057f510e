//! When a call that comes now would begin: the calls before it, on the slots that there are and that are
//! on their way, each held for the measured time. It reads what the scheduler shows of a lane, and decides
//! nothing. `admission` asks it.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::limits::START_BACKOFF_MAX;
use crate::queue_stats::QueueStats;
use crate::time::{Nanos, Uptime};

/// What is known now.
pub(crate) struct Prediction<'a> {
    lane: &'a QueueStats,
    now: Uptime,
    service: Nanos,
    spread: Nanos,
    start: Nanos,
}

impl<'a> Prediction<'a> {
    /// Calls take `service`, as it was measured.
    pub(crate) fn new(lane: &'a QueueStats, service: Nanos, now: Uptime) -> Self {
        Self {
            lane,
            now,
            service,
            spread: Nanos::from_ns(lane.service_spread_ns.load(Ordering::Relaxed)),
            start: lane.start_time.get().unwrap_or_default(),
        }
    }

    /// Each group of slots: when it is free first, and how many it has.
    fn slots(&self) -> impl Iterator<Item = (Uptime, u64)> {
        let load = |count: &AtomicU32| u64::from(count.load(Ordering::Relaxed));
        let (now, most) = (load(&self.lane.slots_now), load(&self.lane.slots_max));
        let held = self.lane.capacity.held();
        let idle = now.saturating_sub(load(&self.lane.running));
        let mut is_doubtful = self.lane.capacity.starts_fail();
        let mut ordered = 0;
        for (wanted_at, slots) in self.lane.capacity.coming() {
            ordered += u64::from(slots);
            is_doubtful |= self.lane.is_overdue(wanted_at, self.now);
        }
        let missing = most.saturating_sub(now + ordered);
        let unordered = (!is_doubtful).then_some((self.now + self.start, missing));
        let coming = self.lane.capacity.coming();
        held.map(|since| (self.free_at(since), 1))
            .chain(std::iter::once((self.now, idle)))
            .chain(coming.filter_map(|(wanted_at, slots)| {
                let up_at = self.now.max(wanted_at.saturating_add(self.start));
                self.counts(wanted_at).then_some((up_at, u64::from(slots)))
            }))
            .chain(unordered)
    }

    /// Whether a pod that was ordered then counts before it is up.
    fn counts(&self, wanted_at: Uptime) -> bool {
        !self.lane.is_overdue(wanted_at, self.now) && !self.lane.capacity.starts_fail()
    }

    /// When a slot that is held since then is free: one that takes longer than most is expected to take as
    /// much longer again.
    fn free_at(&self, since: Uptime) -> Uptime {
        let end = since.saturating_add(self.service);
        if end >= self.now {
            end
        } else {
            self.now + self.now.since(end)
        }
    }

    /// Whether any slot counts. Where none does, how long a call waits is not known.
    pub(crate) fn is_known(&self) -> bool {
        self.slots().any(|(_, slots)| slots > 0)
    }

    /// Whether so many calls of those that wait can have begun by then.
    pub(crate) fn can_begin(&self, calls: u64, by: Uptime) -> bool {
        let service = self.service.max(Nanos::from_ns(1));
        let mut left = calls;
        for (free_at, slots) in self.slots() {
            if free_at <= by {
                let each = by.since(free_at) / service + 1;
                left = left.saturating_sub(each.saturating_mul(slots));
            }
            if left == 0 {
                return true;
            }
        }
        false
    }

    /// By how much the answer of the last of so many calls may be late, where times spread: its own, those of
    /// the calls before it on their slots, and the mean, which is not known exactly.
    pub(crate) fn margin(&self, calls: u64) -> Nanos {
        let slots = u64::from(self.lane.slots_max.load(Ordering::Relaxed)).max(1);
        let waves_4 = calls / slots / 4;
        (2 + 2 * calls.isqrt() / slots + waves_4) * self.spread
    }

    /// How long it takes until so many calls of those that wait have begun.
    pub(crate) fn wait(&self, calls: u64) -> Nanos {
        let counted = self.slots().filter(|(_, slots)| *slots > 0);
        let Some(first) = counted.map(|(free_at, _)| free_at).min() else {
            return START_BACKOFF_MAX;
        };
        // That slot alone would do all of them by then.
        let all = self.service.saturating_mul(calls);
        let most = first.since(self.now).saturating_add(all);
        let (mut low, mut high) = (Nanos::ZERO, most);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.can_begin(calls, self.now + middle) {
                high = middle;
            } else {
                low = middle + Nanos::from_ns(1);
            }
        }
        high
    }
}
