//! A `Wheel` is a hierarchical timer wheel with ticks of a millisecond. Setting and cancelling a timer is
//! O(1), and the caller chooses the keys. The wheel never reads a clock, and allocates only when it holds
//! more timers than ever before. Each io thread has its own wheel.

use crate::index::Index;
use crate::time::{Nanos, Uptime};

const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// The number of levels. 64^5 ms are twelve days; a timer that is further away waits in the last level and is
/// placed again after each lap.
const LEVELS: usize = 5;
const TICK_NS: u64 = Nanos::from_ms(1).as_ns();

/// A reference to a timer that was set. It may be used after the timer has fired: `cancel` then does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerRef {
    index: Index,
    generation: u32,
}

#[derive(Clone, Copy, Debug)]
struct TimerEntry {
    tick: u64,
    key: u64,
    generation: u32,
    next: Option<Index>,
    prev: Option<Index>,
    /// `level * SLOTS + slot`; none while no timer is set in this entry.
    place: Option<u16>,
}

#[derive(Debug)]
pub struct Wheel {
    timers: Vec<TimerEntry>,
    free: Option<Index>,
    heads: [Option<Index>; LEVELS * SLOTS],
    occupied: [u64; LEVELS],
    tick: u64,
    live: usize,
}

impl Wheel {
    /// Makes an empty wheel that begins at `now`.
    pub fn new(now: Uptime) -> Self {
        Self {
            timers: Vec::new(),
            free: None,
            heads: [None; LEVELS * SLOTS],
            occupied: [0; LEVELS],
            tick: now.as_ns() / TICK_NS,
            live: 0,
        }
    }

    pub const fn len(&self) -> usize {
        self.live
    }

    pub const fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Sets a timer with a key. The timer fires at `at`, rounded up to a whole millisecond, but at the
    /// earliest at the tick after the current one.
    pub fn set(&mut self, at: Uptime, key: u64) -> TimerRef {
        // The timers of the current tick have fired already, so the earliest possible tick is the next one.
        let tick = at.as_ns().div_ceil(TICK_NS).max(self.tick + 1);
        let index = if let Some(index) = self.free {
            self.free = self.timers[index.get()].next;
            index
        } else {
            let place = u32::try_from(self.timers.len()).expect("fewer than 2^32 timers");
            self.timers.push(TimerEntry {
                tick,
                key,
                generation: 0,
                next: None,
                prev: None,
                place: None,
            });
            Index::new(place)
        };
        let timer = &mut self.timers[index.get()];
        timer.tick = tick;
        timer.key = key;
        let generation = timer.generation;
        self.link(index);
        self.live += 1;
        TimerRef { index, generation }
    }

    /// Cancels a timer. Returns false if the timer has fired or was cancelled already.
    pub fn cancel(&mut self, timer: TimerRef) -> bool {
        let found = &self.timers[timer.index.get()];
        if found.generation != timer.generation || found.place.is_none() {
            return false;
        }
        self.unlink(timer.index);
        self.release(timer.index);
        true
    }

    /// Returns a time at or before the earliest timer. `advance` fires no timer before this time.
    pub fn next_at(&self) -> Option<Uptime> {
        if self.live == 0 {
            return None;
        }
        let ticks = (0..LEVELS).filter_map(|level| self.next_in_level(level));
        let earliest = ticks.min().expect("a timer that is set is in a level");
        Some(Uptime::from_ns(earliest * TICK_NS))
    }

    /// Advances to `now` and passes the key of every due timer to `due`. Does nothing if the clock stepped
    /// back.
    pub fn advance(&mut self, now: Uptime, mut due: impl FnMut(u64)) {
        let until = now.as_ns() / TICK_NS;
        while self.tick < until {
            let Some(next_at) = self.next_at() else {
                self.tick = until;
                return;
            };
            let next = next_at.as_ns() / TICK_NS;
            if next > until {
                self.tick = until;
                return;
            }
            self.tick = next.max(self.tick + 1);
            // Timers of higher levels are moved down before the tick's timers fire, because some of them may
            // be due in this tick.
            self.cascade();
            self.fire(&mut due);
        }
    }

    fn place_of(&self, tick: u64) -> usize {
        let differs = (tick ^ self.tick) | 1;
        let level = ((63 - differs.leading_zeros()) / SLOT_BITS) as usize;
        let level = level.min(LEVELS - 1);
        let slot = (tick >> (level as u32 * SLOT_BITS)) as usize & (SLOTS - 1);
        level * SLOTS + slot
    }

    fn link(&mut self, index: Index) {
        let place = self.place_of(self.timers[index.get()].tick);
        let head = self.heads[place];
        let timer = &mut self.timers[index.get()];
        timer.place = Some(place as u16);
        timer.prev = None;
        timer.next = head;
        if let Some(head) = head {
            self.timers[head.get()].prev = Some(index);
        }
        self.heads[place] = Some(index);
        self.occupied[place / SLOTS] |= 1 << (place % SLOTS);
    }

