//! HTTP mode: the program serves HTTP itself, and the platform connects to it. This module starts
//! the program, reports that it is ready, restarts it when it ends, and passes a stop signal on as
//! SIGTERM. `main` calls `serve`; `once` uses `start` and `Address`.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime};

use nanofaas_runtime::announce::{Birth, announce};
use nanofaas_runtime::client::{self, ClientRequest, Url};
use nanofaas_runtime::{Error, log};
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::command::CommandLine;
use crate::ending::Ending;
use crate::group::{Groups, Leader, Strays};
use crate::relay::{ProgramFate, Relay};
use crate::tail::Tail;

/// The watchdog exits after this number of ends in a row, which is a crash loop.
const ENDS_MAX: u32 = 5;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// A run of this length or longer is not part of a crash loop, so the count of ends begins again.
const SOUND_LIFE: Duration = Duration::from_secs(10);
/// The pause after the first probe. Each further pause is longer by half, up to `PROBE_MAX`.
const PROBE_FIRST: Duration = Duration::from_millis(5);
const PROBE_MAX: Duration = Duration::from_millis(250);
const PROBE_WAIT: Duration = Duration::from_secs(2);
/// The pause after a program's end. In this pause, the last output is read from the pipe, and the
/// relay answers the calls of the ended program.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(20);
/// The time limit of a stop: 10 s more than the longest call may take.
const STOP_WAIT: Duration = Duration::from_secs(310);

#[derive(Clone)]
pub(crate) struct Address {
    /// `NANOFAAS_SOCKET`, to which the platform connects. If it is none, the platform connects to
    /// `port`.
    socket: Option<PathBuf>,
    port: u16,
    /// The path of the readiness probe. The platform probes the same path.
    health_path: String,
}

enum Life {
    Ended(Ending),
    Stopped,
}

pub(crate) fn serve(line: &CommandLine) -> ExitCode {
    let started = SystemTime::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| {
            let code = runtime.block_on(supervise(line, started));
            runtime.shutdown_background();
            code
        });
    result.unwrap_or_else(|message| {
        log::line("error", &message, None, &[]);
        ExitCode::FAILURE
    })
}

