//! The backend of a cluster: it begins (Lease, lists, adoption), then each pod and each Job has a
//! task of its own. It never waits for a pod or a Job, and touches no call's bytes.
//! The process's bridge passes it the desk's work, on the bridge's thread.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job as JobObject;
use nanofaas_core::cold_start::{Phase, WallClock};
use nanofaas_core::desk::{Desk, PodReady, Work};
use nanofaas_core::event::{Event, StartFailure};
use nanofaas_core::function::Function;
use nanofaas_core::id::{is_same_token, pod_name, pod_token};
use nanofaas_core::message::{JobStart, PodEnd, Refused, Reply};
use nanofaas_core::spec::{ExecutionMode, FunctionDraft, Json, check_account};
use nanofaas_core::ticket::PodRef;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::api::backoff::random;
use crate::api::cluster::Cluster;
use crate::api::{client, lease, watch};
use crate::context::identity::{Identity, OwnPod};
use crate::job::{Job, Jobs};
use crate::pod::{Origin, Pod};
use crate::podspec::default_template;
use crate::podspec::default_template::{DefaultTemplate, LastRead};
use crate::podspec::{self, Parts, SELECTOR};
use crate::reconcile::adoption::Adoption;
use crate::reconcile::{adoption, pods};
use crate::registry::events::{self, Events};
use crate::registry::functions::{self, Functions};
use crate::registry::status;

/// How long the deletion of Jobs may take when the plane stops.
const STOP: Duration = Duration::from_secs(2);

/// The settings of the bridge.
pub struct KubernetesConfig {
    /// How to reach the API server; if none, found as `kubectl` does, or as a pod does.
    pub kubeconfig: Option<PathBuf>,
    /// Where functions, pods and Jobs are; the plane's own namespace if none.
    pub namespace: Option<String>,
    /// Name and uid of the plane's own Pod, if it runs in one.
    pub own_pod: Option<OwnPod>,
    /// The file of the default podTemplate, whose fields each function's own can override. The file
    /// may be absent.
    pub pod_template: Option<PathBuf>,
    /// `http://host:port` under which pods reach `/v1/internal`.
    pub callback_base: String,
    /// How long a pod may take to become ready.
    pub start_timeout: Duration,
    /// Functions that are written into the cluster at the start if it has none of that name.
    pub functions: Vec<FunctionDraft>,
    /// The process's clock: nanoseconds since `origin`; `clock` converts it to and from wall time.
    pub origin: Instant,
    pub clock: WallClock,
}

/// Why the bridge could not be started; the message tells the operator what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "cannot find out how to reach the API server: {0}; run in a pod with a service account, \
         or set KUBECONFIG"
    )]
    Config(String),
    #[error("cannot make a client for the API server: {0}")]
    Client(String),
    #[error("the default podTemplate {} {why}", file.display())]
    PodTemplate { file: PathBuf, why: String },
}

/// What outlives a rebuild of the bridge, because the scheduler knows these pods by their places
/// and calls wait for these Jobs.
pub struct Memory {
    /// The label of this process's Jobs. Another process deletes them, because their tokens are
    /// valid only in this one.
    pub(crate) instance: String,
    pub(crate) pods: RefCell<pods::Pods>,
    pub(crate) jobs: RefCell<Jobs>,
    /// How often the pods were listed.
    pub(crate) listing: Cell<u64>,
    /// Starts that wait until the plane acts.
    pub(crate) held: RefCell<Vec<Work>>,
    pub(crate) default_template: RefCell<LastRead>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            instance: pod_token(u128::from_ne_bytes(random())),
            pods: RefCell::default(),
            jobs: RefCell::default(),
            listing: Cell::new(0),
            held: RefCell::default(),
            default_template: RefCell::default(),
        }
    }
}

impl Memory {
    /// Removes a held start that is no longer wanted; false if there was none.
    fn drop_held(&self, place: PodRef) -> bool {
        let mut held = self.held.borrow_mut();
        let before = held.len();
        held.retain(|work| !matches!(work, Work::Start { pod, .. } if *pod == place));
        held.len() < before
    }
}

/// The backend.
pub struct KubernetesBridge(Rc<Plane>);

/// Whether the plane acts yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It waits for the Lease and for the lists of pods and functions.
    Beginning,
    /// Pods of earlier planes get their places; new pods wait.
    Adopting,
    Acting,
}

