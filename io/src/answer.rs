//! Parses the head of a pod's answer, as strictly as a client's request.
//!
//! Pure like `request`: offsets out, nothing kept. A fault here is a pod that answered nonsense:
//! `pod` drops the connection and the call ends as `BAD_OUTPUT`.

use std::mem::MaybeUninit;

use crate::field;
use crate::head::{self, Ending, Fault, Framing, HEADERS_MAX, HeadScan, Span};

/// Where the body of an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerBody {
    /// 1xx, 204 and 304 have none.
    None,
    /// Bytes.
    Length(u64),
    Chunked,
    /// No length was said: the body ends where the pod closes the connection.
    UntilClose,
}

/// The head of a pod's answer. Spans count from the head's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerHead {
    /// Bytes of the head, its empty line included.
    pub len: usize,
    /// 100 to 599; below 200 the answer itself is still to come, after `len` bytes.
    pub status: u16,
    pub body: AnswerBody,
    /// The connection may carry another call once the body is read.
    pub keep_alive: bool,
    pub content_type: Option<Span>,
    /// `X-Cold-Start: true`.
    pub cold_start: bool,
    /// `X-Init-Duration-Ms`, milliseconds; what is not a whole number is no figure.
    pub init_duration_ms: Option<u32>,
    /// `X-Not-Started: true`: the pod says that nothing was run.
    pub not_started: bool,
}

/// The answer's head at the start of `bytes`, or none while it is not there whole. Hand the same
/// `scan` in again with more bytes, and a new one after an interim answer.
pub fn parse_answer(bytes: &[u8], scan: &mut HeadScan) -> Result<Option<AnswerHead>, Fault> {
    let end = scan.end(bytes, false).map_err(|fault| match fault {
        Fault::TargetTooLong => Fault::Malformed("the status line is over 8 KiB"),
        fault => fault,
    })?;
    let Some(end) = end else {
        return Ok(None);
    };
    let bytes = &bytes[..end];
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        bytes,
        &mut headers,
    );
    match parsed.map_err(|error| head::fault_of(error, bytes))? {
        httparse::Status::Complete(length) if length == end => {}
        _ => return Err(Fault::Malformed("the answer's head has no sound end")),
    }
    let (Some(status @ 100..=599), Some(minor)) = (response.code, response.version) else {
        return Err(Fault::Malformed(
            "the answer's status must be from 100 to 599",
        ));
    };
    if status == 101 {
        return Err(Fault::Malformed(
            "the pod switched protocols, which nobody asked for",
        ));
    }
    let mut head = AnswerHead {
        len: end,
        status,
        body: AnswerBody::None,
        keep_alive: false,
        content_type: None,
        cold_start: false,
        init_duration_ms: None,
        not_started: false,
    };
    let mut ending = Ending::default();
    for header in response.headers.iter() {
        head.take(bytes, header, &mut ending)?;
    }
    head.body = body_of(status, ending.framing(minor)?)?;
    head.keep_alive = ending.keep_alive(minor) && head.body != AnswerBody::UntilClose;
    Ok(Some(head))
}

fn body_of(status: u16, framing: Framing) -> Result<AnswerBody, Fault> {
    match (status, framing) {
        (304, _) | (100..=199 | 204, Framing::None | Framing::Length(0)) => Ok(AnswerBody::None),
        (100..=199 | 204, _) => Err(Fault::Malformed("an answer without a body announced one")),
        (_, Framing::None) => Ok(AnswerBody::UntilClose),
        (_, Framing::Length(length)) => Ok(AnswerBody::Length(length)),
        (_, Framing::Chunked) => Ok(AnswerBody::Chunked),
    }
}

impl AnswerHead {
    fn take(
        &mut self,
        bytes: &[u8],
        header: &httparse::Header<'_>,
        ending: &mut Ending,
    ) -> Result<(), Fault> {
        let (name, value) = (header.name.as_bytes(), header.value);
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match (name.len(), name[0] | 0x20) {
            (10, b'c') if is("connection") => ending.connection(value),
            (14, b'c') if is("content-length") => ending.content_length(value)?,
            (17, b't') if is("transfer-encoding") => ending.transfer_encoding(value)?,
            (12, b'c') if is("content-type") => {
                let span = Span::of_piece(bytes, value);
                if self.content_type.replace(span).is_some() {
                    return Err(Fault::Malformed(
                        "Content-Type is there twice: send it once",
                    ));
                }
            }
            (12, b'x') if is("x-cold-start") => self.cold_start |= says_true(value),
            (13, b'x') if is("x-not-started") => self.not_started |= says_true(value),
            (18, b'x') if is("x-init-duration-ms") => {
                self.init_duration_ms =
                    field::digits(value).and_then(|number| u32::try_from(number).ok());
            }
            _ => {}
        }
        Ok(())
    }
}

fn says_true(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"true")
}
