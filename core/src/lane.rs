//! One function's place in the scheduler: its two queues, its slots, its pods.
//! It never moves a call out of the queue by itself; the scheduler's turn does.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::entries::Entries;
use crate::event::{LanePlan, StartFailure};
use crate::fifo::Fifo;
use crate::limits::{ASYNC_SHARE, CRASH_LOOP_STARTS, START_BACKOFF, START_BACKOFF_MAX};
use crate::outcome::StartTrouble;
use crate::pods::{PodState, Pods};
use crate::queue_stats::QueueStats;
use crate::ring::Consumer;
use crate::slots::Slots;
use crate::ticket::{Class, Held, LaneId, PodId, PodIndex, Ticket};
use crate::time::{Nanos, Uptime};

/// How the last starts went.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    /// None once a call ended well in a pod, and before the first failure.
    pub(crate) failed: Option<FailedStarts>,
    /// One was taken back that should have been up long before, and none came up since.
    pub(crate) are_late: bool,
    /// The pod whose start was last said to be held up, and by what.
    pub(crate) held_up: Option<(PodId, Arc<str>)>,
}

/// Starts that failed one after the other.
#[derive(Debug)]
pub(crate) struct FailedStarts {
    /// How many, one at least; those that were under way together count as one.
    in_a_row: u32,
    last_at: Uptime,
    pub(crate) retry_at: Uptime,
    /// The last one will not mend by itself, or one that was under way with it.
    permanent: bool,
    /// Why the last one failed.
    pub(crate) why: Arc<str>,
}

impl Starts {
    /// One failed that was wanted at `wanted_at`.
    pub(crate) fn fail(&mut self, wanted_at: Uptime, now: Uptime, failure: StartFailure) {
        let StartFailure { permanent, message } = failure;
        let before = match &mut self.failed {
            Some(last) if wanted_at < last.last_at => {
                last.why = message;
                last.permanent |= permanent;
                return;
            }
            Some(last) => last.in_a_row,
            None => 0,
        };
        let backoff = START_BACKOFF.saturating_mul(1 << before.min(20));
        self.failed = Some(FailedStarts {
            in_a_row: before + 1,
            last_at: now,
            retry_at: now + backoff.min(START_BACKOFF_MAX),
            permanent,
            why: message,
        });
    }
}

impl FailedStarts {
    /// Whether waiting for the next start is in vain.
    pub(crate) const fn are_hopeless(&self) -> bool {
        self.permanent || self.in_a_row >= CRASH_LOOP_STARTS
    }
}

/// How many pods of a lane are in which state.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PodCounts {
    pub(crate) usable: u32,
    pub(crate) stale_usable: u32,
    pub(crate) starting: u32,
    pub(crate) quarantined: u32,
    pub(crate) others: u32,
}

impl PodCounts {
    /// Those that take calls, or are expected to.
    pub(crate) const fn serving(self) -> u32 {
        self.usable + self.starting + self.quarantined
    }
}

pub(crate) struct Lane {
    /// The registration that has it; the last one, where calls of earlier ones still run.
    pub(crate) id: LaneId,
    pub(crate) stats: Arc<QueueStats>,
    pub(crate) plan: LanePlan,
    pub(crate) slots: Slots,
    fifos: [Fifo; 2],
    pub(crate) mailbox: Option<Consumer<Ticket>>,
    /// Tickets of the registration that is about to take the lane over.
    pub(crate) early: Vec<Ticket>,
    /// Places in the table of pods.
    pub(crate) pods: Vec<PodIndex>,
    pub(crate) counts: PodCounts,
    pub(crate) starts: Starts,
    /// Whether it stands in the scheduler's list of ready lanes.
    pub(crate) listed: bool,
    grants: u32,
    /// Since when calls wait without a break that more pods would serve.
    waits_since: Option<Uptime>,
    /// Since when an ordered pod is not needed.
    unneeded_since: Option<Uptime>,
    /// When the scheduler's timer for this lane fires, if it is set.
    pub(crate) due: Option<Uptime>,
    pub(crate) is_removed: bool,
}

/// The mean after a sample, which weighs one part in `SHARE`.
fn mean<const SHARE: u64>(old: Option<Nanos>, sample: Nanos) -> Option<Nanos> {
    Some(old.map_or(sample, |old| old - old / SHARE + sample / SHARE))
}

