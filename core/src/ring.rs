//! A ring is a bounded queue that carries tickets, grants, events or messages between threads. It has many
//! producers and one consumer, keeps the order of each producer's items, and has one stamp for each slot.
//!
//! A ring allocates only in [`channel`]. It never waits and wakes no thread; a `doorbell` wakes the consumer.
//! The lanes' rings, the scheduler's event ring, and the rings of the io threads and of the bridge are all of
//! this type.
#![allow(unsafe_code)] // A slot is shared memory that a stamp hands over, which safe code cannot express.

use std::{cell::Cell, marker::PhantomData, mem::MaybeUninit};

use crate::sync::{
    Arc, AtomicU64, CachePadded,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    UnsafeCell, planted,
};

/// Makes a ring of `capacity` places and returns its two ends.
///
/// # Panics
/// Panics if `capacity` is less than 2 or not a power of two.
pub fn channel<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let ring = Arc::new(Ring::with_capacity(capacity));
    let consumer = Consumer {
        ring: ring.clone(),
        head: 0,
        _not_sync: PhantomData,
    };
    (Producer { ring }, consumer)
}

/// The sending end. Each thread that sends has a clone of it.
pub struct Producer<T: Send> {
    ring: Arc<Ring<T>>,
}

/// The receiving end. A ring has one receiving end, which one thread holds, so that there is a single
/// consumer.
pub struct Consumer<T: Send> {
    ring: Arc<Ring<T>>,
    /// The position of the next item. Writer and reader: this end only.
    head: u64,
    _not_sync: PhantomData<Cell<()>>,
}

struct Ring<T> {
    /// The next position to be reserved. Writers and readers: producers.
    ///
    /// A producer's load is Acquire and pairs with the AcqRel exchange of an earlier producer. A producer
    /// that reads a position therefore sees everything that the earlier producers had seen, above all which
    /// items were popped. A push into a reserved place needs this order, see `push`.
    tail: CachePadded<AtomicU64>,
    slots: Box<[Slot<T>]>,
}

/// A slot of the ring. Positions count up from 0 without end; position `p` is in slot `p mod capacity`.
struct Slot<T> {
    /// Which thread may use the slot. `p`: it is free, for the producer that reserves `p`. `p + 1`: it is
    /// published, for the consumer whose head is `p`. `p + capacity`: it is free again, one lap later. With a
    /// capacity of 1 the last two values would be equal, so the capacity is at least 2. Writers: the producer
    /// that reserved `p`, then the consumer.
    stamp: AtomicU64,
    /// The item. The producer that reserved `p` writes the item before it publishes the slot; after that only
    /// the consumer uses the item.
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: the ring moves every T from one thread to another (`T: Send`), and gives out no reference to a T.
// The only field that is not Sync is `Slot::value`. A producer accesses the value after it has reserved the
// position and before it publishes the slot; the exchange on `tail` gives each position to one producer. The
// consumer accesses the value after the slot is published and before the slot is free. There is one
// `Consumer`, which is neither Clone nor Sync.
unsafe impl<T: Send> Sync for Ring<T> {}

impl<T> Ring<T> {
    fn with_capacity(capacity: usize) -> Self {
        assert!(
            capacity >= 2 && capacity.is_power_of_two(),
            "a ring's capacity must be a power of two and at least 2, not {capacity}"
        );
        let slot = |position| Slot {
            stamp: AtomicU64::new(position),
            value: UnsafeCell::new(MaybeUninit::uninit()),
        };
        Self {
            tail: CachePadded(AtomicU64::new(0)),
            slots: (0..capacity as u64).map(slot).collect(),
        }
    }

