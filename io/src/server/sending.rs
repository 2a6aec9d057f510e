//! Sends answers to a client as fast as the client takes them. If the client is slower than the required
//! pace, the answer is cut short, logged and counted. `serve` and `client_conn` send through this module.

use std::future::poll_fn;
use std::task::{Context, Poll};

use nanofaas_core::memory::Charge;
use nanofaas_core::time::Uptime;
use nanofaas_http1::framing::Framing;
use nanofaas_http1::request::RequestHead;

use crate::http::response;
use crate::http::shown::{Piece, RestOfOutput};
use crate::invoke::outgoing::Outgoing;
use crate::runtime::buffers::LARGE;
use crate::server::client_conn::{ClientConn, StopReading};
use crate::server::pace::TransferPace;

/// Sends the answer to a request that came at `arrived_at`; returns false if the client did not take it all.
pub(crate) async fn send_outgoing(
    conn: &ClientConn,
    outgoing: Outgoing,
    arrived_at: Uptime,
) -> bool {
    let Outgoing { out, rest, charge } = outgoing;
    let held = charge
        .as_ref()
        .map_or_else(|| out.capacity() as u64, Charge::bytes);
    conn.sending.set((held, arrived_at));
    let mut sent = send(conn, out).await;
    if let Some(rest) = rest {
        sent = sent && Box::pin(send_rest(conn, rest)).await;
    }
    sent
}

/// Sends bytes; returns false if the client did not take them all.
pub(crate) async fn send(conn: &ClientConn, bytes: Vec<u8>) -> bool {
    bytes.is_empty() || conn.socket.post(bytes) || conn.sent().await
}

/// Sends the rest of an output piece by piece, as fast as the client takes it.
async fn send_rest(conn: &ClientConn, mut rest: Box<RestOfOutput>) -> bool {
    loop {
        let mut out = conn.thread.buffers.take(LARGE);
        let piece = rest.write(&mut out);
        if piece == Piece::Gone {
            conn.cut("the store dropped its output while it went out");
            return false;
        }
        if !send(conn, out).await {
            return false;
        }
        if piece == Piece::Last {
            return true;
        }
    }
}

/// Sends `100 Continue` if the client waits for this answer before it sends the body.
pub(crate) async fn invite(conn: &ClientConn, head: &RequestHead) -> Result<(), StopReading> {
    let whole = match head.framing {
        Framing::Length(length) => head.len + length as usize,
        Framing::Chunked => head.len + 1,
        Framing::None => 0,
    };
    // A client that has sent its body already does not wait for `100 Continue`.
    if head.expect_continue && conn.pending.borrow().len() < whole {
        let sent = send(conn, response::CONTINUE.to_vec()).await;
        return if sent {
            Ok(())
        } else {
            Err(StopReading::Quiet)
        };
    }
    Ok(())
}

impl ClientConn {
    /// Waits until everything that was posted is sent; returns false if the client does not take it all.
    pub(crate) async fn sent(&self) -> bool {
        let sent = |cx: &mut Context<'_>| Poll::Ready(self.socket.poll_sent(cx));
        match poll_fn(sent).await {
            Poll::Ready(sent) => sent.is_ok(),
            // The future is boxed, because it is not needed on the warm path, and the future of a warm call
            // should stay small.
            Poll::Pending => Box::pin(self.taken()).await,
        }
    }

    /// Waits until the client has taken everything that was posted; returns false if the client is too slow,
    /// or if its connection fails.
    async fn taken(&self) -> bool {
        let thread = &self.thread;
        let moved = self.socket.moved();
        let (bytes, arrived_at) = self.sending.get();
        let trip = self.round_trip;
        let readers = &thread.readers;
        let registered = readers.register(thread, moved.clone(), bytes, arrived_at, trip);
        let mut pace = TransferPace::begin(thread.recent(), moved.get());
        self.alarm.set(pace.due());
        let cut = poll_fn(|cx| {
            if let Poll::Ready(sent) = self.socket.poll_sent(cx) {
                return Poll::Ready(sent.map_err(|_| None));
            }
            if registered.reader.poll_ended(cx) {
                return Poll::Ready(Err(Some("it took nothing, and others wait for memory")));
            }
            while self.alarm.poll(cx).is_ready() {
                if !pace.judge(thread.now(), moved.get()) {
                    return Poll::Ready(Err(Some("it took less than 16 KiB a second over 60 s")));
                }
                self.alarm.set(pace.due());
            }
            Poll::Pending
        })
        .await;
        if let Err(Some(why)) = cut {
            self.cut(why);
            // The caller holds the charge during this wait, because the kernel still holds memory that the
            // charge covers.
            poll_fn(|cx| self.socket.poll_freed(cx)).await;
        }
        cut.is_ok()
    }

    /// Ends the connection before its answer is sent completely, and logs why.
    pub(crate) fn cut(&self, why: &str) {
        let (held, _) = self.sending.get();
        self.thread.ledger().answers_cut.add();
        tracing::warn!(held, "an answer was cut short for its client: {why}");
        self.socket.abandon();
    }
}
