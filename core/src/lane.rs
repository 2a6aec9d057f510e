//! One function's place in the scheduler: its two queues, its slots, its pods.
//! It never moves a call out of the queue by itself; the scheduler's turn does.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::entries::Entries;
use crate::event::LanePlan;
use crate::fifo::Fifo;
use crate::limits::{ASYNC_SHARE, CRASH_LOOP_STARTS, START_BACKOFF_NS, START_BACKOFF_NS_MAX};
use crate::pods::{PodState, Pods};
use crate::ring::Consumer;
use crate::slots::Slots;
use crate::ticket::{Class, LaneId, Ticket};
use crate::view::LaneView;

/// How the last starts went.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    /// Failed ones in a row; those that were under way together count as one.
    pub(crate) failed: u32,
    failed_at_ns: u64,
    pub(crate) retry_at_ns: u64,
    pub(crate) permanent: bool,
    pub(crate) why: Option<Arc<str>>,
}

impl Starts {
    /// One failed that was wanted at `wanted_ns`.
    pub(crate) fn fail(&mut self, wanted_ns: u64, now_ns: u64, permanent: bool, why: Arc<str>) {
        self.why = Some(why);
        let together = self.failed > 0 && wanted_ns < self.failed_at_ns;
        self.permanent = permanent || (together && self.permanent);
        if together {
            return;
        }
        let backoff = START_BACKOFF_NS.saturating_mul(1 << self.failed.min(20));
        self.failed += 1;
        self.failed_at_ns = now_ns;
        self.retry_at_ns = now_ns + backoff.min(START_BACKOFF_NS_MAX);
    }

    /// Whether waiting for the next start is in vain.
    pub(crate) fn hopeless(&self) -> bool {
        self.failed > 0 && (self.permanent || self.failed >= CRASH_LOOP_STARTS)
    }
}

/// How many pods of a lane are in which state.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Census {
    pub(crate) usable: u32,
    pub(crate) stale_usable: u32,
    pub(crate) starting: u32,
    pub(crate) quarantined: u32,
    pub(crate) others: u32,
}

impl Census {
    /// Those that take calls, or are expected to.
    pub(crate) const fn serving(self) -> u32 {
        self.usable + self.starting + self.quarantined
    }
}

pub(crate) struct Lane {
    /// The registration that has it; the last one, where calls of earlier ones still run.
    pub(crate) id: LaneId,
    pub(crate) view: Arc<LaneView>,
    pub(crate) plan: LanePlan,
    pub(crate) slots: Slots,
    fifos: [Fifo; 2],
    pub(crate) mailbox: Option<Consumer<Ticket>>,
    /// Tickets of the registration that is about to take the lane over.
    pub(crate) early: Vec<Ticket>,
    /// Places in the table of pods.
    pub(crate) pods: Vec<u32>,
    pub(crate) census: Census,
    pub(crate) starts: Starts,
    /// Whether it stands in the scheduler's list of ready lanes.
    pub(crate) listed: bool,
    grants: u32,
    /// When the scheduler's timer for this lane fires; `u64::MAX` for never.
    pub(crate) due_ns: u64,
    pub(crate) is_removed: bool,
}

impl Lane {
    pub(crate) fn new(id: LaneId, view: Arc<LaneView>, plan: LanePlan) -> Self {
        Self {
            id,
            view,
            plan,
            slots: Slots::new(plan.concurrency),
            fifos: Default::default(),
            mailbox: None,
            early: Vec::new(),
            pods: Vec::new(),
            census: Census::default(),
            starts: Starts::default(),
            listed: false,
            grants: 0,
            due_ns: u64::MAX,
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

    /// Forgets the tickets of calls that were ended with their function.
    pub(crate) fn clear(&mut self, entries: &Entries) {
        self.fifos.iter_mut().for_each(|fifo| fifo.clear(entries));
    }

    /// Pods that waiting and running calls need, between the plan's floor and ceiling.
    pub(crate) fn pods_needed(&self) -> u32 {
        let Some(pods) = self.plan.pods.filter(|_| !self.is_removed) else {
            return 0;
        };
        let calls = (self.view.depth() + self.slots.held()).min(self.plan.concurrency);
        calls.div_ceil(pods.cap).clamp(pods.min, pods.max)
    }

    /// Pods of an older spec to drain now. They serve on while new ones come, one by one, each
    /// before an old one goes.
    pub(crate) fn stale_surplus(&self) -> u32 {
        let (needed, census) = (self.pods_needed(), self.census);
        let fresh_usable = census.usable - census.stale_usable;
        if fresh_usable >= needed {
            return census.stale_usable;
        }
        let most = self.plan.pods.map_or(0, |pods| pods.max);
        let replaced = fresh_usable > 0 || census.serving() > most;
        if census.starting == 0 && replaced {
            census
                .usable
                .saturating_sub(needed)
                .min(census.stale_usable)
        } else {
            0
        }
    }

    /// Pods to start now, failures aside.
    pub(crate) fn pods_missing(&self) -> u32 {
        let (needed, census) = (self.pods_needed(), self.census);
        let missing = needed.saturating_sub(census.serving());
        let fresh = census.serving() - census.stale_usable;
        if census.stale_usable == 0 || fresh >= needed {
            return missing;
        }
        let most = self.plan.pods.map_or(0, |pods| pods.max + 1);
        let next = u32::from(census.starting == 0 && census.serving() < most);
        missing.max(next)
    }

    /// Whether pods have to be started, as far as a look at the counts tells.
    pub(crate) fn lacks_pods(&self) -> bool {
        self.plan.pods.is_some() && self.census.serving() < self.pods_needed()
    }

    /// Counts its pods anew and shows the counts; called whenever a pod's state changed.
    pub(crate) fn count(&mut self, pods: &mut Pods) {
        let mut census = Census::default();
        for index in &self.pods {
            let pod = pods.at(*index);
            match pod.state {
                PodState::Starting => census.starting += 1,
                PodState::Usable => {
                    census.usable += 1;
                    census.stale_usable += u32::from(pod.stale);
                }
                PodState::Quarantined => census.quarantined += 1,
                PodState::Draining | PodState::Leaving => census.others += 1,
            }
        }
        self.census = census;
        self.show();
    }

    /// Shows counts and limits to the io threads.
    pub(crate) fn show(&self) {
        let concurrency = self.plan.concurrency;
        let (now, most) = self.plan.pods.map_or((concurrency, concurrency), |pods| {
            let slots = |count: u32| count.saturating_mul(pods.cap).min(concurrency);
            (slots(self.census.usable), slots(pods.max))
        });
        let view = &self.view;
        view.slots_now.store(now, Ordering::Relaxed);
        view.slots_max.store(most, Ordering::Relaxed);
        let others = self.census.others + self.census.quarantined;
        let counts = [self.census.usable, self.census.starting, others];
        for (gauge, count) in view.pods.iter().zip(counts) {
            gauge.store(count, Ordering::Relaxed);
        }
    }

    /// The pod for the next call: the least loaded with room, the earliest of equals so that late
    /// ones fall idle; `avoid` only where there is no other.
    pub(crate) fn choose(&self, pods: &mut Pods, avoid: u32) -> Option<u32> {
        let cap = self.plan.pods?.cap;
        let mut best = None;
        let mut best_load = (true, u32::MAX);
        for index in &self.pods {
            let pod = pods.at(*index);
            if pod.state == PodState::Usable && pod.in_flight < cap {
                let load = (*index == avoid, pod.in_flight);
                if load < best_load {
                    (best, best_load) = (Some(*index), load);
                }
            }
        }
        best
    }
}
