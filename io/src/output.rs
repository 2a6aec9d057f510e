//! What a function gave back: its bytes, checked, and the form in which they are shown.
//! It never re-encodes a byte of JSON. `pod` and `job` make outputs, `reply` shows them.

use std::ops::Range;
use std::sync::Arc;

use nanofaas_core::limits::JSON_DEPTH;
use nanofaas_core::outcome::Failure;

use crate::field::{MediaType, media_type};
use crate::json;

/// How an output is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// JSON that was checked: it stands in the envelope as it is.
    Json,
    /// UTF-8 that was checked: a JSON string.
    Text,
    /// Anything else: raw, under its own content type.
    Raw,
}

/// A function's output. The bytes are a part of the buffer that they came in.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) form: Form,
    buffer: Vec<u8>,
    body: Range<usize>,
    content_type: Range<usize>,
    /// Where body and content type came in different buffers.
    head: Option<Vec<u8>>,
}

impl Output {
    /// Checks `body` of `buffer` by its content type, which stands in `head`, or in `buffer` where
    /// there is no head of its own.
    pub(crate) fn check(
        buffer: Vec<u8>,
        body: Range<usize>,
        content_type: Range<usize>,
        head: Option<Vec<u8>>,
    ) -> Result<Self, Failure> {
        let mut output = Self {
            form: Form::Raw,
            buffer,
            body,
            content_type,
            head,
        };
        output.form = match media_type(output.content_type()) {
            MediaType::Json | MediaType::None => {
                if !output.bytes().is_empty() {
                    let fault = json::check(output.bytes(), JSON_DEPTH as u32).err();
                    if let Some(fault) = fault {
                        return Err(bad(&format!("the output is not JSON: {fault}")));
                    }
                }
                Form::Json
            }
            MediaType::Text => {
                if std::str::from_utf8(output.bytes()).is_err() {
                    return Err(bad("the output is text/plain, but not UTF-8"));
                }
                Form::Text
            }
            MediaType::Other => Form::Raw,
        };
        Ok(output)
    }

    /// JSON that was checked before: the input of an echo.
    pub(crate) const fn json(buffer: Vec<u8>, body: Range<usize>) -> Self {
        Self {
            form: Form::Json,
            buffer,
            body,
            content_type: 0..0,
            head: None,
        }
    }

    /// The bytes; JSON without any is `null`.
    pub(crate) fn bytes(&self) -> &[u8] {
        let bytes = &self.buffer[self.body.clone()];
        if bytes.is_empty() && self.form == Form::Json {
            b"null"
        } else {
            bytes
        }
    }

    pub(crate) fn content_type(&self) -> Option<&[u8]> {
        let from = self.head.as_ref().unwrap_or(&self.buffer);
        (!self.content_type.is_empty()).then(|| &from[self.content_type.clone()])
    }

    /// The content type to send the raw bytes under.
    pub(crate) fn raw_content_type(&self) -> &[u8] {
        self.content_type().unwrap_or(match self.form {
            Form::Json => b"application/json",
            Form::Text => b"text/plain; charset=utf-8",
            Form::Raw => b"application/octet-stream",
        })
    }

    /// Bytes that it holds in memory.
    pub(crate) fn held_bytes(&self) -> u64 {
        (self.buffer.capacity() + self.head.as_ref().map_or(0, Vec::capacity)) as u64
    }

    /// Gives its buffers up for reuse.
    pub(crate) fn into_buffers(self) -> (Vec<u8>, Option<Vec<u8>>) {
        (self.buffer, self.head)
    }
}

fn bad(why: &str) -> Failure {
    Failure::BadOutput(Arc::from(why))
}
