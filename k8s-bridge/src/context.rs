//! All tasks of the bridge share this data: the settings, the API server, the announcer (which sends the
//! events of pods and Jobs), the default template of pods, and the identity of this control plane. A task
//! sends reports; it knows neither the bridge nor another task.

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

/// The state that outlives a rebuild of the bridge, except the pods and Jobs.
pub(crate) struct ProcessState {
    /// The label of this process's Jobs. A later process deletes Jobs with another label, because their
    /// tokens are valid only in the process that created them.
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

    pub(crate) fn with_work_queue<T>(&self, act: impl FnOnce(&mut WorkQueue) -> T) -> T {
        self.announcer.with_work_queue(act)
    }

    pub(crate) fn report(&self, report: TaskReport) {
        // Sending fails only if the task outlived its bridge, which no longer needs the report.
        let _ = self.reports.send(report);
    }

    /// Returns the identity of this control plane; none until the bridge has found it.
    pub(crate) fn identity(&self) -> Option<Rc<PlaneIdentity>> {
        self.identity.borrow().clone()
    }

    pub(crate) fn set_identity(&self, identity: Rc<PlaneIdentity>) {
        self.identity.replace(Some(identity));
    }

    /// Reads the default template before any pod is created or adopted. After a rebuild of the bridge, the
    /// template in force stays.
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

    pub(crate) fn default_template(&self) -> Option<Rc<DefaultPodTemplate>> {
        self.process.default_template.borrow().template().cloned()
    }

    /// Merges the platform's fields, the default template and the function's own template.
    pub(crate) fn pod_template(
        &self,
        function: &Function,
        parts: &PodParts,
    ) -> Result<Value, String> {
        let template = podspec::template(function, parts, self.default_template().as_deref());
        // Two templates that are valid alone may together use the control plane's account.
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