/// What the tasks of the bridge share.
pub(crate) struct Plane {
    pub(crate) config: KubernetesConfig,
    pub(crate) cluster: Cluster,
    pub(crate) functions: Functions,
    pub(crate) events: Events,
    pub(crate) memory: Rc<Memory>,
    pub(crate) adoption: RefCell<Adoption>,
    pub(crate) stage: Cell<Stage>,
    pub(crate) pods_listed: Cell<bool>,
    /// Rings when `begin` may be able to take its next step.
    pub(crate) progress: Notify,
    identity: RefCell<Option<Rc<Identity>>>,
    desk: Rc<RefCell<Desk>>,
    is_ready: Cell<bool>,
    deposed: Notify,
}

impl KubernetesBridge {
    /// Finds the API server and begins. Call it, and `take`, within a `LocalSet`; between the calls
    /// other code on the same thread may use the desk.
    pub async fn open(
        config: KubernetesConfig,
        memory: Rc<Memory>,
        desk: Rc<RefCell<Desk>>,
    ) -> Result<Self, OpenError> {
        let found = client::config(config.kubeconfig.as_deref()).await?;
        let namespace = config.namespace.clone();
        let namespace = namespace.unwrap_or_else(|| found.default_namespace.clone());
        let server = found.cluster_url.to_string();
        let client = client::client(found)?;
        tracing::info!(server, namespace, "the control plane asks for its Lease");
        let plane = Rc::new(Plane {
            config,
            cluster: Cluster::new(client, server, namespace),
            functions: Functions::default(),
            events: Events::default(),
            memory,
            adoption: RefCell::default(),
            stage: Cell::new(Stage::Beginning),
            pods_listed: Cell::new(false),
            progress: Notify::new(),
            identity: RefCell::default(),
            desk,
            is_ready: Cell::new(false),
            deposed: Notify::new(),
        });
        plane.read_first_template()?;
        spawn_local(plane.clone().begin());
        Ok(Self(plane))
    }

    /// Does, or begins, one piece of the desk's work.
    pub fn take(&self, work: Work) {
        self.0.take(work);
    }

    /// Whether the functions and pods of the cluster are known and each adopted pod was asked.
    pub fn is_ready(&self) -> bool {
        self.0.is_ready.get()
    }

    /// Waits until another plane is seen to hold the Lease.
    pub async fn deposed(&self) {
        self.0.deposed.notified().await;
    }

    /// Deletes the Jobs, which end with this process, and gives the Lease back. Warm pods stay,
    /// because the next plane adopts them.
    pub async fn stop(&self) {
        self.0.stop().await;
    }
}

impl Plane {
    /// Nanoseconds of the process's clock.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.config.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Runs `something` with the desk borrowed.
    pub(crate) fn say<T>(&self, something: impl FnOnce(&mut Desk) -> T) -> T {
        something(&mut self.desk.borrow_mut())
    }

    /// Records that a start reached a phase.
    pub(crate) fn reached(&self, function: &Function, pod: &str, phase: Phase) {
        let at_ns = self.now_ns();
        self.say(|desk| desk.starts.reached(function.name(), pod, phase, at_ns));
    }

    /// Reports the end of a pod.
    pub(crate) fn gone(&self, pod: PodRef, end: &PodEnd) {
        self.say(|desk| desk.gone(pod, end));
    }

    /// Reads the default template before any pod is made or adopted. After a rebuild the bridge
    /// keeps the template that it had before.
    fn read_first_template(&self) -> Result<(), OpenError> {
        let Some(file) = &self.config.pod_template else {
            return Ok(());
        };
        if self.memory.default_template.borrow().is_known() {
            return Ok(());
        }
        let read = self.read_template(file);
        read.map(drop).map_err(|why| OpenError::PodTemplate {
            file: file.clone(),
            why,
        })
    }

    /// Reads the default template; returns whether it changed.
    pub(crate) fn read_template(&self, file: &Path) -> Result<bool, String> {
        let mut last = self.memory.default_template.borrow_mut();
        last.read(file, self.own_account())
    }

    /// The template whose fields each function's own podTemplate can override.
    pub(crate) fn default_template(&self) -> Option<Rc<DefaultTemplate>> {
        self.memory.default_template.borrow().template().cloned()
    }

    /// The template of a function's pod, made of the default one and its own.
    pub(crate) fn pod_template(&self, function: &Function, parts: &Parts) -> Result<Value, String> {
        let template = podspec::template(function, parts, self.default_template().as_deref());
        // Check the merged template too: only both together may name the plane's account.
        if let Some(own) = self.own_account()
            && let Ok(Json::Object(merged)) = Json::deserialize(&template)
        {
            check_account(&merged, own).map_err(|fault| format!("podTemplate: {fault}"))?;
        }
        Ok(template)
    }

