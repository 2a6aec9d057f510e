//! Starts a contender: its folder, ports and processes, ready for calls. Dropping the running contender ends
//! the processes and removes the folder. This module makes no load. Comparisons and footprints start
//! contenders.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::ask::{self, BlockingConnection};
use crate::contender::{Contender, PrepareStep, ProcessSpec};
use crate::load::RequestTarget;
use crate::machine::MemoryUse;
use crate::process::ServerProcess;
use crate::variables::Variables;
use crate::watcher::WatchedProcess;

/// Where the programs of contenders are, and the cores that they may use.
#[derive(Clone, Debug)]
pub(crate) struct Installation {
    /// The folder of the repository, which is the value of `{root}`.
    pub(crate) root: PathBuf,
    /// The folder of the release binaries, which is the value of `{bin}`.
    pub(crate) bin: PathBuf,
    /// The cores of processes for which the scenario names none: all cores that this tool may use.
    pub(crate) cores: Vec<usize>,
}

pub(crate) struct RunningContender {
    /// The processes in the order of their start; they are ended in the reverse order.
    servers: Vec<ServerProcess>,
    measured: Vec<bool>,
    names: Vec<String>,
    pub(crate) url: String,
    /// The time from the start of each process until its `ready` URL answered; nearly 0 if it has no such
    /// URL.
    pub(crate) ready_after: Vec<Duration>,
    /// The start of the first process that has no `ready` URL. The tool does not wait until such a process is
    /// ready.
    pub(crate) unawaited: Option<Instant>,
    // This field is the last, so that the folder is removed after the processes have ended.
    _folder: ContenderFolder,
}

const START_MAX: Duration = Duration::from_secs(30);

impl RunningContender {
    /// Starts the processes one after another, waits until each process with a `ready` URL is ready, and
    /// sends the requests of the contender's `prepare`.
    pub(crate) fn set_up(
        contender: &Contender,
        set: &BTreeMap<String, String>,
        cores: &BTreeMap<String, Vec<usize>>,
        installation: &Installation,
    ) -> Result<Self, String> {
        let folder = ContenderFolder::new()?;
        let mut variables = Variables::default();
        for (name, value) in contender.set.iter().chain(set) {
            variables.set(name, value.as_str());
        }
        variables.set("root", installation.root.to_string_lossy());
        variables.set("bin", installation.bin.to_string_lossy());
        variables.set("user", user()?);
        variables.set("folder", folder.0.to_string_lossy());
        for (name, port) in contender
            .ports
            .iter()
            .zip(free_ports(contender.ports.len())?)
        {
            variables.set(&format!("port.{name}"), port.to_string());
        }
        for file in &contender.files {
            fill_file(&contender.home.join(file), &folder.0, &variables)?;
        }
        let mut running = Self {
            servers: Vec::new(),
            measured: contender
                .processes
                .iter()
                .map(|process| process.measured)
                .collect(),
            names: contender
                .processes
                .iter()
                .map(|process| process.name.clone())
                .collect(),
            url: variables.fill(&contender.url)?,
            ready_after: Vec::new(),
            unawaited: None,
            _folder: folder,
        };
        for process in &contender.processes {
            let cores = cores.get(&process.name).unwrap_or(&installation.cores);
            running.start(process, cores, &variables)?;
        }
        for step in &contender.prepare {
            prepare(step, &mut variables)?;
        }
        Ok(running)
    }