    #[inline(always)]
    fn slot(&self, position: u64) -> &Slot<T> {
        &self.slots[position as usize & (self.slots.len() - 1)]
    }
}

impl<T: Send> Producer<T> {
    /// Appends `item`, or returns it if the ring is full.
    ///
    /// A push into a reserved place never fails. A place is reserved if at most `capacity` items can exist at
    /// once, and each producer pushes only when it knows that a place is free for its item. A producer knows
    /// this from the start, or from a message that was sent after the pop of the item that had the place.
    ///
    /// The proof: `p + 1` pushes reserve the positions up to `p`, and at most `capacity` of them use a place
    /// that was free from the start. The producers of the others know of at least `p + 1 - capacity` pops, of
    /// which the last is the pop of position `p - capacity` or a later one. `tail` passes this knowledge on
    /// (see `Ring::tail`), so `push` cannot read the old stamp, which would mean that the ring is full.
    #[inline]
    pub fn push(&self, item: T) -> Result<(), T> {
        let ring = &*self.ring;
        let mut position = ring.tail.load(Acquire);
        loop {
            let slot = ring.slot(position);
            // Acquire: pairs with the Release in `pop` that frees the slot, so that the consumer has read the
            // last lap's item before this producer writes.
            let stamp = slot.stamp.load(Acquire);
            if stamp < position {
                return Err(item);
            }
            if stamp > position {
                // Another producer has reserved this position. Because of the Acquire above, this load reads
                // a later position.
                position = ring.tail.load(Acquire);
                continue;
            }
            if let Err(newer) = reserve(&ring.tail, position) {
                position = newer;
                continue;
            }
            // SAFETY: the stamp says that the slot is free for `position`, and the exchange on `tail` gave
            // `position` to this producer alone. No other thread therefore accesses the value before the slot
            // is published. The slot is vacant, so the write overwrites no value that would have to be
            // dropped.
            slot.value.with_mut(|value| unsafe { (*value).write(item) });
            // Release: pairs with the Acquire in `pop`, so that a consumer that sees the stamp sees the item,
            // too.
            let publish = if planted("ring_relaxed_publish") {
                Relaxed
            } else {
                Release
            };
            slot.stamp.store(position + 1, publish);
            return Ok(());
        }
    }
}

/// Moves `tail` past `position`, or returns the current value of `tail`. The orderings are explained at
/// `Ring::tail`.
#[inline(always)]
fn reserve(tail: &AtomicU64, position: u64) -> Result<(), u64> {
    if planted("ring_reserve_without_exchange") {
        tail.store(position + 1, Relaxed);
        return Ok(());
    }
    let success = if planted("ring_relaxed_reserve") {
        Relaxed
    } else {
        AcqRel
    };
    tail.compare_exchange_weak(position, position + 1, success, Acquire)
        .map(drop)
}

impl<T: Send> Consumer<T> {
    /// Takes the oldest item if it is published. The result may be `None` although the ring is not empty,
    /// because a producer may have reserved a place and not published it yet.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        let slot = self.ring.slot(self.head);
        // Acquire: pairs with the Release that publishes the slot in `push`.
        if slot.stamp.load(Acquire) != self.head + 1 {
            return None;
        }
        let free = self.head + self.ring.slots.len() as u64;
        if planted("ring_free_before_read") {
            slot.stamp.store(free, Release);
        }
        // SAFETY: the stamp says that the slot is published for this head, so the value is there and its
        // producer no longer uses it. There is no other consumer, and only the consumer changes the stamp of
        // a published slot, so the value is read out exactly once.
        let item = slot
            .value
            .with(|value| unsafe { (*value).assume_init_read() });
        // Release: pairs with the Acquire in `push`, so that the read above comes before the next producer's
        // write.
        slot.stamp.store(
            free,
            if planted("ring_relaxed_free") {
                Relaxed
            } else {
                Release
            },
        );
        self.head += 1;
        Some(item)
    }

    /// Returns whether `pop` would find an item. A sleeper passes this function to `Doorbell::sleep`, which
    /// calls it after the announcement.
    ///
    /// The function reads the stamp of the head's slot and not `tail`, because a producer may have reserved a
    /// place and not published it yet; that producer rings after it has published. The load is Relaxed,
    /// because no item is taken here, and the fence in `Doorbell::sleep` orders this load after the
    /// announcement.
    #[inline]
    pub fn is_published(&self) -> bool {
        if planted("ring_look_at_reserved") {
            return self.ring.tail.load(Relaxed) != self.head;
        }
        self.ring.slot(self.head).stamp.load(Relaxed) == self.head + 1
    }
}

