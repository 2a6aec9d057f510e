//! The life of one warm pod, a process on a Unix socket or at a port: start, ready, in use, health
//! check, stopped, gone. It never decides when: the scheduler's orders and the process itself do.

mod health;

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nanofaas_core::cold_start::Phase;
use nanofaas_core::event::{Event, StartFailure};
use nanofaas_core::function::Function;
use nanofaas_core::id::pod_token;
use nanofaas_core::message::{Message, PodAddress, PodEnd};
use nanofaas_core::ticket::PodRef;
use nanofaas_core::time::Uptime;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::Instant;

use crate::context::LocalContext;
use crate::guard::link::{AbortOnDrop, End};
use crate::pod::health::{Questions, places};
use crate::process::ports::Port;
use crate::process::program::{Program, random};
use crate::process::{self, Process, drain_output, forget_pipes, rung_before};

/// How long a quarantined pod has to answer.
const PROBE: Duration = Duration::from_secs(5);

/// A pod as seen by all tasks but its own.
pub(crate) struct Pod {
    pub(crate) place: PodRef,
    pub(crate) name: String,
    /// A caller that knows this token may report the pod as ready.
    pub(crate) token: String,
    pub(crate) function: Arc<Function>,
    wanted_at: Uptime,
    /// Rings when a field below changes, and when the process starts or ends.
    bell: Rc<Notify>,
    stop: Cell<bool>,
    probe: Cell<bool>,
    /// It said that it is ready.
    said: Cell<bool>,
    /// Where it answered the last health check.
    answered: RefCell<Option<PodAddress>>,
    questions: Questions,
}

/// How a pod's life went.
pub(crate) enum Fate {
    StartFailed(StartFailure),
    /// It was up, or was stopped before; `PodEnd` says how it went.
    Ended(PodEnd),
}

impl Pod {
    pub(crate) fn new(
        place: PodRef,
        name: String,
        function: Arc<Function>,
        wanted_at: Uptime,
    ) -> Self {
        Self {
            place,
            name,
            token: pod_token(u128::from_ne_bytes(random())),
            questions: Questions::new(&function.spec.health_path, function.name()),
            function,
            wanted_at,
            bell: Rc::new(Notify::new()),
            stop: Cell::new(false),
            probe: Cell::new(false),
            said: Cell::new(false),
            answered: RefCell::default(),
        }
    }

    /// Ends it; calls that run in it have the function's grace period.
    pub(crate) fn stop(&self) {
        self.stop.set(true);
        self.bell.notify_one();
    }

    /// Starts a health check.
    pub(crate) fn probe(&self) {
        self.probe.set(true);
        self.bell.notify_one();
    }

    /// It said that it is ready.
    pub(crate) fn says_ready(&self) {
        self.said.set(true);
        self.bell.notify_one();
    }

    /// Runs the pod from its start to its end and reports each step but the last one, which the
    /// caller passes to `tell_end`.
    pub(crate) async fn live(self: &Rc<Self>, context: &Rc<LocalContext>) -> Fate {
        let id = context.link.next_id();
        let socket = context.run_dir.at(&format!("{id}.sock"));
        let function = self.function.name();
        context.say(|desk| desk.starts.begin(function, &self.name, self.wanted_at));
        let fate = self.run(context, id, &socket).await;
        let _ = fs::remove_file(&socket);
        fate
    }

    /// Reports how it ended, once it is in no table any more.
    pub(crate) fn tell_end(&self, context: &LocalContext, fate: Fate) {
        let function = self.function.name();
        match fate {
            Fate::StartFailed(failure) => {
                let why = failure.message.clone();
                tracing::warn!(%function, pod = self.name, "the pod did not start: {why}");
                let pod = self.place;
                context.say(|desk| {
                    desk.starts.failed(function, &self.name, why);
                    desk.event(Event::StartFailed { pod, failure });
                });
            }
            Fate::Ended(end) => {
                if !self.stop.get() && !context.is_stopping.get() {
                    let why = &end.message;
                    tracing::warn!(%function, pod = self.name, "the pod is gone: {why}");
                }
                context.gone(self.place, &end);
            }
        }
    }

