//! A handler's output: a content type and bytes. No byte is re-encoded. Handlers make outputs;
//! `connection` and `job` send them.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::call::Input;
use crate::error::Error;
use crate::stream::{ByteStream, PipeBody, boxed, collect};

pub(crate) const JSON: &str = "application/json";

/// A function's result.
#[derive(Debug)]
pub struct Output {
    content_type: Cow<'static, str>,
    body: Body,
}

enum Body {
    Made(Vec<u8>),
    Input(Input),
    Stream(ByteStream),
}

impl fmt::Debug for Body {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Made(bytes) => write!(out, "{} bytes", bytes.len()),
            Self::Input(input) => input.fmt(out),
            Self::Stream(_) => out.write_str("a stream"),
        }
    }
}

impl Output {
    /// Serializes `value` as a JSON output.
    pub fn json(value: &impl Serialize) -> Result<Self, Error> {
        let bytes = serde_json::to_vec(value);
        let bytes = bytes.map_err(|error| Error::bad_output(format!("not JSON: {error}")))?;
        Ok(Self::raw(JSON, bytes))
    }

    /// Makes an output of bytes that are already JSON, and checks them. They are sent unchanged,
    /// but without the white space around them. Empty bytes become `null`.
    pub fn json_bytes(bytes: Vec<u8>) -> Result<Self, Error> {
        let text = bytes.trim_ascii();
        if text.is_empty() {
            return Ok(Self::raw(JSON, b"null".to_vec()));
        }
        match serde_json::from_slice::<&RawValue>(text) {
            Ok(_) if text.len() == bytes.len() => Ok(Self::raw(JSON, bytes)),
            Ok(_) => Ok(Self::raw(JSON, text.to_vec())),
            Err(error) => Err(Error::bad_output(format!("not JSON: {error}"))),
        }
    }

    /// Makes an output of bytes with their own content type. The client gets both unchanged. A
    /// content type that a header cannot hold ends the call with `BAD_OUTPUT`.
    pub fn raw(content_type: impl Into<Cow<'static, str>>, bytes: Vec<u8>) -> Self {
        Self {
            content_type: content_type.into(),
            body: Body::Made(bytes),
        }
    }

    /// Makes an output whose pieces are sent as they come, for example the body of a
    /// [`pipe`](crate::pipe). If the body fails, the answer is cut. A Job posts the whole body.
    pub fn stream<B>(content_type: impl Into<Cow<'static, str>>, body: B) -> Self
    where
        B: http_body::Body + Send + 'static,
        B::Error: Into<Error>,
    {
        Self {
            content_type: content_type.into(),
            body: Body::Stream(boxed(body)),
        }
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.body, Body::Stream(_))
    }

    /// Returns the answer that has this output as its body.
    pub(crate) fn into_stream(self) -> Response<ByteStream> {
        let mut answer = Response::new(match self.body {
            Body::Stream(body) => body,
            Body::Made(bytes) => boxed(PipeBody::whole(bytes.into())),
            Body::Input(input) => boxed(PipeBody::whole(Bytes::copy_from_slice(input.bytes()))),
        });
        // `check` has accepted the content type.
        if let Ok(kind) = HeaderValue::from_str(&self.content_type) {
            answer.headers_mut().insert(CONTENT_TYPE, kind);
        }
        answer
    }

    /// Reads a stream to its end.
    pub(crate) async fn collected(self) -> Result<Self, Error> {
        match self.body {
            Body::Stream(body) => Ok(Self::raw(self.content_type, collect(body).await?)),
            _ => Ok(self),
        }
    }

    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// Returns the bytes of the output; no bytes if the output is a stream.
    pub fn bytes(&self) -> &[u8] {
        match &self.body {
            Body::Made(bytes) => bytes,
            Body::Input(input) => input.bytes(),
            Body::Stream(_) => &[],
        }
    }

    /// Fails with `BAD_OUTPUT` if the content type does not fit into one line of a head.
    pub(crate) fn check(self) -> Result<Self, Error> {
        let sound = |byte: u8| byte == b'\t' || (0x20..0x7f).contains(&byte);
        if self.content_type == JSON || self.content_type.bytes().all(sound) {
            return Ok(self);
        }
        let message = format!("{:?} is no content type", self.content_type);
        Err(Error::bad_output(message))
    }
}

/// A type that a handler's closure may return as its output.
pub trait IntoOutput {
    /// Fails with `BAD_OUTPUT` if the value cannot be sent.
    fn into_output(self) -> Result<Output, Error>;
}

impl<T: Serialize> IntoOutput for T {
    fn into_output(self) -> Result<Output, Error> {
        Output::json(&self)
    }
}

impl IntoOutput for Output {
    fn into_output(self) -> Result<Output, Error> {
        Ok(self)
    }
}

/// Returns the input unchanged, with its content type.
impl IntoOutput for Input {
    fn into_output(self) -> Result<Output, Error> {
        let content_type = match self.is_json() {
            true => Cow::Borrowed(JSON),
            false => Cow::Owned(self.content_type().to_owned()),
        };
        Ok(Output {
            content_type,
            body: Body::Input(self),
        })
    }
}
