//! Models of the ring. Its capacity is 2, so a few pushes fill it and begin the next lap.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use loom::thread;
use nanofaas_core::{
    ring::{Consumer, Producer, channel},
    sync::{
        self, AtomicU64,
        Ordering::{Acquire, Release},
    },
};

use crate::check;

/// Fails if the consumer saw a published item but cannot pop it.
fn pop(consumer: &mut Consumer<u64>) -> Option<u64> {
    let published = consumer.is_published();
    let item = consumer.pop();
    assert!(
        !published || item.is_some(),
        "the second look found an item that pop did not"
    );
    item
}

fn push(producer: &Producer<u64>, items: &[u64]) -> Vec<u64> {
    let mut pushed = Vec::new();
    for item in items {
        match producer.push(*item) {
            Ok(()) => pushed.push(*item),
            Err(back) => assert_eq!(back, *item, "a full ring gives back what it was given"),
        }
    }
    pushed
}

#[test]
fn one_producer_keeps_its_order_over_two_laps() {
    check(Some(4), || {
        let (producer, mut consumer) = channel(2);
        let pushing = thread::spawn(move || push(&producer, &[1, 2, 3, 4, 5]));
        let mut popped: Vec<_> = (0..3).filter_map(|_| pop(&mut consumer)).collect();
        let pushed = pushing.join().unwrap();
        assert!(pushed.len() >= 2, "an empty ring has room for two");
        while let Some(item) = pop(&mut consumer) {
            popped.push(item);
        }
        assert_eq!(popped, pushed);
    });
}

/// Both producers push while the consumer pops, so one place may be used by each of them in different laps.
#[test]
fn two_producers_lose_and_double_nothing_in_order() {
    check(Some(3), || {
        let (producer, mut consumer) = channel(2);
        let pushing = [vec![10, 11], vec![20]].map(|items| {
            let producer = producer.clone();
            thread::spawn(move || push(&producer, &items))
        });
        let mut popped: Vec<_> = (0..2).filter_map(|_| pop(&mut consumer)).collect();
        let pushed = pushing.map(|thread| thread.join().unwrap());
        while let Some(item) = pop(&mut consumer) {
            popped.push(item);
        }
        let of = |first: u64| {
            popped
                .iter()
                .copied()
                .filter(|item| item / 10 == first)
                .collect()
        };
        assert_eq!(pushed, [1, 2].map(|first| -> Vec<_> { of(first) }));
        assert_eq!(popped.len(), pushed[0].len() + pushed[1].len());
    });
}

#[test]
fn the_last_place_goes_to_one_producer() {
    check(None, || {
        let (producer, mut consumer) = channel(2);
        producer.push(1).unwrap();
        let pushing = [2, 3].map(|item| {
            let producer = producer.clone();
            thread::spawn(move || producer.push(item))
        });
        let results = pushing.map(|thread| thread.join().unwrap());
        assert_eq!(consumer.pop(), Some(1));
        let second = match results {
            [Ok(()), Err(3)] => 2,
            [Err(2), Ok(())] => 3,
            other => panic!("one place, and {other:?}"),
        };
        assert_eq!(consumer.pop(), Some(second));
        assert_eq!(consumer.pop(), None);
    });
}

#[test]
fn a_push_into_a_reserved_place_never_fails() {
    check(Some(3), || {
        let (producer, mut consumer) = channel(2);
        // Each producer has one reserved place. The producer uses it again only after an answer shows that
        // its item was popped.
        let answers = [(); 2].map(|()| sync::Arc::new(AtomicU64::new(0)));
        let pushing = [0, 1].map(|who: usize| {
            let (producer, answer) = (producer.clone(), answers[who].clone());
            thread::spawn(move || {
                producer.push(who).expect("a reserved place");
                if answer.load(Acquire) == 1 {
                    producer
                        .push(who)
                        .expect("the place that the answer gave back");
                }
            })
        });
        for _ in 0..2 {
            if let Some(who) = consumer.pop() {
                answers[who].store(1, Release);
            }
        }
        pushing
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
}

struct CountedDrop(Arc<AtomicUsize>);

impl Drop for CountedDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn every_item_is_dropped_once_wherever_it_ends() {
    check(None, || {
        let drops = Arc::new(AtomicUsize::new(0));
        let (producer, mut consumer) = channel(2);
        let pushing = {
            let drops = drops.clone();
            thread::spawn(move || {
                // The ring has two places, so it takes a third item only after a pop. An item that it refuses
                // is dropped here.
                (0..3)
                    .filter(|_| producer.push(CountedDrop(drops.clone())).is_ok())
                    .count()
            })
        };
        let popped = usize::from(consumer.pop().is_some());
        assert!(drops.load(Relaxed) >= popped);
        drop(consumer);
        let pushed = pushing.join().unwrap();
        assert!(
            pushed == 2 || (pushed == 3 && popped == 1),
            "{pushed} in, {popped} out"
        );
        assert_eq!(drops.load(Relaxed), 3);
    });
}
