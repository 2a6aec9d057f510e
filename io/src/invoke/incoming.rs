//! A request as it came in: the buffer of its head and body, and the positions of its parts. The buffer is
//! moved, not copied, to the task that serves the call.

use std::ops::Range;

use nanofaas_http1::header_value;
use nanofaas_http1::request::RequestHead;

/// A request with its body.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// The head, and the bytes that followed it.
    buffer: Vec<u8>,
    pub(crate) head: RequestHead,
    body: CallBody,
    /// The position of `input` in a JSON body.
    input: Option<Range<usize>>,
}

#[derive(Debug)]
enum CallBody {
    /// The body follows the head in the head's buffer.
    Here(Range<usize>),
    /// The body came in chunks, and is in a buffer of its own.
    Own(Vec<u8>),
}

impl Incoming {
    /// Makes a request whose body of `length` bytes follows the head.
    pub(crate) const fn new(buffer: Vec<u8>, head: RequestHead, length: usize) -> Self {
        let body = CallBody::Here(head.len..head.len + length);
        Self {
            buffer,
            head,
            body,
            input: None,
        }
    }

    /// Makes a request whose body came in chunks.
    pub(crate) const fn chunked(buffer: Vec<u8>, head: RequestHead, body: Vec<u8>) -> Self {
        Self {
            buffer,
            head,
            body: CallBody::Own(body),
            input: None,
        }
    }

    pub(crate) fn head_bytes(&self) -> &[u8] {
        &self.buffer
    }

    pub(crate) fn body(&self) -> &[u8] {
        match &self.body {
            CallBody::Here(range) => &self.buffer[range.clone()],
            CallBody::Own(body) => body,
        }
    }

    pub(crate) fn input(&self) -> Option<&[u8]> {
        self.input.clone().map(|range| &self.body()[range])
    }

    pub(crate) fn set_input(&mut self, range: Range<u32>) {
        self.input = Some(range.start as usize..range.end as usize);
    }

    pub(crate) fn content_type(&self) -> Option<&[u8]> {
        self.head.content_type.map(|span| span.of(&self.buffer))
    }

    pub(crate) fn content_encoding(&self) -> Option<&[u8]> {
        self.head.content_encoding.map(|span| span.of(&self.buffer))
    }

    pub(crate) fn trace_id(&self) -> Option<&[u8]> {
        self.head.trace_id.map(|span| span.of(&self.buffer))
    }

    /// Returns the trace id for the log: `X-Trace-Id`, or, if there is none, the trace id inside
    /// `traceparent`.
    pub(crate) fn logged_trace_id(&self) -> Option<&[u8]> {
        let of_parent = || {
            let traceparent = self.head.traceparent?.of(&self.buffer);
            header_value::trace_of(traceparent)
        };
        self.trace_id().or_else(of_parent)
    }

    pub(crate) fn idempotency_key(&self) -> Option<&[u8]> {
        self.head.idempotency_key.map(|span| span.of(&self.buffer))
    }

    pub(crate) const fn held_bytes(&self) -> u64 {
        let own = match &self.body {
            CallBody::Here(_) => 0,
            CallBody::Own(body) => body.capacity(),
        };
        (self.buffer.capacity() + own) as u64
    }

    /// Returns the body alone, in the buffer in which it came.
    pub(crate) fn into_body(self) -> Vec<u8> {
        match self.body {
            CallBody::Own(body) => body,
            CallBody::Here(range) => {
                let mut buffer = self.buffer;
                buffer.truncate(range.end);
                buffer.drain(..range.start);
                buffer
            }
        }
    }

    /// Returns the buffer for reuse.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}
