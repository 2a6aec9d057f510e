//! Listening: one listener for each io thread and port, each connection a task of its own.
//! Running out of descriptors pauses accepting, with a log line, and stops nothing.

use std::future::poll_fn;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, listen, setsockopt,
    socket, sockopt,
};

use crate::client;
use crate::conn::{Conn, Port};
use crate::rooms::Rooms;
use crate::runtime::net::Listener;
use crate::start::StartError;
use crate::thread::{Phase, Thread};

const BACKLOG: i32 = 4096;
const PAUSE_NS: u64 = 100_000_000;
/// Connections in a row before others have their turn.
const BURST: u32 = 64;

fn bound(address: SocketAddr, shared: bool) -> nix::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if shared {
        setsockopt(&fd, sockopt::ReusePort, &true)?;
    }
    match address {
        SocketAddr::V4(v4) => bind(fd.as_raw_fd(), &SockaddrIn::from(v4))?,
        SocketAddr::V6(v6) => bind(fd.as_raw_fd(), &SockaddrIn6::from(v6))?,
    }
    let backlog = Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN);
    listen(&fd, backlog)?;
    Ok(fd)
}

/// `count` listeners on one address. Sockets that share a port do not see a stranger that shares it
/// too, so a port that is in use is found with a socket that does not share.
pub(crate) fn listeners(address: SocketAddr, count: usize) -> Result<Vec<StdListener>, StartError> {
    let fail = |error: nix::Error| {
        let why = match error {
            nix::Error::EADDRINUSE => "another process listens there (a second control plane?); \
                                       stop it or choose another address"
                .to_owned(),
            nix::Error::EACCES => "a port below 1024 needs a privilege".to_owned(),
            nix::Error::EADDRNOTAVAIL => "this machine has no such address".to_owned(),
            other => other.desc().to_owned(),
        };
        StartError::Listen { address, why }
    };
    let first = bound(address, false).map_err(fail)?;
    if count == 1 {
        return Ok(vec![first.into()]);
    }
    let first: StdListener = first.into();
    let address = first.local_addr()?;
    drop(first);
    (0..count)
        .map(|_| bound(address, true).map(Into::into).map_err(fail))
        .collect()
}

/// Accepts connections until the thread stops.
pub(crate) async fn run(thread: Rc<Thread>, listener: StdListener, port: Port) {
    let event_loop = &thread.event_loop;
    let listener = Listener::new(event_loop, listener).expect("a listener is a socket");
    let rooms = Rc::new(Rooms::default());
    let alarm = thread.alarms.alarm();
    let mut paused = false;
    let mut burst = 0;
    loop {
        burst = (burst + 1) % BURST;
        if burst == 0 {
            event_loop.yield_now().await;
        }
        match poll_fn(|cx| listener.poll_accept(cx)).await {
            Ok((socket, loopback)) => {
                if paused {
                    paused = false;
                    tracing::info!("accepting connections again");
                }
                let conn = Conn::new(thread.clone(), socket, port, loopback);
                event_loop.spawn(client::serve(conn, rooms.clone(), client::answer));
            }
            Err(error) => {
                // Out of descriptors, mostly: whoever waits in the backlog waits a little longer.
                if !paused {
                    paused = true;
                    tracing::error!("accepting connections is paused: {error}");
                }
                alarm.until(thread.now_ns() + PAUSE_NS).await;
            }
        }
        if thread.phase.get() == Phase::Stopping {
            return;
        }
    }
}