impl Lane {
    pub(crate) fn new(id: LaneId, stats: Arc<QueueStats>, plan: LanePlan) -> Self {
        Self {
            id,
            slots: Slots::new(plan.concurrency, stats.clone()),
            stats,
            plan,
            fifos: Default::default(),
            mailbox: None,
            early: Vec::new(),
            pods: Vec::new(),
            counts: PodCounts::default(),
            starts: Starts::default(),
            listed: false,
            grants: 0,
            waits_since: None,
            unneeded_since: None,
            due: None,
            is_removed: false,
        }
    }

    /// Takes a new plan; calls that wait or run stay counted.
    pub(crate) fn replan(&mut self, plan: LanePlan) {
        self.plan = plan;
        self.slots.resize(plan.concurrency);
        self.starts = Starts::default();
    }

    pub(crate) fn waiting(&self) -> usize {
        self.fifos[0].len() + self.fifos[1].len()
    }

    pub(crate) fn push(&mut self, ticket: Ticket, entries: &Entries) {
        // Waiting calls, and running ones that come back for a retry.
        let live_max = (self.plan.queue_size + self.plan.concurrency) as usize;
        self.fifos[ticket.class as usize].push(ticket, live_max, entries);
    }

    /// The next ticket: sync before async, with one grant in `ASYNC_SHARE` kept for async.
    pub(crate) fn pop(&mut self) -> Option<Ticket> {
        let [sync, queued_async] = &mut self.fifos;
        let turn_of_async = self.grants % ASYNC_SHARE == ASYNC_SHARE - 1;
        if turn_of_async && !queued_async.is_empty() {
            queued_async.pop()
        } else {
            sync.pop().or_else(|| queued_async.pop())
        }
    }

    pub(crate) fn granted(&mut self, class: Class) {
        // The share counts only while async calls wait, however many sync ones are behind this one:
        // else a sync queue that is never longer than one would starve them.
        if class == Class::Async || !self.fifos[Class::Async as usize].is_empty() {
            self.grants = self.grants.wrapping_add(1);
        }
    }

    /// An attempt held its slot for so long.
    pub(crate) fn learn(&self, held: Held, held_for: Nanos) {
        let stats = &self.stats;
        let old = stats.service_time.get();
        let says_nothing = match held {
            Held::Whole => false,
            Held::CutOff => old.is_some_and(|old| held_for < old),
            Held::Nothing => true,
        };
        if says_nothing {
            return;
        }
        stats.service_time.set(mean::<8>(old, held_for));
        if let Some(old) = old {
            let spread = stats.service_spread_ns.load(Ordering::Relaxed);
            let spread = spread - spread / 8 + held_for.abs_diff(old).as_ns() / 8;
            stats.service_spread_ns.store(spread, Ordering::Relaxed);
        }
    }

    /// A pod took so long from wanted to usable.
    pub(crate) fn learn_start(&self, sample: Nanos) {
        let old = self.stats.start_time.get();
        self.stats.start_time.set(mean::<4>(old, sample));
    }

    /// Forgets the tickets of calls that were ended with their function.
    pub(crate) fn clear(&mut self, entries: &Entries) {
        self.fifos.iter_mut().for_each(|fifo| fifo.clear(entries));
    }

    /// Pods that running calls need and the waiting ones for which a start is worth it, between the plan's
    /// floor and ceiling.
    pub(crate) fn pods_needed(&self, now: Uptime) -> u32 {
        self.pods_for(self.waiting_past_a_start(now))
    }

    fn pods_for(&self, waiting: u32) -> u32 {
        let Some(pods) = self.plan.pods.filter(|_| !self.is_removed) else {
            return 0;
        };
        let calls = (waiting + self.slots.held()).min(self.plan.concurrency);
        calls.div_ceil(pods.cap).clamp(pods.min, pods.max)
    }

