//! The management port: health and metrics, on the bridge's runtime.
//! It never touches a call and changes nothing. Kubelets, Prometheus and people ask.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use nanofaas_core::metrics::ThreadLedger;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Sleep, sleep, timeout};

use crate::metrics::{self, Functions, Labels, Plane};

/// A thread that has not beaten for so long is stuck.
const BEAT_MAX: Duration = Duration::from_secs(10);
/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may be silent.
const SILENT_MAX: Duration = Duration::from_secs(75);
/// How long the bridge may take to say which functions there are; past it, the last answer holds.
const ASK_MAX: Duration = Duration::from_secs(1);
/// How soon a failed accept is tried again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Somebody who wants to know which functions there are.
pub(crate) type Ask = oneshot::Sender<Functions>;

/// Whether the process lives and is ready.
pub(crate) struct Health {
    /// The process's clock is nanoseconds since then.
    pub(crate) origin: Instant,
    pub(crate) ledgers: Arc<[ThreadLedger]>,
    /// The pinned scheduler's beat; inline it is its io thread's.
    pub(crate) scheduler_beat_ns: Option<Arc<AtomicU64>>,
    /// Everything that the start waits for is there. Writer: the main thread.
    pub(crate) started: AtomicBool,
    /// No new calls. Writer: the main thread.
    pub(crate) draining: AtomicBool,
}

impl Health {
    /// Why it is not ready.
    fn not_ready(&self) -> Option<&'static str> {
        if self.draining.load(Relaxed) {
            Some("draining")
        } else if self.started.load(Relaxed) {
            None
        } else {
            Some("starting")
        }
    }

    /// Which thread does not live.
    fn not_alive(&self) -> Option<&'static str> {
        let now_ns = self.origin.elapsed().as_nanos() as u64;
        let late = |beat: &AtomicU64| {
            now_ns.saturating_sub(beat.load(Relaxed)) > BEAT_MAX.as_nanos() as u64
        };
        if self.ledgers.iter().any(|ledger| late(&ledger.beat_ns)) {
            Some("an io thread does not answer")
        } else if self.scheduler_beat_ns.as_deref().is_some_and(late) {
            Some("the scheduler does not answer")
        } else {
            None
        }
    }
}

/// What the routes work with.
pub(crate) struct Management {
    pub(crate) health: Arc<Health>,
    pub(crate) ask: mpsc::Sender<Ask>,
    /// Read anew at every scrape.
    pub(crate) plane: Box<dyn Fn() -> Plane + Send + Sync>,
    scrapes: Mutex<Scrapes>,
}

struct Scrapes {
    labels: Labels,
    last: Functions,
}

impl Management {
    pub(crate) fn new(
        health: Arc<Health>,
        ask: mpsc::Sender<Ask>,
        plane: Box<dyn Fn() -> Plane + Send + Sync>,
        functions_max: usize,
    ) -> Self {
        let scrapes = Mutex::new(Scrapes {
            labels: Labels::new(functions_max),
            last: Functions::default(),
        });
        Self {
            health,
            ask,
            plane,
            scrapes,
        }
    }

    async fn functions(&self) -> Option<Functions> {
        let (answer, told) = oneshot::channel();
        self.ask.try_send(answer).ok()?;
        timeout(ASK_MAX, told).await.ok()?.ok()
    }

    /// The page; it takes a while with many functions, so not on the bridge's own thread.
    fn page(&self, functions: Option<Functions>) -> String {
        let mut scrapes = self.scrapes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(functions) = functions {
            scrapes.last = functions;
        }
        let Scrapes { labels, last } = &mut *scrapes;
        metrics::page(last, &(self.plane)(), labels)
    }
}

/// Serves until it is dropped.
pub(crate) async fn serve(
    listener: std::net::TcpListener,
    management: Arc<Management>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = Bounded {
        listener: TcpListener::from_std(listener)?,
        places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
    };
    axum::serve(listener, routes(management)).await
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
    let body = format!(r#"{{"error":"NOT_FOUND","message":"{message}"}}"#);
    json(StatusCode::NOT_FOUND, body)
}

fn json(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// A listener with so many connections at once, each with a deadline for silence.
struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let Ok(place) = self.places.clone().acquire_owned().await else {
                unreachable!("nobody closes the semaphore");
            };
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    let connection = Connection {
                        stream,
                        silent: Box::pin(sleep(SILENT_MAX)),
                        _place: place,
                    };
                    return (connection, from);
                }
                Err(error) => {
                    tracing::warn!(%error, "the management port could not accept a connection");
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends by itself when nothing moves on it.
struct Connection {
    stream: TcpStream,
    silent: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// The deadline moves on with each byte; past it, an operation that would wait fails.
    fn bounded<T>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            let next = tokio::time::Instant::now() + SILENT_MAX;
            self.silent.as_mut().reset(next);
            return result;
        }
        match self.silent.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.bounded(context, result)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
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
