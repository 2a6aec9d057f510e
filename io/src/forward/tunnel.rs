//! Passes on the bytes of a WebSocket, in both directions, after the pod's 101, and does not interpret them.
//! The two directions end separately; a FIN of one side is passed on to the other side.

use std::future::poll_fn;
use std::net::Shutdown;
use std::task::{Context, Poll};

use crate::forward::client::PIECE;
use crate::forward::exchange::{BrokenOff, Exchange, Moved};
use crate::runtime::timers::Alarm;

/// The sides whose FIN was passed on to the other side.
#[derive(Default)]
struct EndedSides {
    client: bool,
    pod: bool,
}

impl Exchange<'_, '_> {
    /// Passes on bytes until both directions have ended.
    pub(super) async fn tunnel(&mut self) -> Result<(), BrokenOff> {
        // From now on, a FIN of the client ends only one direction, not the call.
        self.forwarding.client.serving(None);
        let alarm = self.thread.alarms.alarm();
        let mut ended = EndedSides::default();
        loop {
            match poll_fn(|cx| self.poll_tunnel(&mut ended, &alarm, cx)).await {
                Moved::Whole => return Ok(()),
                Moved::BrokenOff(broken) => return Err(broken),
                Moved::Share => self.next_turn().await,
            }
        }
    }

    fn poll_tunnel(
        &mut self,
        ended: &mut EndedSides,
        alarm: &Alarm,
        cx: &Context<'_>,
    ) -> Poll<Moved> {
        loop {
            if self.share == 0 {
                return Poll::Ready(Moved::Share);
            }
            let moved = self
                .poll_to_pod(ended, cx)
                .and_then(|up| Ok(self.poll_to_client(ended, cx)? || up));
            match moved {
                Err(broken) => return Poll::Ready(Moved::BrokenOff(broken)),
                Ok(_) if ended.client && ended.pod => return Poll::Ready(Moved::Whole),
                Ok(true) => {}
                Ok(false) => return self.poll_idle(alarm, cx),
            }
        }
    }

    /// Passes on the bytes or the FIN that came from the client. Returns whether anything was passed on.
    fn poll_to_pod(&mut self, ended: &mut EndedSides, cx: &Context<'_>) -> Result<bool, BrokenOff> {
        if ended.client {
            return Ok(false);
        }
        if self.pod.is_behind() {
            self.pod.poll_taken(cx);
            if self.pod.unsent().is_some() {
                return Err(BrokenOff::Closed);
            }
            if self.pod.is_behind() {
                return Ok(false);
            }
        }
        let client = self.forwarding.client;
        let came = client.received().len();
        if came > 0 {
            self.pod.post_part(client.take(came), false);
        } else if client.is_gone() {
            // A held or waiting message would be lost by the FIN.
            self.pod.poll_taken(cx);
            if self.pod.is_behind() {
                return Ok(false);
            }
            self.pod.end_request();
            ended.client = true;
        } else {
            return Ok(false);
        }
        self.note_moved(came);
        Ok(true)
    }

    /// Passes on the bytes or the FIN that came from the pod. Returns whether anything was passed on.
    fn poll_to_client(
        &mut self,
        ended: &mut EndedSides,
        cx: &Context<'_>,
    ) -> Result<bool, BrokenOff> {
        if ended.pod {
            return Ok(false);
        }
        let socket = self.forwarding.client.socket();
        if socket.is_behind() {
            match socket.poll_sent(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Err(_)) => return Err(BrokenOff::ClientGone),
                Poll::Ready(Ok(())) => {}
            }
        }
        self.pod.poll_part(PIECE, cx);
        let came = self.pod.received.len();
        if came > 0 {
            socket.post(self.pod.take_received());
        } else if self.pod.has_ended_in_order() {
            if socket.poll_sent(cx).is_pending() {
                return Ok(false);
            }
            socket.shutdown(Shutdown::Write);
            ended.pod = true;
        } else if self.pod.is_closed() {
            return Err(BrokenOff::Closed);
        } else {
            return Ok(false);
        }
        self.note_moved(came);
        Ok(true)
    }

    fn note_moved(&mut self, bytes: usize) {
        self.moved_at = self.thread.now();
        self.share = self.share.saturating_sub(bytes.max(1));
    }
}
