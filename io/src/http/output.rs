//! The output of a function: its bytes, and the form in which they are shown. JSON and text are checked. JSON
//! is shown as it came, except for the white space around it. Code of `invoke` makes outputs; `response` and
//! `shown` write them.

use std::ops::Range;
use std::sync::Arc;

use nanofaas_core::limits::JSON_DEPTH;
use nanofaas_core::outcome::ExecutionError;
use nanofaas_http1::head::Span;
use nanofaas_http1::media_type::{MediaType, media_type};

use crate::http::json;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Checked JSON, which the envelope contains as it is.
    Json,
    /// Checked UTF-8, which the envelope contains as a JSON string.
    Text,
    /// Any other bytes. `:invoke` returns them without an envelope, under their own content type.
    Raw,
}

/// The positions of an answer's content type and encoding in its head.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Labels {
    pub(crate) content_type: Option<Span>,
    pub(crate) content_encoding: Option<Span>,
}

impl Labels {
    const NONE: Self = Self {
        content_type: None,
        content_encoding: None,
    };

    /// Appends the content type and the encoding to an empty buffer, and returns their positions.
    fn write(
        content_type: Option<&[u8]>,
        content_encoding: Option<&[u8]>,
        buffer: &mut Vec<u8>,
    ) -> Self {
        let mut append = |label: Option<&[u8]>| {
            let label = label.filter(|label| !label.is_empty())?;
            let start = buffer.len();
            buffer.extend_from_slice(label);
            Some(Span::new(start, buffer.len()))
        };
        Self {
            content_type: append(content_type),
            content_encoding: append(content_encoding),
        }
    }
}

/// The output of a function. Its bytes are a part of `buffer`.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) form: Form,
    buffer: Vec<u8>,
    body: Range<usize>,
    labels: Labels,
    /// The buffer that contains the labels; none if `buffer` contains them.
    head: Option<Vec<u8>>,
}

