//! What the parts of a call cost in time, by criterion: advice, not gates; those are
//! `tests/counts` and `io/tests/allocations.rs`. Look at them on a machine that is quiet.
//! Not reachable from here, since they are private to `io`: routing, admission, the reply's encoding;
//! `hop` has them all in it. `cargo build --release && cargo bench -p nanofaas-benches` for figures;
//! `./ci benches` runs each once, unoptimised.

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
