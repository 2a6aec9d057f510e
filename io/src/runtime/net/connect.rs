//! Opens connections to pods. A caller cancels a TCP connect by dropping its future. `pod_pool` keeps the
//! connections.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::{EventLoop, Socket, epoll, uring};

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

pub(crate) async fn connect_tcp(event_loop: &EventLoop, address: SocketAddr) -> io::Result<Socket> {
    Ok(match event_loop {
        EventLoop::Uring(uring) => Socket::Uring(uring::connect_tcp(uring, address).await?),
        EventLoop::Epoll(epoll) => Socket::Epoll(epoll::connect_tcp(epoll, address).await?),
    })
}

/// Connects to a Unix socket. Fails with `WouldBlock` if the listener's queue is full. A Unix socket that
/// does not block connects at once or fails, so the event loop is not needed. Through io_uring, a full queue
/// would block a thread of the kernel until the queue has room.
pub(crate) fn connect_unix(event_loop: &EventLoop, path: &Path) -> io::Result<Socket> {
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    connect(&fd, &SocketAddrUnix::new(path)?)?;
    Socket::new(event_loop, fd)
}