    fn unlink(&mut self, index: Index) {
        let timer = &mut self.timers[index.get()];
        let (next, prev) = (timer.next, timer.prev);
        let place = timer.place.take().expect("a timer is unlinked that is set");
        if let Some(next) = next {
            self.timers[next.get()].prev = prev;
        }
        if let Some(prev) = prev {
            self.timers[prev.get()].next = next;
            return;
        }
        let place = usize::from(place);
        self.heads[place] = next;
        if next.is_none() {
            self.occupied[place / SLOTS] &= !(1 << (place % SLOTS));
        }
    }

    fn release(&mut self, index: Index) {
        let timer = &mut self.timers[index.get()];
        timer.generation = timer.generation.wrapping_add(1);
        timer.place = None;
        timer.next = self.free;
        self.free = Some(index);
        assert!(self.live > 0, "more timers ended than were set");
        self.live -= 1;
    }

    /// Returns the first tick at which a slot of `level` has to be processed; none if the level has no timer.
    fn next_in_level(&self, level: usize) -> Option<u64> {
        let occupied = self.occupied[level];
        if occupied == 0 {
            return None;
        }
        let shift = level as u32 * SLOT_BITS;
        let here = (self.tick >> shift) as u32 & (SLOTS as u32 - 1);
        // The search begins at the slot after the current one and ends, one lap later, at the current slot.
        let ahead = occupied
            .rotate_right((here + 1) % SLOTS as u32)
            .trailing_zeros()
            + 1;
        Some(((self.tick >> shift) + u64::from(ahead)) << shift)
    }

    fn take_list(&mut self, place: usize) -> Option<Index> {
        self.occupied[place / SLOTS] &= !(1 << (place % SLOTS));
        self.heads[place].take()
    }

    /// If a slot of a higher level begins at the current tick, moves the timers in that slot to lower levels.
    fn cascade(&mut self) {
        for level in (1..LEVELS).rev() {
            let shift = level as u32 * SLOT_BITS;
            if !self.tick.is_multiple_of(1 << shift) {
                continue;
            }
            let slot = (self.tick >> shift) as usize & (SLOTS - 1);
            let mut at = self.take_list(level * SLOTS + slot);
            while let Some(index) = at {
                at = self.timers[index.get()].next;
                self.link(index);
            }
        }
    }

    fn fire(&mut self, due: &mut impl FnMut(u64)) {
        let mut at = self.take_list(self.tick as usize & (SLOTS - 1));
        while let Some(index) = at {
            let TimerEntry {
                next, tick, key, ..
            } = self.timers[index.get()];
            debug_assert_eq!(
                tick, self.tick,
                "a timer fired at another tick than its own"
            );
            self.release(index);
            due(key);
            at = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const MS: u64 = TICK_NS;

    const fn at_ms(ms: u64) -> Uptime {
        Uptime::from_ns(ms * MS)
    }

    #[test]
    fn timers_fire_in_time_whatever_the_distance() {
        // The wheel is compared with a sorted map. The distances of timers, the cancelled timers and the
        // steps of the clock are random.
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        let mut now = 12_345 * MS;
        let mut wheel = Wheel::new(Uptime::from_ns(now));
        let mut model: BTreeMap<u64, (u64, TimerRef)> = BTreeMap::new();
        for key in 0..20_000_u64 {
            let far = [3, 90, 5_000, 400_000, 40_000_000][random(5) as usize];
            let at = now + random(far * MS);
            model.insert(key, (at, wheel.set(Uptime::from_ns(at), key)));
            if random(4) == 0 {
                let victim = random(key + 1);
                let known = model.remove(&victim);
                if let Some((_, timer)) = known {
                    assert!(wheel.cancel(timer));
                    assert!(!wheel.cancel(timer));
                }
            }
            assert_eq!(wheel.len(), model.len());
            let stride = [1, 20, 3_000, 300_000][random(4) as usize];
            now += random(stride * MS);
            let mut fired = Vec::new();
            wheel.advance(Uptime::from_ns(now), |key| fired.push(key));
            for key in fired {
                let (at, _) = model
                    .remove(&key)
                    .expect("fired once, and not after a cancel");
                assert!(at <= now, "fired {} ns early", at - now);
            }
            let late = model
                .values()
                .filter(|(at, _)| at.div_ceil(MS) * MS + MS <= now)
                .count();
            assert_eq!(late, 0);
            if let Some(next) = wheel.next_at().map(Uptime::as_ns) {
                assert!(
                    next > now - MS
                        && model
                            .values()
                            .all(|(at, _)| at.div_ceil(MS) + 1 >= next / MS)
                );
            }
        }
    }

    #[test]
    fn a_clock_that_jumps_back_moves_nothing() {
        let mut wheel = Wheel::new(at_ms(1000));
        wheel.set(at_ms(1005), 1);
        let mut fired = 0;
        wheel.advance(at_ms(10), |_| fired += 1);
        wheel.advance(at_ms(1004), |_| fired += 1);
        assert_eq!(fired, 0);
        wheel.advance(at_ms(1005), |_| fired += 1);
        assert_eq!((fired, wheel.is_empty()), (1, true));
    }
}
