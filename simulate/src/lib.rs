//! What a function's spec does with a trace of calls. Admission, the scheduler and the life of each call
//! are the product's own code (`nanofaas-core`), driven on virtual time; pods and clients are played by
//! this crate. It has no clock, no socket and no thread: the same input gives the same result.
//! `nanofaas simulate` shows it to people; tests hold admission against perfect knowledge with it.

mod varying_time;
mod figure;
mod history;
mod nice;
pub mod patterns;
mod report;
mod trace;
mod simulator;

use nanofaas_core::spec::FunctionSpec;
use nanofaas_core::ticket::Class;
use nanofaas_core::time::Nanos;

pub use figure::figure;
pub use report::{NotComputed, Percentiles, SimulationReport, Slice, Summary};
pub use trace::{CALLS_MAX, TraceCall, TraceError, read};
pub use varying_time::VaryingTime;

use simulator::{Admission, Simulator};

/// How long a pod may take to start: the default of `serve --start-timeout-ms`.
pub const START_TIMEOUT: Nanos = Nanos::from_s(120);

/// A function and its calls.
pub struct Setup {
    pub spec: FunctionSpec,
    /// In the order of their times.
    pub calls: Vec<TraceCall>,
    /// So many calls come first and are not counted: they show the platform what there is to know.
    pub before: usize,
    /// How long a pod takes to start, or the Job of a call. None: the pods of the floor are up, and no other
    /// one comes up; not for JOB functions.
    pub start: Option<VaryingTime>,
}

/// Plays the trace, and once more with perfect knowledge.
pub fn simulate(setup: &Setup) -> SimulationReport {
    let run = Simulator::new(setup, Admission::Predicts).run();
    let run = run.expect("only perfect knowledge is bounded");
    SimulationReport::new(setup, &run, with_perfect_knowledge(setup))
}

/// How many calls make it.
fn with_perfect_knowledge(setup: &Setup) -> Result<usize, NotComputed> {
    // They have no deadline in the queue, and sync calls that come later pass them: which of them a sync
    // call takes the time of is not known when it comes.
    if setup.calls.iter().any(|call| call.class == Class::Async) {
        return Err(NotComputed::AsyncCalls);
    }
    let run = Simulator::new(setup, Admission::Knows).run();
    let run = run.ok_or(NotComputed::TooMuchWork)?;
    Ok(run.made_it(setup.before))
}

/// Where in a trace the counted calls begin.
fn begin(setup: &Setup) -> Nanos {
    let first = setup.calls.get(setup.before);
    first.map_or(Nanos::ZERO, |call| call.at)
}
