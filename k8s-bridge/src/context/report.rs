//! What the tasks of pods and Jobs report. A task sends it and goes on; the bridge applies it to the
//! registry and to the adoption, which the tasks do not know.

use std::sync::Arc;

use nanofaas_core::function::Function;
use nanofaas_core::message::PodEnd;

use crate::context::start_fault::StartFault;

/// One report of a task.
pub(crate) enum TaskReport {
    /// The status of the function with this name may be another one now.
    Changed(Arc<str>),
    /// The health path of the pod with this name was asked for the first time, or the pod went
    /// before that.
    Asked(String),
    /// A start failed. `pod` is the name of the pod, or of the Job of a call.
    StartFailed {
        function: Arc<Function>,
        pod: String,
        fault: StartFault,
        why: Arc<str>,
    },
    /// A start does not come up, and may still.
    StartHeldUp {
        function: Arc<Function>,
        pod: String,
        why: String,
    },
    /// A start worked; for a Job that is when its container runs.
    StartWorked(Arc<Function>),
    /// A pod ended that nothing here wanted to end.
    PodLost {
        function: Arc<Function>,
        pod: String,
        end: PodEnd,
    },
}
