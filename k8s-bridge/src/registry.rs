//! Manages the functions in the cluster. This module writes clients' changes to the cluster, follows the
//! changes of other clients, and keeps each function's status and Events. It starts and stops no pod. For the
//! status it reads the table of pods and the reports of the tasks.

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
