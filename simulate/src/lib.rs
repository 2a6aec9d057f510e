//! What a function's spec does with a trace of calls. Admission, the scheduler and the life of each call
//! are the product's own code (`nanofaas-core`), driven on virtual time; pods and clients are played by
//! this crate. It has no clock, no socket and no thread: the same input gives the same result.
//! `nanofaas simulate` shows it to people; tests hold admission against perfect knowledge with it.

mod about;
mod figure;
mod history;
mod nice;
pub mod patterns;
mod report;
mod trace;
mod world;

use nanofaas_core::spec::FunctionSpec;

pub use about::About;
pub use figure::figure;
pub use report::{Percentiles, Report, Slice, Summary};
pub use trace::{CALLS_MAX, TraceCall, TraceError, read};

use world::{Admission, World};

/// How long a pod may take to start: the default of `serve --start-timeout-ms`.
pub const START_TIMEOUT_NS: u64 = 120_000_000_000;

/// A function and its calls.
pub struct Setup {
    pub spec: FunctionSpec,
    /// In the order of their times.
    pub calls: Vec<TraceCall>,
    /// So many calls come first and are not counted: they show the platform what there is to know.
    pub before: usize,
    /// How long a pod takes to start, or the Job of a call. None: the pods of the floor are up, and no other
    /// one comes up; not for JOB functions.
    pub start: Option<About>,
}

/// Plays the trace, and once more with perfect knowledge.
pub fn simulate(setup: &Setup) -> Report {
    let run = World::new(setup, Admission::Predicts).run();
    let perfect = World::new(setup, Admission::Knows).run();
    Report::new(setup, &run, perfect.made_it(setup.before))
}

/// Where in a trace the counted calls begin.
fn begin_ns(setup: &Setup) -> u64 {
    setup.calls.get(setup.before).map_or(0, |call| call.at_ns)
}
