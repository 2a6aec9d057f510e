//! The TCP or Unix socket of the raw client and the scripted pods. Every read and write has a deadline.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

use crate::wait::PATIENCE;

pub(crate) enum EitherSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl From<TcpStream> for EitherSocket {
    fn from(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket");
        Self::Tcp(stream).with_deadlines()
    }
}

impl From<UnixStream> for EitherSocket {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(stream).with_deadlines()
    }
}

impl EitherSocket {
    fn with_deadlines(self) -> Self {
        self.set_patience(PATIENCE);
        let set = match &self {
            Self::Tcp(stream) => stream.set_write_timeout(Some(PATIENCE)),
            Self::Unix(stream) => stream.set_write_timeout(Some(PATIENCE)),
        };
        set.expect("a socket");
        self
    }

    /// Sets how long a read may wait.
    pub(crate) fn set_patience(&self, patience: Duration) {
        let set = match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(patience)),
            Self::Unix(stream) => stream.set_read_timeout(Some(patience)),
        };
        set.expect("a socket");
    }

    pub(crate) fn shutdown(&self, how: Shutdown) {
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        };
    }

    /// Makes the next close of a TCP connection send a reset instead of a FIN, so that the
    /// connection leaves no TIME_WAIT.
    pub(crate) fn reset_on_close(&self) {
        if let Self::Tcp(stream) = self {
            let now = linger {
                l_onoff: 1,
                l_linger: 0,
            };
            setsockopt(stream, sockopt::Linger, &now).expect("a socket");
        }
    }

    pub(crate) fn handle(&self) -> Self {
        match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone().expect("a descriptor")),
            Self::Unix(stream) => Self::Unix(stream.try_clone().expect("a descriptor")),
        }
    }
}

impl Read for EitherSocket {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(bytes),
            Self::Unix(stream) => stream.read(bytes),
        }
    }
}

impl Write for EitherSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
