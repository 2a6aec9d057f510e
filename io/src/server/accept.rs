//! Accepts connections: each io thread has one listener for each port, and each connection has its own task.
//! When descriptors run out, the clients that have been idle for the longest are closed. When no client is
//! idle, new clients wait to be accepted, and a log line reports this. No connection with a call is closed
//! here.

use std::future::poll_fn;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, listen, setsockopt,
    socket, sockopt,
};

use nanofaas_core::descriptors;
use nanofaas_core::time::Nanos;

use crate::links::Links;
use crate::runtime::net::Listener;
use crate::runtime::phase::ShutdownPhase;
use crate::runtime::timers::Alarm;
use crate::server::client_conn::{ClientConn, ListenerPort};
use crate::server::http_function;
use crate::server::serve::{self, RequestPools};
use crate::state::descriptors::LogLimit;

/// The largest number of connections that wait in the kernel to be accepted. `net.core.somaxconn` may lower
/// it.
const BACKLOG: i32 = 4096;
/// How long the accepting task waits before it checks again whether a descriptor is free.
const POLL_EVERY: Nanos = Nanos::from_ms(20);
/// After an idle client is closed, its descriptor is awaited for at most this many iterations of the event
/// loop.
const CLOSED_WITHIN: usize = 8;
/// The number of connections that are accepted in a row before other tasks are polled.
const BURST: u32 = 64;

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen on {address}: {why}")]
    Refused { address: SocketAddr, why: String },
    #[error("cannot listen: {0}")]
    System(#[from] std::io::Error),
}

/// Opens a listener without SO_REUSEPORT, so that no other socket can listen on its address.
pub fn listener(address: SocketAddr) -> std::io::Result<StdListener> {
    Ok(bound(address, false)?.into())
}

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
        SocketAddr::V6(v6) => {
            // With the address `::` the socket takes IPv4, too, even if `net.ipv6.bindv6only` is set on the
            // machine.
            setsockopt(&fd, sockopt::Ipv6V6Only, &false)?;
            bind(fd.as_raw_fd(), &SockaddrIn6::from(v6))?;
        }
    }
    let backlog = Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN);
    listen(&fd, backlog)?;
    Ok(fd)
}

/// Opens `count` listeners on one address. The address is bound without SO_REUSEPORT first, because that bind
/// fails if another process uses the port. With SO_REUSEPORT the bind could succeed even then.
pub(crate) fn listeners(
    address: SocketAddr,
    count: usize,
) -> Result<Vec<StdListener>, ListenError> {
    let fail = |error: nix::Error| {
        let why = match error {
            nix::Error::EADDRINUSE => "another process listens there (a second control plane?); \
                                       stop it or choose another address"
                .to_owned(),
            nix::Error::EACCES => "a port below 1024 needs a privilege".to_owned(),
            nix::Error::EADDRNOTAVAIL => "this machine has no such address".to_owned(),
            other => other.desc().to_owned(),
        };
        ListenError::Refused { address, why }
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

/// Waits until the next client would get a descriptor that is not kept back for pods, the bridge and health
/// checks. Meanwhile idle clients are closed, because the last accepted client has taken a descriptor that is
/// kept back.
async fn until_room(thread: &Links, alarm: &Alarm) {
    while thread.phase.get() != ShutdownPhase::Stopping && !has_room(thread) {
        if !until_closed(thread).await {
            thread.want_descriptor();
            alarm.until(thread.now() + POLL_EVERY).await;
        }
    }
}

/// Closes the client of this thread that has been idle for the longest, and waits a few iterations for its
/// descriptor. Returns false if no client is idle.
async fn until_closed(thread: &Links) -> bool {
    let is_closing = thread.descriptors.make_room(thread.now());
    for _ in 0..CLOSED_WITHIN {
        if !is_closing || has_room(thread) {
            break;
        }
        thread.event_loop.yield_now().await;
    }
    is_closing
}

/// Returns whether the next client would get a descriptor that is not kept back.
fn has_room(thread: &Links) -> bool {
    // The kernel gives the lowest free number, so a duplicate has the number that the next client would get.
    let next = rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 0);
    next.is_ok_and(|next| !thread.descriptors.keep_back(next.as_raw_fd() as u64))
}

/// Accepts connections until the thread stops.
pub(crate) async fn run(thread: Rc<Links>, listener: StdListener, port: ListenerPort) {
    let event_loop = &thread.event_loop;
    let listener = Listener::new(event_loop, listener).expect("a listener is a socket");
    let pools = Rc::new(RequestPools::default());
    let alarm = thread.alarms.alarm();
    let paused = LogLimit::default();
    let mut burst = 0;
    loop {
        burst = (burst + 1) % BURST;
        if burst == 0 {
            event_loop.yield_now().await;
        }
        match poll_fn(|cx| listener.poll_accept(cx)).await {
            Ok(accepted) => {
                let is_among_the_last = thread.descriptors.keep_back(accepted.descriptor);
                let conn = ClientConn::new(thread.clone(), accepted, port);
                event_loop.spawn(serve::serve(
                    conn,
                    pools.clone(),
                    serve::answer,
                    http_function::answer,
                ));
                if is_among_the_last {
                    until_room(&thread, &alarm).await;
                }
            }
            Err(error) => {
                // If no descriptor is free, `accept` fails even if no client waits, because the kernel
                // allocates the descriptor first. An idle client is closed in that case, too.
                if descriptors::are_missing(&error) && until_closed(&thread).await {
                    continue;
                }
                // New clients wait in the backlog until the next try.
                let now = thread.now();
                if paused.take_turn(now) {
                    tracing::error!(
                        "no new connection can be taken: {error}; clients wait to be accepted \
                         until one goes, raise the limit of open files"
                    );
                }
                thread.want_descriptor();
                alarm.until(now + POLL_EVERY).await;
            }
        }
        if thread.phase.get() == ShutdownPhase::Stopping {
            return;
        }
    }
}