    /// The plane's own service account, if functions' pods could use it.
    fn own_account(&self) -> Option<&str> {
        let own_pod = self.config.own_pod.as_ref()?;
        own_pod.account_in(Some(&self.cluster.namespace))
    }

    /// The identity of this plane, once it is known.
    pub(crate) fn identity(&self) -> Option<Rc<Identity>> {
        self.identity.borrow().clone()
    }

    pub(crate) fn forget(&self, pod: &Pod) {
        self.memory.pods.borrow_mut().remove(pod);
    }

    /// The pod's health path was asked for the first time, or the pod went before that.
    pub(crate) fn pod_was_asked(&self, pod: &Pod) {
        self.adoption.borrow_mut().was_asked(&pod.name);
        self.progress.notify_one();
    }

    /// Waits until `is_so` holds. Tasks of this thread that change it notify `progress`.
    async fn until(&self, is_so: impl Fn() -> bool) {
        while !is_so() {
            // The timeout is for changes by io threads, which do not notify.
            let _ = timeout(Duration::from_millis(10), self.progress.notified()).await;
        }
    }

    /// From the start until the plane acts. Each step needs the step before it.
    async fn begin(self: Rc<Self>) {
        let own_pod = self.config.own_pod.clone();
        let identity = Identity::find(&self.cluster, &self.memory.instance, own_pod).await;
        let identity = Rc::new(identity);
        self.identity.replace(Some(identity.clone()));
        lease::acquire(&self.cluster, &identity.holder).await;
        // Read the template again: the wait for the Lease may have taken days, and adoption
        // compares existing pods with the template.
        default_template::look(&self);
        let plane = self.clone();
        spawn_local(async move { plane.keep_lease().await });
        let plane = self.clone();
        spawn_local(async move { plane.end_jobs_of_others().await });
        // Pods are listed before functions, because a function's pods may exist already.
        let plane = self.clone();
        spawn_local(async move {
            watch::follow(&plane.cluster, SELECTOR, |news| pods::hear(&plane, news)).await;
        });
        self.until(|| self.pods_listed.get()).await;
        self.stage.set(Stage::Adopting);
        let plane = self.clone();
        spawn_local(async move {
            watch::follow(&plane.cluster, "", |news| functions::hear(&plane, news)).await;
        });
        self.until(|| self.functions.is_listed.get()).await;
        functions::seed(&self).await;
        // The scheduler has heard of every function before it hears of a pod.
        self.until(|| self.say(|desk| desk.is_settled())).await;
        adoption::begin(&self);
        self.until(|| self.adoption.borrow().is_over()).await;
        self.stage.set(Stage::Acting);
        adoption::end(&self);
        let held = self.memory.held.take();
        held.into_iter().for_each(|work| self.take(work));
        let plane = self.clone();
        spawn_local(async move { status::keep(&plane).await });
        let plane = self.clone();
        spawn_local(async move { default_template::follow(&plane).await });
        let plane = self.clone();
        spawn_local(async move { events::keep(&plane).await });
        self.is_ready.set(true);
    }

    async fn keep_lease(&self) {
        let Some(identity) = self.identity() else {
            return;
        };
        let other = lease::keep(&self.cluster, &identity.holder).await;
        tracing::error!(holder = other, "another control plane took the Lease");
        self.deposed.notify_one();
    }

    async fn end_jobs_of_others(&self) {
        let Some(identity) = self.identity() else {
            return;
        };
        let until = tokio::time::Instant::now() + self.config.start_timeout;
        match self.cluster.jobs_of_others(&identity.instance, until).await {
            Ok(names) => {
                for name in names {
                    self.cluster.delete::<JobObject>(&name, None).await;
                }
            }
            Err(denied) => {
                let why = denied.message();
                tracing::warn!("Jobs of earlier planes may be left: {why}");
            }
        }
    }

