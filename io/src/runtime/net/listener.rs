//! Accepts connections of clients. On both event loops this module makes the system call itself, and the loop
//! only reports that connections wait. monoio's accept is not used for two reasons. Its descriptors lack
//! `SOCK_CLOEXEC`, so started functions would inherit them. And an accept that is dropped after its
//! completion leaks its connection.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll};

use nanofaas_core::time::Nanos;
use nix::libc;
use nix::sys::socket::sockopt::{GetStruct, SetUsize};
use nix::sys::socket::{getsockopt, setsockopt};
use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_nodelay;
use rustix::net::{SocketFlags, accept_with, getsockname};

use super::{EventLoop, Socket, Watch};

/// The kernel takes at most this many bytes of an answer before it can send them (`TCP_NOTSENT_LOWAT`). The
/// bytes that it has taken therefore show how fast the client reads, and a client that reads nothing holds
/// little memory in the kernel. Connections inherit the limit from their listener.
const UNSENT_MAX: usize = 16 * 1024;

#[derive(Clone, Copy)]
struct NotSentLowWater;
nix::setsockopt_impl!(
    NotSentLowWater,
    libc::IPPROTO_TCP,
    libc::TCP_NOTSENT_LOWAT,
    usize,
    SetUsize
);

/// The first part of the kernel's `tcp_info`, which every kernel has.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpState {
    flags: [u8; 8],
    before: [u32; 11],
    /// The time since the last data came, or since the client connected.
    silent_ms: u32,
    between: [u32; 3],
    round_trip_us: u32,
}

#[derive(Clone, Copy)]
struct TcpInfo;
nix::getsockopt_impl!(
    TcpInfo,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    TcpState,
    GetStruct<TcpState>
);

pub(crate) struct Accepted {
    pub(crate) socket: Socket,
    pub(crate) is_loopback: bool,
    /// The round-trip time to the client, if it is known.
    pub(crate) round_trip: Option<Nanos>,
    /// How long the client waited to be accepted without sending anything, in whole seconds; 0 if it has sent
    /// something.
    pub(crate) silent_for: Nanos,
    /// The number of the connection's descriptor.
    pub(crate) descriptor: u64,
}

#[cfg(test)]
impl Accepted {
    /// Makes the value for a connection that a test has opened.
    pub(crate) fn own(socket: Socket) -> Self {
        Self {
            socket,
            is_loopback: true,
            round_trip: None,
            silent_for: Nanos::ZERO,
            descriptor: 0,
        }
    }
}

pub(crate) struct Listener {
    event_loop: Rc<EventLoop>,
    fd: TcpListener,
    watch: Watch,
}

impl Listener {
    /// Makes a listener of a listening socket that does not block.
    pub(crate) fn new(event_loop: &Rc<EventLoop>, fd: TcpListener) -> io::Result<Self> {
        let watch = Watch::new(event_loop, fd.try_clone()?.into())?;
        // An old kernel may lack the option; the listener works without it.
        let _ = setsockopt(&fd, NotSentLowWater, &UNSENT_MAX);
        Ok(Self {
            event_loop: event_loop.clone(),
            fd,
            watch,
        })
    }

    /// Returns the next connection of a client. If none waits, the task of `cx` is woken when one comes.
    pub(crate) fn poll_accept(&self, cx: &Context<'_>) -> Poll<io::Result<Accepted>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            match accept_with(&self.fd, flags) {
                Ok(fd) => return Poll::Ready(self.accepted(fd)),
                // The client has left before it was accepted, or a signal has come.
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => {
                    if self.watch.poll_readable(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                Err(why) => return Poll::Ready(Err(why.into())),
            }
        }
    }

    fn accepted(&self, fd: OwnedFd) -> io::Result<Accepted> {
        let _ = set_tcp_nodelay(&fd, true);
        let ip = getsockname(&fd)
            .ok()
            .and_then(|address| SocketAddr::try_from(address).ok())
            .map(|address| address.ip());
        let state = getsockopt(&fd, TcpInfo);
        Ok(Accepted {
            is_loopback: ip.as_ref().is_some_and(IpAddr::is_loopback),
            round_trip: state
                .ok()
                .map(|state| Nanos::from_us(state.round_trip_us.into())),
            silent_for: state.map_or(Nanos::ZERO, |state| silent_for(&fd, state)),
            descriptor: fd.as_raw_fd() as u64,
            socket: Socket::new(&self.event_loop, fd)?,
        })
    }
}

/// Returns for how long the client has sent nothing. The unread bytes are counted only if this time may be a
/// second or more, because the count costs a system call.
fn silent_for(fd: &OwnedFd, state: TcpState) -> Nanos {
    let seconds = state.silent_ms / 1000;
    if seconds > 0 && rustix::io::ioctl_fionread(fd).is_ok_and(|bytes| bytes == 0) {
        Nanos::from_s(seconds.into())
    } else {
        Nanos::ZERO
    }
}
