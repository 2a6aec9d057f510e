//! Runs one attempt of a call of a JOB function as one Job, whose pod posts its result to the control plane
//! (contract §3.2). The io thread that owns the call receives the result and sends `JobStop` when the attempt
//! is over. This module reads the end of a Job from the pod's status, because different releases of
//! Kubernetes set the Job's conditions at different times.

use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job as JobObject;
use k8s_openapi::api::core::v1::{Event, Pod as PodObject};
use kube::Resource;
use kube::api::ListParams;
use nanofaas_backend::job::{FORGOTTEN, JobAttempt, JobTable};
use nanofaas_backend::random::random;
use nanofaas_core::cold_start::Phase;
use nanofaas_core::id::pod_name;
use nanofaas_core::message::{JobStart, PodEnd};
use nanofaas_core::outcome::ExecutionError;
use nanofaas_core::time::Uptime;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::api::cluster::{Cluster, ClusterError};
use crate::context::ClusterContext;
use crate::context::report::TaskReport;
use crate::context::start_fault::StartFault;
use crate::pod::seen::{ContainerEnd, ObservedPod};
use crate::podspec::{
    ANNOTATION_TRACE, LABEL_EXECUTION, LABEL_FUNCTION, LABEL_INSTANCE, LABEL_JOB, LABEL_KIND,
    PodParts, SELECTOR, security,
};

/// How long a container may take to exit after its result, before its Job is deleted.
const STOP: Duration = Duration::from_secs(5);
/// The grace period, in seconds, of a container that still runs when its Job is deleted.
const STOP_S: u32 = 2;
/// How long a task waits for `JobStop` after its container exited with status 0. The io thread may report the
/// result a little later than the cluster reports the exit.
const REPORT_BEHIND: Duration = Duration::from_millis(500);
/// The cluster itself ends a Job that still exists this number of seconds after the call's deadline.
const BACKSTOP_S: u64 = 30;
/// How long a Job may have no pod before the Events of its controller are read. This wait doubles after each
/// read.
const PODLESS: Duration = Duration::from_secs(1);
/// The number that `report_start` uses for a running pod. It is larger than the number of phases, so the
/// first report of a running pod is always sent.
const RUNNING: usize = Phase::ALL.len() + 1;
const EVENTS_READ_MAX: Duration = Duration::from_secs(5);

/// The Jobs that have a task.
pub(crate) type ClusterJobs = JobTable<ClusterJob>;

/// The part of a Job that other tasks use, too.
pub(crate) struct ClusterJob {
    attempt: JobAttempt,
    wanted_at: Uptime,
    /// The name of the Job's pod; none until the watch has shown the pod.
    pod: RefCell<Option<String>>,
    seen: RefCell<ObservedPod>,
    is_gone: Cell<bool>,
    was_created: Cell<bool>,
    /// Whether the attempt is over. The io thread needs no report after that.
    is_over: Cell<bool>,
    fault: Cell<StartFault>,
}

impl Deref for ClusterJob {
    type Target = JobAttempt;

    fn deref(&self) -> &JobAttempt {
        &self.attempt
    }
}

impl Borrow<JobAttempt> for ClusterJob {
    fn borrow(&self) -> &JobAttempt {
        &self.attempt
    }
}

impl ClusterJob {
    pub(crate) fn new(start: Box<JobStart>, wanted_at: Uptime) -> Self {
        // There are many more Jobs than pods, so take more random characters than for a pod. A Job's name is
        // also the value of a label, which has at most 63 characters.
        let name = pod_name::<9>(start.function.name(), random());
        Self {
            attempt: JobAttempt::new(name, start),
            wanted_at,
            pod: RefCell::default(),
            seen: RefCell::default(),
            is_gone: Cell::new(false),
            was_created: Cell::new(false),
            is_over: Cell::new(false),
            fault: Cell::new(StartFault::NotReady),
        }
    }