    async fn run(self: &Rc<Self>, context: &Rc<LocalContext>, id: u64, socket: &Path) -> Fate {
        let deadline = Instant::now() + context.config.start_timeout;
        let port = match context.ports.take() {
            Ok(port) => port,
            Err(error) => return failed(false, format!("no port for it: {error}").into()),
        };
        let program = self.program(context, socket, &port);
        let function = self.function.name();
        let bell = self.bell.clone();
        let started = process::start(&context.link, &context.run_dir, function, id, program, bell);
        let mut process = match started {
            Ok(process) => process,
            Err(error) => {
                forget_pipes(&context.run_dir, id);
                return failed(false, format!("cannot make its pipes: {error}").into());
            }
        };
        let started = self.starting(context, &mut process, deadline, socket, &port);
        let started = started.await;
        forget_pipes(&context.run_dir, id);
        let address = match started {
            Ok(address) => address,
            Err(fate) => return fate,
        };
        self.up(context, &address);
        self.serving(context, &mut process, &address).await;
        let end = PodEnd {
            oom: process.fell_to_sigkill() && context.oom.is_guilty(),
            message: process.how().into(),
        };
        drain_output(process);
        Fate::Ended(end)
    }

    fn program(&self, context: &LocalContext, socket: &Path, port: &Port) -> Program {
        let mut program = Program::of(&self.function, self.name.clone());
        let base = &context.config.callback_base;
        let url = format!("{base}/v1/internal/{}/pods/{}:ready", self.token, self.name);
        program.set("NANOFAAS_SOCKET", socket.to_string_lossy());
        program.set("PORT", port.number.to_string());
        program.set("TIMEOUT_MS", self.function.spec.timeout_ms.to_string());
        program.set("NANOFAAS_READY_URL", url);
        program
    }

    /// Asks at these places until the pod is well at one of them. Dropping the result ends it.
    fn ask(self: &Rc<Self>, process: &Process, places: Vec<PodAddress>) -> AbortOnDrop<()> {
        let (pod, known) = (self.clone(), process.known());
        self.answered.replace(None);
        AbortOnDrop(spawn_local(async move {
            let pid = || known.pid.get();
            let place = pod.questions.until_well(&places, pid).await;
            pod.answered.replace(Some(place));
            pod.bell.notify_one();
        }))
    }

    /// Where it listens, once it is ready.
    fn ready_at(&self, socket: &Path) -> Option<PodAddress> {
        let answered = self.answered.borrow().clone();
        // A pod that says that it is ready has its socket by then; any other server is found by its
        // answer.
        let said = || (self.said.get() && socket.exists()).then(|| PodAddress::Unix(socket.into()));
        answered.or_else(said)
    }

    /// Waits until the pod is ready; returns its address, or how it ended before.
    async fn starting(
        self: &Rc<Self>,
        context: &LocalContext,
        process: &mut Process,
        deadline: Instant,
        socket: &Path,
        port: &Port,
    ) -> Result<PodAddress, Fate> {
        let places = places(PodAddress::Unix(socket.into()), port.number);
        let _asking = self.ask(process, places.into());
        loop {
            if process.is_started() {
                context.reached(&self.function, &self.name, Phase::Spawned);
            }
            if let Some(end) = process.end() {
                let permanent = matches!(end, End::NotStarted { permanent, .. } if permanent);
                let how = match end {
                    End::NotStarted { message, .. } => message,
                    _ => format!("the pod was not ready yet when {}", process.how()),
                };
                return Err(failed(permanent, process.with_last_words(how).await));
            }
            if self.stop.get() {
                process.kill().await;
                let message = "it was stopped before it was ready".into();
                return Err(Fate::Ended(PodEnd {
                    oom: false,
                    message,
                }));
            }
            if let Some(address) = self.ready_at(socket) {
                return Ok(address);
            }
            if !rung_before(&self.bell, Some(deadline)).await {
                process.kill().await;
                let how = self.not_ready(context, port);
                return Err(failed(false, process.with_last_words(how).await));
            }
        }
    }

