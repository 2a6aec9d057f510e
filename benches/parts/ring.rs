//! Benches of the ring and of two public crates: rtrb, for one producer, and crossbeam's ArrayQueue, for many
//! producers and consumers. Each item has the size of a ticket, 32 bytes.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{scope, yield_now};
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput};
use crossbeam_queue::ArrayQueue;
use nanofaas_core::ring::channel;

const CAPACITY: usize = 256;
/// The number of polls of an empty or full ring after which a thread yields its core. If both ends share one
/// core, only a yield lets the other end run.
const LOOKS: u32 = 100;

type Item = [u64; 4];

/// The two ends of a ring of any kind: the first puts an item in, the second takes an item out.
type RingEnds = (
    Box<dyn FnMut(Item) -> bool + Send>,
    Box<dyn FnMut() -> Option<Item> + Send>,
);

fn ends(name: &str) -> RingEnds {
    match name {
        "nanofaas" => {
            let (producer, mut consumer) = channel(CAPACITY);
            (
                Box::new(move |item| producer.push(item).is_ok()),
                Box::new(move || consumer.pop()),
            )
        }
        "rtrb" => {
            let (mut producer, mut consumer) = rtrb::RingBuffer::new(CAPACITY);
            (
                Box::new(move |item| producer.push(item).is_ok()),
                Box::new(move || consumer.pop().ok()),
            )
        }
        _ => {
            let queue = Arc::new(ArrayQueue::new(CAPACITY));
            let other = queue.clone();
            (
                Box::new(move |item| queue.push(item).is_ok()),
                Box::new(move || other.pop()),
            )
        }
    }
}

const RINGS: [&str; 3] = ["nanofaas", "rtrb", "crossbeam ArrayQueue"];

pub(crate) fn same_thread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring, push and pop on one thread");
    group.throughput(Throughput::Elements(1));
    // Each ring is called by its own type, because a call through a trait object would cost as much as a
    // push.
    group.bench_function(RINGS[0], |bencher| {
        let (producer, mut consumer) = channel(CAPACITY);
        bencher.iter(|| {
            let _full = producer.push(black_box([1_u64; 4]));
            consumer.pop()
        });
    });
    group.bench_function(RINGS[1], |bencher| {
        let (mut producer, mut consumer) = rtrb::RingBuffer::new(CAPACITY);
        bencher.iter(|| {
            let _full = producer.push(black_box([1_u64; 4]));
            consumer.pop()
        });
    });
    group.bench_function(RINGS[2], |bencher| {
        let queue = ArrayQueue::new(CAPACITY);
        bencher.iter(|| {
            let _full = queue.push(black_box([1_u64; 4]));
            queue.pop()
        });
    });
    group.finish();
}

/// Calls `done` until it returns true.
fn spin(mut done: impl FnMut() -> bool) {
    let mut looks = 0;
    while !done() {
        looks += 1;
        if looks % LOOKS == 0 {
            yield_now();
        } else {
            spin_loop();
        }
    }
}

/// Measures a round trip between two threads, like that of a ticket and its grant.
pub(crate) fn two_threads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring, round trip between two threads");
    for ring in RINGS {
        group.bench_function(BenchmarkId::from_parameter(ring), |bencher| {
            bencher.iter_custom(|rounds| {
                let ((mut ask, mut asked), (mut answer, mut answered)) = (ends(ring), ends(ring));
                let stop = AtomicBool::new(false);
                scope(|scope| {
                    scope.spawn(|| {
                        while !stop.load(Relaxed) {
                            let mut item = None;
                            spin(|| {
                                item = asked();
                                item.is_some() || stop.load(Relaxed)
                            });
                            if let Some(item) = item {
                                spin(|| answer(item));
                            }
                        }
                    });
                    let begun = Instant::now();
                    for round in 0..rounds {
                        spin(|| ask([round; 4]));
                        spin(|| answered().is_some());
                    }
                    let took = begun.elapsed();
                    stop.store(true, Relaxed);
                    took
                })
            });
        });
    }
    group.finish();
}
