//! The models: ring, bitmap and doorbell under loom, which tries every interleaving and every stale
//! read that the memory model allows, within the bound that each model names.
//!
//! Run by `core/model`; a normal build compiles it to nothing.
#![cfg(loom)]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use loom::model::Builder;

mod ring;
mod doorbell;

/// Checks `model` in every schedule with at most `preemptions` forced switches (`None`: all), or as
/// many as `LOOM_MAX_PREEMPTIONS` says, and prints how many executions that were.
fn check(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(preemptions);
    let executions = Arc::new(AtomicUsize::new(0));
    let counted = executions.clone();
    builder.check(move || {
        counted.fetch_add(1, Relaxed);
        model();
    });
    println!("{} executions", executions.load(Relaxed));
}
