//! One call: the bytes of its request, the request's parts as ranges of these bytes, and the
//! deadline. This module reads no socket. A handler sees a call as an `Input` and a `Context`.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use nanofaas_http1::head::{Span, header_lines};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::error::Error;
use crate::log;
use crate::request::{self, CallTarget, PodRequest, Route};

const RUNNING: u8 = 0;
const ENDED: u8 = 1;
const CUT_OFF: u8 = 2;

pub(crate) struct HandlerCall {
    /// The request's head, followed by the decoded body.
    bytes: Vec<u8>,
    head: usize,
    json: bool,
    input: Range<usize>,
    /// The envelope's `metadata`; empty if the envelope has none.
    metadata: Range<usize>,
    /// The target of an HTTP call.
    http: Option<CallTarget>,
    deadline: Option<Instant>,
    /// RUNNING may change to ENDED, or to CUT_OFF and later to ENDED.
    state: AtomicU8,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, deserialize_with = "present")]
    input: &'a RawValue,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
}

/// `null` counts as an input, not as a missing one.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<&'de RawValue, D::Error> {
    <&RawValue>::deserialize(value)
}

impl HandlerCall {
    /// Makes a call from the bytes of its request, which begin with a head of `head` bytes. `left`
    /// is the time until the deadline. Fails if a JSON body is not an envelope.
    pub(crate) fn new(
        bytes: Vec<u8>,
        head: usize,
        json: bool,
        left: Option<Duration>,
    ) -> Result<Self, Error> {
        let mut input = head..bytes.len();
        let mut metadata = 0..0;
        if json {
            // Serde would also accept an array, and take its first element as `input`.
            if bytes[head..].trim_ascii_start().first() != Some(&b'{') {
                return Err(Error::bad_input(ENVELOPE));
            }
            let envelope: Envelope<'_> = serde_json::from_slice(&bytes[head..])
                .map_err(|error| Error::bad_input(format!("{ENVELOPE}: {error}")))?;
            input = within(&bytes, envelope.input);
            metadata = envelope
                .metadata
                .map_or(0..0, |value| within(&bytes, value));
        }
        Ok(Self {
            bytes,
            head,
            json,
            input,
            metadata,
            http: None,
            deadline: deadline(left),
            state: AtomicU8::new(RUNNING),
        })
    }

    /// Makes an HTTP call, whose body is its input without an envelope. Fails if a JSON body is not
    /// JSON.
    pub(crate) fn http(bytes: Vec<u8>, head: &PodRequest) -> Result<Self, Error> {
        let body = &bytes[head.len..];
        if head.json && !body.is_empty() {
            serde_json::from_slice::<&RawValue>(body)
                .map_err(|error| Error::bad_input(format!("the body is not JSON: {error}")))?;
        }
        Ok(Self {
            head: head.len,
            // A missing body is `null`, whatever its content type.
            json: head.json || body.is_empty(),
            input: head.len..bytes.len(),
            metadata: 0..0,
            http: (head.route == Route::Http).then_some(head.target),
            deadline: deadline(head.left),
            state: AtomicU8::new(RUNNING),
            bytes,
        })
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub(crate) fn overdue(&self) -> bool {
        let past = |deadline| Instant::now() >= deadline;
        self.deadline.is_some_and(past)
    }

    /// Asks the handler to stop. Returns true if the handler still runs.
    pub(crate) fn cut_off(&self) -> bool {
        let state = &self.state;
        let was = state.compare_exchange(RUNNING, CUT_OFF, Ordering::AcqRel, Ordering::Acquire);
        was.is_ok()
    }

    /// Marks that the handler has ended. Returns true if `cut_off` came before.
    pub(crate) fn end(&self) -> bool {
        self.state.swap(ENDED, Ordering::AcqRel) == CUT_OFF
    }

    /// Returns the buffer for the next request.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn head(&self) -> &[u8] {
        &self.bytes[..self.head]
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = header_lines(&self.bytes[..self.head]);
        let (_, value) = headers.find(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes()))?;
        std::str::from_utf8(value).ok()
    }
}

fn deadline(left: Option<Duration>) -> Option<Instant> {
    left.and_then(|left| Instant::now().checked_add(left))
}

const ENVELOPE: &str = r#"the body must be {"input": any JSON, "metadata": {string: string}}"#;

/// Returns the range of `part` within `whole`. `part` must be borrowed from `whole`.
fn within(whole: &[u8], part: &RawValue) -> Range<usize> {
    // serde_json borrows a `RawValue` from its input, so both pointers are in the same buffer.
    let from = part.get().as_ptr() as usize - whole.as_ptr() as usize;
    from..from + part.get().len()
}

/// The caller's input: JSON, or bytes with another content type.
#[derive(Clone)]
pub struct Input {
    call: Arc<HandlerCall>,
}

impl Input {
    pub(crate) fn new(call: Arc<HandlerCall>) -> Self {
        Self { call }
    }

    /// Returns whether the body's content type is JSON.
    pub fn is_json(&self) -> bool {
        self.call.json
    }

