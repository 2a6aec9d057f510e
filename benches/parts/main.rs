//! Times of the parts of a call, measured by criterion on a quiet machine. They are only for
//! information; the tests that fail on higher costs are `tests/counts` and
//! `io/tests/allocations.rs`. Routing, admission and the encoding of replies are private to `io`,
//! so only `hop` measures them, as parts of a whole call. `cargo build --release && cargo bench -p
//! nanofaas-benches` gives figures; `./ci benches` runs each bench once, unoptimised.

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
