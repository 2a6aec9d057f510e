//! Converts the body of a pod's answer from the framing in which it came to a framing that the client can
//! read. This module sends nothing; `exchange` does.

use nanofaas_http1::chunked::ChunkedDecoder;
use nanofaas_http1::error::ParseError;
use nanofaas_http1::response_head::ResponseBody;

use crate::forward::chunks::Chunks;
use crate::forward::client::PIECE;
use crate::runtime::buffers::Buffers;
use crate::state::pod_conn::PodConn;

/// The part of the answer's body that has not come yet.
enum MissingAnswer {
    Nothing,
    Bytes(u64),
    Chunks(ChunkedDecoder),
    /// All bytes until the pod ends the connection.
    ToTheEnd,
}

pub(crate) struct Download {
    missing: MissingAnswer,
    /// Whether the client gets the body in chunks.
    in_chunks: bool,
}

impl Download {
    /// A client of HTTP/1.0 (`is_old`) gets no chunks, because it does not know them.
    pub(crate) fn new(body: ResponseBody, is_old: bool) -> Self {
        let missing = match body {
            ResponseBody::None | ResponseBody::Length(0) => MissingAnswer::Nothing,
            ResponseBody::Length(length) => MissingAnswer::Bytes(length),
            ResponseBody::Chunked => MissingAnswer::Chunks(ChunkedDecoder::default()),
            ResponseBody::UntilClose => MissingAnswer::ToTheEnd,
        };
        let has_length = matches!(missing, MissingAnswer::Nothing | MissingAnswer::Bytes(_));
        Self {
            missing,
            in_chunks: !has_length && !is_old,
        }
    }

    pub(crate) const fn is_complete(&self) -> bool {
        matches!(self.missing, MissingAnswer::Nothing)
    }

    /// Whether the client gets the body in chunks.
    pub(crate) const fn is_in_chunks(&self) -> bool {
        self.in_chunks
    }

    /// Returns whether only the end of the connection shows the client where the body ends.
    pub(crate) const fn ends_with_connection(&self) -> bool {
        !self.in_chunks
            && matches!(
                self.missing,
                MissingAnswer::Chunks(_) | MissingAnswer::ToTheEnd
            )
    }

    /// Notes that the pod has ended the connection in order, which ends a body without a length. Returns the
    /// bytes that end this body for the client; none if the body has a length or chunks.
    pub(crate) fn pod_ended(&mut self, buffers: &Buffers) -> Option<Vec<u8>> {
        if !matches!(self.missing, MissingAnswer::ToTheEnd) {
            return None;
        }
        self.missing = MissingAnswer::Nothing;
        Some(if self.in_chunks {
            Chunks::begin(buffers, 0).end(true)
        } else {
            Vec::new()
        })
    }

    /// Takes the received bytes of the body from `pod`, and returns them in the client's framing, behind the
    /// bytes of `out`. Bytes behind the body stay in `pod`.
    pub(crate) fn next(
        &mut self,
        pod: &mut PodConn,
        out: Option<Vec<u8>>,
        buffers: &Buffers,
    ) -> Result<Vec<u8>, ParseError> {
        match &mut self.missing {
            MissingAnswer::Nothing => Ok(out.unwrap_or_default()),
            MissingAnswer::Bytes(missing) => {
                let came = pod.received.len();
                let count = usize::try_from(*missing).map_or(came, |missing| came.min(missing));
                *missing -= count as u64;
                let is_last = *missing == 0;
                let part = joined(pod, count, out, buffers);
                if is_last {
                    self.missing = MissingAnswer::Nothing;
                }
                Ok(part)
            }
            MissingAnswer::Chunks(decoder) => {
                let room = pod.received.len();
                let (part, progress) = if self.in_chunks {
                    let mut chunk = match out {
                        Some(out) => Chunks::after(out),
                        None => Chunks::begin(buffers, room),
                    };
                    let progress = decoder.decode(&pod.received, chunk.data(), usize::MAX)?;
                    (chunk.end(progress.done), progress)
                } else {
                    let mut part = out.unwrap_or_else(|| buffers.take(room));
                    let progress = decoder.decode(&pod.received, &mut part, usize::MAX)?;
                    (part, progress)
                };
                drop_received(pod, progress.consumed, buffers);
                if progress.done {
                    self.missing = MissingAnswer::Nothing;
                }
                Ok(part)
            }
            MissingAnswer::ToTheEnd if self.in_chunks => {
                let count = pod.received.len();
                let mut chunk = match out {
                    Some(out) => Chunks::after(out),
                    None => Chunks::begin(buffers, count),
                };
                chunk.data().extend_from_slice(&pod.received);
                drop_received(pod, count, buffers);
                Ok(chunk.end(false))
            }
            MissingAnswer::ToTheEnd => {
                let count = pod.received.len();
                Ok(joined(pod, count, out, buffers))
            }
        }
    }
}

/// Returns the bytes of `out`, and behind them the first `count` received bytes. If there is no `out` and no
/// further received byte, returns the buffer of the receive, because a copy of a large piece is expensive.
fn joined(pod: &mut PodConn, count: usize, out: Option<Vec<u8>>, buffers: &Buffers) -> Vec<u8> {
    if out.is_none() && count == pod.received.len() {
        return pod.take_received();
    }
    let mut out = out.unwrap_or_else(|| buffers.take(count));
    out.extend_from_slice(&pod.received[..count]);
    drop_received(pod, count, buffers);
    out
}

fn drop_received(pod: &mut PodConn, count: usize, buffers: &Buffers) {
    if count == pod.received.len() {
        buffers.give(pod.take_received());
    } else {
        pod.received.drain(..count);
    }
}

const _: () = assert!(PIECE < 1 << 31, "a chunk's size has eight digits");
