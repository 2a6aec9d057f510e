//! A registered function as every thread has it: its spec and its lane. It is immutable; a change creates a
//! new version. The registry creates it; io threads and bridges read it.

use std::sync::Arc;

use crate::queue_stats::QueueStats;
use crate::spec::FunctionSpec;
use crate::ticket::LaneId;

/// One version of a function.
pub struct Function {
    pub spec: FunctionSpec,
    pub lane: LaneId,
    pub stats: Arc<QueueStats>,
    /// Grows with every change of any function.
    pub version: u64,
}

impl Function {
    pub fn name(&self) -> &Arc<str> {
        &self.spec.name
    }
}
