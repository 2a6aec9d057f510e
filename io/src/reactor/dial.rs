//! Making connections: those of clients accepted, those to pods opened. It names no address by itself
//! and keeps no connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::sockopt::{set_tcp_nodelay, socket_error};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, connect, getsockname,
    socket_with,
};

use super::{Direction, Reactor, Socket};

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// The next connection that somebody made to a listener, and whether it is to an address of this
/// machine alone.
pub(crate) fn accept(
    reactor: &Rc<Reactor>,
    listener: &Socket,
    cx: &Context<'_>,
) -> Poll<io::Result<(Socket, bool)>> {
    loop {
        match listener.with_fd(|fd| accept_with(fd, FLAGS)) {
            Ok(fd) => return Poll::Ready(accepted(reactor, fd)),
            // Whoever connected has left again, or a signal came.
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(Errno::AGAIN) => {
                listener.not_ready(Direction::In);
                if listener.poll_ready(Direction::In, cx).is_pending() {
                    return Poll::Pending;
                }
            }
            Err(why) => return Poll::Ready(Err(why.into())),
        }
    }
}

fn accepted(reactor: &Rc<Reactor>, fd: OwnedFd) -> io::Result<(Socket, bool)> {
    let _ = set_tcp_nodelay(&fd, true);
    let ip = getsockname(&fd)
        .ok()
        .and_then(|address| SocketAddr::try_from(address).ok())
        .map(|address| address.ip());
    let loopback = ip.as_ref().is_some_and(IpAddr::is_loopback);
    Ok((Socket::new(reactor, fd)?, loopback))
}

pub(crate) async fn connect_tcp(reactor: &Rc<Reactor>, address: SocketAddr) -> io::Result<Socket> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let fd = socket_with(family, SocketType::STREAM, FLAGS, None)?;
    set_tcp_nodelay(&fd, true)?;
    let begun = connect(&fd, &address);
    connected(reactor, fd, begun).await
}

/// `WouldBlock` where the listener's queue is full.
pub(crate) async fn connect_unix(reactor: &Rc<Reactor>, path: &Path) -> io::Result<Socket> {
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    let begun = connect(&fd, &SocketAddrUnix::new(path)?);
    connected(reactor, fd, begun).await
}

async fn connected(
    reactor: &Rc<Reactor>,
    fd: OwnedFd,
    begun: Result<(), Errno>,
) -> io::Result<Socket> {
    match begun {
        Ok(()) => Socket::new(reactor, fd),
        Err(Errno::INPROGRESS | Errno::INTR) => {
            let socket = Socket::connecting(reactor, fd)?;
            std::future::poll_fn(|cx| socket.poll_ready(Direction::Out, cx)).await;
            socket.with_fd(|fd| socket_error(fd))??;
            socket.is_connected();
            Ok(socket)
        }
        Err(why) => Err(why.into()),
    }
}