    fn start(
        &mut self,
        process: &ProcessSpec,
        cores: &[usize],
        variables: &Variables,
    ) -> Result<(), String> {
        let words = variables.words(&process.command)?;
        let (program, arguments) = words
            .split_first()
            .ok_or_else(|| format!("process {}: its command is empty", process.name))?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self._folder.0);
        // Variables of the user's shell must not configure a server of a comparison.
        for (name, _) in std::env::vars().filter(|(name, _)| sets_up(name)) {
            command.env_remove(name);
        }
        for (name, value) in &process.environment {
            let value = variables.fill(value)?;
            if !value.is_empty() {
                command.env(name, value);
            }
        }
        let ready = process.ready.as_deref();
        let ready = ready.map(|url| variables.fill(url)).transpose()?;
        let begun = Instant::now();
        let server = ServerProcess::start(&process.name, command, cores, &self._folder.0)?;
        if let Some(ready) = ready {
            await_ready(&process.name, &server, &ready, begun + START_MAX)?;
        } else {
            self.unawaited.get_or_insert(begun);
        }
        self.ready_after.push(begun.elapsed());
        self.servers.push(server);
        Ok(())
    }

    /// Returns the processes that a run has to watch.
    pub(crate) fn watched(&self) -> Vec<WatchedProcess> {
        let servers = self.names.iter().zip(&self.servers);
        servers
            .map(|(name, server)| WatchedProcess {
                name: name.clone(),
                pid: server.pid(),
            })
            .collect()
    }

    /// Returns for each process whether it counts as the contender's own.
    pub(crate) fn measured(&self) -> &[bool] {
        &self.measured
    }

    pub(crate) fn memory(&self) -> MemoryUse {
        let mut sum = MemoryUse::default();
        for (server, measured) in self.servers.iter().zip(&self.measured) {
            if *measured {
                sum += MemoryUse::of(server.pid());
            }
        }
        sum
    }

    /// Fails if a process has ended since its start.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (name, server) in self.names.iter().zip(&self.servers) {
            if !server.is_alive() {
                return Err(format!(
                    "{name} ended during the run:\n{}",
                    server.last_words()
                ));
            }
        }
        Ok(())
    }
}

impl Drop for RunningContender {
    fn drop(&mut self) {
        while self.servers.pop().is_some() {}
    }
}

/// Returns whether an environment variable changes what nanofaas or a Python function does.
fn sets_up(name: &str) -> bool {
    name.starts_with("NANOFAAS_") || name.starts_with("PYTHON")
}

fn await_ready(name: &str, server: &ServerProcess, url: &str, end: Instant) -> Result<(), String> {
    if ask::until_ready(url, end, || server.is_alive())? {
        return Ok(());
    }
    let words = server.last_words();
    Err(format!(
        "{name} did not become ready at {url}; its last lines:\n{words}"
    ))
}

/// Returns free ports. All listeners stay open until the last port is found, so the ports differ.
fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let listeners: Result<Vec<TcpListener>, _> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect();
    let listeners = listeners.map_err(|error| format!("no free port on loopback: {error}"))?;
    let ports = listeners
        .iter()
        .map(|listener| listener.local_addr().map(|at| at.port()));
    ports
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

/// Returns the name of the user who runs this tool. nginx needs the name in its settings, because it switches
/// to another user if root starts it.
fn user() -> Result<String, String> {
    let uid = nix::unistd::geteuid();
    match nix::unistd::User::from_uid(uid) {
        Ok(Some(user)) => Ok(user.name),
        _ => Err(format!("user {uid} has no name; add it to /etc/passwd")),
    }
}

fn fill_file(from: &Path, folder: &Path, variables: &Variables) -> Result<(), String> {
    let named = |error: std::io::Error| format!("{}: {error}", from.display());
    let text = std::fs::read_to_string(from).map_err(named)?;
    let name = from
        .file_name()
        .ok_or_else(|| format!("{} is no file", from.display()))?;
    let text = variables
        .fill(&text)
        .map_err(|error| format!("{}: {error}", from.display()))?;
    std::fs::write(folder.join(name), text).map_err(named)
}

fn prepare(step: &PrepareStep, variables: &mut Variables) -> Result<(), String> {
    let repeat = variables.fill(&step.repeat)?;
    let repeat: u32 = repeat
        .parse()
        .map_err(|_| format!("repeat: {repeat:?} is no number of requests"))?;
    let mut line: Option<BlockingConnection> = None;
    for number in 0..repeat {
        variables.set("n", number.to_string());
        let target = RequestTarget {
            url: variables.fill(&step.url)?,
            method: step.method.clone(),
            body: step
                .body
                .as_deref()
                .map(|body| variables.fill(body))
                .transpose()?,
            ..RequestTarget::default()
        };
        let url = target.url.clone();
        let (address, request) = ask::request(target)?;
        let answer = match &mut line {
            Some(line) => line.ask(&request, false),
            None => BlockingConnection::open(&address)
                .and_then(|opened| line.insert(opened).ask(&request, false)),
        };
        let (status, text) = answer.map_err(|error| format!("{} {url}: {error}", step.method))?;
        if !(200..300).contains(&status) {
            return Err(format!(
                "{} {url}: {}",
                step.method,
                String::from_utf8_lossy(&text)
            ));
        }
    }
    Ok(())
}

/// A temporary folder. Its name is short, because Linux limits the length of a Unix socket's path.
struct ContenderFolder(PathBuf);

impl ContenderFolder {
    fn new() -> Result<Self, String> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("lt-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for ContenderFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
