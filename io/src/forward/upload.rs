//! The body of a request on its way to the pod: takes what came from the client, in the framing of the request,
//! and keeps a copy of the first bytes for another attempt. It sends nothing; `exchange` does.

use nanofaas_http1::chunked::ChunkedDecoder;
use nanofaas_http1::error::ParseError;
use nanofaas_http1::framing::Framing;

use crate::forward::chunks::Chunks;
use crate::forward::client::ClientStream;
use crate::runtime::buffers::Buffers;

/// A body up to this size can be sent again.
const REPLAY_MAX: usize = 64 * 1024;

/// What is missing of the client's body.
enum MissingBody {
    Nothing,
    Bytes(u64),
    Chunks(ChunkedDecoder),
}

pub(crate) struct Upload {
    missing: MissingBody,
    /// What was sent of the body; none once it is too large to be sent again.
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

    /// Whether the client has sent all of its body.
    pub(crate) const fn is_complete(&self) -> bool {
        matches!(self.missing, MissingBody::Nothing)
    }

    /// Whether another attempt can send the same body.
    pub(crate) const fn can_repeat(&self) -> bool {
        self.sent.is_some()
    }

    /// The part of the body that an earlier attempt has sent.
    pub(crate) fn sent(&self) -> &[u8] {
        self.sent.as_deref().unwrap_or_default()
    }

    /// From now on no other attempt follows, so nothing is kept for one.
    pub(crate) fn forget(&mut self, buffers: &Buffers) {
        if let Some(sent) = self.sent.take() {
            buffers.give(sent);
        }
    }

    /// The next part of the body, as it is sent to the pod; none if no byte of it came. The error is the
    /// client's.
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
                // Taking nothing would still make the connection poll this task again.
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
