//! The models of ring, bitmap and doorbell. loom tries every interleaving and every stale read that the
//! memory model allows, with at most as many preemptions as a model names.
//!
//! `core/model` runs them; in a normal build this file is empty.
#![cfg(loom)]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use loom::model::Builder;

mod ring;
mod doorbell;

/// Checks `model` in every schedule with at most `preemptions` forced switches; `None` means no limit. The
/// variable `LOOM_MAX_PREEMPTIONS` overrides `preemptions`.
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
