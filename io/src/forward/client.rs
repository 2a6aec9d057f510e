//! What a call that is passed through needs of its client's connection. `server` implements it.

use std::cell::Ref;
use std::net::IpAddr;

use crate::invoke::request::Client;
use crate::runtime::net::Socket;

/// The most bytes that are received at a time from either side. One piece may be received while another is sent,
/// so each direction holds at most 64 KiB.
pub(crate) const PIECE: usize = 32 * 1024;

/// A client whose body is passed through.
pub(crate) trait ClientStream: Client {
    fn socket(&self) -> &Socket;

    /// Bytes that came and were not taken yet.
    fn received(&self) -> Ref<'_, [u8]>;

    /// Takes the first `count` bytes that came.
    fn take(&self, count: usize) -> Vec<u8>;

    /// Drops the first `count` bytes that came.
    fn drop_received(&self, count: usize);

    /// From now on the received bytes are a body, of which one piece is kept at a time.
    fn begin_body(&self);

    /// The body is complete, or the call is over.
    fn end_body(&self);

    fn peer_ip(&self) -> Option<IpAddr>;

    /// Ends the connection in the middle of an answer.
    fn cut(&self, why: &str);
}
