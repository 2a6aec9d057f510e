//! The functions of the cluster: writes changes there, follows changes that other clients make there, and
//! keeps each function's status and Events. It starts no pod, and knows of pods and Jobs only what
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
use crate::pod::ClusterPods;
use crate::registry::events::Events;
use crate::registry::functions::ClusterFunctions;

/// The cluster's part of the registry.
pub(crate) struct ClusterRegistry {
    context: Rc<ClusterContext>,
    pub(crate) functions: ClusterFunctions,
    events: Events,
    pods: Rc<RefCell<ClusterPods>>,
}

impl ClusterRegistry {
    pub(crate) fn new(context: Rc<ClusterContext>, pods: Rc<RefCell<ClusterPods>>) -> Self {
        Self {
            context,
            functions: ClusterFunctions::default(),
            events: Events::default(),
            pods,
        }
    }
}
