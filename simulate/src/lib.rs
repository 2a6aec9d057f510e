//! Shows how a function's spec handles a trace of calls. Admission, the scheduler and the life of each call
//! are the product's own code (`nanofaas-core`), driven by virtual time; this crate simulates pods and
//! clients. It has no clock, no socket and no thread, so the same input gives the same result. `nanofaas
//! simulate` prints the result, and tests compare admission with perfect knowledge.

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

/// The time limit for the start of a pod: the default of `serve --start-timeout-ms`.
pub const START_TIMEOUT: Nanos = Nanos::from_s(120);

/// A function and its trace of calls.
pub struct Setup {
    pub spec: FunctionSpec,
    /// The calls, sorted by time.
    pub calls: Vec<TraceCall>,
    /// The number of calls at the beginning of the trace that are not counted. From these calls the platform
    /// learns how long calls take.
    pub before: usize,
    /// How long the start of a pod, or of a call's Job, takes. With `None` the pods of `minReplicas` are up,
    /// and no other pod ever becomes ready; a JOB function needs a time.
    pub start: Option<VaryingTime>,
}

/// Simulates the trace. If all calls of the trace are sync, also simulates it with perfect knowledge.
pub fn simulate(setup: &Setup) -> SimulationReport {
    let run = Simulator::new(setup, Admission::Predicts).run();
    let run = run.expect("only perfect knowledge is bounded");
    SimulationReport::new(setup, &run, with_perfect_knowledge(setup))
}

/// Returns the number of calls that are answered in time with perfect knowledge.
fn with_perfect_knowledge(setup: &Setup) -> Result<usize, NotComputed> {
    // Later sync calls overtake waiting async calls. When an async call arrives, its beginning is therefore
    // unknown.
    if setup.calls.iter().any(|call| call.class == Class::Async) {
        return Err(NotComputed::AsyncCalls);
    }
    let run = Simulator::new(setup, Admission::Knows).run();
    let run = run.ok_or(NotComputed::TooMuchWork)?;
    Ok(run.made_it(setup.before))
}

/// Returns the time in the trace at which the counted calls begin.
fn begin(setup: &Setup) -> Nanos {
    let first = setup.calls.get(setup.before);
    first.map_or(Nanos::ZERO, |call| call.at)
}
