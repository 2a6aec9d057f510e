//! A `Function` is a registered function: its spec, its lane and the lane's counters. It is immutable; a
//! change of the function creates a new version. The registry creates the versions; io threads and bridges
//! read them.

use std::sync::Arc;

use crate::queue_stats::QueueStats;
use crate::spec::FunctionSpec;
use crate::ticket::LaneId;

/// One version of a function.
pub struct Function {
    pub spec: FunctionSpec,
    pub lane: LaneId,
    pub stats: Arc<QueueStats>,
    /// The number of this version. Each change of any function gets a higher number.
    pub version: u64,
}

impl Function {
    pub fn name(&self) -> &Arc<str> {
        &self.spec.name
    }
}
