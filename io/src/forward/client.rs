//! The interface through which a call of `/fn/` uses its client's connection. `server` implements it.

use std::cell::Ref;
use std::net::IpAddr;

use crate::invoke::request::Client;
use crate::runtime::net::Socket;

/// The largest number of bytes that one receive takes from the client or the pod. Each direction holds at
/// most two such pieces, because one piece may be received while another one is sent.
pub(crate) const PIECE: usize = 32 * 1024;

/// The connection of a client whose body is passed on piece by piece.
pub(crate) trait ClientStream: Client {
    fn socket(&self) -> &Socket;

    /// Returns the received bytes that were not taken yet.
    fn received(&self) -> Ref<'_, [u8]>;

    /// Takes the first `count` received bytes.
    fn take(&self, count: usize) -> Vec<u8>;

    fn drop_received(&self, count: usize);

    /// Notes that the received bytes are a body from now on, of which one piece is kept at a time.
    fn begin_body(&self);

    /// Notes that the body is complete or that the call is over.
    fn end_body(&self);

    fn peer_ip(&self) -> Option<IpAddr>;

    /// Ends the connection in the middle of an answer, and logs `why`.
    fn cut(&self, why: &str);
}
