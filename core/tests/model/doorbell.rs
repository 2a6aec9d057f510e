//! Models of bitmap and doorbell: each alone, and both together with the ring as the scheduler uses them. A
//! lost wake-up becomes a deadlock. A lost bit becomes a lane that the consumer never visits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Wake,
};

use loom::{
    sync::{Condvar, Mutex},
    thread,
};
use nanofaas_core::{
    bitmap::Bitmap,
    doorbell::Doorbell,
    ring::channel,
    sync::{self, AtomicU64},
};

use crate::check;

/// The place where the sleeper sleeps. A wake-up before the sleep is kept, like a byte in a socket.
struct Bed {
    woken: Mutex<bool>,
    wake: Condvar,
    wakes: AtomicUsize,
}

impl Bed {
    fn new() -> (Arc<Self>, sync::Arc<Doorbell>) {
        let bed = Arc::new(Self {
            woken: Mutex::new(false),
            wake: Condvar::new(),
            wakes: AtomicUsize::new(0),
        });
        let bell = sync::Arc::new(Doorbell::new(bed.clone().into()));
        (bed, bell)
    }

    /// This wait has no deadline, so a lost wake-up is a deadlock, which loom reports.
    fn sleep(&self) {
        let mut woken = self.woken.lock().unwrap();
        while !*woken {
            woken = self.wake.wait(woken).unwrap();
        }
        *woken = false;
    }
}

impl Wake for Bed {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Relaxed);
        *self.woken.lock().unwrap() = true;
        self.wake.notify_one();
    }
}

/// The producers publish with Relaxed stores, so only the fences of the doorbell order these stores.
#[test]
fn no_wake_up_is_lost() {
    check(Some(3), || {
        let (bed, bell) = Bed::new();
        let published = [(); 2].map(|()| sync::Arc::new(AtomicU64::new(0)));
        let producers = published.clone().map(|published| {
            let bell = bell.clone();
            thread::spawn(move || {
                published.store(1, Relaxed);
                bell.ring()
            })
        });
        let found = |published: &sync::Arc<AtomicU64>| published.load(Relaxed) == 1;
        let mut seen = [false; 2];
        let mut announced = 0;
        loop {
            seen = [
                seen[0] || found(&published[0]),
                seen[1] || found(&published[1]),
            ];
            if seen == [true; 2] {
                break;
            }
            announced += 1;
            let look = || (0..2).any(|who| !seen[who] && found(&published[who]));
            if bell.sleep(look) {
                bed.sleep();
                bell.awake();
            }
        }
        let rang = producers.map(|thread| usize::from(thread.join().unwrap()));
        assert_eq!(rang.iter().sum::<usize>(), bed.wakes.load(Relaxed));
        assert!(
            bed.wakes.load(Relaxed) <= announced,
            "more rings than announcements"
        );
    });
}

#[test]
fn one_announcement_is_rung_for_once() {
    check(None, || {
        let (bed, bell) = Bed::new();
        assert!(bell.sleep(|| false));
        let producers = [(); 2].map(|()| {
            let bell = bell.clone();
            thread::spawn(move || bell.ring())
        });
        bed.sleep();
        let rang = producers.map(|thread| thread.join().unwrap());
        assert_eq!(rang.iter().filter(|rang| **rang).count(), 1, "{rang:?}");
        assert_eq!(bed.wakes.load(Relaxed), 1);
    });
}

/// Two threads each set one bit of `lanes` during a sweep. A second sweep, after both threads have ended,
/// must find the rest.
fn no_bit_is_lost(lanes: [usize; 2]) {
    check(Some(4), move || {
        let bitmap = sync::Arc::new(Bitmap::with_capacity(128));
        let tickets = [(); 2].map(|()| sync::Arc::new(AtomicU64::new(0)));
        let producers = [0, 1].map(|who: usize| {
            let (bitmap, ticket) = (bitmap.clone(), tickets[who].clone());
            thread::spawn(move || {
                ticket.store(1, Relaxed);
                bitmap.set(lanes[who]);
            })
        });
        let mut taken = [0; 2];
        let mut sweep = || {
            bitmap.take(|lane| {
                let who = lanes
                    .iter()
                    .position(|l| *l == lane)
                    .expect("a lane that was set");
                assert_eq!(
                    tickets[who].load(Relaxed),
                    1,
                    "the bit came before the ticket"
                );
                taken[who] += 1;
            });
        };
        sweep();
        producers
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        sweep();
        assert_eq!(taken, [1; 2]);
        assert!(!bitmap.any());
    });
}

#[test]
fn no_bit_is_lost_in_one_word() {
    no_bit_is_lost([3, 5]);
}

#[test]
fn no_bit_is_lost_in_two_words() {
    no_bit_is_lost([3, 70]);
}

/// Two producers push a ticket, set a bit and ring, while the consumer sweeps, pops and sleeps. The lane of
/// each producer is in `lanes`.
fn every_ticket_is_found(lanes: [usize; 2]) {
    check(Some(2), move || {
        let (bed, bell) = Bed::new();
        let bitmap = sync::Arc::new(Bitmap::with_capacity(128));
        let (senders, mut rings): (Vec<_>, Vec<_>) = (0..2).map(|_| channel(2)).unzip();
        let ring_of = |lane: usize| lane / 64;
        let producers = [0, 1].map(|who: usize| {
            let (bitmap, bell) = (bitmap.clone(), bell.clone());
            let sender = senders[ring_of(lanes[who])].clone();
            thread::spawn(move || {
                sender.push(who).expect("room for two");
                bitmap.set(lanes[who]);
                bell.ring();
            })
        });
        let mut found = [0; 2];
        loop {
            bitmap.take(|lane| {
                while let Some(who) = rings[ring_of(lane)].pop() {
                    found[who] += 1;
                }
            });
            if found == [1; 2] {
                break;
            }
            if bell.sleep(|| bitmap.any()) {
                bed.sleep();
                bell.awake();
            }
        }
        producers
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn every_ticket_is_found_in_one_lane() {
    every_ticket_is_found([0, 0]);
}

#[test]
fn every_ticket_is_found_in_two_lanes() {
    every_ticket_is_found([0, 64]);
}

/// An inbox has no bitmap. The check after the announcement of sleep reads the ring's stamp, not the reserved
/// positions.
#[test]
fn every_grant_is_found_in_an_inbox() {
    check(Some(2), || {
        let (bed, bell) = Bed::new();
        let (sender, mut inbox) = channel(2);
        let producers = [0, 1].map(|who: usize| {
            let (sender, bell) = (sender.clone(), bell.clone());
            thread::spawn(move || {
                sender.push(who).expect("room for two");
                bell.ring();
            })
        });
        let mut found = [0; 2];
        loop {
            while let Some(who) = inbox.pop() {
                found[who] += 1;
            }
            if found == [1; 2] {
                break;
            }
            if bell.sleep(|| inbox.is_published()) {
                bed.sleep();
                bell.awake();
            }
        }
        producers
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
}
