//! Listens for connections, from before the initialisation until the end of the drain. `connection`
//! reads the requests. `serve` calls `listen`, except in Job mode.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Ipv6V6Only;
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::announce::{self, Birth};
use crate::connection;
use crate::error::Error;
use crate::handler::{Handler, Init};
use crate::log;
use crate::pod::{CALLS_MAX, RuntimePod};
use crate::run::caught;
use crate::settings::{Listen, Settings};
use crate::unix_stream::Arrivals;

/// The limit of open connections. It is larger than `CALLS_MAX`, because each io thread of the
/// platform keeps idle connections.
const CONNECTIONS_MAX: usize = CALLS_MAX * 4;
/// The time limit of the drain: 10 s more than the longest call may take.
const DRAIN_MAX: Duration = Duration::from_secs(310);
const BACKLOG: u32 = 1024;
const DRAIN_LOOK: Duration = Duration::from_millis(20);

enum ServerListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

pub(crate) struct StopSignals {
    term: Signal,
    int: Signal,
}

impl StopSignals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    pub(crate) async fn come(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

pub(crate) async fn listen(
    settings: Settings,
    handler: Arc<dyn Handler>,
    init: Option<Init>,
    mut birth: Birth,
) -> ExitCode {
    let at = &settings.listen;
    let opened = bind(at)
        .await
        .and_then(|listener| Ok((listener, StopSignals::new().map_err(|e| e.to_string())?)));
    let (listener, mut signals) = match opened {
        Ok(opened) => opened,
        Err(message) => {
            log::line("error", &message, None, &[]);
            return ExitCode::FAILURE;
        }
    };
    let address = listener.address();
    let pod = Arc::new(RuntimePod::new(handler, settings.methods));
    // `/health` must answer 503 while the initialisation runs.
    tokio::spawn(accept(listener, Arc::clone(&pod)));
    let code = tokio::select! {
        result = initialise(init) => match result {
            Ok(()) => {
                birth = birth.ready_now();
                // The platform may send a call as soon as it has the ready report, so the pod must
                // be ready before.
                pod.ready(birth.init_ms());
                log::line("info", "ready", None, &[("address", &address)]);
                if let Some(url) = settings.ready_url {
                    tokio::spawn(announce::announce(url, birth));
                }
                signals.come().await;
                drain(&pod, &mut signals).await
            }
            Err(error) => {
                log::line("error", &format!("the initialisation failed: {error}"), None, &[]);
                ExitCode::FAILURE
            }
        },
        // The pod is not ready, so no call has begun.
        () = signals.come() => ExitCode::SUCCESS,
    };
    if let Listen::Unix(path) = at {
        // A client that connects after this must fail at once.
        let _ = std::fs::remove_file(path);
    }
    code
}

/// Runs the function's `init` on a thread of its own, so that this thread can answer `/health`.
pub(crate) async fn initialise(init: Option<Init>) -> Result<(), Error> {
    let Some(init) = init else {
        return Ok(());
    };
    let thread = tokio::task::spawn_blocking(move || caught(init).and_then(|result| result));
    let lost = |_| Err(Error::new("its thread was lost"));
    thread.await.unwrap_or_else(lost)
}

/// Waits until the pod is quiet, while its connections are served. A second signal ends the drain
/// at once.
async fn drain(pod: &RuntimePod, signals: &mut StopSignals) -> ExitCode {
    pod.stop();
    let quiet = async {
        while !pod.quiet() {
            sleep(DRAIN_LOOK).await;
        }
    };
    tokio::select! {
        ended = timeout(DRAIN_MAX, quiet) => {
            if ended.is_err() {
                log::line("warn", "calls still run at the end of the drain", None, &[]);
            }
            ExitCode::SUCCESS
        }
        () = signals.come() => ExitCode::from(130),
    }
}

async fn bind(listen: &Listen) -> Result<ServerListener, String> {
    match listen {
        Listen::Tcp(port) => match bind_all(*port) {
            Ok(listener) => Ok(ServerListener::Tcp(listener)),
            Err(error) => Err(format!("cannot listen on PORT {port}: {error}")),
        },
        Listen::Unix(path) => {
            remove_stale(path);
            match UnixListener::bind(path) {
                Ok(listener) => Ok(ServerListener::Unix(listener)),
                Err(error) => {
                    let path = path.display();
                    Err(format!("cannot listen on NANOFAAS_SOCKET {path}: {error}"))
                }
            }
        }
    }
}

/// Listens on all addresses of IPv6 and IPv4, or of IPv4 alone if the kernel has no IPv6.
fn bind_all(port: u16) -> io::Result<TcpListener> {
    let (socket, any) = match TcpSocket::new_v6() {
        Ok(socket) => {
            // The sysctl `net.ipv6.bindv6only` can change the default.
            setsockopt(&socket, Ipv6V6Only, &false)?;
            (socket, IpAddr::from(Ipv6Addr::UNSPECIFIED))
        }
        Err(error) if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => {
            (TcpSocket::new_v4()?, Ipv4Addr::UNSPECIFIED.into())
        }
        Err(error) => return Err(error),
    };
    // A restarted program must be able to listen while old connections are in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(any, port))?;
    socket.listen(BACKLOG)
}

/// Removes a socket file on which no process listens, because `bind` fails if the file exists.
fn remove_stale(path: &Path) {
    let refused = StdUnixStream::connect(path)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if refused {
        // If this fails, the next `bind` reports why.
        let _ = std::fs::remove_file(path);
    }
}

impl ServerListener {
    fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| "?".into(), |address| address.to_string()),
            Self::Unix(listener) => listener
                .local_addr()
                .ok()
                .and_then(|address| Some(address.as_pathname()?.display().to_string()))
                .unwrap_or_else(|| "?".into()),
        }
    }

    async fn take(&self, pod: &Arc<RuntimePod>, room: &Arc<Semaphore>) -> io::Result<()> {
        // Connections over the limit must wait in the kernel's backlog.
        let Ok(held) = Arc::clone(room).acquire_owned().await else {
            return Ok(());
        };
        let pod = Arc::clone(pod);
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                tokio::spawn(async move {
                    connection::serve(stream, pod).await;
                    drop(held);
                });
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let stream = Arrivals::of(stream)?;
                tokio::spawn(async move {
                    connection::serve(stream, pod).await;
                    drop(held);
                });
            }
        }
        Ok(())
    }
}

async fn accept(listener: ServerListener, pod: Arc<RuntimePod>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        if let Err(error) = listener.take(&pod, &room).await {
            // The process may have no free descriptor, or the peer may have left. A later accept
            // may succeed.
            log::line(
                "warn",
                &format!("cannot accept a connection: {error}"),
                None,
                &[],
            );
            sleep(Duration::from_millis(100)).await;
        }
    }
}
