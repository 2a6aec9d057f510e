//! This part of a warm pod's task is only in this backend: it starts the pod's process through the guard,
//! watches it and ends it. The scheduler's orders and the process itself decide when each step happens.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nanofaas_backend::announcer::Announcer;
use nanofaas_backend::pod::life::{self, Begin, PodRunner};
use nanofaas_backend::pod::table::PodTable;
use nanofaas_backend::pod::{PodFate, PodStartError, WarmPod};
use nanofaas_core::cold_start::Phase;
use nanofaas_core::message::{PodAddress, PodEnd};
use tokio::time::Instant;

use crate::context::LocalContext;
use crate::guard::link::ProcessEnd;
use crate::process::listener;
use crate::process::ports::PodPort;
use crate::process::program::FunctionProgram;
use crate::process::{self, Process, drain_output, forget_pipes};

/// The warm pods that have a task.
pub(crate) type LocalPods = PodTable<WarmPod>;

/// Runs the pod to its end. It announces every step except the end; for that, the caller passes the result to
/// `WarmPod::announce_end`.
pub(crate) async fn live(pod: &Rc<WarmPod>, context: &Rc<LocalContext>) -> PodFate<()> {
    let id = context.link.next_id();
    let mut runner = ProcessRunner {
        context: context.clone(),
        pod: pod.clone(),
        id,
        socket: context.run_dir.at(&format!("{id}.sock")),
        addresses: Vec::new(),
        created: None,
    };
    let limit = context.config.start_timeout;
    let fate = life::live(&mut runner, Begin::Create, limit).await;
    runner.clean_up();
    fate
}

fn addresses(socket: &Path, port: u16) -> Vec<PodAddress> {
    let at = |ip: IpAddr| PodAddress::Tcp(SocketAddr::new(ip, port));
    // A server at `localhost` may listen on only one of these two addresses.
    let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    vec![PodAddress::Unix(socket.into()), at(v4), at(v6)]
}

struct Created {
    process: Process,
    port: PodPort,
}

struct ProcessRunner {
    context: Rc<LocalContext>,
    pod: Rc<WarmPod>,
    /// The number of the process in the link.
    id: u64,
    socket: PathBuf,
    addresses: Vec<PodAddress>,
    created: Option<Created>,
}

impl ProcessRunner {
    fn program(&self, port: u16) -> FunctionProgram {
        let pod = &self.pod;
        let mut program = FunctionProgram::of(&pod.function, pod.name.clone());
        let base = &self.context.config.callback_base;
        let url = format!("{base}/v1/internal/{}/pods/{}:ready", pod.token, pod.name);
        program.set("NANOFAAS_SOCKET", self.socket.to_string_lossy());
        program.set("PORT", port.to_string());
        program.set("TIMEOUT_MS", pod.function.spec.timeout_ms.to_string());
        program.set("NANOFAAS_READY_URL", url);
        program
    }

    fn created(&mut self) -> &mut Created {
        self.created.as_mut().expect("the pod was created")
    }

    fn process(&mut self) -> &mut Process {
        &mut self.created().process
    }

    fn how_it_ended(&mut self) -> PodEnd {
        let context = self.context.clone();
        let process = self.process();
        PodEnd {
            oom: process.fell_to_sigkill() && context.oom.is_guilty(),
            message: process.how().into(),
        }
    }

    /// Removes the pipes and the socket of the ended pod. A task reads the rest of the pod's output.
    fn clean_up(mut self) {
        forget_pipes(&self.context.run_dir, self.id);
        let _ = fs::remove_file(&self.socket);
        if let Some(created) = self.created.take() {
            drain_output(created.process);
        }
    }
}

impl PodRunner for ProcessRunner {
    type Fault = ();

    fn pod(&self) -> &WarmPod {
        &self.pod
    }

    fn announcer(&self) -> &Announcer {
        &self.context.announcer
    }

