//! Finds and kills processes of the node, if this machine is the node. This module finds a pod's processes by
//! a variable that only they have, and the API server by its pid file. It kills no process by its program's
//! name.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{kubectl_with, list, until};
use crate::tally::not_run;

/// Ends the test as not run if this machine is not the cluster's only node. The test must see and kill
/// processes of the node.
pub(crate) fn needs_this_machine() {
    let nodes = list("/api/v1/nodes");
    let addresses = nodes.iter().flat_map(|node| {
        let all = node["status"]["addresses"].as_array().into_iter().flatten();
        all.filter(|one| one["type"] == "InternalIP")
            .filter_map(|one| one["address"].as_str()?.parse::<IpAddr>().ok())
    });
    let is_ours = |ip: IpAddr| UdpSocket::bind((ip, 0)).is_ok();
    if nodes.len() != 1 || !addresses.into_iter().any(is_ours) {
        not_run(
            "the cluster's node is another machine, whose processes cannot be killed from here",
        );
    }
}

/// Returns the processes that have `NAME=value` in their environment.
pub(crate) fn processes(name: &str, value: &str) -> Vec<Pid> {
    let wanted = format!("{name}={value}").into_bytes();
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let has = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|one| one == wanted)
    };
    pids.filter(has).map(Pid::from_raw).collect()
}

/// Kills processes by SIGKILL, so they cannot report anything. Returns the number of killed processes.
pub(crate) fn kill_all(pids: &[Pid]) -> usize {
    pids.iter()
        .filter(|pid| kill(**pid, Signal::SIGKILL).is_ok())
        .count()
}

#[track_caller]
pub(crate) fn kill_pod(name: &str) {
    let killed = kill_all(&processes("NANOFAAS_POD", name));
    assert!(killed > 0, "{name} has no process on this machine");
}

/// Returns the address of this machine as a pod sees it.
pub(crate) fn own_address(pod: SocketAddr) -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect(pod).expect("a way to the pod");
    socket.local_addr().expect("an address").ip()
}

fn home() -> Option<PathBuf> {
    let set = std::env::var_os("CLUSTER_HOME").map(PathBuf::from);
    set.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/k8s-cluster")))
}

/// The API server's process. Dropping this value resumes the process if it was suspended, or restarts it if
/// it was killed.
pub(crate) struct ApiServer {
    pid_file: PathBuf,
    log: PathBuf,
    command: Vec<String>,
}

impl ApiServer {
    /// Returns `None` if the API server is no process of this machine that the tests may stop.
    pub(crate) fn find() -> Option<Self> {
        let home = home()?;
        let pid_file = home.join("run/kube-apiserver.pid");
        let pid = read_pid(&pid_file)?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = line
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty());
        let command: Vec<String> = words
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        if !command.first()?.ends_with("kube-apiserver") {
            return None;
        }
        Some(Self {
            pid_file,
            log: home.join("log/kube-apiserver.log"),
            command,
        })
    }

    fn pid(&self) -> Option<Pid> {
        let pid = read_pid(&self.pid_file)?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_ours = line.starts_with(self.command[0].as_bytes());
        is_ours.then_some(pid)
    }

    /// Suspends the API server. Its connections stay open, and it answers no request.
    pub(crate) fn stop(&self) {
        let pid = self.pid().expect("the API server runs");
        kill(pid, Signal::SIGSTOP).expect("it can be stopped");
    }

    /// Kills the API server, so connections are refused.
    pub(crate) fn kill(&self) {
        let pid = self.pid().expect("the API server runs");
        kill(pid, Signal::SIGKILL).expect("it can be killed");
        until("the API server is gone", Duration::from_secs(10), || {
            self.pid().is_none()
        });
    }

    /// Resumes the API server, or starts it with its former command, and waits until it answers.
    pub(crate) fn bring_back(&self) {
        match self.pid() {
            Some(pid) => kill(pid, Signal::SIGCONT).expect("it can go on"),
            None => self.start().expect("it can be started"),
        }
        until("the API server is back", Duration::from_secs(60), || {
            let args = ["get", "--raw", "/readyz", "--request-timeout=2s"];
            kubectl_with(&args, "").status.success()
        });
    }

    fn start(&self) -> io::Result<()> {
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(&self.log)?;
        // The API server must outlive this program and its terminal, so it gets a session of its own.
        let child = Command::new("setsid")
            .args(&self.command)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        fs::write(&self.pid_file, format!("{}\n", child.id()))
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        match self.pid() {
            Some(pid) => drop(kill(pid, Signal::SIGCONT)),
            None => drop(self.start()),
        }
    }
}

fn read_pid(file: &PathBuf) -> Option<Pid> {
    let text = fs::read_to_string(file).ok()?;
    text.trim().parse().ok().map(Pid::from_raw)
}