impl<T: Send> Clone for Producer<T> {
    fn clone(&self) -> Self {
        Self {
            ring: self.ring.clone(),
        }
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        if !std::mem::needs_drop::<T>() {
            return;
        }
        for (index, slot) in self.slots.iter().enumerate() {
            // The load is Relaxed, because `&mut self` means that both ends are gone, and their `Arc` orders
            // everything that they did before this drop.
            let stamp = slot.stamp.load(Relaxed) as usize;
            if stamp & (self.slots.len() - 1) != index {
                // SAFETY: the stamp of a free slot equals its index mod capacity, so this slot is published
                // and was not popped. No other thread has the ring any more, so the value is dropped exactly
                // once.
                slot.value
                    .with_mut(|value| unsafe { (*value).assume_init_drop() });
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{sync::atomic::AtomicUsize, thread};

    use super::*;

    /// The number of items that each producer pushes. It is smaller under Miri, which runs these tests some
    /// thousand times slower.
    const ITEMS: u64 = if cfg!(miri) { 200 } else { 100_000 };
    const PRODUCERS: u64 = 4;

    /// Counts its drops.
    struct Counted(Arc<AtomicUsize>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn counted(drops: &Arc<AtomicUsize>) -> Counted {
        Counted(drops.clone())
    }

    #[test]
    fn a_full_ring_returns_the_item_in_order() {
        for capacity in [2, 4, 256] {
            let (producer, mut consumer) = channel(capacity);
            for lap in 0..5 {
                assert!(!consumer.is_published());
                assert_eq!(consumer.pop(), None);
                for i in 0..capacity {
                    assert_eq!(producer.push(lap * capacity + i), Ok(()));
                }
                assert_eq!(producer.push(usize::MAX), Err(usize::MAX));
                assert!(consumer.is_published());
                for i in 0..capacity {
                    assert_eq!(consumer.pop(), Some(lap * capacity + i));
                }
            }
        }
    }

    #[test]
    fn every_fill_level_at_every_offset() {
        let (producer, mut consumer) = channel(4);
        let (mut pushed, mut popped) = (0_u64, 0_u64);
        for fill in [1, 3, 2, 4, 1, 1, 4, 3, 3, 2] {
            for _ in 0..fill {
                producer.push(pushed).expect("a place is free");
                pushed += 1;
            }
            while let Some(item) = consumer.pop() {
                assert_eq!(item, popped);
                popped += 1;
            }
            assert_eq!(popped, pushed);
        }
    }

    #[test]
    fn what_is_left_is_dropped_once() {
        for (pushes, pops) in [(0, 0), (3, 0), (4, 4), (4, 1), (7, 5), (9, 9), (9, 5)] {
            let drops = Arc::new(AtomicUsize::new(0));
            let (producer, mut consumer) = channel(4);
            let mut popped = 0;
            for pushed in 0..pushes {
                while pushed - popped >= 4 || (popped < pops && pushed > popped) {
                    drop(consumer.pop().expect("an item was pushed"));
                    popped += 1;
                }
                assert!(producer.push(counted(&drops)).is_ok());
            }
            while popped < pops {
                drop(consumer.pop().expect("an item was pushed"));
                popped += 1;
            }
            assert_eq!(drops.load(Relaxed), popped);
            // Both orders of dropping the ends are tested, because the order must not matter.
            if pushes % 2 == 0 {
                drop(producer);
                drop(consumer);
            } else {
                drop(consumer);
                drop(producer);
            }
            assert_eq!(drops.load(Relaxed), pushes);
        }
    }

    #[test]
    fn a_late_push_is_dropped_with_the_ring() {
        let drops = Arc::new(AtomicUsize::new(0));
        let (producer, consumer) = channel(2);
        drop(consumer);
        assert!(producer.push(counted(&drops)).is_ok());
        assert!(producer.push(counted(&drops)).is_ok());
        assert!(producer.push(counted(&drops)).is_err(), "nobody makes room");
        assert_eq!(drops.load(Relaxed), 1, "the refused one");
        drop(producer);
        assert_eq!(drops.load(Relaxed), 3);
    }

    #[test]
    #[should_panic(expected = "power of two and at least 2, not 3")]
    fn a_capacity_must_be_a_power_of_two() {
        let _ = channel::<u8>(3);
    }

    #[test]
    fn four_producers_lose_nothing_and_keep_their_order() {
        for capacity in [2, 8, 256] {
            let (producer, mut consumer) = channel::<Box<(u64, u64)>>(capacity);
            thread::scope(|scope| {
                for who in 0..PRODUCERS {
                    let producer = producer.clone();
                    scope.spawn(move || {
                        for i in 0..ITEMS {
                            let mut item = Box::new((who, i));
                            while let Err(back) = producer.push(item) {
                                item = back;
                                thread::yield_now();
                            }
                        }
                    });
                }
                let mut next = [0; PRODUCERS as usize];
                for _ in 0..PRODUCERS * ITEMS {
                    let (who, i) = loop {
                        match consumer.pop() {
                            Some(item) => break *item,
                            None => thread::yield_now(),
                        }
                    };
                    assert_eq!(i, next[who as usize], "producer {who} out of order");
                    next[who as usize] += 1;
                }
            });
            assert!(consumer.pop().is_none(), "more came out than went in");
        }
    }

    #[test]
    fn four_producers_drop_each_item_once() {
        let drops = Arc::new(AtomicUsize::new(0));
        let (producer, mut consumer) = channel(8);
        let each = ITEMS as usize / 10;
        let mut popped = 0;
        thread::scope(|scope| {
            for _ in 0..PRODUCERS {
                let (producer, drops) = (producer.clone(), drops.clone());
                scope.spawn(move || {
                    for _ in 0..each {
                        // An item that a full ring returns is dropped here, and counts like any other item.
                        let _ = producer.push(counted(&drops));
                    }
                });
            }
            for _ in 0..each {
                popped += usize::from(consumer.pop().is_some());
            }
        });
        drop((producer, consumer));
        assert_eq!(
            drops.load(Relaxed),
            PRODUCERS as usize * each,
            "after {popped} pops"
        );
    }

    /// This function does not compile if `Consumer` is Sync or Clone, because `_` then has two solutions.
    #[test]
    fn the_consumer_stays_alone() {
        trait NotSync<A> {
            fn check() {}
        }
        impl<T> NotSync<()> for T {}
        impl<T: Sync> NotSync<u8> for T {}
        trait NotClone<A> {
            fn check() {}
        }
        impl<T> NotClone<()> for T {}
        impl<T: Clone> NotClone<u8> for T {}
        <Consumer<u8> as NotSync<_>>::check();
        <Consumer<u8> as NotClone<_>>::check();
    }

    #[test]
    fn ends_are_send_and_slots_are_small() {
        fn needs_send<T: Send>() {}
        fn needs_sync<T: Sync>() {}
        needs_send::<Producer<Cell<u8>>>();
        needs_sync::<Producer<Cell<u8>>>();
        needs_send::<Consumer<Cell<u8>>>();
        assert_eq!(size_of::<Slot<[u64; 4]>>(), 40);
    }
}