    /// Waiting calls that would still wait when a pod that is ordered now is up.
    fn waiting_past_a_start(&self, now: Uptime) -> u32 {
        let waiting = self.stats.depth();
        let measured = (self.stats.service_time.get(), self.stats.start_time.get());
        let (Some(service), Some(start)) = measured else {
            return waiting;
        };
        // What waits has lasted a start by now, whatever was predicted of it.
        let has_lasted = |since| now >= since + start;
        if self.waits_since.is_some_and(has_lasted) {
            return waiting;
        }
        let slots = u64::from(self.stats.slots_now.load(Ordering::Relaxed));
        let meanwhile = start.saturating_mul(slots) / service;
        waiting.saturating_sub(u32::try_from(meanwhile).unwrap_or(u32::MAX))
    }

    /// Whether calls wait that more pods would serve; notes since when, and says when that has lasted a
    /// start. None where none does.
    pub(crate) fn note_waiting(&mut self, now: Uptime) -> Option<Uptime> {
        if self.counts.serving() >= self.pods_for(self.stats.depth()) {
            self.waits_since = None;
            return None;
        }
        let since = *self.waits_since.get_or_insert(now);
        Some(since + self.stats.start_time.get().unwrap_or_default())
    }

    /// Whether the end of a call may change which pods are wanted.
    pub(crate) const fn is_watched(&self) -> bool {
        self.counts.starting > 0 || self.waits_since.is_some()
    }

    /// All that were ordered are needed now.
    pub(crate) const fn needs_all(&mut self) {
        self.unneeded_since = None;
    }

    /// Ordered pods that no call needed for so long, waiting or running. The first one comes up in any case:
    /// else a function whose callers wait less long than a start would never have one.
    pub(crate) fn pods_too_many(&mut self, now: Uptime, for_span: Nanos) -> u32 {
        // One at a time comes in the place of an old one.
        let replacement = u32::from(self.counts.stale_usable > 0);
        let kept = self.pods_for(self.stats.depth()).max(1) + replacement;
        let surplus = self.counts.serving().saturating_sub(kept);
        let too_many = surplus.min(self.counts.starting);
        if too_many == 0 {
            self.unneeded_since = None;
            return 0;
        }
        // Between an answer and its caller's next call one is missing for a moment.
        let since = *self.unneeded_since.get_or_insert(now);
        if now < since + for_span { 0 } else { too_many }
    }

    /// Pods of an older spec to drain now. They serve on while new ones come, one by one, each
    /// before an old one goes.
    pub(crate) fn stale_surplus(&self, now: Uptime) -> u32 {
        let (needed, counts) = (self.pods_needed(now), self.counts);
        let fresh_usable = counts.usable - counts.stale_usable;
        if fresh_usable >= needed {
            return counts.stale_usable;
        }
        let most = self.plan.pods.map_or(0, |pods| pods.max);
        let replaced = fresh_usable > 0 || counts.serving() > most;
        if counts.starting == 0 && replaced {
            counts
                .usable
                .saturating_sub(needed)
                .min(counts.stale_usable)
        } else {
            0
        }
    }

    /// Pods to start now, failures aside.
    pub(crate) fn pods_missing(&self, now: Uptime) -> u32 {
        let (needed, counts) = (self.pods_needed(now), self.counts);
        let missing = needed.saturating_sub(counts.serving());
        let fresh = counts.serving() - counts.stale_usable;
        if counts.stale_usable == 0 || fresh >= needed {
            return missing;
        }
        let most = self.plan.pods.map_or(0, |pods| pods.max + 1);
        let next = u32::from(counts.starting == 0 && counts.serving() < most);
        missing.max(next)
    }

    /// Whether pods have to be started, as far as a look at the counts tells.
    pub(crate) fn lacks_pods(&self) -> bool {
        self.plan.pods.is_some() && self.counts.serving() < self.pods_for(self.stats.depth())
    }

    /// Counts its pods anew and shows the counts; called whenever a pod's state changed.
    pub(crate) fn count(&mut self, pods: &mut Pods) {
        let mut counts = PodCounts::default();
        for index in &self.pods {
            let pod = pods.at(*index);
            assert!(pod.lane == self.id, "a lane names another lane's pod");
            match pod.state {
                PodState::Starting => counts.starting += 1,
                PodState::Usable => {
                    counts.usable += 1;
                    counts.stale_usable += u32::from(pod.stale);
                }
                PodState::Quarantined => counts.quarantined += 1,
                PodState::Draining | PodState::Leaving => counts.others += 1,
            }
        }
        self.counts = counts;
        self.show();
        self.show_coming(pods);
    }

