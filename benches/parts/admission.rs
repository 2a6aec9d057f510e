//! Benches of writing and parsing the id of an execution, and of taking a token of the process's rate limit.

use std::hint::black_box;

use criterion::Criterion;
use nanofaas_core::id::ExecutionId;
use nanofaas_core::rate::{RateBucket, RateLimit};
use nanofaas_core::shard::ShardId;
use nanofaas_core::time::{Nanos, Uptime};

pub(crate) fn execution_id(criterion: &mut Criterion) {
    let id = ExecutionId::new(
        0x0123_4567_89AB_CDEF_0011_2233_4455_6677,
        ShardId::new(3),
        7,
    );
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
    let mut now = Uptime::ZERO;
    group.bench_function("granted", |bencher| {
        bencher.iter(|| {
            now += Nanos::from_us(1);
            bucket.take(black_box(now))
        });
    });
    let empty = RateBucket::new(RateLimit::PerSecond(1));
    assert!(empty.take(Uptime::ZERO).is_ok(), "the only token");
    group.bench_function("refused", |bencher| {
        bencher.iter(|| empty.take(black_box(Uptime::ZERO)));
    });
    group.finish();
}
