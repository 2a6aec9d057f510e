//! Since when each slot of a lane is held, and which slots are on their way with pods that were ordered:
//! what a prediction has to know. It predicts nothing. Writer: the scheduler; io threads read.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::outcome::StartTrouble;
use crate::spec::bound::CONCURRENCY;

const CHUNK: usize = 64;
const CHUNKS: usize = *CONCURRENCY.end() as usize / CHUNK;
/// Pods that were ordered together are one group; more groups than these count with the last one.
const GROUPS: usize = 8;

type Chunk = Box<[AtomicU64; CHUNK]>;

/// What a lane's slots are at.
#[derive(Default)]
pub struct Capacity {
    /// When each slot was granted, 0 where it is free. Made where a slot of it is held first.
    held: [OnceLock<Chunk>; CHUNKS],
    coming: [Group; GROUPS],
    /// A start failed, or did not come to an end, since the last that did well.
    starts_fail: AtomicBool,
    /// What is known of starts that do not come up.
    trouble: Mutex<Option<StartTrouble>>,
}

/// Slots of pods that were ordered at the same time.
#[derive(Default)]
struct Group {
    wanted_ns: AtomicU64,
    slots: AtomicU32,
}

impl Capacity {
    /// A slot is held since `granted_ns`.
    pub(crate) fn hold(&self, slot: u16, granted_ns: u64) {
        let (chunk, at) = (usize::from(slot) / CHUNK, usize::from(slot) % CHUNK);
        let chunk = self.held[chunk].get_or_init(|| Box::new([const { AtomicU64::new(0) }; CHUNK]));
        chunk[at].store(granted_ns.max(1), Ordering::Relaxed);
    }

    /// A slot is free again; since when it was held.
    pub(crate) fn release(&self, slot: u16) -> u64 {
        let (chunk, at) = (usize::from(slot) / CHUNK, usize::from(slot) % CHUNK);
        let chunk = self.held[chunk].get();
        let shown = &chunk.expect("a slot was given back that was never held")[at];
        let since_ns = shown.load(Ordering::Relaxed);
        assert!(since_ns > 0, "a slot was given back twice");
        shown.store(0, Ordering::Relaxed);
        since_ns
    }

    /// When each held slot was granted.
    pub(crate) fn held(&self) -> impl Iterator<Item = u64> {
        let chunks = self.held.iter().map_while(OnceLock::get);
        let slots = chunks.flat_map(|chunk| chunk.iter());
        slots
            .map(|slot| slot.load(Ordering::Relaxed))
            .filter(|since_ns| *since_ns > 0)
    }

    /// Which pods were ordered and are not up yet: the time of each order, in their order, and slots.
    pub(crate) fn set_coming(&self, orders: impl Iterator<Item = (u64, u32)>, starts_fail: bool) {
        let mut groups: [(u64, u32); GROUPS] = Default::default();
        let mut last = 0;
        for (wanted_ns, slots) in orders {
            if groups[last].1 > 0 && groups[last].0 != wanted_ns {
                last = (last + 1).min(GROUPS - 1);
            }
            groups[last] = (wanted_ns, groups[last].1 + slots);
        }
        for (group, (wanted_ns, slots)) in self.coming.iter().zip(groups) {
            group.wanted_ns.store(wanted_ns, Ordering::Relaxed);
            group.slots.store(slots, Ordering::Relaxed);
        }
        self.starts_fail.store(starts_fail, Ordering::Relaxed);
    }

    /// Off the path of a warm call.
    pub(crate) fn set_trouble(&self, trouble: Option<StartTrouble>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    pub fn trouble(&self) -> Option<StartTrouble> {
        let trouble = self.trouble.lock();
        trouble.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn coming(&self) -> impl Iterator<Item = (u64, u32)> {
        let groups = self.coming.iter().map(|group| {
            let wanted_ns = group.wanted_ns.load(Ordering::Relaxed);
            (wanted_ns, group.slots.load(Ordering::Relaxed))
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
        for (slot, since_ns) in [(0, 5), (63, 6), (64, 7)] {
            capacity.hold(slot, since_ns);
        }
        assert_eq!(capacity.held().collect::<Vec<_>>(), [5, 6, 7]);
        assert_eq!(capacity.release(63), 6);
        assert_eq!(capacity.held().collect::<Vec<_>>(), [5, 7]);
    }

    #[test]
    #[should_panic(expected = "a slot was given back twice")]
    fn a_slot_is_given_back_once() {
        let capacity = Capacity::default();
        capacity.hold(3, 5);
        assert_eq!(capacity.release(3), 5);
        capacity.release(3);
    }

    #[test]
    fn orders_of_one_time_are_one_group_and_the_rest_comes_with_the_last() {
        let capacity = Capacity::default();
        capacity.set_coming((0..20).map(|at| (at / 2, 3)), false);
        let coming: Vec<_> = capacity.coming().collect();
        assert_eq!(coming.len(), GROUPS);
        assert_eq!((coming[0], coming[7]), ((0, 6), (9, 18)));
        capacity.set_coming(std::iter::empty(), true);
        assert!(capacity.coming().next().is_none() && capacity.starts_fail());
    }
}