    fn take(self: &Rc<Self>, work: Work) {
        match work {
            // The table of functions has these changes already.
            Work::Function(_) | Work::Removed { .. } => {}
            Work::Start { .. } if self.stage.get() != Stage::Acting => {
                self.memory.held.borrow_mut().push(work);
            }
            Work::Start {
                function,
                pod,
                wanted_ns,
            } => self.start_pod(function, pod, wanted_ns),
            Work::Stop { pod } if self.memory.drop_held(pod) => {
                self.is_unknown(pod);
            }
            Work::Stop { pod } => match self.pod(pod) {
                Some(pod) => {
                    pod.stop();
                    self.functions.is_changed(pod.function.name());
                }
                None => self.is_unknown(pod),
            },
            Work::Probe { pod } => match self.pod(pod) {
                Some(pod) => pod.probe(),
                None => self.is_unknown(pod),
            },
            Work::Adopted { token, pod, .. } => adoption::adopted(self, token, pod),
            Work::Job(start) => self.start_job(start),
            Work::JobStop {
                call,
                attempt,
                stamps,
            } => {
                if let Some(job) = self.memory.jobs.borrow().get((call, attempt)) {
                    job.stop(stamps);
                }
            }
            Work::PodReady(ready) => self.pod_is_ready(&ready),
            Work::Change { change, reply } if self.is_ready.get() => {
                functions::change(self, change, reply);
            }
            Work::Change { reply, .. } => {
                let why = "this control plane has not begun to act yet; try again";
                let refused = Refused::Unavailable(why.to_owned());
                self.say(|desk| desk.reply(reply, Reply::Refused(refused)));
            }
        }
    }

    fn pod(&self, place: PodRef) -> Option<Rc<Pod>> {
        self.memory.pods.borrow().at(place)
    }

    /// Reports the end of a pod that has no task here; a second report does no harm.
    pub(crate) fn is_unknown(&self, pod: PodRef) {
        let end = PodEnd {
            oom: false,
            message: "it was gone already".into(),
        };
        self.gone(pod, &end);
    }

    fn start_pod(self: &Rc<Self>, function: Arc<Function>, place: PodRef, wanted_ns: u64) {
        if function.spec.execution_mode != ExecutionMode::Warm {
            let failure = StartFailure {
                permanent: false,
                message: "the function has no pods any more".into(),
            };
            let pod = place;
            return self.say(|desk| desk.event(Event::StartFailed { pod, failure }));
        }
        let name = loop {
            let name = pod_name::<5>(function.name(), random());
            if self.memory.pods.borrow().named(&name).is_none() {
                break name;
            }
        };
        let pod = Rc::new(Pod::new(Some(place), name, function, wanted_ns));
        self.run_pod(&pod, Origin::New);
    }

    /// Starts the task of a pod.
    pub(crate) fn run_pod(self: &Rc<Self>, pod: &Rc<Pod>, origin: Origin) {
        self.memory.pods.borrow_mut().add(pod);
        self.functions.is_changed(pod.function.name());
        spawn_local(pod.clone().live(self.clone(), origin));
    }

    fn start_job(self: &Rc<Self>, start: Box<JobStart>) {
        let job = Rc::new(Job::new(start, self.now_ns()));
        let before = self.memory.jobs.borrow_mut().add(&job);
        if let Some(before) = before {
            before.stop(None);
        }
        spawn_local(job.live(self.clone()));
    }

    fn pod_is_ready(&self, said: &PodReady) {
        let pod = self.memory.pods.borrow().named(&said.pod);
        let reply = match pod {
            None => Reply::Refused(Refused::NotFound),
            Some(pod) if !is_same_token(&pod.token, &said.token) => {
                Reply::Refused(Refused::Forbidden)
            }
            Some(pod) => {
                let function = pod.function.name();
                self.say(|desk| desk.starts.stamped(function, &said.pod, said.stamps));
                let address: Option<IpAddr> = said.address;
                pod.says_ready(address);
                Reply::Ready
            }
        };
        self.say(|desk| desk.reply(said.reply, reply));
    }

    async fn stop(self: &Rc<Self>) {
        let Some(identity) = self.identity() else {
            return;
        };
        let jobs = self.memory.jobs.borrow().all();
        let deletions: Vec<_> = jobs
            .into_iter()
            .map(|job| {
                let plane = self.clone();
                spawn_local(async move { plane.cluster.delete::<JobObject>(&job.name, None).await })
            })
            .collect();
        let all = async {
            for deletion in deletions {
                let _ = deletion.await;
            }
        };
        if timeout(STOP, all).await.is_err() {
            tracing::warn!("Jobs are left; the next control plane deletes them");
        }
        // Also if Jobs are left, because a successor waits for the Lease.
        lease::release(&self.cluster, &identity.holder).await;
    }
}
