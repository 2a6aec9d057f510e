//! The protocol by which a thread sleeps without missing an item that another thread publishes for it. The
//! scheduler, the io threads and the bridge sleep only in this way.
//!
//! The doorbell itself does not block. The sleeper parks in its own way, and the `Waker` given to `new` ends
//! that sleep (by a byte on a socket, an unpark, a notify).

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
/// the published item. If the sleeper's fence comes first, the producer reads `asleep` as true. So at least
/// one of the two threads notices the other.
pub struct Doorbell {
    /// True if the sleeper has announced sleep and no producer has rung since. Writers: the sleeper, and the
    /// producer whose exchange finds true. All accesses are Relaxed, because the fences order them and the
    /// flag carries no data.
    asleep: CachePadded<AtomicBool>,
    waker: Waker,
}

impl Doorbell {
    /// A bell whose sleeper is awake. `waker` must end the sleep even if it is called before the sleep
    /// begins; a byte in a socket and an unpark token both do that.
    pub fn new(waker: Waker) -> Self {
        Self {
            asleep: CachePadded(AtomicBool::new(false)),
            waker,
        }
    }

    /// Wakes the sleeper if it has announced sleep, and returns true if this call woke it. Producers call it
    /// after they have published. If several producers ring after one announcement, only one wakes the
    /// sleeper.
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

    /// This function is separate from `ring`, so that `ring` is short enough to be inlined into a push.
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

    /// Announces sleep and looks again: `published` reads stamps or summary bits, never counters of reserved
    /// places. Returns true if the sleeper may sleep now; it calls [`Self::awake`] afterwards. Returns false
    /// if there is work; the announcement is then withdrawn.
    ///
    /// A sleep may end without work, because a producer may have seen an earlier announcement just before it
    /// was withdrawn. The sleeper then looks for work and announces sleep again.
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

    /// Withdraws the announcement, whatever ended the sleep (the bell, a timer, another socket). Until the
    /// next announcement no producer needs to wake the sleeper. The sleeper calls it before it looks for
    /// work, so that pushes during the work make no system call.
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

    /// Unparks a thread and counts how often.
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

    /// A lost wake-up would show as a sleep that only its deadline ends.
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