    async fn create(&mut self, _deadline: Instant) -> Result<(), PodStartError<()>> {
        let why = |error| format!("no port for it: {error}");
        let port = self.context.ports.take();
        let port = port.map_err(|error| PodStartError::new((), false, why(error)))?;
        self.addresses = addresses(&self.socket, port.number);
        let (link, run_dir) = (&self.context.link, &self.context.run_dir);
        let (function, bell) = (self.pod.function.name(), self.pod.bell.clone());
        let program = self.program(port.number);
        let started = process::start(link, run_dir, function, self.id, program, bell);
        let why = |error| format!("cannot make its pipes: {error}");
        let process = started.map_err(|error| PodStartError::new((), false, why(error)))?;
        self.created = Some(Created { process, port });
        Ok(())
    }

    fn observe_start(&mut self) {
        if self.process().is_started() {
            let (function, name) = (&self.pod.function, &self.pod.name);
            let announcer = &self.context.announcer;
            announcer.reached(function, name, Phase::Spawned);
        }
    }

    async fn start_fault(&mut self) -> Option<PodStartError<()>> {
        let process = self.process();
        let end = process.end()?;
        let permanent = matches!(end, ProcessEnd::NotStarted { permanent, .. } if permanent);
        let how = match end {
            ProcessEnd::NotStarted { message, .. } => message,
            _ => format!("the pod was not ready yet when {}", process.how()),
        };
        let message = process.with_last_output(how).await;
        Some(PodStartError::new((), permanent, message))
    }

    fn addresses(&self) -> Vec<PodAddress> {
        self.addresses.clone()
    }

    fn owner(&self) -> impl Fn(SocketAddr) -> bool + 'static {
        let known = self.created.as_ref().map(|created| created.process.known());
        move |at| {
            let pid = known.as_ref().and_then(|known| known.pid.get());
            pid.is_some_and(|pid| listener::is_of(pid, at.ip(), at.port()))
        }
    }

    fn ready_at(&self) -> Option<PodAddress> {
        // A pod makes its socket before it reports ready, so a report without a socket does not count. A pod
        // that listens on a port instead is ready when it answers a probe.
        let has_socket = || self.pod.has_reported_ready() && self.socket.exists();
        let by_report = || has_socket().then(|| PodAddress::Unix(self.socket.clone()));
        self.pod.health.answered().or_else(by_report)
    }

    async fn not_ready(&mut self) -> PodStartError<()> {
        let limit = self.context.config.start_timeout.as_millis();
        let (path, port) = (
            self.pod.function.spec.health_path.clone(),
            self.created().port.number,
        );
        let last = self.pod.health.last_answer();
        let how = format!(
            "the pod was not ready within {limit} ms: it neither said so nor answered GET {path} with 2xx \
             on its socket, NANOFAAS_SOCKET, or at 127.0.0.1:{port}, PORT{last}"
        );
        // The last output is complete only after the process has ended.
        let process = self.process();
        process.kill().await;
        PodStartError::new((), false, process.with_last_output(how).await)
    }

    async fn abandon(&mut self) {
        self.process().kill().await;
    }

    fn on_up(&mut self, address: &PodAddress) {
        self.addresses = vec![address.clone()];
        forget_pipes(&self.context.run_dir, self.id);
    }

    fn end(&mut self) -> Option<PodEnd> {
        let has_ended = self.process().end().is_some();
        has_ended.then(|| self.how_it_ended())
    }

    fn is_leaving(&self) -> bool {
        false
    }

    async fn stop(&mut self) -> PodEnd {
        let grace = Duration::from_secs(u64::from(self.pod.function.spec.grace_s()));
        let process = self.process();
        process.terminate();
        if !process.ended_before(Instant::now() + grace).await {
            process.kill().await;
        }
        self.how_it_ended()
    }

    async fn end_unwell(&mut self, why: String) -> PodEnd {
        let (function, pod) = (self.pod.function.name(), &self.pod.name);
        tracing::warn!(%function, pod, address = %self.addresses[0], "the pod is ended: {why}");
        self.process().kill().await;
        self.how_it_ended()
    }
}
