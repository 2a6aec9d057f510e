//! Bytes out of a socket, in one of two ways. A thread with little to do sends at once, in a system
//! call of its own: in the ring the send would wake it once more, for nothing. A busy thread leaves the
//! sends of a whole pass to the driver, which makes one system call of them.
//! `client` and `pod` send with it.

use std::os::fd::RawFd;

use monoio::buf::IoBuf;
use monoio::io::{AsyncWriteRent, AsyncWriteRentExt};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};

use crate::thread::Thread;

/// The bytes did not all go out.
pub(crate) struct Unsent {
    /// Not one of them was taken.
    pub(crate) nothing: bool,
    pub(crate) why: std::io::Error,
}

/// Sends all of `bytes`, and gives the buffer back. `half` is the writing half of the socket `fd`.
pub(crate) async fn send_all<W: AsyncWriteRent>(
    thread: &Thread,
    fd: RawFd,
    half: &mut W,
    bytes: Vec<u8>,
) -> (Result<(), Unsent>, Vec<u8>) {
    let (sent, bytes) = if thread.pace.is_busy() {
        half.write(bytes).await
    } else {
        (send_now(fd, &bytes), bytes)
    };
    let taken = match sent {
        Ok(taken) if taken == bytes.len() => return (Ok(()), bytes),
        Ok(taken) => taken,
        Err(why) => return (Err(Unsent { nothing: true, why }), bytes),
    };
    // Boxed: hardly any bytes need it, and every connection would carry its room.
    let (rest, slice) = Box::pin(half.write_all(bytes.slice(taken..))).await;
    let sent = rest.map(|_| ()).map_err(|why| Unsent {
        nothing: false,
        why,
    });
    (sent, slice.into_inner())
}

/// What the socket takes without waiting.
fn send_now(fd: RawFd, bytes: &[u8]) -> std::io::Result<usize> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    match send(fd, bytes, flags) {
        Ok(taken) => Ok(taken),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
        Err(why) => Err(why.into()),
    }
}