    /// Shows which pods were ordered, and whether starts come up at all.
    fn show_coming(&self, pods: &mut Pods) {
        let cap = self.plan.pods.map_or(0, |pods| pods.cap);
        let orders = self.pods.iter().filter_map(|index| {
            let pod = pods.at(*index);
            (pod.state == PodState::Starting).then_some((pod.wanted_at, cap))
        });
        let capacity = &self.stats.capacity;
        let failed = self.starts.failed.as_ref();
        capacity.set_coming(orders, failed.is_some() || self.starts.are_late);
        let held_up = self.starts.held_up.as_ref();
        // A place may have another pod by now.
        let held_up = held_up.filter(|(pod, _)| {
            let state = pods.get(*pod).map(|pod| pod.state);
            state == Some(PodState::Starting)
        });
        let held_up = held_up.map(|(_, why)| StartTrouble::HeldUp(why.clone()));
        let failed = failed.map(|failed| StartTrouble::Failed(failed.why.clone()));
        capacity.set_trouble(held_up.or(failed));
    }

    /// Shows counts and limits to the io threads.
    pub(crate) fn show(&self) {
        let concurrency = self.plan.concurrency;
        let (now, most) = self.plan.pods.map_or((concurrency, concurrency), |pods| {
            let slots = |count: u32| count.saturating_mul(pods.cap).min(concurrency);
            (slots(self.counts.usable), slots(pods.max))
        });
        let stats = &self.stats;
        stats.slots_now.store(now, Ordering::Relaxed);
        stats.slots_max.store(most, Ordering::Relaxed);
        let others = self.counts.others + self.counts.quarantined;
        let counts = [self.counts.usable, self.counts.starting, others];
        for (gauge, count) in stats.pods.iter().zip(counts) {
            gauge.store(count, Ordering::Relaxed);
        }
    }

    /// The pod for the next call: the least loaded of the fewest that hold what runs and waits, and one
    /// more. Those started first are asked first, so that the others fall idle. One outside of them, and
    /// then `avoid`, only where there is no other with room.
    pub(crate) fn choose(&self, pods: &mut Pods, avoid: Option<PodIndex>) -> Option<PodIndex> {
        let cap = self.plan.pods?.cap;
        let calls = self.slots.held() + self.stats.depth();
        let enough = calls.div_ceil(cap) + 1;
        let (mut best, mut best_load) = (None, (true, true, u32::MAX));
        let mut usable = 0;
        for index in &self.pods {
            let pod = pods.at(*index);
            if pod.state != PodState::Usable {
                continue;
            }
            usable += 1;
            let load = (Some(*index) == avoid, usable > enough, pod.in_flight);
            if pod.in_flight < cap && load < best_load {
                (best, best_load) = (Some(*index), load);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(starts: &mut Starts, wanted_s: u64, now_s: u64, permanent: bool) {
        let message = "why".into();
        let at = |s| Uptime::default() + Nanos::from_s(s);
        starts.fail(at(wanted_s), at(now_s), StartFailure { permanent, message });
    }

    #[test]
    fn a_mean_moves_by_one_share_of_the_difference() {
        let ns = |ns| Some(Nanos::from_ns(ns));
        assert_eq!(mean::<8>(None, Nanos::from_ns(800)), ns(800));
        assert_eq!(mean::<8>(ns(800), Nanos::from_ns(1600)), ns(900));
        assert_eq!(mean::<4>(ns(800), Nanos::from_ns(0)), ns(600));
    }

    #[test]
    fn starts_that_were_under_way_together_fail_as_one() {
        let mut starts = Starts::default();
        fail(&mut starts, 0, 10, true);
        fail(&mut starts, 9, 11, false);
        let failed = starts.failed.as_ref().expect("two failed");
        assert_eq!(failed.in_a_row, 1);
        assert!(failed.permanent, "one of them will not mend by itself");
        fail(&mut starts, 10, 12, false);
        let failed = starts.failed.as_ref().expect("three failed");
        assert_eq!(failed.in_a_row, 2, "wanted after the first had failed");
    }
}
