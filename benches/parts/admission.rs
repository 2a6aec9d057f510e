//! What a call is given before it waits: an id, and a token of the plane's rate.

use std::hint::black_box;

use criterion::Criterion;
use nanofaas_core::id::ExecutionId;
use nanofaas_core::rate::{RateBucket, RateLimit};

pub(crate) fn execution_id(criterion: &mut Criterion) {
    let id = ExecutionId::new(0x0123_4567_89AB_CDEF_0011_2233_4455_6677, 3, 7);
    criterion.bench_function("execution id, text", |bencher| {
        bencher.iter(|| black_box(id).text());
    });
    let text = id.text();
    criterion.bench_function("execution id, parse", |bencher| {
        bencher.iter(|| ExecutionId::parse(black_box(&text)));
    });
}

pub(crate) fn rate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rate bucket");
    let bucket = RateBucket::new(RateLimit::PerSecond(1_000_000));
    let mut now_ns = 0;
    group.bench_function("granted", |bencher| {
        bencher.iter(|| {
            now_ns += 1000;
            bucket.take(black_box(now_ns))
        });
    });
    let empty = RateBucket::new(RateLimit::PerSecond(1));
    assert!(empty.take(0).is_ok(), "the only token");
    group.bench_function("refused", |bencher| {
        bencher.iter(|| empty.take(black_box(0)));
    });
    group.finish();
}
