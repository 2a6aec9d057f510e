//! Reads HTTP messages as a connection does, from bytes that come in pieces, and checks that the
//! outcome does not depend on how the bytes are split.

use std::fmt::Debug;

use nanofaas_http1::chunked::ChunkedDecoder;
use nanofaas_http1::error::ParseError;
use nanofaas_http1::framing::Framing;
use nanofaas_http1::head::HeadScan;
use nanofaas_http1::request::{RequestHead, parse_request};
use nanofaas_http1::response_head::{ResponseBody, ResponseHead, parse_response};

use crate::rng::Rng;

/// The limit of a body, in bytes. The limit is small, so that random bodies exceed it.
pub(crate) const BODY_MAX: usize = 200;
/// On average, one input in this many is also read with a single cut, once for each position of the cut.
/// Every input is read with cuts at all positions, and with cuts at three random positions.
const EVERY_CUT_ONE_IN: u64 = 128;

#[derive(Debug, PartialEq)]
enum ReadEvent<H> {
    Head(H),
    Body(usize),
    Refused(ParseError),
}

/// One kind of message: how to parse its head, and which body follows.
pub(crate) trait MessageHead: Copy + PartialEq + Debug {
    fn parse(bytes: &[u8], scan: &mut HeadScan) -> Result<Option<Self>, ParseError>;
    fn head_len(self) -> usize;
    fn body(self) -> BodyForm;
}

#[derive(Clone, Copy)]
pub(crate) enum BodyForm {
    None,
    Length(u64),
    Chunked,
    Rest,
}

impl MessageHead for RequestHead {
    fn parse(bytes: &[u8], scan: &mut HeadScan) -> Result<Option<Self>, ParseError> {
        parse_request(bytes, scan)
    }

    fn head_len(self) -> usize {
        self.len
    }

    fn body(self) -> BodyForm {
        match self.framing {
            Framing::None => BodyForm::None,
            Framing::Length(length) => BodyForm::Length(length),
            Framing::Chunked => BodyForm::Chunked,
        }
    }
}

impl MessageHead for ResponseHead {
    fn parse(bytes: &[u8], scan: &mut HeadScan) -> Result<Option<Self>, ParseError> {
        parse_response(bytes, scan)
    }

    fn head_len(self) -> usize {
        self.len
    }

    fn body(self) -> BodyForm {
        match self.body {
            ResponseBody::None => BodyForm::None,
            ResponseBody::Length(length) => BodyForm::Length(length),
            ResponseBody::Chunked => BodyForm::Chunked,
            ResponseBody::UntilClose => BodyForm::Rest,
        }
    }
}

/// Reads messages as a connection does: when bytes arrive, the reader takes all messages that are complete.
struct ConnectionReader<M> {
    /// The position of the first byte that is not consumed yet.
    at: usize,
    scan: HeadScan,
    body: Option<BodyForm>,
    chunked: ChunkedDecoder,
    out: Vec<u8>,
    events: Vec<ReadEvent<M>>,
}

impl<M: MessageHead> ConnectionReader<M> {
    fn new() -> Self {
        Self {
            at: 0,
            scan: HeadScan::default(),
            body: None,
            chunked: ChunkedDecoder::default(),
            out: Vec::new(),
            events: Vec::new(),
        }
    }

    fn restart(&mut self) {
        (self.at, self.body) = (0, None);
        (self.scan, self.chunked) = (HeadScan::default(), ChunkedDecoder::default());
        self.out.clear();
        self.events.clear();
    }

    /// Continues with `bytes`, which holds everything that has come so far.
    fn read(&mut self, bytes: &[u8]) {
        while !matches!(self.events.last(), Some(ReadEvent::Refused(_))) {
            match self.step(bytes) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => self.events.push(ReadEvent::Refused(error)),
            }
        }
    }

    /// Reads one head or body. Returns false if more bytes are needed.
    fn step(&mut self, bytes: &[u8]) -> Result<bool, ParseError> {
        let rest = &bytes[self.at..];
        let length = match self.body {
            None => {
                let Some(head) = M::parse(rest, &mut self.scan)? else {
                    return Ok(false);
                };
                assert!(
                    head.head_len() <= rest.len(),
                    "the head ends where bytes are"
                );
                self.at += head.head_len();
                self.events.push(ReadEvent::Head(head));
                self.body = Some(head.body());
                self.scan = HeadScan::default();
                return Ok(true);
            }
            Some(BodyForm::None) => 0,
            Some(BodyForm::Rest) => return Ok(false),
            Some(BodyForm::Length(length)) => match usize::try_from(length) {
                Ok(length) if length <= BODY_MAX => length,
                _ => return Err(ParseError::BodyTooLarge),
            },
            Some(BodyForm::Chunked) => {
                let progress = self.chunked.decode(rest, &mut self.out, BODY_MAX)?;
                assert!(self.out.len() <= BODY_MAX);
                assert!(
                    progress.done || progress.consumed == rest.len(),
                    "input is left over"
                );
                self.at += progress.consumed;
                if !progress.done {
                    return Ok(false);
                }
                self.chunked = ChunkedDecoder::default();
                0
            }
        };
        if rest.len() < length {
            return Ok(false);
        }
        self.at += length;
        self.body = None;
        self.events.push(ReadEvent::Body(self.out.len()));
        Ok(true)
    }
}

/// Reads the bytes whole, in pieces of one byte, and cut at three random positions, and compares the
/// outcomes. Some inputs are also read with a single cut, once for each position. Returns whether the bytes
/// begin with a valid head.
pub(crate) fn reads_the_same_however_split<M: MessageHead>(rng: &mut Rng, bytes: &[u8]) -> bool {
    let (mut whole, mut split) = (ConnectionReader::<M>::new(), ConnectionReader::new());
    whole.read(bytes);
    let mut compare = |cuts: &mut dyn Iterator<Item = usize>| {
        split.restart();
        for cut in cuts {
            split.read(&bytes[..cut]);
        }
        split.read(bytes);
        assert_eq!(whole.events, split.events, "split differs from whole");
        assert_eq!(whole.out, split.out, "the bodies differ");
    };
    // A long input is cut into larger pieces, because all cuts would take too long.
    let step = 1 + bytes.len() / 2048;
    compare(&mut (0..bytes.len()).step_by(step));
    let mut cuts = [(); 3].map(|()| rng.below(bytes.len() + 1));
    cuts.sort_unstable();
    compare(&mut cuts.into_iter());
    if rng.one_in(EVERY_CUT_ONE_IN) {
        for cut in (0..bytes.len()).step_by(step) {
            compare(&mut std::iter::once(cut));
        }
    }
    matches!(whole.events.as_slice(), [ReadEvent::Head(_), ..])
}
