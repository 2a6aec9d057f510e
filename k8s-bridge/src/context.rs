//! What every task of the bridge gets: the settings, the API server, the announcer, the default template of
//! pods, and the identity of this control plane. A task sends reports; it knows neither the bridge nor
//! another task.

pub(crate) mod config;
pub(crate) mod identity;
pub(crate) mod report;
pub(crate) mod start_fault;

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;

use nanofaas_backend::announcer::Announcer;
use nanofaas_backend::random::random;
use nanofaas_core::function::Function;
use nanofaas_core::id::pod_token;
use nanofaas_core::spec::{Json, check_account};
use nanofaas_core::work_queue::WorkQueue;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use crate::api::cluster::Cluster;
use crate::context::config::{KubernetesConfig, KubernetesOpenError};
use crate::context::identity::PlaneIdentity;
use crate::context::report::TaskReport;
use crate::podspec::default_template::{DefaultPodTemplate, LastRead};
use crate::podspec::{self, PodParts};

/// The state, without pods and Jobs, that outlives a rebuild of the bridge.
pub(crate) struct ProcessState {
    /// The label of this process's Jobs. A later process deletes the Jobs that have another label, because
    /// the tokens of Jobs are valid only in the process that created the Jobs.
    pub(crate) instance: String,
    /// How many listings of the pods have begun.
    pub(crate) listing: Cell<u64>,
    default_template: RefCell<LastRead>,
}

impl Default for ProcessState {
    fn default() -> Self {
        Self {
            instance: pod_token(u128::from_ne_bytes(random())),
            listing: Cell::new(0),
            default_template: RefCell::default(),
        }
    }
}

pub(crate) struct ClusterContext {
    pub(crate) config: KubernetesConfig,
    pub(crate) cluster: Cluster,
    pub(crate) process: Rc<ProcessState>,
    identity: RefCell<Option<Rc<PlaneIdentity>>>,
    pub(crate) announcer: Announcer,
    reports: UnboundedSender<TaskReport>,
}

impl ClusterContext {
    pub(crate) fn new(
        config: KubernetesConfig,
        cluster: Cluster,
        process: Rc<ProcessState>,
        work_queue: Rc<RefCell<WorkQueue>>,
        reports: UnboundedSender<TaskReport>,
    ) -> Self {
        Self {
            announcer: Announcer::new(work_queue, config.origin),
            config,
            cluster,
            process,
            identity: RefCell::default(),
            reports,
        }
    }

    /// Runs `act` with the work queue borrowed.
    pub(crate) fn with_work_queue<T>(&self, act: impl FnOnce(&mut WorkQueue) -> T) -> T {
        self.announcer.with_work_queue(act)
    }

    pub(crate) fn report(&self, report: TaskReport) {
        // Sending fails only if the task outlived its bridge; the report is not needed in that case.
        let _ = self.reports.send(report);
    }

    /// Returns the identity of this control plane; none until the bridge has found it.
    pub(crate) fn identity(&self) -> Option<Rc<PlaneIdentity>> {
        self.identity.borrow().clone()
    }

    pub(crate) fn set_identity(&self, identity: Rc<PlaneIdentity>) {
        self.identity.replace(Some(identity));
    }

    /// Reads the default template before any pod is created or adopted. After a rebuild of the bridge, this
    /// method reads nothing, and the template in force stays.
    pub(crate) fn read_first_template(&self) -> Result<(), KubernetesOpenError> {
        let Some(file) = &self.config.pod_template else {
            return Ok(());
        };
        if self.process.default_template.borrow().is_known() {
            return Ok(());
        }
        let read = self.read_template(file);
        read.map(drop)
            .map_err(|why| KubernetesOpenError::PodTemplate {
                file: file.clone(),
                why,
            })
    }

    /// Reads the default template; returns whether another template is in force now.
    pub(crate) fn read_template(&self, file: &Path) -> Result<bool, String> {
        let mut last = self.process.default_template.borrow_mut();
        last.read(file, self.own_account())
    }

    /// Returns the default template, if there is one.
    pub(crate) fn default_template(&self) -> Option<Rc<DefaultPodTemplate>> {
        self.process.default_template.borrow().template().cloned()
    }

    /// Returns the template of a function's pod, merged from the platform's fields, the default template and
    /// the function's own template.
    pub(crate) fn pod_template(
        &self,
        function: &Function,
        parts: &PodParts,
    ) -> Result<Value, String> {
        let template = podspec::template(function, parts, self.default_template().as_deref());
        // Check the merged template too, because two templates that are valid alone may together use the
        // control plane's account.
        if let Some(own) = self.own_account()
            && let Ok(Json::Object(merged)) = Json::deserialize(&template)
        {
            check_account(&merged, own).map_err(|fault| format!("podTemplate: {fault}"))?;
        }
        Ok(template)
    }

    /// Returns the control plane's own service account, if functions' pods could use it.
    fn own_account(&self) -> Option<&str> {
        let own_pod = self.config.own_pod.as_ref()?;
        own_pod.account_in(Some(&self.cluster.namespace))
    }
}
