//! When a call that comes now would begin: the calls before it, on the slots that there are and that are
//! on their way, each held for the measured time. It reads what the scheduler shows of a lane, and decides
//! nothing. `admission` asks it.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::limits::START_BACKOFF_NS_MAX;
use crate::view::LaneView;

/// What is known now.
pub(crate) struct Prediction<'a> {
    lane: &'a LaneView,
    now_ns: u64,
    service_ns: u64,
    spread_ns: u64,
    start_ns: u64,
}

impl<'a> Prediction<'a> {
    /// Calls take `service_ns`, as it was measured.
    pub(crate) fn new(lane: &'a LaneView, service_ns: u64, now_ns: u64) -> Self {
        Self {
            lane,
            now_ns,
            service_ns,
            spread_ns: lane.service_spread_ns.load(Ordering::Relaxed),
            start_ns: lane.start_ns.get().unwrap_or(0),
        }
    }

    /// Each group of slots: when it is free first, and how many it has.
    fn slots(&self) -> impl Iterator<Item = (u64, u64)> {
        let load = |count: &AtomicU32| u64::from(count.load(Ordering::Relaxed));
        let (now, most) = (load(&self.lane.slots_now), load(&self.lane.slots_max));
        let held = self.lane.capacity.held();
        let idle = now.saturating_sub(load(&self.lane.running));
        let mut is_doubtful = self.lane.capacity.starts_fail();
        let mut ordered = 0;
        for (wanted_ns, slots) in self.lane.capacity.coming() {
            ordered += u64::from(slots);
            is_doubtful |= self.lane.is_overdue(wanted_ns, self.now_ns);
        }
        let missing = most.saturating_sub(now + ordered);
        let unordered = (!is_doubtful).then_some((self.now_ns + self.start_ns, missing));
        let coming = self.lane.capacity.coming();
        held.map(|since_ns| (self.free_ns(since_ns), 1))
            .chain(std::iter::once((self.now_ns, idle)))
            .chain(coming.filter_map(|(wanted_ns, slots)| {
                let up_ns = self.now_ns.max(wanted_ns.saturating_add(self.start_ns));
                self.counts(wanted_ns).then_some((up_ns, u64::from(slots)))
            }))
            .chain(unordered)
    }

    /// Whether a pod that was ordered then counts before it is up.
    fn counts(&self, wanted_ns: u64) -> bool {
        !self.lane.is_overdue(wanted_ns, self.now_ns) && !self.lane.capacity.starts_fail()
    }

    /// When a slot that is held since then is free: one that takes longer than most is expected to take as
    /// much longer again.
    fn free_ns(&self, since_ns: u64) -> u64 {
        let end_ns = since_ns.saturating_add(self.service_ns);
        if end_ns >= self.now_ns {
            end_ns
        } else {
            self.now_ns + (self.now_ns - end_ns)
        }
    }

    /// Whether any slot counts. Where none does, how long a call waits is not known.
    pub(crate) fn is_known(&self) -> bool {
        self.slots().any(|(_, slots)| slots > 0)
    }

    /// Whether so many calls of those that wait can have begun by then.
    pub(crate) fn can_begin(&self, calls: u64, by_ns: u64) -> bool {
        let service_ns = self.service_ns.max(1);
        let mut left = calls;
        for (free_ns, slots) in self.slots() {
            if free_ns <= by_ns {
                let each = (by_ns - free_ns) / service_ns + 1;
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
    pub(crate) fn margin_ns(&self, calls: u64) -> u64 {
        let slots = u64::from(self.lane.slots_max.load(Ordering::Relaxed)).max(1);
        let waves_4 = calls / slots / 4;
        self.spread_ns * (2 + 2 * calls.isqrt() / slots + waves_4)
    }

    /// How long it takes until so many calls of those that wait have begun.
    pub(crate) fn wait_ns(&self, calls: u64) -> u64 {
        let counted = self.slots().filter(|(_, slots)| *slots > 0);
        let Some(first_ns) = counted.map(|(free_ns, _)| free_ns).min() else {
            return START_BACKOFF_NS_MAX;
        };
        // That slot alone would do all of them by then.
        let all_ns = self.service_ns.saturating_mul(calls);
        let (mut low, mut high) = (0, (first_ns - self.now_ns).saturating_add(all_ns));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.can_begin(calls, self.now_ns + middle) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        high
    }
}
