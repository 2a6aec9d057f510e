//! Writes an output piece by piece, so that a stored output is shared by all answers that contain it, and a
//! large text needs no second buffer. It chooses no form; `response` and `execution_json` do, and `serve`
//! sends.

use std::sync::{Arc, Weak};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::http::json;
use crate::http::output::Output;

/// An output over this size is written in pieces, each of at most this size.
pub(crate) const PIECE: usize = 64 * 1024;

/// How the bytes of an output are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rendering {
    AsIs,
    /// The inside of a JSON string.
    Escaped,
    Base64,
}

impl Rendering {
    /// The number of bytes that `bytes` have when they are rendered.
    pub(crate) fn len(self, bytes: &[u8]) -> usize {
        match self {
            Self::AsIs => bytes.len(),
            Self::Escaped => json::escaped_len(bytes),
            Self::Base64 => bytes.len().div_ceil(3) * 4,
        }
    }

    /// The most bytes of the output in one piece. Each piece is rendered by itself.
    const fn step(self) -> usize {
        match self {
            Self::AsIs => PIECE,
            // An escape has at most six bytes for one byte of the output.
            Self::Escaped => PIECE / 6,
            Self::Base64 => PIECE / 4 * 3,
        }
    }

    fn write(self, bytes: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::AsIs => out.extend_from_slice(bytes),
            Self::Escaped => json::write_escaped(out, bytes),
            Self::Base64 => {
                let at = out.len();
                out.resize(at + self.len(bytes), 0);
                let written = STANDARD.encode_slice(bytes, &mut out[at..]);
                assert_eq!(written, Ok(out.len() - at), "base64 is as long as it is");
            }
        }
    }
}

/// A body that contains an output without a copy of it.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) before: Vec<u8>,
    pub(crate) output: Arc<Output>,
    pub(crate) rendering: Rendering,
    pub(crate) after: Vec<u8>,
}

impl Shown {
    pub(crate) fn len(&self) -> usize {
        self.before.len() + self.rendering.len(self.output.bytes()) + self.after.len()
    }

    /// Writes the whole body if it is small. Otherwise writes the part before the output, and returns the
    /// rest.
    pub(crate) fn write(self, len: usize, out: &mut Vec<u8>) -> Option<RestOfOutput> {
        out.extend_from_slice(&self.before);
        if len <= PIECE {
            self.rendering.write(self.output.bytes(), out);
            out.extend_from_slice(&self.after);
            return None;
        }
        Some(RestOfOutput {
            source: OutputSource::Kept(Arc::downgrade(&self.output)),
            rendering: self.rendering,
            at: 0,
            after: self.after,
        })
    }
}

/// The rest of a body that is being written.
pub(crate) struct RestOfOutput {
    source: OutputSource,
    rendering: Rendering,
    at: usize,
    after: Vec<u8>,
}

enum OutputSource {
    Own(Output),
    /// An output that the store may drop while it is written; the drop frees its memory at once.
    Kept(Weak<Output>),
}

/// The result of writing a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    More,
    Last,
    /// The store dropped the output.
    Gone,
}

impl RestOfOutput {
    pub(crate) const fn own(output: Output, rendering: Rendering, after: Vec<u8>) -> Self {
        Self {
            source: OutputSource::Own(output),
            rendering,
            at: 0,
            after,
        }
    }

    /// Appends the next piece.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>) -> Piece {
        let kept;
        let output = match &self.source {
            OutputSource::Own(output) => output,
            OutputSource::Kept(output) => match output.upgrade() {
                Some(output) => {
                    kept = output;
                    &*kept
                }
                None => return Piece::Gone,
            },
        };
        let bytes = output.bytes();
        let end = bytes.len().min(self.at + self.rendering.step());
        self.rendering.write(&bytes[self.at..end], out);
        self.at = end;
        if end < bytes.len() {
            return Piece::More;
        }
        out.extend_from_slice(&self.after);
        Piece::Last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::output::Labels;

    fn shown(bytes: &[u8], rendering: Rendering) -> Shown {
        let output = Output::check(bytes.to_vec(), 0..bytes.len(), Labels::default(), None);
        let output = output.unwrap_or_else(|_| Output::json(bytes.to_vec(), 0..bytes.len()));
        Shown {
            before: b"before".to_vec(),
            output: Arc::new(output),
            rendering,
            after: b"after".to_vec(),
        }
    }

    /// The whole body, and its largest piece.
    fn whole(shown: &Shown) -> (Vec<u8>, usize) {
        let mut out = Vec::new();
        let (mut largest, len) = (0, shown.len());
        if let Some(mut rest) = shown.clone().write(len, &mut out) {
            loop {
                let before = out.len();
                let piece = rest.write(&mut out);
                largest = largest.max(out.len() - before);
                match piece {
                    Piece::More => {}
                    Piece::Last => break,
                    Piece::Gone => panic!("it is held"),
                }
            }
        }
        (out, largest)
    }

    #[test]
    fn pieces_make_up_the_whole() {
        for size in [0, 1, 10_000, PIECE, PIECE + 1, 300_001] {
            let bytes: Vec<u8> = (0..size).map(|at| (at % 127) as u8).collect();
            let base64 = STANDARD.encode(&bytes).into_bytes();
            let mut escaped = Vec::new();
            json::write_escaped(&mut escaped, &bytes);
            for (rendering, expected) in [
                (Rendering::AsIs, bytes.clone()),
                (Rendering::Base64, base64),
                (Rendering::Escaped, escaped),
            ] {
                let shown = shown(&bytes, rendering);
                if size == 0 {
                    // Empty JSON is null.
                    continue;
                }
                let (out, largest) = whole(&shown);
                assert_eq!(out.len(), shown.len(), "{rendering:?} {size}");
                let expected = [b"before", &expected[..], b"after"].concat();
                assert!(out == expected, "{rendering:?} {size}");
                assert!(largest <= PIECE + 5, "{rendering:?} {size}: {largest}");
            }
        }
    }

    #[test]
    fn a_dropped_output_differs_from_a_whole_one() {
        let shown = shown(&vec![b'1'; 3 * PIECE], Rendering::AsIs);
        let (len, mut out) = (shown.len(), Vec::new());
        let kept = shown.output.clone();
        let mut rest = shown.write(len, &mut out).expect("it is large");
        assert_eq!(rest.write(&mut out), Piece::More);
        drop(kept);
        assert_eq!(rest.write(&mut out), Piece::Gone);
    }
}
