//! Drives one keep-alive connection with at most one request in flight. The connect before the run blocks,
//! and no later operation does. This module knows no plan and reads no clock. The load client calls it.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, UnixAddr,
    connect, getsockopt, recv, send, setsockopt, socket, sockopt,
};

use crate::address::ServerAddress;
use crate::tally::RequestError;
use crate::wire::{ResponseEnd, ResponseReader};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionState {
    /// The connection is closed, and the client connects again at `until_ns`.
    Resting {
        until_ns: u64,
    },
    Connecting,
    Idle,
    Busy,
}

pub(crate) struct LoadConnection {
    pub(crate) state: ConnectionState,
    socket: Option<OwnedFd>,
    reader: ResponseReader,
    /// The bytes of the current request.
    pub(crate) out: Vec<u8>,
    /// How many bytes of `out` have been sent.
    sent: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Nothing,
    Answer(ResponseEnd),
    /// The peer has closed the connection while no request was in flight, which is no error.
    Closed,
    Failed(RequestError),
}

/// The time limit of a first connect over TCP.
const CONNECT_MAX: Duration = Duration::from_secs(5);

impl LoadConnection {
    /// Connects before the run, so that the latency of the first requests does not include the connect.
    pub(crate) fn open(address: &ServerAddress) -> Result<Self, String> {
        let socket: OwnedFd = match address {
            ServerAddress::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, CONNECT_MAX).map_err(|error| {
                    format!("no server answers at {address} ({error}); start the server first")
                })?;
                stream
                    .set_nodelay(true)
                    .and_then(|()| stream.set_nonblocking(true))
                    .map_err(|error| format!("{address}: {error}"))?;
                stream.into()
            }
            ServerAddress::Unix(path) => {
                let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
                    ErrorKind::PermissionDenied => {
                        format!("{}: {error}; run as its owner", path.display())
                    }
                    _ => format!(
                        "no server answers at {} ({error}); start the server first",
                        path.display()
                    ),
                })?;
                stream
                    .set_nonblocking(true)
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                stream.into()
            }
        };
        Ok(Self {
            state: ConnectionState::Idle,
            socket: Some(socket),
            reader: ResponseReader::new(),
            out: Vec::new(),
            sent: 0,
        })
    }

    /// Starts a new connect without waiting for it.
    pub(crate) fn reopen(&mut self, address: &ServerAddress) -> Result<(), Errno> {
        self.close();
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let make = |family| socket(family, SockType::Stream, flags, None);
        let (socket, begun) = match address {
            ServerAddress::Tcp(SocketAddr::V4(address)) => {
                let socket = make(AddressFamily::Inet)?;
                let begun = dial(&socket, &SockaddrIn::from(*address));
                (socket, begun)
            }
            ServerAddress::Tcp(SocketAddr::V6(address)) => {
                let socket = make(AddressFamily::Inet6)?;
                let begun = dial(&socket, &SockaddrIn6::from(*address));
                (socket, begun)
            }
            ServerAddress::Unix(path) => {
                let socket = make(AddressFamily::Unix)?;
                let begun = dial(&socket, &UnixAddr::new(path.as_path())?);
                (socket, begun)
            }
        };
        begun?;
        if matches!(address, ServerAddress::Tcp(_)) {
            setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
        }
        self.socket = Some(socket);
        self.reader = ResponseReader::new();
        self.state = ConnectionState::Connecting;
        Ok(())
    }

    /// Checks whether the connect has succeeded. The client calls this when epoll reports the connecting
    /// socket.
    pub(crate) fn connected(&mut self) -> Result<(), Errno> {
        let socket = self.socket.as_ref().ok_or(Errno::EBADF)?;
        match getsockopt(socket, sockopt::SocketError)? {
            0 => {
                self.state = ConnectionState::Idle;
                Ok(())
            }
            error => Err(Errno::from_raw(error)),
        }
    }

    pub(crate) fn socket(&self) -> Option<&OwnedFd> {
        self.socket.as_ref()
    }

    /// Closes the socket. The kernel then removes it from the epoll set, because no other descriptor refers
    /// to it.
    pub(crate) fn close(&mut self) {
        self.socket = None;
        self.out.clear();
        self.sent = 0;
    }

    /// Starts to send the request in `out`. Returns true if all bytes are sent.
    pub(crate) fn begin(&mut self, bodiless: bool) -> Result<bool, RequestError> {
        self.state = ConnectionState::Busy;
        self.sent = 0;
        self.reader.begin(bodiless);
        self.write()
    }

    pub(crate) fn write(&mut self) -> Result<bool, RequestError> {
        let Some(socket) = &self.socket else {
            return Err(RequestError::Closed);
        };
        while self.sent < self.out.len() {
            // `send` is used because `write` goes through the VFS layer and costs more.
            match send(
                socket.as_raw_fd(),
                &self.out[self.sent..],
                MsgFlags::MSG_NOSIGNAL,
            ) {
                Ok(length) => self.sent += length,
                Err(Errno::EAGAIN) => return Ok(false),
                Err(Errno::EINTR) => {}
                Err(_) => return Err(RequestError::Closed),
            }
        }
        Ok(true)
    }

    /// Reads the bytes that have arrived. The content of `scratch` is not used after the call.
    pub(crate) fn read(&mut self, scratch: &mut [u8]) -> Read {
        let Some(socket) = &self.socket else {
            return Read::Nothing;
        };
        loop {
            let length = match recv(socket.as_raw_fd(), scratch, MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EAGAIN) => return Read::Nothing,
                Err(Errno::EINTR) => continue,
                Err(_) => return self.ended(),
            };
            if length == 0 {
                return self.ended();
            }
            if self.state != ConnectionState::Busy {
                return Read::Failed(RequestError::NoAnswer);
            }
            match self.reader.feed(&scratch[..length]) {
                Ok(Some(answer)) => {
                    // If the answer came before the whole request was sent, the connection must be closed,
                    // because the server would take the next request for the rest of this one.
                    let closes = answer.closes || self.sent < self.out.len();
                    return Read::Answer(ResponseEnd { closes, ..answer });
                }
                Ok(None) if length == scratch.len() => {}
                Ok(None) => return Read::Nothing,
                Err(_) => return Read::Failed(RequestError::NoAnswer),
            }
        }
    }

    fn ended(&self) -> Read {
        match (self.state, self.reader.close()) {
            (ConnectionState::Busy, Some(answer)) => Read::Answer(answer),
            (ConnectionState::Busy, None) => Read::Failed(RequestError::Closed),
            _ => Read::Closed,
        }
    }
}

fn dial(socket: &OwnedFd, address: &dyn SockaddrLike) -> Result<(), Errno> {
    match connect(socket.as_raw_fd(), address) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(()),
        Err(error) => Err(error),
    }
}