    fn not_ready(&self, context: &LocalContext, port: &Port) -> String {
        let limit = context.config.start_timeout.as_millis();
        let (path, port) = (&self.function.spec.health_path, port.number);
        let mut how = format!(
            "the pod was not ready within {limit} ms: it neither said so nor answered GET {path} with 2xx \
             on its socket, NANOFAAS_SOCKET, or at 127.0.0.1:{port}, PORT"
        );
        if let Some(word) = self.questions.last_word() {
            how.push_str("; ");
            how.push_str(&word);
        }
        how
    }

    /// Announces the pod. The address goes to the io threads before the scheduler hears of the pod,
    /// because the scheduler may then send calls to it at once.
    fn up(&self, context: &LocalContext, address: &PodAddress) {
        context.reached(&self.function, &self.name, Phase::Usable);
        let pod = self.place;
        context.say(|desk| {
            let start = desk.starts.phases(self.function.name(), &self.name);
            desk.broadcast(|| Message::PodAddress {
                pod,
                address: address.clone(),
                start: start.clone(),
            });
            desk.event(Event::PodUp(pod));
        });
    }

    /// Serves until the pod is gone.
    async fn serving(
        self: &Rc<Self>,
        context: &LocalContext,
        process: &mut Process,
        address: &PodAddress,
    ) {
        let probe = |process: &Process| {
            let asking = self.ask(process, vec![address.clone()]);
            Some((asking, Instant::now() + PROBE))
        };
        let mut asking: Option<(AbortOnDrop<()>, Instant)> = None;
        while process.end().is_none() {
            if self.stop.get() {
                drop(asking);
                return self.stopping(process).await;
            }
            if self.probe.take() {
                asking = probe(process);
            }
            if asking.is_some() && self.answered.borrow().is_some() {
                asking = None;
                let pod = self.place;
                context.say(|desk| desk.event(Event::PodUp(pod)));
            }
            let deadline = asking.as_ref().map(|(_, deadline)| *deadline);
            if !rung_before(&self.bell, deadline).await {
                let (function, pod) = (self.function.name(), &self.name);
                if self.questions.was_not_asked() {
                    tracing::warn!(%function, pod, "the pod cannot be asked: no descriptors left");
                    asking = probe(process);
                    continue;
                }
                let path = &self.function.spec.health_path;
                let word = self.questions.last_word().unwrap_or_default();
                tracing::warn!(
                    %function, pod, %address, "the pod is not well: GET {path} for 5 s; {word}"
                );
                return process.kill().await;
            }
        }
    }

    async fn stopping(&self, process: &mut Process) {
        process.terminate();
        let grace = Duration::from_secs(u64::from(self.function.spec.grace_s()));
        if !process.ended_before(Instant::now() + grace).await {
            process.kill().await;
        }
    }
}

fn failed(permanent: bool, message: Arc<str>) -> Fate {
    Fate::StartFailed(StartFailure { permanent, message })
}

/// Pods by place and by name.
#[derive(Default)]
pub(crate) struct Pods {
    by_place: std::collections::HashMap<PodRef, Rc<Pod>>,
    by_name: std::collections::HashMap<String, Rc<Pod>>,
}

impl Pods {
    pub(crate) fn add(&mut self, pod: &Rc<Pod>) {
        self.by_place.insert(pod.place, pod.clone());
        self.by_name.insert(pod.name.clone(), pod.clone());
    }

    pub(crate) fn remove(&mut self, pod: &Pod) {
        self.by_place.remove(&pod.place);
        self.by_name.remove(&pod.name);
    }

    pub(crate) fn at(&self, place: PodRef) -> Option<Rc<Pod>> {
        self.by_place.get(&place).cloned()
    }

    pub(crate) fn named(&self, name: &str) -> Option<Rc<Pod>> {
        self.by_name.get(name).cloned()
    }
}