    pub(crate) fn observe(&self, context: &ClusterContext, pod: String, seen: ObservedPod) {
        self.pod.replace(Some(pod));
        for phase in seen.phases() {
            context
                .announcer
                .reached(&self.start.function, &self.name, phase);
        }
        if seen.running_since_ms.is_some() {
            context.report(TaskReport::StartWorked(self.start.function.clone()));
        }
        let seen = self.seen.borrow().then(seen);
        self.seen.replace(seen);
        self.bell.notify_one();
    }

    pub(crate) fn mark_gone(&self) {
        self.is_gone.set(true);
        self.bell.notify_one();
    }

    /// Marks the Job's pod as gone if the watch has shown it and a complete list of pods does not contain it.
    pub(crate) fn look_for_pod(&self, names: &HashSet<String>) {
        let pod = self.pod.borrow();
        if pod.as_ref().is_some_and(|pod| !names.contains(pod)) {
            self.mark_gone();
        }
    }

    fn has_pod(&self) -> bool {
        self.pod.borrow().is_some()
    }

    /// Runs the Job to its end and reports each step. After a rebuild of the bridge, the Job continues at the
    /// step that it had reached.
    pub(crate) async fn live(&self, context: &Rc<ClusterContext>) {
        let function = self.start.function.name();
        if !self.is_over.get() {
            let ended = self.run(context).await;
            self.is_over.set(true);
            if let Some((failure, oom)) = ended {
                self.report_end(context, failure, oom);
            }
        }
        if let Some(timestamps) = self.timestamps() {
            context.report(TaskReport::StartWorked(self.start.function.clone()));
            context.with_work_queue(|queue| {
                queue
                    .starts
                    .apply_timestamps(function, &self.name, timestamps)
            });
            self.wait_for_exit().await;
        }
        // If the pod were deleted first, the Job's controller could create another pod.
        context.cluster.delete::<JobObject>(&self.name, None).await;
        // The garbage collector would let the pod run for its whole grace period, although no client waits
        // for the call.
        let pod = self.pod.borrow().clone();
        if let Some(pod) = pod.filter(|_| !self.has_exited()) {
            context
                .cluster
                .delete::<PodObject>(&pod, Some(STOP_S))
                .await;
        }
    }

    fn report_end(&self, context: &ClusterContext, failure: ExecutionError, oom: bool) {
        let attempt = self.start.attempt;
        let function = self.start.function.name();
        let (id, why) = (&self.start.execution_id, failure.message());
        tracing::warn!(%function, executionId = %id, attempt, "the call's Job is over: {why}");
        if let ExecutionError::ColdStart(why) = &failure {
            context.report(TaskReport::StartFailed {
                function: self.start.function.clone(),
                pod: self.name.clone(),
                fault: self.fault.get(),
                why: why.clone(),
            });
        } else {
            let message = why;
            context.report(TaskReport::PodLost {
                function: self.start.function.clone(),
                pod: self.name.clone(),
                end: PodEnd { oom, message },
            });
        }
        let announcer = &context.announcer;
        announcer.job_ended(&self.start, &self.name, failure, oom);
    }

    fn has_exited(&self) -> bool {
        self.is_gone.get() || self.seen.borrow().ended.is_some()
    }

    /// Waits at most `STOP` until the container has exited, because deleting the Job would kill it.
    async fn wait_for_exit(&self) {
        let until = Instant::now() + STOP;
        while !self.has_exited() && self.rung_before(until).await {}
    }

    /// Runs the attempt. Returns its failure, and whether the container ran out of memory. Returns none if
    /// the io thread reported that the attempt is over.
    async fn run(&self, context: &Rc<ClusterContext>) -> Option<(ExecutionError, bool)> {
        let begun = Instant::now();
        let start_by = begun + context.config.start_timeout;
        let left = Duration::from_millis(self.start.deadline_ms);
        if !self.was_created.get() {
            let function = self.start.function.name();
            context
                .announcer
                .begin(function, &self.name, self.wanted_at);
            if let Err(failure) = self.create(context, start_by.min(begun + left)).await {
                return (!self.is_stopped()).then_some((failure, false));
            }
            self.was_created.set(true);
        }
        let over = self
            .running(context, start_by, begun + left + FORGOTTEN)
            .await;
        let failure = match over {
            JobOutcome::Stopped => return None,
            JobOutcome::NotStarted(fault, why) => {
                self.fault.set(fault);
                let why = security::advised(&self.start.function.spec, &why);
                (ExecutionError::ColdStart(why.into()), false)
            }
            JobOutcome::Lost(why) => (ExecutionError::PodLost(why.into()), false),
            JobOutcome::Ended(ended)
                if ended.well && self.is_stopped_within(REPORT_BEHIND).await =>
            {
                return None;
            }
            JobOutcome::Ended(ended) => {
                let how = security::advised(&self.start.function.spec, &ended.message);
                let why = format!("the call's pod gave no result: {how}");
                (ExecutionError::PodLost(why.into()), ended.oom)
            }
        };
        (!self.is_stopped()).then_some(failure)
    }