impl Output {
    /// Makes an output of the part `body` of `buffer`, and checks it as its labels require. The labels are in
    /// `head`, or in `buffer` if there is no `head`.
    pub(crate) fn check(
        buffer: Vec<u8>,
        body: Range<usize>,
        labels: Labels,
        head: Option<Vec<u8>>,
    ) -> Result<Self, ExecutionError> {
        let mut output = Self {
            form: Form::Raw,
            buffer,
            body,
            labels,
            head,
        };
        let kind = media_type(output.content_type());
        if let Some(encoding) = output.content_encoding()
            && kind != MediaType::Other
            && !output.body.is_empty()
        {
            let encoding = String::from_utf8_lossy(encoding);
            let why = "JSON and text/plain are shown in an envelope, and must not be encoded";
            return Err(bad(&format!("the output is encoded ({encoding}): {why}")));
        }
        output.form = match kind {
            MediaType::Json | MediaType::None => {
                if !output.bytes().is_empty() {
                    let fault = json::check(output.bytes(), JSON_DEPTH as u32).err();
                    if let Some(fault) = fault {
                        return Err(bad(&format!("the output is not JSON: {fault}")));
                    }
                    // The white space around the value is cut off. A line break after the value would split
                    // the answer for a client that reads line by line.
                    output.body = trimmed(&output.buffer, output.body.clone());
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

    /// Makes an output of JSON that was checked before, such as the input that an echo returns.
    pub(crate) const fn json(buffer: Vec<u8>, body: Range<usize>) -> Self {
        Self {
            form: Form::Json,
            buffer,
            body,
            labels: Labels::NONE,
            head: None,
        }
    }

    /// Makes an output of a body that is not in the same buffer as its labels, and checks it. `buffer` has to
    /// be empty, and gets the labels and the body.
    pub(crate) fn labelled(
        mut buffer: Vec<u8>,
        content_type: Option<&[u8]>,
        content_encoding: Option<&[u8]>,
        body: &[u8],
    ) -> Result<Self, ExecutionError> {
        let labels = [content_type, content_encoding].into_iter().flatten();
        let labels_len: usize = labels.map(<[u8]>::len).sum();
        buffer.reserve_exact(labels_len + body.len());
        let labels = Labels::write(content_type, content_encoding, &mut buffer);
        let begin = buffer.len();
        buffer.extend_from_slice(body);
        let body = begin..buffer.len();
        Self::check(buffer, body, labels, None)
    }

    /// Returns the bytes of the output. Empty JSON is `null`.
    pub(crate) fn bytes(&self) -> &[u8] {
        let bytes = &self.buffer[self.body.clone()];
        if bytes.is_empty() && self.form == Form::Json {
            b"null"
        } else {
            bytes
        }
    }

    fn label(&self, span: Option<Span>) -> Option<&[u8]> {
        let from = self.head.as_ref().unwrap_or(&self.buffer);
        span.map(|span| span.of(from))
            .filter(|label| !label.is_empty())
    }

    pub(crate) fn content_type(&self) -> Option<&[u8]> {
        self.label(self.labels.content_type)
    }

    /// Returns the encoding of the bytes, if they are encoded.
    pub(crate) fn content_encoding(&self) -> Option<&[u8]> {
        self.label(self.labels.content_encoding)
    }

    /// Returns the content type under which the raw bytes are sent.
    pub(crate) fn raw_content_type(&self) -> &[u8] {
        self.content_type().unwrap_or(match self.form {
            Form::Json => b"application/json",
            Form::Text => b"text/plain; charset=utf-8",
            Form::Raw => b"application/octet-stream",
        })
    }

    /// Returns the bytes of memory that the output holds.
    pub(crate) fn held_bytes(&self) -> u64 {
        (self.buffer.capacity() + self.head.as_ref().map_or(0, Vec::capacity)) as u64
    }

    /// Moves an output that will be stored to a smaller buffer, if that saves more than half of its memory.
    pub(crate) fn fitted(mut self) -> Self {
        let (content_type, content_encoding) = (self.content_type(), self.content_encoding());
        let labels = [content_type, content_encoding].into_iter().flatten();
        let needed = labels.map(<[u8]>::len).sum::<usize>() + self.body.len();
        if self.held_bytes() as usize > 2 * needed {
            let mut buffer = Vec::with_capacity(needed);
            let labels = Labels::write(content_type, content_encoding, &mut buffer);
            let begin = buffer.len();
            buffer.extend_from_slice(&self.buffer[self.body.clone()]);
            self.labels = labels;
            self.body = begin..buffer.len();
            self.buffer = buffer;
            self.head = None;
        }
        self
    }

    /// Returns `before`, the output and `after` in the output's own buffer. The buffer grows if it has no
    /// room for all three; for most large outputs `pod_answer` has reserved this room.
    pub(crate) fn between(self, before: &[u8], after: &[u8]) -> Vec<u8> {
        let (mut buffer, body) = (self.buffer, self.body);
        let (from, split) = (body.start, before.len());
        buffer.truncate(body.end);
        let end = split + body.len();
        buffer.reserve_exact((end + after.len()).saturating_sub(buffer.len()));
        if split > from {
            buffer.resize(end, 0);
        }
        buffer.copy_within(body, split);
        buffer.truncate(end);
        buffer[..split].copy_from_slice(before);
        buffer.extend_from_slice(after);
        buffer
    }

    /// Returns the buffers, so that they can be used again.
    pub(crate) fn into_buffers(self) -> (Vec<u8>, Option<Vec<u8>>) {
        (self.buffer, self.head)
    }
}

fn trimmed(bytes: &[u8], mut range: Range<usize>) -> Range<usize> {
    let is_space = |byte: u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    while range.start < range.end && is_space(bytes[range.start]) {
        range.start += 1;
    }
    while range.start < range.end && is_space(bytes[range.end - 1]) {
        range.end -= 1;
    }
    range
}

fn bad(why: &str) -> ExecutionError {
    ExecutionError::BadOutput(Arc::from(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_shown_without_the_space_around_it() {
        for (body, shown) in [
            (
                &b" \r\n\t{\"a\": [1, 2]}\n\n"[..],
                Some(&b"{\"a\": [1, 2]}"[..]),
            ),
            (b"\" a \"\n", Some(b"\" a \"")),
            (b"1", Some(b"1")),
            (b"", Some(b"null")),
            (b" \n", None),
            (b"\x0b1", None),
        ] {
            let checked = Output::check(body.to_vec(), 0..body.len(), Labels::default(), None);
            let checked = checked.ok();
            assert_eq!(checked.as_ref().map(Output::bytes), shown, "{body:?}");
        }
    }

    #[test]
    fn encoded_output_goes_out_unchanged_or_never() {
        for (content_type, is_shown) in [
            (Some("text/html"), true),
            (Some("application/octet-stream"), true),
            (Some("application/json"), false),
            (Some("application/a+json"), false),
            (Some("text/plain"), false),
            (Some(""), false),
            (None, false),
        ] {
            let content_type = content_type.map(str::as_bytes);
            let checked = Output::labelled(Vec::new(), content_type, Some(b"gzip"), b"\x1f\x8b");
            assert_eq!(checked.is_ok(), is_shown, "{content_type:?}");
            if let Ok(mut output) = checked {
                output.buffer.reserve(1000);
                let fitted = output.fitted();
                assert_eq!(fitted.content_type(), content_type);
                assert_eq!(fitted.content_encoding(), Some(&b"gzip"[..]));
                assert_eq!(fitted.bytes(), b"\x1f\x8b");
            }
        }
        let nothing = Output::labelled(Vec::new(), None, Some(b"gzip"), b"");
        assert_eq!(nothing.ok().as_ref().map(Output::bytes), Some(&b"null"[..]));
    }
}
