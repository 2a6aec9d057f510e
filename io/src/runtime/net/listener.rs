//! Connections that clients make. It accepts by a system call of its own, after the loop has told that
//! there is one, on both systems: monoio's accept makes descriptors that started functions would inherit
//! (no `SOCK_CLOEXEC`), and one that is dropped after it has completed leaks its connection.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_nodelay;
use rustix::net::{SocketFlags, accept_with, getsockname};

use super::{EventLoop, Socket, Watch};

pub(crate) struct Listener {
    event_loop: Rc<EventLoop>,
    fd: TcpListener,
    watch: Watch,
}

impl Listener {
    /// Over one that does not block.
    pub(crate) fn new(event_loop: &Rc<EventLoop>, fd: TcpListener) -> io::Result<Self> {
        let watch = Watch::new(event_loop, fd.try_clone()?.into())?;
        Ok(Self {
            event_loop: event_loop.clone(),
            fd,
            watch,
        })
    }

    /// The next connection, and whether it is to an address of this machine alone.
    pub(crate) fn poll_accept(&self, cx: &Context<'_>) -> Poll<io::Result<(Socket, bool)>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            match accept_with(&self.fd, flags) {
                Ok(fd) => return Poll::Ready(self.accepted(fd)),
                // The client has left again, or a signal came.
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

    fn accepted(&self, fd: OwnedFd) -> io::Result<(Socket, bool)> {
        let _ = set_tcp_nodelay(&fd, true);
        let ip = getsockname(&fd)
            .ok()
            .and_then(|address| SocketAddr::try_from(address).ok())
            .map(|address| address.ip());
        let loopback = ip.as_ref().is_some_and(IpAddr::is_loopback);
        Ok((Socket::new(&self.event_loop, fd)?, loopback))
    }
}
