//! Reads the body of a request, which has to come at the required pace, or drops the body of a refused
//! request.

use nanofaas_http1::chunked::ChunkedDecoder;
use nanofaas_http1::error::ParseError;
use nanofaas_http1::framing::Framing;
use nanofaas_http1::request::RequestHead;

use super::{AwaitedBody, ClientConn, HEAD_WAIT_MAX, Late, PIPELINED_MAX, StopReading};
use crate::http::error::HttpError;
use crate::invoke::incoming::Incoming;
use crate::runtime::buffers::SMALL;
use crate::server::pace::TransferPace;

/// A refused body of up to this many bytes is read and dropped, so that the connection can be used again.
const SKIPPED_MAX: u64 = 256 * 1024;

impl ClientConn {
    /// Reads the body of `length` bytes, and returns the request with it.
    pub(crate) async fn sized(
        &self,
        head: RequestHead,
        length: u64,
    ) -> Result<Incoming, StopReading> {
        let whole = head.len + length as usize;
        if self.pending.borrow().len() < whole {
            self.set_room(whole.max(PIPELINED_MAX));
            self.body.set(AwaitedBody::Until(whole));
            {
                let mut pending = self.pending.borrow_mut();
                let missing = whole - pending.len();
                pending.reserve(missing, &self.thread.buffers);
            }
            let came = self.rest_of_body(whole).await;
            self.body.set(AwaitedBody::None);
            self.set_room(PIPELINED_MAX);
            came?;
        }
        Ok(Incoming::new(self.split(whole), head, length as usize))
    }

    async fn rest_of_body(&self, whole: usize) -> Result<(), StopReading> {
        let began = self.pending.borrow().len() as u64;
        let mut pace = TransferPace::begin(self.thread.recent(), began);
        loop {
            let seen = self.pending.borrow().len();
            if seen >= whole {
                // The clock is read, because the call's time in the queue is counted from the end of its
                // body.
                let _whole_at = self.thread.now();
                return Ok(());
            }
            self.body_bytes(seen, &mut pace, seen as u64).await?;
        }
    }

    /// Waits until more than `seen` bytes are pending; fails if the body ends early or comes too slowly. The
    /// pace is judged by `came`, the bytes that have come so far.
    async fn body_bytes(
        &self,
        seen: usize,
        pace: &mut TransferPace,
        came: u64,
    ) -> Result<(), StopReading> {
        loop {
            self.alarm.set(pace.due());
            match self.more(seen).await {
                Ok(()) => return Ok(()),
                Err(Late::Eof | Late::Behind) => return Err(StopReading::Quiet),
                Err(Late::Alarm) if pace.judge(self.thread.now(), came) => {}
                Err(Late::Alarm) => {
                    let why =
                        "the body came at less than 16 KiB a second over 60 s; send it faster";
                    return Err(HttpError::TooSlow(why).into());
                }
            }
        }
    }

    /// Reads a chunked body of at most `max` bytes, and returns the request with it. After each piece,
    /// `grown` is called with the bytes by which the piece has enlarged the body's buffer. If `grown` fails,
    /// the request is refused.
    pub(crate) async fn chunked(
        &self,
        head: RequestHead,
        max: u64,
        mut grown: impl FnMut(u64) -> Result<(), HttpError>,
    ) -> Result<Incoming, StopReading> {
        let head_bytes = self.split(head.len);
        self.body.set(AwaitedBody::Chunks);
        let mut decoder = ChunkedDecoder::default();
        let mut body = self.thread.buffers.take(SMALL);
        let mut pace = TransferPace::begin(self.thread.recent(), 0);
        loop {
            let before = body.capacity();
            let progress = {
                let pending = self.pending.borrow();
                decoder
                    .decode(&pending, &mut body, max as usize)
                    .map_err(|fault| match fault {
                        ParseError::BodyTooLarge => HttpError::BodyTooLarge { bytes_max: max },
                        fault => HttpError::Http(fault),
                    })?
            };
            self.drop_bytes(progress.consumed);
            grown((body.capacity() - before) as u64)?;
            if progress.done {
                self.body.set(AwaitedBody::None);
                let _whole_at = self.thread.now();
                return Ok(Incoming::chunked(head_bytes, head, body));
            }
            let seen = self.pending.borrow().len();
            let came = body.len() as u64;
            self.body_bytes(seen, &mut pace, came).await?;
        }
    }

    /// Reads and drops the body of a refused request; returns false if the connection has to end.
    pub(crate) async fn skip(&self, head: &RequestHead) -> bool {
        let length = match head.framing {
            Framing::None => 0,
            Framing::Length(length) => length,
            Framing::Chunked => return false,
        };
        // A client that waits for `100 Continue` and does not get it may send its body or leave it out. The
        // connection has to end, because it is unknown whether the next bytes are this body or a new request.
        if head.expect_continue || length > SKIPPED_MAX {
            return false;
        }
        self.drop_bytes(head.len);
        let mut left = length as usize;
        self.alarm.set(self.thread.recent() + HEAD_WAIT_MAX);
        while left > 0 {
            let some = left.min(self.pending.borrow().len());
            self.drop_bytes(some);
            left -= some;
            if left > 0 && self.more(0).await.is_err() {
                return false;
            }
        }
        true
    }
}
