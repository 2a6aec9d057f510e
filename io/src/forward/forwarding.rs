//! What a call of `/fn/` keeps across its attempts: its client, its request, and how much of an answer the client
//! has. It moves no byte; `exchange` does.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;

use nanofaas_http1::error::ParseError;
use nanofaas_http1::framing::Framing;

use crate::forward::client::ClientStream;
use crate::forward::request::ForwardHead;
use crate::forward::upload::Upload;
use crate::http::response::Wire;

/// The data of a call of `/fn/` that lasts over all of its attempts.
pub(crate) struct Forwarding<'a> {
    pub(crate) client: &'a dyn ClientStream,
    pub(crate) head: ForwardHead,
    pub(crate) peer: Option<IpAddr>,
    pub(crate) wire: Wire,
    pub(crate) upload: RefCell<Upload>,
    /// Whether bytes of an answer, also of an interim answer, were sent to the client.
    pub(crate) has_answered: Cell<bool>,
    /// Whether the head of the final answer was sent to the client.
    pub(crate) has_head: Cell<bool>,
    /// Whether the whole answer was sent to the client.
    pub(crate) is_whole: Cell<bool>,
    /// Whether the client's connection can take another request after this answer.
    pub(crate) stays: Cell<bool>,
    /// The error in the client's body, if there is one.
    pub(crate) fault: Cell<Option<ParseError>>,
}

impl<'a> Forwarding<'a> {
    /// Makes the state of a call of which nothing was sent.
    pub(crate) fn new(
        client: &'a dyn ClientStream,
        head: ForwardHead,
        framing: Framing,
        wire: Wire,
    ) -> Self {
        Self {
            client,
            head,
            peer: client.peer_ip(),
            wire,
            upload: RefCell::new(Upload::new(framing)),
            has_answered: Cell::new(false),
            has_head: Cell::new(false),
            is_whole: Cell::new(false),
            stays: Cell::new(false),
            fault: Cell::new(None),
        }
    }
}