    /// Returns the JSON text of the envelope's `input`. If the content type is not JSON, returns
    /// the whole body.
    pub fn bytes(&self) -> &[u8] {
        match &self.call.bytes[self.call.input.clone()] {
            [] if self.call.http.is_some() => b"null",
            bytes => bytes,
        }
    }

    /// Returns the whole body as the caller sent it. A JSON body is the envelope with its
    /// `metadata`.
    pub fn body(&self) -> &[u8] {
        &self.call.bytes[self.call.head..]
    }

    /// Returns the body's content type; `application/octet-stream` if the caller sent none.
    pub fn content_type(&self) -> &str {
        let found = self.call.header("content-type");
        found.unwrap_or("application/octet-stream")
    }

    /// Deserializes the input. Fails with `BAD_INPUT` if the input is not JSON of this type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        if !self.is_json() {
            let message = format!(
                "this function needs application/json, got {}",
                self.content_type()
            );
            return Err(Error::bad_input(message));
        }
        serde_json::from_slice(self.bytes())
            .map_err(|error| Error::bad_input(format!("input: {error}")))
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Input({} bytes)", self.bytes().len())
    }
}

/// A type that a handler's closure may take as its input.
pub trait FromInput: Sized {
    /// Converts the input. Fails with `BAD_INPUT` if the caller sent an input of another type.
    fn from_input(input: Input) -> Result<Self, Error>;
}

impl FromInput for Input {
    fn from_input(input: Input) -> Result<Self, Error> {
        Ok(input)
    }
}

impl<T: DeserializeOwned> FromInput for T {
    fn from_input(input: Input) -> Result<Self, Error> {
        input.parse()
    }
}

/// The data of a call, except its input.
#[derive(Clone)]
pub struct Context {
    call: Arc<HandlerCall>,
}

impl Context {
    pub(crate) fn new(call: Arc<HandlerCall>) -> Self {
        Self { call }
    }

    pub(crate) fn call(&self) -> &Arc<HandlerCall> {
        &self.call
    }

    /// Returns the platform's id of this call.
    pub fn execution_id(&self) -> Option<&str> {
        self.call.header("x-execution-id")
    }

    /// Returns the client's `X-Trace-Id`.
    pub fn trace_id(&self) -> Option<&str> {
        self.call.header("x-trace-id")
    }

    /// Returns the number of the attempt; the first attempt is 1.
    pub fn attempt(&self) -> u32 {
        let attempt = self.call.header("x-dispatch-attempt");
        attempt.and_then(|text| text.parse().ok()).unwrap_or(1)
    }

    /// Returns the first header with this name, in any case of letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.call.header(name)
    }

    /// Returns whether this is an HTTP call: a request that the client sent to `/fn/{name}/…`.
    pub fn is_http(&self) -> bool {
        self.call.http.is_some()
    }

    /// Returns the method of an HTTP call; none for another call.
    pub fn method(&self) -> Option<&str> {
        self.call.http?;
        std::str::from_utf8(request::method(&self.call.bytes)).ok()
    }

    /// Returns the path of an HTTP call as the client sent it, with its escapes and without the
    /// function's prefix; none for another call.
    pub fn path(&self) -> Option<&str> {
        self.text(self.call.http?.path)
    }

    /// Returns the part of an HTTP call's target after its `?`.
    pub fn query(&self) -> Option<&str> {
        self.text(self.call.http?.query?)
    }

    fn text(&self, span: Span) -> Option<&str> {
        std::str::from_utf8(span.of(&self.call.bytes)).ok()
    }

    /// Returns all headers of the request. Values that are not UTF-8 are left out.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let lines = header_lines(&self.call.bytes[..self.call.head]);
        lines.filter_map(|(name, value)| {
            let name = std::str::from_utf8(name).ok()?;
            Some((name, std::str::from_utf8(value).ok()?))
        })
    }

    /// Returns the envelope's `metadata`. A value that is not a string becomes its JSON text.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let bytes = &self.call.bytes[self.call.metadata.clone()];
        let values: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(bytes).unwrap_or_default();
        let text = |value| match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        let pairs = values.into_iter();
        pairs.map(|(key, value)| (key, text(value))).collect()
    }

    /// Returns the milliseconds until the deadline, and 0 after it. None if the call has no
    /// deadline.
    pub fn remaining_ms(&self) -> Option<u64> {
        let left = self
            .call
            .deadline?
            .saturating_duration_since(Instant::now());
        Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }

    /// Returns true if the result is not needed, because the deadline has passed or the caller has
    /// left. A blocking handler should check this regularly and return. An async handler need not,
    /// because its future is dropped.
    pub fn cancelled(&self) -> bool {
        self.call.state.load(Ordering::Acquire) == CUT_OFF || self.call.overdue()
    }

    /// Writes one JSON line with the call's ids to stderr.
    pub fn log(&self, level: &str, message: &str) {
        log::line(level, message, Some(self), &[]);
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Context({:?})", self.execution_id())
    }
}
