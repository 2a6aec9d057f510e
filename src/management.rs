//! Serves the management port, where the kubelet, Prometheus and operators read health and metrics. The
//! server runs on the bridge's runtime. This module handles no calls of functions and changes no setting.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use nanofaas_core::beat::Beat;
use nanofaas_core::doorbell::Doorbell;
use nanofaas_core::metrics::ThreadLedger;
use nanofaas_core::time::Uptime;
use nanofaas_http1::host::Host;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Sleep, sleep, timeout};

use crate::metrics::{self, FunctionLabels, ProcessInfo, ScrapedFunctions};

/// A thread is stuck if it has not beaten within this time after a health check requested a beat.
const BEAT_MAX: Duration = Duration::from_secs(10);
/// The largest number of open connections. A further connection closes the one that has been silent for the
/// longest. The connections use descriptors that the io threads leave free.
const CONNECTIONS_MAX: usize = 16;
/// How long a connection may be silent between two requests.
const SILENT_MAX: Duration = Duration::from_secs(75);
/// If descriptors run out, a connection is closed only if it has been silent for this time.
const BRIEF: Duration = Duration::from_secs(1);
/// The time limit from the first byte of a request to the first byte of its answer.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// How long the bridge may take to send the functions. After that, the page shows the functions that it
/// received last.
const ASK_MAX: Duration = Duration::from_secs(1);
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The channel by which the bridge sends the functions for a scrape.
pub(crate) type Ask = oneshot::Sender<ScrapedFunctions>;

pub(crate) struct HealthState {
    pub(crate) origin: Instant,
    pub(crate) ledgers: Arc<[ThreadLedger]>,
    /// None for an inline scheduler, because its io thread beats.
    pub(crate) scheduler_beat: Option<Arc<Beat>>,
    /// The bells of the io threads and of a pinned scheduler.
    pub(crate) bells: Vec<Arc<Doorbell>>,
    /// True as soon as the control plane has started. The main thread writes this flag.
    pub(crate) started: AtomicBool,
    /// True from the beginning of the drain. The main thread writes this flag.
    pub(crate) draining: AtomicBool,
}

impl HealthState {
    fn not_ready(&self) -> Option<&'static str> {
        if self.draining.load(Relaxed) {
            Some("draining")
        } else if self.started.load(Relaxed) {
            None
        } else {
            Some("starting")
        }
    }

    /// Requests a beat from every thread. Returns which kind of thread does not beat.
    fn not_alive(&self) -> Option<&'static str> {
        let now = Uptime::ZERO + self.origin.elapsed().into();
        let is_late = |beat: &Beat| beat.ask(now) > BEAT_MAX.into();
        // `filter` reads all io threads, because each of them must get the request, even if another one is
        // late.
        let late_io = self.ledgers.iter().filter(|one| is_late(&one.beat)).count();
        let is_scheduler_late = self.scheduler_beat.as_deref().is_some_and(is_late);
        for bell in &self.bells {
            bell.ring();
        }
        if late_io > 0 {
            Some("an io thread does not answer")
        } else if is_scheduler_late {
            Some("the scheduler does not answer")
        } else {
            None
        }
    }
}

pub(crate) struct Management {
    pub(crate) health: Arc<HealthState>,
    pub(crate) ask: mpsc::Sender<Ask>,
    /// Collects the data of the process, at every scrape.
    pub(crate) process: Box<dyn Fn() -> ProcessInfo + Send + Sync>,
    scrapes: Mutex<Scrapes>,
}

struct Scrapes {
    labels: FunctionLabels,
    last: ScrapedFunctions,
}

impl Management {
    pub(crate) fn new(
        health: Arc<HealthState>,
        ask: mpsc::Sender<Ask>,
        process: Box<dyn Fn() -> ProcessInfo + Send + Sync>,
        functions_max: usize,
    ) -> Self {
        let scrapes = Mutex::new(Scrapes {
            labels: FunctionLabels::new(functions_max),
            last: ScrapedFunctions::default(),
        });
        Self {
            health,
            ask,
            process,
            scrapes,
        }
    }

    async fn functions(&self) -> Option<ScrapedFunctions> {
        let (answer, answered) = oneshot::channel();
        self.ask.try_send(answer).ok()?;
        timeout(ASK_MAX, answered).await.ok()?.ok()
    }

    /// Writes the metrics page. With many functions this takes long, so the bridge's thread must not do it.
    fn page(&self, functions: Option<ScrapedFunctions>) -> String {
        let mut scrapes = self.scrapes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(functions) = functions {
            scrapes.last = functions;
        }
        let Scrapes { labels, last } = &mut *scrapes;
        metrics::page(last, &(self.process)(), labels)
    }
}

pub(crate) async fn serve(
    listener: std::net::TcpListener,
    management: Arc<Management>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = BoundedListener {
        listener: TcpListener::from_std(listener)?,
        open: Vec::new(),
        began: Instant::now(),
    };
    let is_loopback = listener.listener.local_addr()?.ip().is_loopback();
    let routes =
        routes(management).layer(from_fn(move |request: Request, next: Next| async move {
            match forbidden(request.headers(), is_loopback) {
                Some(why) => error(StatusCode::FORBIDDEN, "FORBIDDEN", why),
                None => next.run(request).await,
            }
        }));
    axum::serve(listener, routes).await
}

/// Returns why a request is refused. As in the API, a page of another site may not send requests.
fn forbidden(headers: &HeaderMap, is_loopback: bool) -> Option<&'static str> {
    if headers.contains_key(header::ORIGIN) {
        return Some("requests of browsers from other sites are not taken; send no Origin header");
    }
    let host = headers.get(header::HOST)?.as_bytes();
    let is_own = !is_loopback || Host::parse(host).is_some_and(Host::is_loopback);
    (!is_own)
        .then_some("while listening on loopback, Host has to be localhost or a loopback address")
}

