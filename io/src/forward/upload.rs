//! Takes the body of a request from the client, part by part, as it is sent to the pod, and keeps a copy of a
//! small body for another attempt. This module sends nothing; `exchange` does.

use nanofaas_http1::chunked::ChunkedDecoder;
use nanofaas_http1::error::ParseError;
use nanofaas_http1::framing::Framing;

use crate::forward::chunks::Chunks;
use crate::forward::client::ClientStream;
use crate::runtime::buffers::Buffers;

/// The largest number of bytes, with their framing, that are kept for another attempt.
const REPLAY_MAX: usize = 64 * 1024;

/// The part of the client's body that has not come yet.
enum MissingBody {
    Nothing,
    Bytes(u64),
    Chunks(ChunkedDecoder),
}

pub(crate) struct Upload {
    missing: MissingBody,
    /// The sent part of the body; none after `forget`.
    sent: Option<Vec<u8>>,
}

impl Upload {
    pub(crate) fn new(framing: Framing) -> Self {
        let missing = match framing {
            Framing::None | Framing::Length(0) => MissingBody::Nothing,
            Framing::Length(length) => MissingBody::Bytes(length),
            Framing::Chunked => MissingBody::Chunks(ChunkedDecoder::default()),
        };
        Self {
            missing,
            sent: Some(Vec::new()),
        }
    }

    /// Returns whether the whole body was taken from the client.
    pub(crate) const fn is_complete(&self) -> bool {
        matches!(self.missing, MissingBody::Nothing)
    }

    /// Returns whether another attempt can send the part that was sent.
    pub(crate) const fn can_repeat(&self) -> bool {
        self.sent.is_some()
    }

    /// Returns the part of the body that earlier attempts have sent.
    pub(crate) fn sent(&self) -> &[u8] {
        self.sent.as_deref().unwrap_or_default()
    }

    /// Drops the copy of the sent part, because the part is too large, or because no other attempt follows.
    pub(crate) fn forget(&mut self, buffers: &Buffers) {
        if let Some(sent) = self.sent.take() {
            buffers.give(sent);
        }
    }

    /// Returns the next part of the body, as it is sent to the pod; none if no byte of the body has come.
    /// Fails if the client's body is invalid.
    pub(crate) fn next(
        &mut self,
        client: &dyn ClientStream,
        buffers: &Buffers,
    ) -> Result<Option<Vec<u8>>, ParseError> {
        let part = match &mut self.missing {
            MissingBody::Nothing => return Ok(None),
            MissingBody::Bytes(missing) => {
                let came = client.received().len();
                let count = usize::try_from(*missing).map_or(came, |missing| came.min(missing));
                if count == 0 {
                    return Ok(None);
                }
                *missing -= count as u64;
                let is_last = *missing == 0;
                let part = client.take(count);
                if is_last {
                    self.missing = MissingBody::Nothing;
                }
                part
            }
            MissingBody::Chunks(decoder) => {
                let came = client.received().len();
                // The function returns here, because even a call of `drop_received` with 0 would make the
                // connection poll this task again.
                if came == 0 {
                    return Ok(None);
                }
                let mut chunks = Chunks::begin(buffers, came);
                let progress = decoder.decode(&client.received(), chunks.data(), usize::MAX)?;
                client.drop_received(progress.consumed);
                if progress.done {
                    self.missing = MissingBody::Nothing;
                }
                let part = chunks.end(progress.done);
                if part.is_empty() {
                    buffers.give(part);
                    return Ok(None);
                }
                part
            }
        };
        self.keep(&part, buffers);
        Ok(Some(part))
    }

    fn keep(&mut self, part: &[u8], buffers: &Buffers) {
        let Some(sent) = &mut self.sent else {
            return;
        };
        let whole = sent.len() + part.len();
        if whole > REPLAY_MAX {
            return self.forget(buffers);
        }
        if whole > sent.capacity() {
            let mut larger = buffers.take(whole);
            larger.extend_from_slice(sent);
            buffers.give(std::mem::replace(sent, larger));
        }
        sent.extend_from_slice(part);
    }
}
