//! A control plane of this machine, outside the cluster: a second one beside the installed one, or
//! one with settings of its own in another namespace. It ends with the test that started it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::cluster::until;
use crate::node::own_address;
use crate::plane::Plane;
use crate::wire::Request;

/// How long it may take to say where it listens.
const BEGIN: Duration = Duration::from_secs(20);

/// A running process, and what it is asked at.
pub(crate) struct Outside {
    child: Child,
    pub(crate) plane: Plane,
}

impl Outside {
    /// Starts one; pods reach it at the address that this machine has towards `pod`.
    #[track_caller]
    pub(crate) fn start(namespace: &str, pod: SocketAddr, more: &[&str]) -> Self {
        let internal = format!("{}:0", own_address(pod));
        let mut command = Command::new(env!("CARGO_BIN_EXE_nanofaas"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("NANOFAAS_")) {
            command.env_remove(name);
        }
        let mut child = command
            .args(["serve", "--backend", "kubernetes", "--namespace", namespace])
            .args(["--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"])
            .args(["--internal-listen", &internal])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (say, lines) = channel();
        let log = BufReader::new(child.stderr.take().expect("a pipe"));
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let _ = say.send(line);
            }
        });
        match addresses(&lines) {
            Some([api, management, internal]) => {
                let plane = Plane {
                    pod: String::new(),
                    uid: String::new(),
                    api,
                    management,
                    internal,
                };
                Self { child, plane }
            }
            None => {
                let _ = child.kill();
                panic!("the plane outside never said where it listens");
            }
        }
    }

    /// Status of `/readyz` or `/healthz`.
    pub(crate) fn health(&self, path: &str) -> u16 {
        Request::get(path).send(self.plane.management).status
    }

    #[track_caller]
    pub(crate) fn wait_until_ready(&self) {
        until(
            "the plane outside is ready",
            Duration::from_secs(40),
            || self.health("/readyz") == 200,
        );
    }

    /// Ends it as a cluster would, and waits for that.
    pub(crate) fn end(mut self) {
        self.ask_to_end();
        let _ = self.child.wait();
    }

    fn ask_to_end(&self) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a pid"));
        let _ = kill(pid, Signal::SIGTERM);
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.ask_to_end();
            let end = Instant::now() + Duration::from_secs(10);
            while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// API, management and internal port, from the line that has them.
fn addresses(lines: &Receiver<String>) -> Option<[SocketAddr; 3]> {
    let end = Instant::now() + BEGIN;
    loop {
        let left = end.checked_duration_since(Instant::now())?;
        let line = lines.recv_timeout(left).ok()?;
        let Ok(line) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        let find = |field: &str| {
            let text = line[field].as_str()?;
            text.strip_prefix("http://").unwrap_or(text).parse().ok()
        };
        if let (Some(api), Some(management), Some(internal)) =
            (find("listen"), find("management"), find("internalListen"))
        {
            return Some([api, management, internal]);
        }
    }
}
