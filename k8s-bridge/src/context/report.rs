//! The tasks of pods and Jobs send these reports, and do not wait for an answer. `reconcile` applies each
//! report to the registry and to the adoption, which the tasks do not know.

use std::sync::Arc;

use nanofaas_core::function::Function;
use nanofaas_core::message::PodEnd;

use crate::context::start_fault::StartFault;

pub(crate) enum TaskReport {
    /// The status of this function may have changed.
    Changed(Arc<str>),
    /// The pod with this name was probed for the first time, or it ended before that.
    Probed(String),
    /// A start failed. `pod` is the name of the pod, or of the Job of a call.
    StartFailed {
        function: Arc<Function>,
        pod: String,
        fault: StartFault,
        why: Arc<str>,
    },
    /// A start is delayed, and may still work.
    StartHeldUp {
        function: Arc<Function>,
        pod: String,
        why: String,
    },
    /// A start worked: a pod became ready, or the container of a Job runs.
    StartWorked(Arc<Function>),
    /// A pod ended, and this control plane did not end it.
    PodLost {
        function: Arc<Function>,
        pod: String,
        end: PodEnd,
    },
}
