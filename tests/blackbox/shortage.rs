//! This module helps tests to use up a small memory budget: by clients that read slowly or not at all, and by
//! calls that a pod does not answer.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use nanofaas_testkit::client::{RawClient, Request};
use nanofaas_testkit::control_plane::ControlPlane;
use nanofaas_testkit::pod::ScriptedPod;
use nanofaas_testkit::wait::{Gate, PATIENCE, eventually};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt,
};
use serde_json::json;

pub(crate) const MIB: u64 = 1 << 20;

/// Connects a client with a small receive buffer.
pub(crate) fn narrow(to: SocketAddr) -> TcpStream {
    let SocketAddr::V4(to) = to else {
        panic!("the plane listens on IPv4");
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("a socket");
    setsockopt(&fd, sockopt::RcvBuf, &4096).expect("a socket");
    connect(fd.as_raw_fd(), &SockaddrIn::from(to)).expect("a connection");
    fd.into()
}

pub(crate) fn unread(plane: &ControlPlane, request: &Request) -> RawClient {
    let mut wire = RawClient::over(narrow(plane.listen));
    wire.send(&request.bytes());
    wire
}

pub(crate) fn inflight(plane: &ControlPlane) -> u64 {
    plane.metrics().sum("nanofaas_inflight_bytes", &[]) as u64
}

/// Makes calls of the function `full`, which the pod does not answer, until almost `up_to` bytes are charged.
/// With several io threads a call may be refused earlier, because each io thread reserves bytes that the
/// others cannot use.
pub(crate) fn fill(plane: &ControlPlane, pod: &ScriptedPod, up_to: u64) -> Vec<RawClient> {
    let before = pod.calls().len();
    let mut held = Vec::new();
    for (size, charge) in [(900_000, 1_000_000), (200_000, 300_000), (2000, 60_000)] {
        let body = json!("a".repeat(size));
        while inflight(plane) + charge < up_to {
            let mut one = Request::invoke("full", &body).begin(plane.listen);
            let mut is_refused = false;
            eventually("the call reaches the pod or is refused", || {
                is_refused = !one.stays_quiet_for(Duration::from_millis(10));
                is_refused || pod.calls().len() > before + held.len()
            });
            if is_refused {
                one.answer().expect_error(429, "TOO_MANY_REQUESTS");
                break;
            }
            held.push(one);
        }
    }
    held
}

/// Opens the gate and reads the answers in parallel. If they were read one after another, the plane would
/// close the connections of clients that do not read.
pub(crate) fn release(held: Vec<RawClient>, gate: &Gate) {
    std::thread::scope(|scope| {
        for mut one in held {
            scope.spawn(move || {
                one.set_patience(PATIENCE);
                one.answer().expect(200);
            });
        }
        gate.open();
    });
}

/// Returns the highest value that `now` returns while `work` runs.
pub(crate) fn highest(now: impl Fn() -> u64 + Sync, work: impl FnOnce()) -> u64 {
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut high = 0;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                high = high.max(now());
                std::thread::sleep(Duration::from_millis(10));
            }
            high
        });
        let end = catch_unwind(AssertUnwindSafe(work));
        // The scope waits for the watching thread, so `over` must be set even if `work` has panicked.
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        let high = watch.join().expect("it watches");
        end.unwrap_or_else(|failure| resume_unwind(failure));
        high
    })
}

pub(crate) const ANSWER: usize = 2_000_000;
pub(crate) const SMALL_BUDGET: [&str; 8] = [
    "--rate-max-per-second",
    "off",
    "--max-response",
    "2MiB",
    "--inflight-bytes",
    "16MiB",
    "--log-level",
    "info",
];
