//! Runs a control plane on this machine, outside the cluster: a second plane next to the installed one, or a
//! plane with other settings in another namespace. The plane ends with the test that started it.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nanofaas_testkit::client::Request;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::until;
use crate::node::own_address;
use crate::plane::RunningPlane;

/// The time within which the plane must listen.
const BEGIN: Duration = Duration::from_secs(20);

pub(crate) struct Outside {
    child: Child,
    pub(crate) plane: RunningPlane,
}

impl Outside {
    /// Starts a plane that may have to wait for the Lease, so this function does not wait until the plane is
    /// ready. Pods reach the plane at the address of this machine in the network of `pod`.
    #[track_caller]
    pub(crate) fn start(namespace: &str, pod: SocketAddr, more: &[&str]) -> Self {
        let here = IpAddr::from([127, 0, 0, 1]);
        let plane = RunningPlane {
            pod: String::new(),
            uid: String::new(),
            api: free(here),
            management: free(here),
            internal: free(own_address(pod)),
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_nanofaas"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("NANOFAAS_")) {
            command.env_remove(name);
        }
        let child = command
            .args(["serve", "--backend", "kubernetes", "--namespace", namespace])
            .args(["--listen", &plane.api.to_string()])
            .args(["--management", &plane.management.to_string()])
            .args(["--internal-listen", &plane.internal.to_string()])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let outside = Self { child, plane };
        until("the plane outside listens", BEGIN, || {
            TcpStream::connect(outside.plane.management).is_ok()
        });
        outside
    }

    /// Returns the status code of `/readyz` or `/healthz`.
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

    /// Ends the plane with SIGTERM, as a cluster does, and waits until it has exited.
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

/// Returns an address with a free port.
fn free(address: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).expect("a port");
    listener.local_addr().expect("an address")
}
