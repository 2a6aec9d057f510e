//! A doorbell is the protocol by which a thread can sleep and still notice each item that another thread
//! publishes. The pinned scheduler, the io threads and the bridge's loop use this protocol when they have no
//! work.
//!
//! The doorbell itself does not block. The sleeper parks in its own way. The `Waker` that `new` received ends
//! that sleep, for example by a byte on a socket or by an unpark.

use std::task::Waker;

use crate::sync::{
    AtomicBool, CachePadded,
    Ordering::{Relaxed, SeqCst},
    fence, planted,
};

/// The bell of one sleeper; any number of threads ring it.
///
/// ```text
/// sleeper                                  producer
///   announce: asleep = true                  publish (ring's stamp, or bitmap's summary bit)
///   fence(SeqCst)                            fence(SeqCst)
///   look again at what is published          read asleep; if true, exchange for false and wake
/// ```
/// One of the two fences comes first. If the producer's fence comes first, the sleeper's second look finds
/// the published item. If the sleeper's fence comes first, the producer reads `asleep` as true. In both cases
/// one of the two threads notices the other.
pub struct Doorbell {
    /// True from the sleeper's announcement until a producer rings or the sleeper withdraws the announcement.
    /// Writers: the sleeper, and the producer whose exchange finds true. All accesses are Relaxed, because
    /// the fences order them and the flag carries no data.
    asleep: CachePadded<AtomicBool>,
    waker: Waker,
}

impl Doorbell {
    /// Makes a bell whose sleeper is awake. `waker` must end the sleep even if the waker runs before the
    /// sleep begins, as a byte in a socket and an unpark token do.
    pub fn new(waker: Waker) -> Self {
        Self {
            asleep: CachePadded(AtomicBool::new(false)),
            waker,
        }
    }

    /// Wakes the sleeper if it has announced sleep. Returns whether this call woke the sleeper. A producer
    /// calls `ring` after it has published. If several producers ring after one announcement, one of them
    /// wakes the sleeper.
    #[inline]
    pub fn ring(&self) -> bool {
        // Pairs with the fence in `sleep`.
        if !planted("doorbell_ring_without_fence") {
            fence(SeqCst);
        }
        if !self.asleep.load(Relaxed) {
            return false;
        }
        self.wake()
    }

    /// Does the rare part of `ring`. The function is separate, so that `ring` is short enough to be inlined
    /// into a push.
    #[cold]
    fn wake(&self) -> bool {
        if planted("doorbell_ring_without_exchange") {
            self.asleep.store(false, Relaxed);
        } else if self
            .asleep
            .compare_exchange(true, false, Relaxed, Relaxed)
            .is_err()
        {
            return false;
        }
        self.waker.wake_by_ref();
        true
    }

    /// Announces sleep, and then looks again whether anything is published (the second look). Returns true if
    /// the sleeper may sleep; the sleeper calls [`Self::awake`] after that sleep. Returns false if there is
    /// work; the announcement is then withdrawn.
    ///
    /// `published` has to read stamps or summary bits. A counter of reserved places would also count items
    /// that cannot be taken yet, and the sleeper would spin until they are published.
    ///
    /// A sleep may end without work, because a producer may have read the announcement just before the
    /// sleeper withdrew it. The sleeper then looks for work and announces sleep again.
    #[inline]
    #[must_use]
    pub fn sleep(&self, published: impl FnOnce() -> bool) -> bool {
        self.asleep.store(true, Relaxed);
        // Pairs with the fence in `ring`.
        if !planted("doorbell_sleep_without_fence") {
            fence(SeqCst);
        }
        if !planted("doorbell_no_second_look") && published() {
            self.awake();
            return false;
        }
        true
    }

    /// Withdraws the announcement. The sleeper calls `awake` after every sleep, whatever ended the sleep, and
    /// before it looks for work. Until the next announcement no producer needs to wake the sleeper, so pushes
    /// during the work make no system call.
    #[inline]
    pub fn awake(&self) {
        self.asleep.store(false, Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{
        sync::{Arc, atomic::AtomicUsize},
        task::Wake,
        thread::{self, Thread},
        time::{Duration, Instant},
    };

    use super::*;
    use crate::ring::channel;

    /// Unparks a thread and counts the unparks.
    struct Unpark(Thread, AtomicUsize);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.1.fetch_add(1, Relaxed);
            self.0.unpark();
        }
    }

    fn bell() -> (Doorbell, Arc<Unpark>) {
        let unpark = Arc::new(Unpark(thread::current(), AtomicUsize::new(0)));
        (Doorbell::new(unpark.clone().into()), unpark)
    }

    #[test]
    fn rings_once_an_announcement() {
        let (bell, unpark) = bell();
        assert!(!bell.ring(), "awake from the start");
        assert!(bell.sleep(|| false));
        assert!(bell.ring());
        assert!(!bell.ring(), "the first one rang for all");
        assert!(bell.sleep(|| false));
        bell.awake();
        assert!(!bell.ring(), "woken by something else");
        assert!(!bell.sleep(|| true));
        assert!(!bell.ring(), "withdrawn");
        assert_eq!(unpark.1.load(Relaxed), 1);
    }

    /// If a wake-up were lost, a sleep would last until `DEADLINE`, and the test would fail.
    #[test]
    fn no_wake_up_is_lost_between_threads() {
        const EACH: usize = if cfg!(miri) { 50 } else { 20_000 };
        const PRODUCERS: usize = 4;
        const DEADLINE: Duration = Duration::from_secs(60);
        let (bell, unpark) = bell();
        let (producer, mut consumer) = channel(4);
        let rung = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..PRODUCERS {
                let (producer, bell, rung) = (producer.clone(), &bell, &rung);
                scope.spawn(move || {
                    for i in 0..EACH {
                        while producer.push(i).is_err() {
                            thread::yield_now();
                        }
                        rung.fetch_add(usize::from(bell.ring()), Relaxed);
                    }
                });
            }
            let mut left = PRODUCERS * EACH;
            while left > 0 {
                while consumer.pop().is_some() {
                    left -= 1;
                }
                if left > 0 && bell.sleep(|| consumer.is_published()) {
                    let asleep_at = Instant::now();
                    thread::park_timeout(DEADLINE);
                    assert!(
                        asleep_at.elapsed() < DEADLINE,
                        "nobody rang for the last {left}"
                    );
                    bell.awake();
                }
            }
        });
        assert_eq!(
            rung.load(Relaxed),
            unpark.1.load(Relaxed),
            "a ring is counted by its ringer"
        );
    }
}
