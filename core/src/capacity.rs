//! Shows when each held slot of a lane was granted, and how many slots the ordered pods will bring. The
//! scheduler writes these data, and io threads read them to predict waits.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::outcome::StartTrouble;
use crate::spec::bound::CONCURRENCY;
use crate::time::{AtomicUptime, Uptime};

const CHUNK: usize = 64;
const CHUNKS: usize = *CONCURRENCY.end() as usize / CHUNK;
/// The number of groups of ordered pods. Pods that were ordered at the same time form one group. If all
/// groups are used, the last group also counts the pods that were ordered later.
const GROUPS: usize = 8;

type Chunk = Box<[AtomicUptime; CHUNK]>;

#[derive(Default)]
pub struct Capacity {
    /// When each slot was granted; none while the slot is free. A chunk is allocated when one of its slots is
    /// held for the first time.
    held: [OnceLock<Chunk>; CHUNKS],
    coming: [Group; GROUPS],
    /// True while starts are not expected to succeed: from a failed start until a call succeeds in a new pod,
    /// and from the removal of an overdue start until a pod comes up. A new plan resets the flag.
    starts_fail: AtomicBool,
    /// Why starts do not succeed, if that is known.
    trouble: Mutex<Option<StartTrouble>>,
}

/// The slots of pods that were ordered at the same time.
#[derive(Default)]
struct Group {
    wanted_at: AtomicUptime,
    slots: AtomicU32,
}

impl Capacity {
    pub(crate) fn hold(&self, slot: u16, granted_at: Uptime) {
        let (chunk, at) = (usize::from(slot) / CHUNK, usize::from(slot) % CHUNK);
        let chunk =
            self.held[chunk].get_or_init(|| Box::new([const { AtomicUptime::none() }; CHUNK]));
        chunk[at].set(Some(granted_at));
    }

    /// Notes that `slot` is free. Returns since when it was held.
    pub(crate) fn release(&self, slot: u16) -> Uptime {
        let (chunk, at) = (usize::from(slot) / CHUNK, usize::from(slot) % CHUNK);
        let chunk = self.held[chunk].get();
        let shown = &chunk.expect("a slot was given back that was never held")[at];
        let since = shown.get().expect("a slot was given back twice");
        shown.set(None);
        since
    }

    pub(crate) fn held(&self) -> impl Iterator<Item = Uptime> {
        let chunks = self.held.iter().map_while(OnceLock::get);
        let slots = chunks.flat_map(|chunk| chunk.iter());
        slots.filter_map(AtomicUptime::get)
    }

    /// Publishes the pods that are ordered and not up yet. `orders` has the time and the slots of each order,
    /// the earliest first.
    pub(crate) fn set_coming(
        &self,
        orders: impl Iterator<Item = (Uptime, u32)>,
        starts_fail: bool,
    ) {
        let mut groups: [(Uptime, u32); GROUPS] = Default::default();
        let mut last = 0;
        for (wanted_at, slots) in orders {
            if groups[last].1 > 0 && groups[last].0 != wanted_at {
                last = (last + 1).min(GROUPS - 1);
            }
            groups[last] = (wanted_at, groups[last].1 + slots);
        }
        for (group, (wanted_at, slots)) in self.coming.iter().zip(groups) {
            group.wanted_at.set(Some(wanted_at));
            group.slots.store(slots, Ordering::Relaxed);
        }
        self.starts_fail.store(starts_fail, Ordering::Relaxed);
    }

    /// Publishes why starts do not succeed. The lock is acceptable, because this is called when a lane's pods
    /// change, and not for each call.
    pub(crate) fn set_trouble(&self, trouble: Option<StartTrouble>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    pub fn trouble(&self) -> Option<StartTrouble> {
        let trouble = self.trouble.lock();
        trouble.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn coming(&self) -> impl Iterator<Item = (Uptime, u32)> {
        let groups = self.coming.iter().filter_map(|group| {
            let wanted_at = group.wanted_at.get()?;
            Some((wanted_at, group.slots.load(Ordering::Relaxed)))
        });
        groups.filter(|(_, slots)| *slots > 0)
    }

    pub(crate) fn starts_fail(&self) -> bool {
        self.starts_fail.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_slots_are_shown_wherever_they_are() {
        let capacity = Capacity::default();
        let held_ns = || capacity.held().map(Uptime::as_ns).collect::<Vec<_>>();
        for (slot, since) in [(0, 5), (63, 6), (64, 7)] {
            capacity.hold(slot, Uptime::from_ns(since));
        }
        assert_eq!(held_ns(), [5, 6, 7]);
        assert_eq!(capacity.release(63), Uptime::from_ns(6));
        assert_eq!(held_ns(), [5, 7]);
    }

    #[test]
    #[should_panic(expected = "a slot was given back twice")]
    fn a_slot_is_given_back_once() {
        let capacity = Capacity::default();
        capacity.hold(3, Uptime::from_ns(5));
        assert_eq!(capacity.release(3), Uptime::from_ns(5));
        capacity.release(3);
    }

    #[test]
    fn orders_of_one_time_form_one_group() {
        let capacity = Capacity::default();
        let order = |number: u64| (Uptime::from_ns(1 + number / 2), 3);
        capacity.set_coming((0..20).map(order), false);
        let coming: Vec<_> = capacity.coming().collect();
        assert_eq!(coming.len(), GROUPS);
        let group = |ns, slots| (Uptime::from_ns(ns), slots);
        assert_eq!((coming[0], coming[7]), (group(1, 6), group(10, 18)));
        capacity.set_coming(std::iter::empty(), true);
        assert!(capacity.coming().next().is_none() && capacity.starts_fail());
    }
}
