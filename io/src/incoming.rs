//! A call's request as it came in: the buffer that holds head and body, and where its parts are.
//! It is moved, never copied, from the connection to whoever serves the call.

use std::ops::Range;

use crate::request::Head;

/// A request with its body.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// Begins with the head.
    buffer: Vec<u8>,
    pub(crate) head: Head,
    body: Body,
    /// Where `input` stands in the body, for JSON.
    input: Option<Range<usize>>,
}

#[derive(Debug)]
enum Body {
    /// Follows the head in the same buffer.
    Here(Range<usize>),
    /// Came in chunks.
    Own(Vec<u8>),
}

impl Incoming {
    /// A request whose body of `length` bytes follows the head.
    pub(crate) const fn new(buffer: Vec<u8>, head: Head, length: usize) -> Self {
        let body = Body::Here(head.len..head.len + length);
        Self {
            buffer,
            head,
            body,
            input: None,
        }
    }

    /// A request whose body came in chunks.
    pub(crate) const fn chunked(buffer: Vec<u8>, head: Head, body: Vec<u8>) -> Self {
        Self {
            buffer,
            head,
            body: Body::Own(body),
            input: None,
        }
    }

    pub(crate) fn head_bytes(&self) -> &[u8] {
        &self.buffer
    }

    pub(crate) fn body(&self) -> &[u8] {
        match &self.body {
            Body::Here(range) => &self.buffer[range.clone()],
            Body::Own(body) => body,
        }
    }

    /// The `input` of a JSON call.
    pub(crate) fn input(&self) -> Option<&[u8]> {
        self.input.clone().map(|range| &self.body()[range])
    }

    pub(crate) fn set_input(&mut self, range: Range<u32>) {
        self.input = Some(range.start as usize..range.end as usize);
    }

    pub(crate) fn content_type(&self) -> Option<&[u8]> {
        self.head.content_type.map(|span| span.of(&self.buffer))
    }

    pub(crate) fn trace_id(&self) -> Option<&[u8]> {
        self.head.trace_id.map(|span| span.of(&self.buffer))
    }

    pub(crate) fn idempotency_key(&self) -> Option<&[u8]> {
        self.head.idempotency_key.map(|span| span.of(&self.buffer))
    }

    /// Gives its buffer up for reuse.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}
