//! The functions of the cluster: changes are written there and followed from there, and each
//! function's status and Events are kept. It starts no pod, and learns of pods and Jobs by what
//! their tasks report.

pub(crate) mod events;
pub(crate) mod functions;
pub(crate) mod object;
pub(crate) mod ready;
pub(crate) mod starts;
pub(crate) mod status;

use std::cell::RefCell;
use std::rc::Rc;

use crate::context::ClusterContext;
use crate::pod::Pods;
use crate::registry::events::Events;
use crate::registry::functions::Functions;

/// The registry's part in the cluster.
pub(crate) struct ClusterRegistry {
    context: Rc<ClusterContext>,
    pub(crate) functions: Functions,
    events: Events,
    pods: Rc<RefCell<Pods>>,
}

impl ClusterRegistry {
    pub(crate) fn new(context: Rc<ClusterContext>, pods: Rc<RefCell<Pods>>) -> Self {
        Self {
            context,
            functions: Functions::default(),
            events: Events::default(),
            pods,
        }
    }
}