    async fn create(
        &self,
        context: &Rc<ClusterContext>,
        until: Instant,
    ) -> Result<(), ExecutionError> {
        let made = self.object(context).and_then(|object| {
            serde_json::from_value::<JobObject>(object)
                .map_err(|error| format!("podTemplate does not make a pod: {error}"))
        });
        let object = made.map_err(|why| {
            self.fault.set(StartFault::Config);
            ExecutionError::ColdStart(why.into())
        })?;
        let created = context.cluster.create(&object, until).await;
        created.map_err(|denied| {
            self.fault.set(StartFault::of_denial(&denied));
            let why = denied.message();
            ExecutionError::ColdStart(match denied {
                ClusterError::Refused(_) => format!("the Job was refused: {why}").into(),
                ClusterError::Unreachable(_) => {
                    format!("the Job could not be created: {why}").into()
                }
            })
        })?;
        context
            .announcer
            .reached(&self.start.function, &self.name, Phase::Created);
        Ok(())
    }

    fn object(&self, context: &ClusterContext) -> Result<Value, String> {
        let start = &self.start;
        let mut labels = BTreeMap::from([
            (LABEL_KIND, "job".to_owned()),
            (LABEL_EXECUTION, start.execution_id.to_string()),
            (LABEL_JOB, self.name.clone()),
        ]);
        let identity = context.identity();
        if let Some(own) = &identity {
            labels.insert(LABEL_INSTANCE, own.instance.clone());
        }
        let trace = start.trace_id.as_deref();
        let annotations = trace.map(|id| (ANNOTATION_TRACE, id.to_owned()));
        let parts = PodParts {
            labels,
            annotations: annotations.into_iter().collect(),
            env: self.env(&context.config.callback_base),
            expanded_env: Vec::new(),
        };
        let template = context.pod_template(&start.function, &parts)?;
        let mut labels = template["metadata"]["labels"].clone();
        labels[LABEL_FUNCTION] = json!(start.function.name());
        let mut job = json!({
            "metadata": {
                "name": self.name,
                "labels": labels,
                "annotations": template["metadata"]["annotations"],
            },
            "spec": {
                "backoffLimit": 0,
                "activeDeadlineSeconds": start.deadline_ms.div_ceil(1000) + BACKSTOP_S,
                "template": template,
            },
        });
        if let Some(owner) = identity.and_then(|own| own.pod.clone()) {
            job["metadata"]["ownerReferences"] = json!([owner]);
        }
        Ok(job)
    }