async fn supervise(line: &CommandLine, started: SystemTime) -> Result<ExitCode, String> {
    line.check().map_err(|error| error.message().to_owned())?;
    let text = |error: std::io::Error| error.to_string();
    let groups = Groups::new(Strays::WithTheLast).map_err(text)?;
    let mut term = signal(SignalKind::terminate()).map_err(text)?;
    let mut int = signal(SignalKind::interrupt()).map_err(text)?;
    let address = Address::from_environment()?;
    let mut ready_url = std::env::var("NANOFAAS_READY_URL").ok();
    let mut ends = 0;
    let mut has_served = false;
    loop {
        address.clear();
        let tail = Tail::default();
        let begun = Instant::now();
        let (ended, fate) = watch::channel(None);
        // The relay stays open until the program has ended, also while the program stops.
        let mut relay = None;
        let mut leader = start(line, &groups, &address, &tail)?;
        let life = tokio::select! {
            life = live(&mut leader, &address, &mut ready_url, (&mut relay, &fate), started, &mut has_served) => life,
            _ = term.recv() => Life::Stopped,
            _ = int.recv() => Life::Stopped,
        };
        let ending = match life {
            Life::Ended(ending) => ending,
            Life::Stopped => return Ok(stop(leader, &ended).await),
        };
        // Report the end before the pause, because the relay answers waiting calls in the pause.
        ended.send_replace(Some(ending.lost("")));
        if begun.elapsed() >= SOUND_LIFE {
            ends = 0;
        }
        ends += 1;
        sleep(LAST_WORDS).await;
        // After this drop no process listens on the socket, so the platform begins no call before
        // the next start.
        drop(relay);
        let message = format!("{} {ending}{}", line.program(), tail.suffix());
        // Do not restart a program that never served. It would most likely fail again while calls wait for
        // it.
        if !has_served && !address.was_bound() {
            return Err(format!("it ended before it served: {message}"));
        }
        if ends >= ENDS_MAX {
            return Err(format!("crash loop, {ends} times in a row: {message}"));
        }
        log::line("warn", &format!("started anew: {message}"), None, &[]);
        tokio::select! {
            () = sleep(BACKOFF_FIRST * 2_u32.pow(ends - 1)) => {}
            _ = term.recv() => return Ok(ExitCode::SUCCESS),
            _ = int.recv() => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// Starts the program. Its stderr is copied to the stderr of this process, and `tail` keeps the
/// last lines.
pub(crate) fn start(
    line: &CommandLine,
    groups: &Groups,
    address: &Address,
    tail: &Tail,
) -> Result<Leader, String> {
    let mut command = line.command();
    // Spring Boot reads SERVER_PORT.
    command
        .env("PORT", address.port.to_string())
        .env("SERVER_PORT", address.port.to_string())
        .stderr(Stdio::piped());
    let mut started = groups
        .start(&mut command)
        .map_err(|error| format!("cannot start {}: {error}", line.program()))?;
    if let Some(stderr) = started.stderr.take() {
        let tail = tail.clone();
        tokio::spawn(async move { tail.follow(stderr, |line| eprintln!("{line}")).await });
    }
    Ok(started.leader)
}

/// Watches the program to its end. Only the first program that is ready gets a ready report.
async fn live(
    leader: &mut Leader,
    address: &Address,
    ready_url: &mut Option<String>,
    (relay, fate): (&mut Option<Relay>, &ProgramFate),
    started: SystemTime,
    has_served: &mut bool,
) -> Life {
    let loaded = SystemTime::now();
    let serving = async {
        if address.relayed_until_ready().await {
            *relay = address.open_relay(fate);
        }
        *has_served = true;
        if let Some(url) = ready_url.take() {
            let birth = Birth::new(started, loaded).ready_now();
            tokio::spawn(announce(url, birth));
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ending = leader.ended() => Life::Ended(ending),
        () = serving => Life::Stopped,
    }
}

/// Sends SIGTERM to the program alone, and waits while it finishes its calls. When it ends, the
/// rest of its group is killed.
async fn stop(mut leader: Leader, ended: &watch::Sender<Option<Error>>) -> ExitCode {
    leader.signal(Signal::SIGTERM);
    match timeout(STOP_WAIT, leader.ended()).await {
        Ok(ending) => {
            ended.send_replace(Some(ending.lost("")));
            sleep(LAST_WORDS).await;
        }
        Err(_) => log::line(
            "warn",
            "the program ignored SIGTERM: it is killed",
            None,
            &[],
        ),
    }
    ExitCode::SUCCESS
}

impl Address {
    /// Returns `NANOFAAS_SOCKET` with a free port. If the variable is not set, returns the port of
    /// `PORT`, by default 8080.
    pub(crate) fn from_environment() -> Result<Self, String> {
        let get = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let socket = get("NANOFAAS_SOCKET").map(PathBuf::from);
        let port = match (&socket, get("PORT")) {
            (Some(_), _) => free_port()?,
            (None, Some(port)) => port
                .parse()
                .map_err(|_| format!("PORT must be a whole number up to 65535, is {port:?}"))?,
            (None, None) => 8080,
        };
        Ok(Self {
            socket,
            port,
            health_path: health_path(),
        })
    }

    /// Returns a free port that the platform does not know, so that only this process calls the
    /// program.
    pub(crate) fn private() -> Result<Self, String> {
        Ok(Self {
            socket: None,
            port: free_port()?,
            health_path: health_path(),
        })
    }

    /// Removes the socket of an ended program, because the next program could not bind to it.
    fn clear(&self) {
        if let Some(socket) = &self.socket {
            // Usually there is no such file.
            let _ = std::fs::remove_file(socket);
        }
    }

    /// Returns whether the program opened the socket. If it did, calls may have reached the program before
    /// the probe of this process succeeded, because the platform probes the socket, too.
    fn was_bound(&self) -> bool {
        self.socket.as_deref().is_some_and(Path::exists)
    }

    pub(crate) fn url(&self, target: &str) -> Url {
        Url::local(self.port, target)
    }

    /// Waits until the program answers. Returns true if the program answers on the port although the platform
    /// connects to the socket. In that case the program needs a relay.
    pub(crate) async fn relayed_until_ready(&self) -> bool {
        let mut wait = PROBE_FIRST;
        loop {
            if let Some(socket) = &self.socket
                && answers(&Url::unix(socket, &self.health_path)).await
            {
                return false;
            }
            if answers(&self.url(&self.health_path)).await {
                return self.socket.is_some();
            }
            sleep(wait).await;
            wait = (wait * 3 / 2).min(PROBE_MAX);
        }
    }

    fn open_relay(&self, fate: &ProgramFate) -> Option<Relay> {
        let socket: &Path = self.socket.as_deref()?;
        match Relay::open(socket, self.port, fate.clone()) {
            Ok(relay) => Some(relay),
            Err(error) => {
                let message = format!("cannot listen on {}: {error}", socket.display());
                log::line("error", &message, None, &[]);
                None
            }
        }
    }
}

fn health_path() -> String {
    let path = std::env::var("NANOFAAS_HEALTH_PATH").ok();
    path.filter(|path| path.starts_with('/'))
        .unwrap_or_else(|| "/health".to_owned())
}

/// Returns whether the program is ready. 404 and 405 count, too, because a program need not know
/// the path; the platform has the same rule.
async fn answers(url: &Url) -> bool {
    let answer = client::request(url, ClientRequest::GET, PROBE_WAIT).await;
    answer.is_ok_and(|answer| matches!(answer.status, 200..=299 | 404 | 405))
}

fn free_port() -> Result<u16, String> {
    // The listener is closed at once, so that the program can bind to the port.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    port.map(|address| address.port())
        .map_err(|error| format!("cannot find a free port: {error}"))
}
