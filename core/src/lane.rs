//! A `Lane` is what the scheduler knows about one function: its two queues, its slots and its pods. A ticket
//! whose call has left the queue stays there until a turn pops the ticket, or a push into a long queue
//! removes all such tickets (see `fifo.rs`).

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

/// How the latest starts of pods ended.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    /// None before the first failure, and again after a call has succeeded in a new pod or the plan has
    /// changed.
    pub(crate) failed: Option<FailedStarts>,
    /// Whether an overdue start was taken back and no pod has come up since.
    pub(crate) are_late: bool,
    /// The pod whose start was last reported as held up, and the reason.
    pub(crate) held_up: Option<(PodId, Arc<str>)>,
}

/// Starts that failed without a success between them.
#[derive(Debug)]
pub(crate) struct FailedStarts {
    /// The number of these starts, at least 1. Starts that were under way at the same time count as one.
    in_a_row: u32,
    last_at: Uptime,
    pub(crate) retry_at: Uptime,
    /// Whether the bridge reported that later starts will fail for the same reason. The report may be about
    /// the last failed start, or about a start that is counted together with it.
    permanent: bool,
    pub(crate) why: Arc<str>,
}

impl Starts {
    pub(crate) fn fail(&mut self, wanted_at: Uptime, now: Uptime, failure: StartFailure) {
        let StartFailure { permanent, message } = failure;
        let before = match &mut self.failed {
            // This start was ordered before the last failure was known, so both failures count as one.
            Some(last) if wanted_at < last.last_at => {
                last.why = message;
                last.permanent |= permanent;
                return;
            }
            Some(last) => last.in_a_row,
            None => 0,
        };
        // The bound of 20 only keeps the shift from overflowing. It does not change the result, because the
        // wait reaches `START_BACKOFF_MAX` after 10 doublings.
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
    /// Returns whether the next start is expected to fail, too. Calls then do not wait for a start.
    pub(crate) const fn are_hopeless(&self) -> bool {
        self.permanent || self.in_a_row >= CRASH_LOOP_STARTS
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PodCounts {
    pub(crate) usable: u32,
    pub(crate) stale_usable: u32,
    pub(crate) starting: u32,
    pub(crate) quarantined: u32,
    pub(crate) others: u32,
}

impl PodCounts {
    /// Returns the number of pods that take calls or are expected to take calls.
    pub(crate) const fn serving(self) -> u32 {
        self.usable + self.starting + self.quarantined
    }
}

pub(crate) struct Lane {
    /// The registration that owns the lane. Calls of earlier registrations may still run.
    pub(crate) id: LaneId,
    pub(crate) stats: Arc<QueueStats>,
    pub(crate) plan: LanePlan,
    pub(crate) slots: Slots,
    fifos: [Fifo; 2],
    pub(crate) mailbox: Option<Consumer<Ticket>>,
    /// Tickets of later registrations. The event that gives the lane to such a registration has not arrived
    /// yet.
    pub(crate) early: Vec<Ticket>,
    /// The places of the lane's pods in the table of pods.
    pub(crate) pods: Vec<PodIndex>,
    pub(crate) counts: PodCounts,
    pub(crate) starts: Starts,
    /// Whether the lane is in the scheduler's list of ready lanes.
    pub(crate) listed: bool,
    grants: u32,
    /// Since when the lane has waiting calls that more pods would serve; none while the lane has no such
    /// calls.
    waits_since: Option<Uptime>,
    /// Since when at least one ordered pod has not been needed; none while all ordered pods are needed.
    unneeded_since: Option<Uptime>,
    /// When the scheduler's timer for this lane fires; none if no timer is set.
    pub(crate) due: Option<Uptime>,
    pub(crate) is_removed: bool,
}

/// Returns the mean after a new sample, whose weight is 1 / `SHARE`.
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

    /// Applies a new plan, and forgets how the latest starts ended. Waiting and running calls stay counted.
    pub(crate) fn replan(&mut self, plan: LanePlan) {
        self.plan = plan;
        self.slots.resize(plan.concurrency);
        self.starts = Starts::default();
    }

    pub(crate) fn waiting(&self) -> usize {
        self.fifos[0].len() + self.fifos[1].len()
    }

    pub(crate) fn push(&mut self, ticket: Ticket, entries: &Entries) {
        // A full queue has `queue_size` calls that wait for their first attempt, and usually at most
        // `concurrency` calls that wait for another attempt. More calls may wait, for example after many
        // back-offs or with a new plan, so the queue may be longer than this sum.
        let usual_len = (self.plan.queue_size + self.plan.concurrency) as usize;
        self.fifos[ticket.class as usize].push(ticket, usual_len, entries);
    }

    /// Takes out the next ticket. Sync calls come before async calls, but one grant in `ASYNC_SHARE` is kept
    /// for async calls.
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
        // While an async call waits, every grant is counted. If a grant to the only waiting sync call did not
        // count, a sync queue with one call at a time would starve the async calls.
        if class == Class::Async || !self.fifos[Class::Async as usize].is_empty() {
            self.grants = self.grants.wrapping_add(1);
        }
    }

    /// Updates the service time from an attempt that held its slot for `held_for`.
    pub(crate) fn learn(&self, held: Held, held_for: Nanos) {
        let stats = &self.stats;
        let old = stats.service_time.get();
        let is_no_sample = match held {
            Held::Whole => false,
            // A call that was cut off would have taken longer, so its time is ignored if it is below the
            // mean.
            Held::CutOff => old.is_some_and(|old| held_for < old),
            Held::Nothing => true,
        };
        if is_no_sample {
            return;
        }
        stats.service_time.set(mean::<8>(old, held_for));
        if let Some(old) = old {
            let spread = stats.service_spread_ns.load(Ordering::Relaxed);
            let spread = spread - spread / 8 + held_for.abs_diff(old).as_ns() / 8;
            stats.service_spread_ns.store(spread, Ordering::Relaxed);
        }
    }

    /// Updates the mean start time from a pod that was usable `sample` after it was wanted. A sample of a
    /// start has twice the weight of a sample of a call, because starts are rarer.
    pub(crate) fn learn_start(&self, sample: Nanos) {
        let old = self.stats.start_time.get();
        self.stats.start_time.set(mean::<4>(old, sample));
    }

    /// Drops the tickets of calls that ended with their function.
    pub(crate) fn clear(&mut self, entries: &Entries) {
        self.fifos.iter_mut().for_each(|fifo| fifo.clear(entries));
    }

    /// Returns how many pods are needed for the running calls and for those waiting calls that would get a
    /// slot sooner from a new pod. The number is within the plan's floor and ceiling.
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

    /// Returns how many calls would still wait when a pod that is ordered now comes up.
    fn waiting_past_a_start(&self, now: Uptime) -> u32 {
        let waiting = self.stats.depth();
        let measured = (self.stats.service_time.get(), self.stats.start_time.get());
        let (Some(service), Some(start)) = measured else {
            return waiting;
        };
        // If calls have waited for as long as a start takes, a start at the beginning of their wait would
        // have served these calls by now. The estimate below must have been too low, so all waiting calls
        // count.
        let has_lasted = |since| now >= since + start;
        if self.waits_since.is_some_and(has_lasted) {
            return waiting;
        }
        let slots = u64::from(self.stats.slots_now.load(Ordering::Relaxed));
        let meanwhile = start.saturating_mul(slots) / service;
        waiting.saturating_sub(u32::try_from(meanwhile).unwrap_or(u32::MAX))
    }

    /// Notes since when the lane has had waiting calls that more pods would serve. Returns the time at which
    /// such calls will have waited for as long as a start takes; none if the lane has no such calls.
    pub(crate) fn note_waiting(&mut self, now: Uptime) -> Option<Uptime> {
        if self.counts.serving() >= self.pods_for(self.stats.depth()) {
            self.waits_since = None;
            return None;
        }
        let since = *self.waits_since.get_or_insert(now);
        Some(since + self.stats.start_time.get().unwrap_or_default())
    }

    /// Returns whether the end of a call may change how many pods are wanted.
    pub(crate) const fn is_watched(&self) -> bool {
        self.counts.starting > 0 || self.waits_since.is_some()
    }

    pub(crate) const fn needs_all(&mut self) {
        self.unneeded_since = None;
    }

    /// Returns the number of ordered pods that no waiting or running call has needed for `for_span`. At least
    /// one pod is kept, because otherwise a function would never have a pod if its callers always stop
    /// waiting before a start is over.
    pub(crate) fn pods_too_many(&mut self, now: Uptime, for_span: Nanos) -> u32 {
        // While stale pods serve, one new pod at a time is started to replace one of them. This new pod is
        // kept, too.
        let replacement = u32::from(self.counts.stale_usable > 0);
        let kept = self.pods_for(self.stats.depth()).max(1) + replacement;
        let surplus = self.counts.serving().saturating_sub(kept);
        let too_many = surplus.min(self.counts.starting);
        if too_many == 0 {
            self.unneeded_since = None;
            return 0;
        }
        // Between an answer and the next call of the same client, the lane has one call fewer for a moment.
        // Pods are therefore taken back only after `for_span`.
        let since = *self.unneeded_since.get_or_insert(now);
        if now < since + for_span { 0 } else { too_many }
    }

    /// Returns how many stale pods to drain now. Stale pods serve while new pods start one by one. A stale
    /// pod is drained after new pods are up, or while the lane has more pods than its ceiling allows.
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

    /// Returns how many pods to start now if no back-off after a failed start applies.
    pub(crate) fn pods_missing(&self, now: Uptime) -> u32 {
        let (needed, counts) = (self.pods_needed(now), self.counts);
        let missing = needed.saturating_sub(counts.serving());
        let fresh = counts.serving() - counts.stale_usable;
        if counts.stale_usable == 0 || fresh >= needed {
            return missing;
        }
        // One pod above the ceiling is allowed, so that a new pod is up before an old pod ends.
        let most = self.plan.pods.map_or(0, |pods| pods.max + 1);
        let next = u32::from(counts.starting == 0 && counts.serving() < most);
        missing.max(next)
    }

    /// Returns whether pods may have to be started. Only counts are compared, because this is called for each
    /// ticket.
    pub(crate) fn lacks_pods(&self) -> bool {
        self.plan.pods.is_some() && self.counts.serving() < self.pods_for(self.stats.depth())
    }

    /// Counts the lane's pods and publishes the counts. The scheduler calls this after each change of a pod's
    /// state.
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
        // The reason counts only while its pod starts. By now the pod may be up, or its place may have
        // another pod.
        let held_up = held_up.filter(|(pod, _)| {
            let state = pods.get(*pod).map(|pod| pod.state);
            state == Some(PodState::Starting)
        });
        let held_up = held_up.map(|(_, why)| StartTrouble::HeldUp(why.clone()));
        let failed = failed.map(|failed| StartTrouble::Failed(failed.why.clone()));
        capacity.set_trouble(held_up.or(failed));
    }

    /// Publishes the numbers of the lane's slots and pods to the io threads.
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

    /// Chooses the pod for the next call; returns none if no pod has room. The candidates are the usable pods
    /// that the lane has had longest: as many as suffice for all running and waiting calls, and one pod more.
    ///
    /// The least loaded candidate is chosen, so that newer pods get no call and become idle. A newer pod is
    /// chosen only if no candidate has room, and `avoid` only if no other pod has room.
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
    fn a_mean_moves_a_share_of_the_difference() {
        let ns = |ns| Some(Nanos::from_ns(ns));
        assert_eq!(mean::<8>(None, Nanos::from_ns(800)), ns(800));
        assert_eq!(mean::<8>(ns(800), Nanos::from_ns(1600)), ns(900));
        assert_eq!(mean::<4>(ns(800), Nanos::from_ns(0)), ns(600));
    }

    #[test]
    fn starts_under_way_together_fail_as_one() {
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
