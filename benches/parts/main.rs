//! Measures the times of the parts of a call with criterion. The times are only for information and need a
//! quiet machine; the tests that fail on higher costs are `tests/counts` and `io/tests/allocations.rs`.
//! Routing, admission and the encoding of replies are private to `io`, so only `hop` measures them, as parts
//! of a whole call.
//!
//! `cargo bench -p nanofaas-benches` after a release build measures the times; `./ci benches` runs each bench
//! once, unoptimised.

mod ring;
mod parse;
mod admission;
mod turn;
mod hop;

criterion::criterion_group!(
    parts,
    ring::same_thread,
    ring::two_threads,
    parse::head,
    parse::envelope,
    admission::execution_id,
    admission::rate,
    turn::functions,
    turn::waiting,
    hop::local
);
criterion::criterion_main!(parts);