    async fn running(
        &self,
        context: &Rc<ClusterContext>,
        start_by: Instant,
        until: Instant,
    ) -> JobOutcome {
        let mut reported = (0, None);
        let mut podless = PODLESS;
        let mut poll_at = Instant::now() + podless;
        loop {
            let seen = self.seen.borrow().clone();
            self.report_start(context, &seen, &mut reported);
            let runs = seen.running_since_ms.is_some();
            if self.is_stopped() {
                return JobOutcome::Stopped;
            }
            if let Some(why) = seen.stuck {
                return JobOutcome::NotStarted(seen.fault.unwrap_or(StartFault::Config), why);
            }
            if let Some(ended) = seen.ended {
                return JobOutcome::Ended(ended);
            }
            if self.is_gone.get() {
                return JobOutcome::Lost("somebody deleted the call's pod".to_owned());
            }
            let now = Instant::now();
            if now >= until {
                return JobOutcome::Lost("the call's pod was forgotten".to_owned());
            }
            if now >= start_by && !runs {
                let why = seen.held_up.or(seen.waiting);
                let why = why.unwrap_or_else(|| "it is still starting".to_owned());
                let limit = context.config.start_timeout.as_millis();
                let why = format!("the pod did not run within {limit} ms: {why}");
                return JobOutcome::NotStarted(seen.fault.unwrap_or(StartFault::NotReady), why);
            }
            if now >= poll_at && !self.has_pod() {
                if let Some(why) =
                    refusal_of(&context.cluster, &self.name, now + EVENTS_READ_MAX).await
                {
                    return JobOutcome::NotStarted(StartFault::of_refusal(&why), why);
                }
                podless *= 2;
                poll_at = Instant::now() + podless;
                continue;
            }
            let mut next = if runs { until } else { until.min(start_by) };
            if !self.has_pod() {
                next = next.min(poll_at);
            }
            self.rung_before(next).await;
        }
    }

    /// Reports to the call's io thread how far the start is and what delays it, if either has changed. The
    /// kubelet cuts its timestamp to whole seconds, so one second is added in favour of the call. The kubelet
    /// has another clock, so the sum is limited to the time between the order and now.
    fn report_start(
        &self,
        context: &ClusterContext,
        seen: &ObservedPod,
        reported: &mut (usize, Option<String>),
    ) {
        let function = self.start.function.name();
        let running_since = seen.running_since_ms.map(|since_ms| {
            let reported_at = context.config.clock.uptime_at(since_ms + 1000);
            reported_at.max(self.wanted_at).min(context.announcer.now())
        });
        if let Some(why) = seen.held_up.as_deref()
            && seen.held_up != reported.1
        {
            context.report(TaskReport::StartHeldUp {
                function: self.start.function.clone(),
                pod: self.name.clone(),
                why: why.to_owned(),
            });
        }
        let announcer = &context.announcer;
        let phases = announcer.with_work_queue(|queue| queue.starts.phases(function, &self.name));
        // The records keep only a few starts of each function. If this start is no longer among them,
        // `RUNNING` alone shows that the pod runs.
        let reached = phases
            .len()
            .max(usize::from(running_since.is_some()) * RUNNING);
        if reached > reported.0 || seen.held_up != reported.1 {
            *reported = (reached.max(reported.0), seen.held_up.clone());
            let held_up = seen.held_up.as_deref().map(Into::into);
            announcer.job_starting(&self.start, &self.name, running_since, held_up);
        }
    }
}

enum JobOutcome {
    /// The io thread reported that the attempt is over.
    Stopped,
    NotStarted(StartFault, String),
    Ended(ContainerEnd),
    Lost(String),
}

/// Returns the message of the last `FailedCreate` Event of a Job's controller.
async fn refusal_of(cluster: &Cluster, name: &str, until: Instant) -> Option<String> {
    let api = cluster.lenient::<Event>();
    let of = format!("involvedObject.kind=Job,involvedObject.name={name},reason=FailedCreate");
    let parameters = ListParams::default().fields(&of).limit(10);
    let list = async |_| api.list(&parameters).await;
    let events = cluster.ask(until, list).await.ok()?;
    let events = events
        .items
        .into_iter()
        .filter_map(|event| event.read().ok());
    let mut messages = events.filter_map(|event| event.message);
    messages.next_back()
}

pub(crate) async fn jobs_of_others(
    cluster: &Cluster,
    instance: &str,
    until: Instant,
) -> Result<Vec<String>, ClusterError> {
    let api = cluster.lenient::<JobObject>();
    let others = format!("{SELECTOR},{LABEL_INSTANCE}!={instance}");
    let parameters = ListParams::default().labels(&others);
    let list = async |_| api.list(&parameters).await;
    let jobs = cluster.ask(until, list).await?;
    let names = jobs.items.iter().filter_map(|job| job.meta().name.clone());
    Ok(names.collect())
}