fn routes(management: Arc<Management>) -> Router {
    Router::new()
        .route("/actuator/health", get(health))
        .route("/actuator/health/liveness", get(liveness))
        .route("/actuator/health/readiness", get(readiness))
        .route("/healthz", get(liveness))
        .route("/readyz", get(readiness))
        .route("/actuator/prometheus", get(prometheus))
        .route("/metrics", get(prometheus))
        .fallback(unknown)
        .with_state(management)
}

async fn health(State(management): State<Arc<Management>>) -> Response {
    let health = &management.health;
    state(health.not_alive().or_else(|| health.not_ready()))
}

async fn liveness(State(management): State<Arc<Management>>) -> Response {
    state(management.health.not_alive())
}

async fn readiness(State(management): State<Arc<Management>>) -> Response {
    state(management.health.not_ready())
}

fn state(fault: Option<&'static str>) -> Response {
    match fault {
        None => json(StatusCode::OK, r#"{"status":"UP"}"#.to_owned()),
        Some(fault) => {
            let body = format!(r#"{{"status":"DOWN","reason":"{fault}"}}"#);
            json(StatusCode::SERVICE_UNAVAILABLE, body)
        }
    }
}

async fn prometheus(State(management): State<Arc<Management>>) -> Response {
    const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
    let functions = management.functions().await;
    let page = tokio::task::spawn_blocking(move || management.page(functions)).await;
    match page {
        Ok(page) => ([(header::CONTENT_TYPE, TYPE)], page).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics page could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn unknown() -> Response {
    let message = "here are /actuator/health and /metrics; the API is on another port";
    error(StatusCode::NOT_FOUND, "NOT_FOUND", message)
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    json(
        status,
        format!(r#"{{"error":"{code}","message":"{message}"}}"#),
    )
}

fn json(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// A listener with at most `CONNECTIONS_MAX` connections, each with a deadline for silence.
struct BoundedListener {
    listener: TcpListener,
    open: Vec<OpenConnection>,
    began: Instant,
}

struct OpenConnection {
    /// The time of the last read or write, in milliseconds since the listener began.
    moved_ms: Arc<AtomicU64>,
    /// A message on this channel ends the connection. When the connection has ended, the channel is closed.
    end: oneshot::Sender<()>,
}

impl BoundedListener {
    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Ends the connection that has been silent for the longest, if it was silent for `silent`.
    fn make_room(&mut self, silent: Duration) {
        let latest_ms = self.now_ms().saturating_sub(silent.as_millis() as u64);
        let moved_ms = |open: &OpenConnection| open.moved_ms.load(Relaxed);
        let all = self.open.iter().enumerate();
        let longest = all.min_by_key(|(_, open)| moved_ms(open));
        if let Some((at, open)) = longest
            && moved_ms(open) <= latest_ms
        {
            let _gone = self.open.swap_remove(at).end.send(());
        }
    }

    fn connection(&mut self, stream: TcpStream) -> ManagementConnection {
        self.open.retain(|open| !open.end.is_closed());
        if self.open.len() >= CONNECTIONS_MAX {
            self.make_room(Duration::ZERO);
        }
        let moved_ms = Arc::new(AtomicU64::new(self.now_ms()));
        let (end, is_ended) = oneshot::channel();
        self.open.push(OpenConnection {
            moved_ms: moved_ms.clone(),
            end,
        });
        ManagementConnection {
            stream,
            began: self.began,
            moved_ms,
            is_ended,
            deadline: Box::pin(sleep(SILENT_MAX)),
            is_asked: false,
        }
    }
}

impl Listener for BoundedListener {
    type Io = ManagementConnection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (ManagementConnection, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => return (self.connection(stream), from),
                Err(error) => {
                    tracing::warn!(%error, "the management port could not accept a connection");
                    // The usual error is a lack of descriptors. Without a pause, the next accept would fail
                    // at once, even if no client waits, because the kernel allocates the descriptor first.
                    self.make_room(BRIEF);
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when it is silent for too long, or when an answer begins too late.
struct ManagementConnection {
    stream: TcpStream,
    began: Instant,
    moved_ms: Arc<AtomicU64>,
    is_ended: oneshot::Receiver<()>,
    deadline: Pin<Box<Sleep>>,
    /// Whether bytes of a request have come, and no bytes of its answer were sent.
    is_asked: bool,
}

impl ManagementConnection {
    fn moved(&mut self) {
        let now_ms = self.began.elapsed().as_millis() as u64;
        self.moved_ms.store(now_ms, Relaxed);
    }

    fn set_deadline(&mut self, after: Duration) {
        let at = tokio::time::Instant::now() + after;
        self.deadline.as_mut().reset(at);
    }

    /// Returns a result that is ready. If the operation would wait, it fails after the deadline, or when the
    /// listener ends this connection.
    fn bounded<T>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.moved();
            return result;
        }
        let is_ended = Pin::new(&mut self.is_ended).poll(context).is_ready();
        if is_ended || self.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncRead for ManagementConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if result.is_ready() && !self.is_asked {
            self.is_asked = true;
            self.set_deadline(HEAD_MAX);
        }
        self.bounded(context, result)
    }
}

impl AsyncWrite for ManagementConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        if result.is_ready() {
            self.is_asked = false;
            self.set_deadline(SILENT_MAX);
        }
        self.bounded(context, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
