//! What a handler gives back: a content type and bytes. It never re-encodes bytes that are there.
//! Made by handlers; written by `connection` and `job`.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::call::Input;
use crate::error::Error;

pub(crate) const JSON: &str = "application/json";

/// A function's result.
#[derive(Debug)]
pub struct Output {
    content_type: Cow<'static, str>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Made(Vec<u8>),
    Input(Input),
}

impl Output {
    /// A JSON output.
    pub fn json(value: &impl Serialize) -> Result<Self, Error> {
        let bytes = serde_json::to_vec(value);
        let bytes = bytes.map_err(|error| Error::bad_output(format!("not JSON: {error}")))?;
        Ok(Self::raw(JSON, bytes))
    }

    /// Bytes that are JSON already; they are checked and sent as they are, less the space around
    /// them. None at all are `null`.
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

    /// Bytes under a content type of their own, which the client gets as they are. A content type
    /// that no header can carry ends the call as `BAD_OUTPUT`.
    pub fn raw(content_type: impl Into<Cow<'static, str>>, bytes: Vec<u8>) -> Self {
        Self {
            content_type: content_type.into(),
            body: Body::Made(bytes),
        }
    }

    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    pub fn bytes(&self) -> &[u8] {
        match &self.body {
            Body::Made(bytes) => bytes,
            Body::Input(input) => input.bytes(),
        }
    }

    /// The content type fits into one line of a head.
    pub(crate) fn check(self) -> Result<Self, Error> {
        let sound = |byte: u8| byte == b'\t' || (0x20..0x7f).contains(&byte);
        if self.content_type == JSON || self.content_type.bytes().all(sound) {
            return Ok(self);
        }
        let message = format!("{:?} is no content type", self.content_type);
        Err(Error::bad_output(message))
    }
}

/// What a closure may return for its output.
pub trait IntoOutput {
    /// Fails with `BAD_OUTPUT` where the value is nothing that can be sent.
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

/// The very bytes of the input, under its content type.
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
