//! The client's side of a call at `/fn/`: the bytes of its body, one piece at a time, and its socket. At most
//! one piece is kept, and the next piece is read only after the last one was taken.

use std::cell::Ref;
use std::net::IpAddr;

use super::{AwaitedBody, ClientConn, PIPELINED_MAX};
use crate::forward::client::{ClientStream, PIECE};
use crate::runtime::buffers::SMALL;
use crate::runtime::net::Socket;

impl ClientConn {
    /// Returns the size of the next receive of a body that is passed through. A large receive is made only if
    /// it is filled at once, because an armed receive holds its buffer while the client sends nothing.
    pub(super) fn next_piece(&self) -> usize {
        if self.was_full.get() && self.socket.has_much() {
            PIECE
        } else {
            SMALL
        }
    }
}

impl ClientStream for ClientConn {
    fn socket(&self) -> &Socket {
        &self.socket
    }

    fn received(&self) -> Ref<'_, [u8]> {
        Ref::map(self.pending.borrow(), |pending| &**pending)
    }

    fn take(&self, count: usize) -> Vec<u8> {
        let taken = self.split(count);
        self.kick.set(true);
        taken
    }

    fn drop_received(&self, count: usize) {
        self.drop_bytes(count);
    }

    fn begin_body(&self) {
        self.body.set(AwaitedBody::Stream);
    }

    fn end_body(&self) {
        self.body.set(AwaitedBody::None);
        self.set_room(PIPELINED_MAX);
    }

    fn peer_ip(&self) -> Option<IpAddr> {
        let peer = self.peer.get().unwrap_or_else(|| self.socket.peer_ip());
        self.peer.set(Some(peer));
        peer
    }

    fn cut(&self, why: &str) {
        Self::cut(self, why);
    }
}
